"""Two stored runs on the same images: at which radii the difference is beyond chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from denoised_smoothing.certificates.comparison import PairedDifference, paired_difference
from denoised_smoothing.certificates.population import CONFIDENCE
from denoised_smoothing.certificates.radii import check_radii, short_down
from denoised_smoothing.errors import SettingError
from denoised_smoothing.reporting.results import RunResults
from denoised_smoothing.reporting.tables import counted_radii, measure, method_names


@dataclass(frozen=True, slots=True)
class RunComparison:
    """Two runs on the images that both were to certify, at each radius.

    ``missing`` has the numbers of these images that each run has not finished or has refused: they
    count as not certified. ``attempted`` has the numbers of all images of each run.
    """

    names: tuple[str, str]
    methods: tuple[str, str]
    measure: str
    images: int
    missing: tuple[int, int]
    attempted: tuple[int, int]
    confidence: float
    radii: tuple[float, ...]
    differences: tuple[PairedDifference, ...]

    def rows(self) -> list[dict[str, str]]:
        """Return a row of texts for each radius; shares are percentages."""
        return [
            {
                "radius": short_down(radius),
                "both": f"{one.both:,}",
                "first": f"{one.only_first:,}",
                "second": f"{one.only_second:,}",
                "points": f"{100 * one.difference:+.1f}",
                "at least": f"{np.floor(1000 * one.lower) / 10:+.1f}",
                "at most": f"{np.ceil(1000 * one.upper) / 10:+.1f}",
                "p-value": f"{one.p_value:.2g}",
                "beyond chance": "yes" if one.beyond_chance else "no",
            }
            for radius, one in zip(self.radii, self.differences, strict=True)
        ]

    def sentence(self) -> str:
        """Say at which radii a run certifies more than chance explains, to quote."""
        first, second = self.names
        counted = "certified" if self.measure == "certified" else "certified and correct"
        pairs = list(zip(self.radii, self.differences, strict=True))
        found = []
        for name, sign in ((first, 1), (second, -1)):
            where = [
                short_down(r) for r, one in pairs if one.beyond_chance and sign * one.difference > 0
            ]
            if where:
                found.append(f"{name} certifies more at radius {', '.join(where)}")
        none = f"no difference between {first} and {second} is beyond chance"
        said = f"beyond chance, {'; '.join(found)}" if found else none
        lacking = ""
        if any(self.missing):
            each = zip(self.missing, self.names, strict=True)
            listed = " and ".join(f"{n:,} of {name}" for n, name in each)
            lacking = f" ({listed} are unfinished or refused, and count as not certified)"
        return (
            f"Of the {self.images:,} images of both runs{lacking}, counted where {counted}: "
            f"{said} (exact McNemar test at {100 * (1 - self.confidence):.3g} % / "
            f"{len(self.radii)}, the number of radii)."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as plain values for JSON."""
        pairs = zip(self.radii, self.differences, strict=True)
        return {
            "runs": list(self.names),
            "methods": list(self.methods),
            "measure": self.measure,
            "images": self.images,
            "missing": list(self.missing),
            "attempted": list(self.attempted),
            "confidence": self.confidence,
            "radii": [
                {
                    "radius": radius,
                    **asdict(one),
                    "difference": one.difference,
                    "beyond_chance": one.beyond_chance,
                }
                for radius, one in pairs
            ],
            "sentence": self.sentence(),
        }


def compare_runs(
    first: RunResults,
    second: RunResults,
    radii: Sequence[float],
    confidence: float = CONFIDENCE,
) -> RunComparison:
    """Compare two runs at each radius, on the images that both were to certify.

    Which images these are does not depend on results: one that is unfinished or refused counts as
    not certified. Any other image counts as in
    :func:`~denoised_smoothing.reporting.tables.counted_radii`; each run judges for itself which
    labels are correct. All radii hold together (Bonferroni).

    Args:
        radii: L2 radii in pixel values in [0, 1].
        confidence: of all differences together, at least 0.75.

    Raises:
        SettingError: the runs are one, are about different data or pixels, have no image in
            common, one has no finished image or one alone has labels, or an argument is out of
            its range.
    """
    lengths = check_radii(radii)
    images = _common(first, second)
    places = sorted(images)
    found = [_radii(run) for run in (first, second)]
    one, other = (np.array([held.get(place, -np.inf) for place in places]) for held in found)
    differences = [
        paired_difference(
            both=int(np.count_nonzero((one >= radius) & (other >= radius))),
            only_first=int(np.count_nonzero((one >= radius) & (other < radius))),
            only_second=int(np.count_nonzero((one < radius) & (other >= radius))),
            images=len(images),
            confidence=confidence,
            comparisons=len(lengths),
        )
        for radius in lengths
    ]
    return RunComparison(
        names=(first.run.name, second.run.name),
        methods=tuple(method_names([first, second])),  # type: ignore[arg-type]
        measure=measure([first, second]),
        images=len(images),
        missing=tuple(len(images - held.keys()) for held in found),  # type: ignore[arg-type]
        attempted=(first.attempted, second.attempted),
        confidence=confidence,
        radii=lengths,
        differences=tuple(differences),
    )


def _common(first: RunResults, second: RunResults) -> set[int]:
    """Return the places of the images that both runs were to certify, and check their pixels."""
    names = [run.run.name for run in (first, second)]
    if names[0] == names[1]:
        raise SettingError(f"A comparison needs two runs, got {names[0]!r} twice. Name another.")
    data = [run.run.settings["data_fingerprint"] for run in (first, second)]
    if data[0] != data[1]:
        specs = [run.run.settings["data"] for run in (first, second)]
        raise SettingError(
            f"The runs {names} are about different data, {specs}. Compare runs on the same images."
        )
    one, other = ({image.index: image for image in run.images} for run in (first, second))
    common = _places(first) & _places(second)
    if not common:
        raise SettingError(
            f"The runs {names} have no image in common. Certify the same images in both: use equal "
            "--stride and --limit."
        )
    for place in sorted(one.keys() & other.keys()):
        if one[place].digest != other[place].digest:
            raise SettingError(
                f"Image {one[place].image_id!r} has other pixels in run {names[0]!r} than "
                f"in {names[1]!r}. Compare runs at the same resolution."
            )
    return common


def _places(run: RunResults) -> set[int]:
    """Return the places in the data set of all images of a run."""
    refused = (image.index for image in run.refused)
    return {*run.places, *(image.index for image in run.images), *refused}


def _radii(run: RunResults) -> dict[int, float]:
    """Return the radius of each finished image, as counted, by its place."""
    pairs = zip(run.images, counted_radii(run), strict=True)
    return {image.index: float(radius) for image, radius in pairs if image.finished}
