from __future__ import annotations

import io

import numpy as np
import PIL.Image
import pytest

from denoised_smoothing.errors import SettingError
from denoised_smoothing.remote.encoding import Encoding, Format, to_levels
from denoised_smoothing.remote.vendors.base import Limits


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(PIL.Image.open(io.BytesIO(data)))


def noisy(side: int = 32, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).normal(0.5, 0.5, (channels, side, side)).astype(np.float32)


def test_a_png_holds_the_clipped_and_rounded_image_exactly() -> None:
    image = noisy()
    pixels = decoded(Encoding().encode(to_levels(image), Limits()))
    assert np.array_equal(pixels, np.rint(image.clip(0, 1) * 255).transpose(1, 2, 0))


def test_grey_images_are_sent_as_rgb() -> None:
    levels = to_levels(noisy(channels=1))
    pixels = decoded(Encoding().encode(levels, Limits()))
    assert np.array_equal(pixels, np.repeat(levels.transpose(1, 2, 0), 3, axis=2))


@pytest.mark.parametrize(
    ("size", "least", "sent"), [(None, 1, 32), (None, 80, 80), (96, 80, 96), (16, 80, 80)]
)
def test_small_images_are_enlarged(size: int | None, least: int, sent: int) -> None:
    data = Encoding(size).encode(to_levels(noisy()), Limits(min_side=least))
    assert decoded(data).shape == (sent, sent, 3)


def test_the_aspect_is_kept() -> None:
    levels = to_levels(noisy())[:, :16]
    assert decoded(Encoding(80).encode(levels, Limits())).shape == (80, 160, 3)


def test_the_same_image_gives_the_same_bytes() -> None:
    for encoding in (Encoding(), Encoding(format=Format.JPEG, size=96)):
        first, second = (encoding.encode(to_levels(noisy()), Limits()) for _ in range(2))
        assert first == second


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(max_side=31), "has 32x32 pixels, and the vendor accepts 31 a side at most"),
        (Limits(max_bytes=100), r"bytes, and the vendor accepts 100 at most. .*\?format=jpeg"),
    ],
)
def test_what_the_vendor_does_not_take_is_not_sent(limits: Limits, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Encoding().encode(to_levels(noisy()), limits)


@pytest.mark.parametrize("odd", [{"size": 1}, {"quality": 0}])
def test_odd_settings_are_refused(odd: dict[str, int]) -> None:
    with pytest.raises(SettingError, match=r"got [01]"):
        Encoding(**odd)  # type: ignore[arg-type]
