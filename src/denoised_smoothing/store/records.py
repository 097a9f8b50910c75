"""Runs, images and examples of a store, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.errors import CountsError, SettingError

LONGEST_LIST = 1_000
"""Labels up to which votes are stored as a list."""


@dataclass(frozen=True, slots=True)
class RefusedImage:
    """An image that cannot be certified: its place in the data set, and the reason."""

    index: int
    image_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run: the settings that must be equal to resume, and the info that is only recorded."""

    name: str
    settings: dict[str, Any]
    seed: int
    info: dict[str, Any]
    created: datetime

    @property
    def refused(self) -> tuple[RefusedImage, ...]:
        """The images that could not be certified, by index; they are part of its info."""
        return tuple(RefusedImage(**image) for image in self.info.get("refused", ()))

    @property
    def label_names(self) -> dict[int, str]:
        """The names of labels by their numbers, as far as they are known; part of its info."""
        held = self.info.get("label_names") or ()
        if isinstance(held, dict):
            return {int(number): name for number, name in held.items()}
        return dict(enumerate(held))


@dataclass(frozen=True, slots=True)
class StoredImage:
    """The whole state of one image in a run.

    ``index`` is its place in the data set, ``label`` its true label if known, ``digest`` that of
    its pixels, ``seconds`` the time spent on it, ``finished`` whether its plan is complete.
    """

    index: int
    image_id: str
    label: int | None
    digest: str
    counts: dict[Stage, LabelCounts]
    seconds: float = 0.0
    finished: bool = False


@dataclass(frozen=True, slots=True)
class StoredExample:
    """A picture for the report: ``kind`` is "clean", "noisy" or "denoised"."""

    image_id: str
    kind: str
    position: int
    png: bytes


def check_name(name: str) -> None:
    """Check the name of a run.

    Raises:
        SettingError: it is empty.
    """
    if not name.strip():
        raise SettingError(
            f"The name of a run must not be empty, got {name!r}. Give it a name, or leave it out "
            "for one that is made of the settings."
        )


def as_info(names: Mapping[int, str]) -> list[str] | dict[str, str]:
    """Return names of labels as the info of a run holds them: a list, where none is left out."""
    numbers = sorted(names)
    if numbers == list(range(len(numbers))):
        return [names[number] for number in numbers]
    return {str(number): names[number] for number in numbers}


def run_from_row(row: Any) -> StoredRun:
    """Return the run of a row of the table."""
    name, settings, seed, info, created = row
    return StoredRun(name, settings, int(seed), info, datetime.fromisoformat(created))


def to_row(run: str, image: StoredImage) -> dict[str, Any]:
    """Return an image of a run as a row of the table.

    Raises:
        CountsError: its counts belong to another run, image or stage.
    """
    for stage, counts in image.counts.items():
        if (counts.run, counts.image_id, counts.stage) != (run, image.image_id, stage):
            raise CountsError(
                f"{counts.stage} counts of image {counts.image_id!r} in run {counts.run!r} cannot "
                f"be saved as {stage} counts of image {image.image_id!r} in run {run!r}. "
                "Save each image with its own counts."
            )
    votes = {stage: [_stored(counts), counts.failed] for stage, counts in image.counts.items()}
    return {**asdict(image), "run": run, "counts": votes}


def _stored(counts: LabelCounts) -> list[int] | Mapping[int, int]:
    """Return votes as a list from label 0 on; by label where that would be long."""
    length = max(counts.votes, default=-1) + 1
    return [counts.of(k) for k in range(length)] if length <= LONGEST_LIST else counts.votes


def from_row(run: str, row: Any) -> StoredImage:
    """Return an image of a run from its row."""
    _, index, image_id, label, digest, stages, seconds, finished = row
    counts = {
        (stage := Stage(name)): LabelCounts(run, image_id, stage, votes, failed)
        for name, (votes, failed) in stages.items()
    }
    return StoredImage(index, image_id, label, digest, counts, seconds, finished)
