"""The operator's limits of requests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from denoised_smoothing.errors import SettingError


def _limit(default: int, help: str, *flags: str) -> Any:
    """Return a field whose metadata describe an option of the command line."""
    return field(default=default, metadata={"help": help, "flags": flags})


@dataclass(frozen=True)
class Limits:
    """Maximum values of requests; each is at least 1.

    Raises:
        SettingError: one is below 1.
    """

    copies: int = _limit(100_000, "Maximum number of noisy copies per request.", "--max-copies")
    queue: int = _limit(128, "Maximum number of pending requests.")
    per_client: int = _limit(64, "Maximum number of pending requests per client.", "--client-queue")
    rate: int = _limit(600, "Maximum number of requests per client and minute.", "--client-rate")
    megabytes: int = _limit(10, "Maximum size of a request in megabytes.", "--max-megabytes")
    pixels: int = _limit(25_000_000, "Maximum number of pixels of an image.", "--max-pixels")
    grace: int = _limit(10, "Seconds that pending requests get when the server stops.")

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise SettingError(
                    f"The limit {name} must be a whole number of at least 1, got {value}. Omit it "
                    "to use the default."
                )

    @property
    def body(self) -> int:
        """Maximum number of bytes of the body of a request."""
        return self.megabytes * 1_000_000
