"""Tables and a curve of attacks on a run: lower bounds by proof, upper bounds by attack."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.table import Table

from denoised_smoothing.certificates.radii import round_down
from denoised_smoothing.errors import SettingError
from denoised_smoothing.reporting.plots import COLOURS, INK, STYLES, certified_accuracy_figure
from denoised_smoothing.reporting.results import ImageResult, RunResults
from denoised_smoothing.reporting.tables import counted_radii, measure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Verdict(StrEnum):
    """The result of PREDICT on an attacked image."""

    HELD = "held"
    """The certified label wins."""
    ABSTAINED = "abstained"
    """No label wins at the level; near a radius this is expected."""
    CHANGED = "changed"
    """Another label wins."""


@dataclass(frozen=True, slots=True)
class AttackOutcome:
    """One attack on one certified image.

    ``norm`` is the L2 length of the change, below ``epsilon``. ``label`` is the smoothed
    classifier's answer at the attacked image, from the votes ``counts``; None for an abstention.
    """

    index: int
    image_id: str
    certified_label: int
    certified_radius: float
    epsilon: float
    norm: float
    label: int | None
    p_value: float
    counts: Mapping[int, int]
    failed: int = 0

    @property
    def verdict(self) -> Verdict:
        """The certified label or another one wins, or none."""
        if self.label is None:
            return Verdict.ABSTAINED
        return Verdict.HELD if self.label == self.certified_label else Verdict.CHANGED

    @property
    def alarm(self) -> bool:
        """Whether it contradicts the certificate: another label, within the certified radius."""
        return self.verdict is Verdict.CHANGED and self.norm < self.certified_radius

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, the certified radius rounded down."""
        radius = round_down(self.certified_radius, 6)
        derived = {"certified_radius": radius, "verdict": self.verdict.value, "alarm": self.alarm}
        return asdict(self) | derived


@dataclass(frozen=True, slots=True)
class AttackRow:
    """Images at one L2 radius: certified there, and unbroken by attacks below it.

    ``abstained`` images have no certificate. They are not attacked and count as unbroken.
    """

    radius: float
    certified: int
    unbroken: int
    abstained: int
    images: int

    def texts(self) -> tuple[str, ...]:
        """Return radius and percentages: the lower bound rounded down, the upper bound up."""
        tenths = self.certified * 1000 // self.images, -(-self.unbroken * 1000 // self.images)
        return f"{self.radius:g}", *(f"{n // 10}.{n % 10}" for n in tenths)


@dataclass(frozen=True, slots=True)
class ShareRow:
    """Attacked images by verdict, at a share of each one's certified radius."""

    share: float
    held: int
    abstained: int
    changed: int

    def texts(self) -> tuple[str, ...]:
        """Return the share, on which side of the radius it is, and the three numbers."""
        side = "within" if self.share <= 1 else "beyond"
        return f"{self.share:g}", side, *map(str, (self.held, self.abstained, self.changed))


def to_attack(
    results: RunResults, limit: int | None = None
) -> tuple[RunResults, tuple[ImageResult, ...]]:
    """Select the images with a certificate; in data with labels, those with a correct one.

    Args:
        limit: maximum number of images, the first ones; None for all.

    Returns:
        The results up to the last image to attack, to compute shares of, and the images.

    Raises:
        SettingError: the limit is below 1, the run has no finished image or no such certificate.
    """
    if limit is not None and limit < 1:
        raise SettingError(f"limit must be at least 1 image, got {limit}")
    found = np.flatnonzero(counted_radii(results) > 0.0).tolist()
    if not found:
        raise SettingError(
            f"Run {results.run.name!r} certifies no image"
            f"{' with the correct label' if results.labelled else ''}. Attack another run."
        )
    if limit is not None and limit < len(found):
        results = replace(results, images=results.images[: found[limit - 1] + 1])
    return results, tuple(results.images[place] for place in found[:limit])


