"""Results in the format of Cohen et al. 2019: a tsv with a row per image, and nothing else."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from denoised_smoothing.errors import SettingError, first_line
from denoised_smoothing.reporting.results import RunResults
from denoised_smoothing.reporting.rows import TSV_COLUMNS, parse_time
from denoised_smoothing.text import shown

if TYPE_CHECKING:
    from denoised_smoothing.store import RefusedImage


@dataclass(frozen=True, slots=True)
class PublishedImage:
    """A row of a file: the place of the image in its data set, labels and radius.

    ``predicted`` is None for an abstention, ``true_label`` for an image without one.
    """

    index: int
    true_label: int | None
    predicted: int | None
    radius: float
    seconds: float

    @property
    def calls(self) -> None:
        """Unknown: the file does not hold the number of copies."""
        return None


@dataclass(frozen=True)
class PublishedResults:
    """The images of a file, for the tables and curves of a report.

    Sigma, alpha, plan and noise are not in such a file, so nothing in it can be checked, and its
    radii may be rounded to nearest.
    """

    path: Path
    images: tuple[PublishedImage, ...]

    @property
    def name(self) -> str:
        """The name of the file, which is also the method in tables."""
        return shown(self.path.name)

    @property
    def labelled(self) -> bool:
        """Whether the images have true labels, so that there is an accuracy."""
        return any(image.true_label is not None for image in self.images)

    @property
    def attempted(self) -> int:
        """Number of images with a result."""
        return len(self.images)

    def clean_share(self, answers: str) -> None:
        """Unknown: the file does not hold answers to clean images."""

    method = name
    alpha: None = None
    sigma: None = None
    executed: None = None
    missing = 0
    refused: tuple[RefusedImage, ...] = ()


AnyResults = RunResults | PublishedResults


def read_published(path: str | Path) -> PublishedResults:
    """Read a file with the columns ``idx label predict radius correct time``.

    Further columns are ignored, except ``refused`` of our own files: a refused image has no result.

    Raises:
        SettingError: the file cannot be read, lacks a column or has no row; or a value is
            impossible, or contradicts another one. The message names the row.
    """
    path, found = Path(path), dict[int, PublishedImage | None]()
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t", strict=True)
            missing = [name for name in TSV_COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise ValueError(f"there is no column {', '.join(missing)}")
            for number, row in enumerate(reader, 1):
                index, image = _row(row, f"row {number}")
                if index in found:
                    raise ValueError(f"row {number}: idx {index} was in an earlier row")
                found[index] = image
    except (OSError, ValueError, csv.Error) as error:
        raise SettingError(
            f"cannot use the results in {str(path)!r}: {first_line(error)}. Name a tsv with the "
            f"columns {' '.join(TSV_COLUMNS)}, as the code of Cohen et al. 2019 writes it."
        ) from error
    images = tuple(image for _, image in sorted(found.items()) if image is not None)
    if not images:
        raise SettingError(f"The results in {str(path)!r} have no image. Name a file with rows.")
    return PublishedResults(path, images)


def _row(row: Mapping[str | None, Any], where: str) -> tuple[int, PublishedImage | None]:
    """Return the index of a row, and its image, unless that was refused.

    Raises:
        ValueError: a value is impossible, or contradicts another one.
    """
    if None in row or None in row.values():
        raise ValueError(f"{where} has other cells than the file has columns")
    index, label, predicted, correct = (
        _number(row[name], f"{where}: {name}", least)
        for name, least in (("idx", 0), ("label", -1), ("predict", -1), ("correct", 0))
    )
    if row.get("refused"):
        return index, None
    try:
        radius = float(row["radius"])
    except ValueError:
        radius = math.nan
    if not 0.0 <= radius < math.inf:
        raise ValueError(f"{where}: radius must be a length of at least 0, got {row['radius']!r}")
    if correct != (predicted == label and label != -1):
        raise ValueError(
            f"{where}: correct is {correct}, but label is {label} and predict is {predicted}"
        )
    try:
        seconds = parse_time(row["time"])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    true_label, answer = (None if value == -1 else value for value in (label, predicted))
    return index, PublishedImage(index, true_label, answer, radius, seconds)


def _number(text: str, what: str, least: int) -> int:
    if not re.fullmatch(r"-?[0-9]{1,19}", text) or int(text) < least:
        raise ValueError(f"{what} must be a whole number of at least {least}, got {text!r}")
    return int(text)
