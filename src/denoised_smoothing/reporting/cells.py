"""Rows of tables: the numbers of a run, and its cells at each radius."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from denoised_smoothing.certificates.population import holds_among, population_bound
from denoised_smoothing.certificates.radii import format_down, short_down

if TYPE_CHECKING:
    from denoised_smoothing.store import RefusedImage


def percent(share: float | Fraction) -> str:
    """Return a share in [0, 1] as a percentage with one decimal, rounded down."""
    tenths = math.floor(1000 * share)
    return f"{tenths // 10}.{tenths % 10}"


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition of a statement about several images, and what the run knows about it.

    ``met`` is None where the run does not know. ``these_images``: whether statements about these
    very images have the condition, and not only those about the population.
    """

    text: str
    met: bool | None
    known: str
    these_images: bool = True

    @property
    def verdict(self) -> str:
        """The words for a reader."""
        return {True: "met", False: "not met", None: "not known to the run"}[self.met]

    @property
    def about(self) -> str:
        """The statements that have the condition, for a reader."""
        return "both statements" if self.these_images else "the population"


@dataclass(frozen=True, slots=True)
class Summary:
    """The numbers of a run, apart from certified accuracy at single radii."""

    accuracy: float
    """Certified accuracy at radius 0: the share of images with the correct label."""
    average_radius: float
    """ACR: mean over all images of radius * correct (Zhai et al. 2020, MACER, section 5)."""
    abstained: float
    """Share of the finished images for which the smoothed classifier abstains."""
    images: int
    unfinished: int
    seconds: float
    """Mean seconds per image."""
    calls: int | None
    """Classifier calls of all finished images; None for a file that does not hold them."""
    refused: tuple[RefusedImage, ...] = ()
    """Images that could not be certified; no share counts them."""
    clean: Fraction | None = None
    """Accuracy of the classifier alone on the clean images; None if it was not recorded."""
    denoised: Fraction | None = None
    """The same behind the denoiser, without noise."""


@dataclass(frozen=True, slots=True)
class Cell:
    """The number of images that a run certifies at a radius; as text a percentage, rounded down."""

    radius: float
    sigma: float | None
    certified: int
    images: int
    attempted: int
    """Images that were begun: those of which nothing is known count as not certified."""
    alpha: float | None
    """None for a file that does not hold it, of which nothing is proven."""
    chosen_of: int = 1
    """Number of cells on the same images from which this one was chosen."""

    @property
    def reach(self) -> str:
        """The radius as text, rounded down."""
        return short_down(self.radius)

    @property
    def share(self) -> float:
        """The share in [0, 1]."""
        return self.certified / self.images

    @property
    def population(self) -> float:
        """Lower bound on the robust accuracy of the population, at 95 %."""
        return self.population_of(1)

    def population_of(self, cells: int) -> float:
        """Return the bound that holds together with those of all of that many cells."""
        assert self.alpha is not None
        statements = self.chosen_of * cells
        return population_bound(self.certified, self.attempted, self.alpha, statements=statements)

    @property
    def holds_among(self) -> int:
        """Number of these very images on which the classifier is robust, at least, at 95 %."""
        assert self.alpha is not None
        return holds_among(self.certified, self.attempted, self.alpha, statements=self.chosen_of)

    def __str__(self) -> str:
        return percent(Fraction(self.certified, self.images))


def sigma_text(sigma: float | None) -> str:
    """Return sigma as printed; a file of other results does not hold it."""
    return "unknown" if sigma is None else f"{sigma:g}"


@dataclass(frozen=True, slots=True)
class Row:
    """A run in a table; without ``sigma`` and ``summary``: the best over several runs."""

    method: str
    measure: str
    cells: tuple[Cell, ...]
    sigma: float | None = None
    summary: Summary | None = None
    conditions: tuple[Condition, ...] = ()
    """The assumptions of the bounds on these images and on the population."""

    @property
    def proven(self) -> bool:
        """Whether alpha is known, without which nothing is proven."""
        return all(cell.alpha is not None for cell in self.cells)

    @property
    def best_of(self) -> str:
        """``best of k``; empty where the row was not chosen from several."""
        chosen = max(cell.chosen_of for cell in self.cells)
        return f"best of {chosen:,}" if chosen > 1 else ""

    def texts(self) -> list[str]:
        """Return the row as printed, one text for each column of :func:`headings`."""
        if self.summary is None:
            return [self.method, *(f"{cell} (σ {sigma_text(cell.sigma)})" for cell in self.cells)]
        total = self.summary.images + self.summary.unfinished
        refused = f" ({len(self.summary.refused):,} refused)" if self.summary.refused else ""
        return [
            self.method,
            sigma_text(self.sigma),
            f"{self.summary.images:,}"
            + (f"/{total:,}" if self.summary.unfinished else "")
            + refused,
            *(
                "–" if one is None else percent(one)
                for one in (self.summary.clean, self.summary.denoised)
            ),
            *map(str, self.cells),
            format_down(self.summary.average_radius, 3),
            f"{100 * self.summary.abstained:.1f}",
            f"{self.summary.seconds:.3g}",
            "unknown" if self.summary.calls is None else f"{self.summary.calls:,}",
        ]
