"""The operator's limits of requests."""

from __future__ import annotations

from dataclasses import dataclass

from denoised_smoothing.errors import SettingError


@dataclass(frozen=True)
class Limits:
    """Maximum values of requests; each is at least 1.

    Args:
        copies: noisy copies of a request.
        queue: pending requests; the service answers further ones with 429.
        per_client: pending requests of one client.
        rate: requests for copies per minute and client.
        megabytes: size of the body of a request.
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
                    f"The limit {name} must be a whole number of at least 1, got {value}. Omit it "
                    "to use the default."
                )

    @property
    def body(self) -> int:
        """Maximum number of bytes of the body of a request."""
        return self.megabytes * 1_000_000
