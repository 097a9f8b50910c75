"""The record of an exported bundle, ``bundle.json``, and the checksums of its files."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from denoised_smoothing.certificates.parameters import EngineName, Noise, Precision
from denoised_smoothing.errors import SettingError, WeightsError
from denoised_smoothing.files import sha256_of

FORMAT = 1
"""Of the folder; a newer one is refused."""
RECORD = "bundle.json"
CONVERTED = (EngineName.OPENVINO, EngineName.ONNXRUNTIME)
"""Engines whose bundles hold a converted model."""
_COPY_AGAIN = "Copy the bundle again from where it was written."


@dataclass(frozen=True)
class Bundle:
    """The content of ``bundle.json``, except for the files.

    ``shape`` is that of an image [C, H, W], ``resolution`` the side to which images are resized,
    ``classifier`` and ``denoiser`` are specs, ``calibration`` is what a run records of it, and
    ``notes`` are those of the certificates.
    """

    sigma: float
    noise: Noise
    shape: tuple[int, int, int]
    resolution: int | None
    engine: EngineName
    engine_version: str
    precision: Precision
    forward: int
    label_names: tuple[str, ...] | None
    classifier: str
    classifier_fingerprint: str
    denoiser: str
    denoiser_fingerprint: str
    calibration: dict[str, str]
    model_digest: str | None = None
    stochastic: bool = False
    notes: tuple[str, ...] = ()

    @property
    def converted(self) -> bool:
        """Whether it holds a converted model, which needs neither classifier nor denoiser."""
        return self.engine in CONVERTED

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as in ``bundle.json``."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain


def write_bundle(folder: Path, bundle: Bundle, fill_folder: Callable[[Path], None]) -> None:
    """Write a bundle, whole or not at all; ``fill_folder`` writes its files.

    Raises:
        SettingError: the folder holds files, or cannot be written.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise SettingError(f"{folder} exists already. Name a new folder for the bundle.")
    part = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.part")
    try:
        part.mkdir(parents=True)
        fill_folder(part)
        paths = sorted(path for path in part.rglob("*") if path.is_file())
        files = {path.relative_to(part).as_posix(): sha256_of(path) for path in paths}
        record = {"format": FORMAT, **bundle.to_dict(), "files": files}
        record["sha256"] = _own_sha256(record)
        (part / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        if folder.exists():
            folder.rmdir()
        part.rename(folder)
    except OSError as error:
        raise SettingError(
            f"Cannot write the bundle {folder} ({error}). Name a folder that is writable and has "
            "space left."
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def read_bundle(folder: str | Path) -> Bundle:
    """Read the record of a bundle, and compare every file with its checksum.

    Raises:
        WeightsError: it is no bundle, of a newer format, or a file is altered or missing.
    """
    folder = Path(folder)
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        version, stated = record["format"], record["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{folder} is not a complete bundle: cannot read {RECORD} ({type(error).__name__}: "
            f"{error}). Name a folder that 'denoised-smoothing bundle' wrote."
        ) from error
    if not isinstance(version, int) or version > FORMAT:
        raise WeightsError(
            f"The bundle {folder} has format {version!r}; this version reads {FORMAT}. Update the "
            "package: pip install --upgrade denoised-smoothing"
        )
    if _own_sha256(record) != stated:
        raise WeightsError(
            f"{folder / RECORD} was altered: its checksum is not {stated!r}. {_COPY_AGAIN}"
        )
    for name, expected in record["files"].items():
        found = sha256_of(folder / name) if (folder / name).is_file() else "none"
        if found != expected:
            what = "is missing from" if found == "none" else "was altered in"
            raise WeightsError(
                f"{name} {what} the bundle {folder}: expected SHA-256 {expected[:12]}..., got "
                f"{found[:12]}. {_COPY_AGAIN}"
            )
    names = record["label_names"]
    record |= {
        "notes": tuple(record.get("notes", ())),  # earlier versions wrote none
        "noise": Noise(record["noise"]),
        "shape": tuple(record["shape"]),
        "engine": EngineName(record["engine"]),
        "precision": Precision(record["precision"]),
        "label_names": None if names is None else tuple(names),
    }
    return Bundle(**{name: record[name] for name in Bundle.__dataclass_fields__ if name in record})


def _own_sha256(record: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in record.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