def accuracy_under_attack(
    results: RunResults, outcomes: Iterable[AttackOutcome], radii: Sequence[float]
) -> list[AttackRow]:
    """Return a lower bound (certified) and an upper bound (under attack) on accuracy at radii.

    Both count finished images. The lower bound counts images with :func:`counted_radii` of at
    least this radius. The upper bound counts all but those that are shown to be wrong: certified
    with another label than the true one, or changed by an attack of at most this length. An
    abstention shows nothing, whatever the label: an anytime run gives an image up for one of its
    radii and says nothing about smaller ones.

    Raises:
        SettingError: the run has no finished image.
    """
    certified, broken = counted_radii(results), _broken(outcomes)
    abstained = np.array([image.predicted is None for image in results.images])
    breaking = np.array([broken.get(image.image_id, np.inf) for image in results.images])
    return [
        AttackRow(
            float(radius),
            certified=int(np.count_nonzero(certified >= radius)),
            unbroken=int(np.count_nonzero(((certified >= 0.0) | abstained) & (breaking > radius))),
            abstained=int(np.count_nonzero(abstained)),
            images=len(results.images),
        )
        for radius in radii
    ]


def by_share(outcomes: Sequence[AttackOutcome], shares: Sequence[float]) -> list[ShareRow]:
    """Count the images that held, abstained and changed at shares of their certified radius.

    An image that changed at a smaller length counts as changed at larger ones, which were
    skipped.
    """
    broken = _broken(outcomes)
    images = {outcome.image_id: outcome.certified_radius for outcome in outcomes}
    at = {(outcome.image_id, outcome.epsilon): outcome.verdict for outcome in outcomes}
    rows = []
    for share in shares:
        verdicts = [
            at.get((image_id, share * radius))
            if broken.get(image_id, np.inf) >= share * radius
            else Verdict.CHANGED
            for image_id, radius in images.items()
        ]
        rows.append(ShareRow(float(share), *map(verdicts.count, Verdict)))
    return rows


def radius_table(rows: Sequence[AttackRow], what: str) -> Table:
    """Return :func:`accuracy_under_attack` for a terminal; ``what`` is the :func:`measure`."""
    title = f"{what.capitalize()}, and the upper bound by attacks (% of {rows[0].images} images)"
    table = _table(title, ("L2 radius", "certified (at least)", "under attack (at most)"), rows)
    if abstained := rows[0].abstained:
        table.caption = (
            f"Images on which the run abstains are not attacked and count as unbroken: {abstained}."
        )
    return table


def share_table(rows: Sequence[ShareRow]) -> Table:
    """Return the rows of :func:`by_share` for a terminal."""
    title = "Attacked images, by the share of their certified radius"
    return _table(title, ("share", "", "held", "abstained", "changed"), rows)


def attack_figure(
    results: RunResults, outcomes: Sequence[AttackOutcome], radii: Sequence[float] = ()
) -> Figure:
    """Draw curves (%) against the L2 radius: certified as lower, under attack as upper bound.

    Both are exact step functions. The upper one ends at the longest attack and has a point at
    each of ``radii``.

    Raises:
        MissingExtraError: matplotlib is not installed.
        SettingError: the run has no finished image.
    """
    figure = certified_accuracy_figure([(results.method, results)])
    axes, what = figure.axes[0], measure([results])
    reach = max((outcome.epsilon for outcome in outcomes), default=0.0)
    breaks = [norm for norm in _broken(outcomes).values() if norm < reach]
    lengths = sorted({0.0, *breaks, reach})
    points = [radius for radius in radii if radius <= reach]
    curve, marks = (
        [100.0 * row.unbroken / row.images for row in accuracy_under_attack(results, outcomes, at)]
        for at in (lengths, points)
    )
    style = {"color": COLOURS[1], "linestyle": STYLES[1], "linewidth": 1.6}
    axes.step(lengths, curve, where="post", **style)
    axes.plot(points, marks, "o", color=COLOURS[1], markersize=4, clip_on=False)
    axes.set_xlim(0.0, max(axes.get_xlim()[1], 1.05 * reach))
    axes.set_ylabel("accuracy (%)" if results.labelled else "images (%)")
    axes.legend(
        axes.lines[:2], [f"{what}: at least", "under attack: at most"],
        frameon=False, labelcolor=INK, handlelength=2.6, loc="lower left",
    )  # fmt: skip
    return figure


def _broken(outcomes: Iterable[AttackOutcome]) -> dict[str, float]:
    """Return the smallest length that changed each image that was changed."""
    changed = [(o.image_id, o.norm) for o in outcomes if o.verdict is Verdict.CHANGED]
    return dict(sorted(changed, key=lambda pair: -pair[1]))  # the smallest one comes last


def _table(title: str, headings: Sequence[str], rows: Sequence[AttackRow | ShareRow]) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row.texts())
    return table
