"""What vendors ask for a query: list prices, with the day on which they were read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars a query, where that is from, and when it was read."""

    dollars: float
    source: str
    read: str

    def __str__(self) -> str:
        return f"${self.dollars:g} a query ({self.source}, {self.read})"


PRICES = {
    "aws": Price(0.001, "list price of group 2, first million a month", "not read again since"),
    "google": Price(0.0015, "list price of label detection, first 5 million a month", ""),
    "azure": Price(0.001, "list price of group 1, S1, first million a month", ""),
    "clarifai": Price(0.0012, "list price of image recognition", ""),
    "simulated": Price(0.0, "costs nothing", "always"),
}
"""First tier of each, without what is free; other accounts: ``--price``."""
