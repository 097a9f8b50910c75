"""The denoisers that ship with the package, each guarded by a checksum."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from denoised_smoothing.errors import SpecError, WeightsError
from denoised_smoothing.files import sha256_of
from denoised_smoothing.models.denoisers.base import DenoiserNetwork
from denoised_smoothing.models.denoisers.files import load_denoiser_file

CHECKSUMS = "SHA256SUMS"
"""Beside the files: one line each, as ``sha256sum`` prints it."""


def shipped_folder(kind: str) -> Path:
    """Where what ships is: ``denoisers`` or ``classifiers``."""
    return Path(str(resources.files("denoised_smoothing"))) / "shipped" / kind


def shipped_denoisers() -> dict[str, Path]:
    """Names and files of the denoisers that ship with the package."""
    found = {path.stem: path for path in shipped_folder("denoisers").glob("*.safetensors")}
    return dict(sorted(found.items()))


def load_shipped_denoiser(name: str) -> DenoiserNetwork:
    """A denoiser that ships, in evaluation mode; its card is ``card``.

    Raises:
        SpecError: none has that name.
        WeightsError: the file is not the one that was shipped.
    """
    path = shipped_denoisers().get(name)
    if path is None:
        raise SpecError(
            f"no denoiser {name!r} ships; those that do: {', '.join(shipped_denoisers()) or 'none'}"
        )
    check_checksum(path)
    return load_denoiser_file(path)


def check_checksum(path: Path) -> None:
    """Compare a bundled file with its checksum.

    Raises:
        WeightsError: it has none, or another one: half-written or altered.
    """
    try:
        lines = (path.parent / CHECKSUMS).read_text("ascii").splitlines()
    except OSError as error:
        raise WeightsError(
            f"the checksums beside {path} cannot be read ({error}); install the package again"
        ) from error
    expected = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    found = sha256_of(path)
    if expected.get(path.name) != found:
        raise WeightsError(
            f"{path} is not the file that was shipped: its SHA-256 is {found}, and "
            f"{expected.get(path.name, 'none')} was expected; install the package again, or name "
            "a file of your own as ARCHITECTURE:FILE"
        )
