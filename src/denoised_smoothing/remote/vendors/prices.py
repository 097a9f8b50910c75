"""What vendors ask for a query: list prices, with where and when they were read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars a query, and where that is from."""

    dollars: float
    source: str
    verified: bool = True

    def __str__(self) -> str:
        doubt = "" if self.verified else "unverified price; set --price: "
        return f"${self.dollars:g} a query ({doubt}{self.source})"


PRICES = {
    "aws": Price(0.001, "list price up to a million a month, as transcribed 2026-10-07"),
    "google": Price(0.0015, "list price from 1,001 a month on, read 2026-11-25"),
    "azure": Price(0.001, "no source was found", verified=False),
    "clarifai": Price(0.0012, "a list of 2018-11-08", verified=False),
}
"""First paid tier of each; ``docs/vision-apis.md`` has the sources. Else: ``--price``."""
