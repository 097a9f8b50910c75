"""What a request may ask for: the operator's limits."""

from __future__ import annotations

from dataclasses import dataclass

from denoised_smoothing.errors import SettingError


@dataclass(frozen=True)
class Limits:
    """The operator's limits; each is a whole number of at least 1.

    Args:
        copies: noisy copies that a request may ask for.
        queue: requests that are being answered or wait at once; beyond it 429.
        per_client: the same of one client.
        rate: requests for copies of one client in a minute.
        megabytes: of the body of a request.
        pixels: of an uploaded image, width times height.
        grace: seconds that running requests get when the server is stopped.

    Raises:
        SettingError: one is below 1.
    """

    copies: int = 100_000
    queue: int = 128
    per_client: int = 64
    rate: int = 600
    megabytes: int = 10
    pixels: int = 25_000_000
    grace: int = 10

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise SettingError(
                    f"the limit {name} is a whole number of at least 1, got {value}; leave it "
                    "out for the default"
                )

    @property
    def body(self) -> int:
        """Bytes of the body of a request: an image in base64, and what is said about it."""
        return self.megabytes * 1_000_000
