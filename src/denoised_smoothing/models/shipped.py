"""The classifiers and denoisers that ship with the package, with their checksums."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from denoised_smoothing.errors import SpecError, WeightsError
from denoised_smoothing.files import sha256_of

if TYPE_CHECKING:  # so that models are listed without torch
    from denoised_smoothing.models.denoisers.base import DenoiserNetwork

CHECKSUMS = "SHA256SUMS"
"""The file of checksums in each folder, one line for each file, as ``sha256sum`` prints it."""


def shipped_folder(kind: str) -> Path:
    """Return the folder of the shipped ``denoisers`` or ``classifiers``."""
    return Path(str(resources.files("denoised_smoothing"))) / "shipped" / kind


def shipped_classifiers() -> dict[str, Path]:
    """Return the names and files of the shipped classifiers."""
    return _files("classifiers")


def shipped_denoisers() -> dict[str, Path]:
    """Return the names and files of the shipped denoisers."""
    return _files("denoisers")


def _files(kind: str) -> dict[str, Path]:
    return {path.stem: path for path in sorted(shipped_folder(kind).glob("*.safetensors"))}


def load_shipped_denoiser(name: str) -> DenoiserNetwork:
    """Load a shipped denoiser in evaluation mode. Its card is ``card``.

    Raises:
        SpecError: there is no shipped denoiser of that name.
        WeightsError: the file is not the one that was shipped.
    """
    from denoised_smoothing.models.denoisers.files import load_denoiser_file

    known = shipped_denoisers()
    if name not in known:
        raise SpecError(
            f"a shipped denoiser must be one of {', '.join(known) or 'none'}, got {name!r}. "
            "Use one of them, or ARCHITECTURE:FILE."
        )
    check_checksum(known[name])
    return load_denoiser_file(known[name])


def shipped_denoiser_of(fingerprint: str) -> str | None:
    """Return the name of the shipped denoiser with this fingerprint, or None."""
    from denoised_smoothing.models import fingerprints

    return next(
        (
            name
            for name in shipped_denoisers()
            if fingerprints.fingerprint(load_shipped_denoiser(name)) == fingerprint
        ),
        None,
    )


def check_checksum(path: Path) -> None:
    """Compare a shipped file with its checksum.

    Raises:
        WeightsError: the checksum is missing or different.
    """
    try:
        lines = (path.parent / CHECKSUMS).read_text("ascii").splitlines()
    except OSError as error:
        raise WeightsError(
            f"cannot read the checksum of {path} ({error}). Install the package again."
        ) from error
    expected = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    found = sha256_of(path)
    if expected.get(path.name) != found:
        raise WeightsError(
            f"{path} is not the file that was shipped: its SHA-256 is {found}, expected "
            f"{expected.get(path.name, 'none')}. Install the package again, or name a file of your "
            "own as ARCHITECTURE:FILE."
        )
