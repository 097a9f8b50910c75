"""What vendors ask for a query: list prices, with where and when they were read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars a query, and where that is from."""

    dollars: float
    source: str

    def __str__(self) -> str:
        return f"${self.dollars:g} a query ({self.source})"


PRICES = {
    "aws": Price(0.001, "list price up to a million a month, as transcribed 2026-10-07"),
    "google": Price(0.0015, "list price from 1,001 a month on, second-hand, 2026-11-24"),
    "azure": Price(0.001, "list price as remembered, not verified, 2026-11-24"),
    "clarifai": Price(0.0012, "an older list price, not verified, 2026-11-24"),
}
"""First paid tier of each; ``docs/vision-apis.md`` has the sources. Else: ``--price``."""
