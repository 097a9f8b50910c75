"""The one format of an image: a float32 array [C, H, W] in [0, 1], C = 3 (RGB) or 1 (grey).

The float32 nearest to k / 255, k = 0 to 255, stands for k / 255: it is on the 8-bit grid. Any
other value stands for itself.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
from jaxtyping import Float32

from denoised_smoothing.errors import ImageError, SettingError, raised_as

FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
"""The file formats that are read, by Pillow's names."""
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
"""The suffixes of their files, in lower case."""

_MODES = {"L": "L", "1": "L", "RGB": "RGB", "P": "RGB"}
_SMALLEST = 2
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)
"""The EXIF tag of the orientation, and its values that exchange height and width."""
_FLOAT64_ROUNDING = 2.0**-40
"""The most by which 255 times a float64 may miss k, of a value that arithmetic rounded."""


def load_image(
    source: str | Path | bytes, *, name: str | None = None
) -> Float32[np.ndarray, "c h w"]:
    """Decode an 8-bit PNG, JPEG, BMP or WebP image and turn it upright by its EXIF orientation.

    Args:
        source: the path of a file, or the bytes of one.
        name: the name of the image in error messages; the path by default.

    Returns:
        [3, H, W], or [1, H, W] of a grey image, on the 8-bit grid.

    Raises:
        ImageError: missing, corrupt or truncated; 16 bits; an alpha channel or CMYK; 1x1.
    """
    name = name or _name_of(source)
    with _opened(source, name) as image:
        return as_image(image, name=name)


def image_shape(source: str | Path | bytes, *, name: str | None = None) -> tuple[int, int, int]:
    """Return the shape [C, H, W] that :func:`load_image` decodes to, from the header alone.

    Raises:
        ImageError: the header states what cannot be loaded; damage behind it is not seen.
    """
    name = name or _name_of(source)
    with _opened(source, name) as image:
        _check_pil(image, name)
        (width, height), channels = image.size, 1 if _MODES[image.mode] == "L" else 3
        exif = PIL.Image.Image.getexif(image)  # that of PNG would decode the pixels
        if exif.get(_ORIENTATION) in _TURNED:
            height, width = width, height
        _check_sides(height, width, name)
        return channels, height, width


def _name_of(source: str | Path | bytes) -> str:
    return "the image" if isinstance(source, bytes) else repr(str(source))


@contextmanager
def _opened(source: str | Path | bytes, name: str) -> Iterator[PIL.Image.Image]:
    """Open an image file; an error while it is read becomes an ImageError."""
    with _decoding(name):
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        with PIL.Image.open(file, formats=FORMATS) as image:
            yield image


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    try:
        yield
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"There is no image file {name}. Check the path.") from error
    except Exception as error:  # Pillow's errors for broken files are of many types
        raise ImageError(
            f"{name} cannot be decoded ({error}), expected an intact file of the format "
            f"{', '.join(FORMATS)}. Fetch or save it again."
        ) from error


def as_image(
    value: Any, *, name: str = "the image", axes: str = "[C, H, W]"
) -> Float32[np.ndarray, "*b c h w"]:
    """Convert a tensor, an array or a PIL image to the one format; the values stay as they are.

    Args:
        value: floats [C, H, W] in [0, 1], or an 8-bit PIL image (RGB, grey, palette, 1 bit).
            Of float64, those that float32 holds, and k / 255.
        name: the name of the image in error messages.

    Raises:
        ImageError: dtype, shape, channels or values are not of that format.
    """
    if isinstance(value, PIL.Image.Image):
        with _decoding(name):
            value = _from_pil(value, name)
    array = as_array(value, name, axes)
    shape, kind = list(array.shape), array.dtype.kind
    if kind != "f":
        hint = "Divide 8-bit values by 255" if kind in "biu" else "Read files with load_image"
        raise ImageError(
            f"{name} holds values of type {array.dtype}, expected floats in [0, 1]. {hint}."
        )
    if array.ndim != axes.count(",") + 1 or array.size == 0:
        raise ImageError(
            f"{name} has the shape {shape}, expected {axes} with at least one value. Add or "
            "remove an axis."
        )
    if shape[-3] not in (1, 3):
        raise ImageError(
            f"{name} has {shape[-3]} channels (shape {shape}), expected {axes} with 3 (RGB) or 1 "
            "(grey). Drop an alpha channel, or move a last axis of channels to the front."
        )
    _check_sides(shape[-2], shape[-1], name)
    if not np.isfinite(array).all():
        raise ImageError(
            f"{name} holds NaN or infinite values, expected [0, 1]. Repair its source."
        )
    low, high = array.min(), array.max()
    if low < 0 or high > 1:
        hint = "Divide 8-bit values by 255" if high > 1 and low >= 0 else "Undo the normalisation"
        raise ImageError(
            f"{name} has values from {low:g} to {high:g}, expected [0, 1]. {hint}, or clip."
        )
    single = np.ascontiguousarray(array, dtype=np.float32)
    moved = single != array
    if moved.any():
        levels = array * 255.0
        rounded = moved & (np.abs(levels - levels.round()) <= _FLOAT64_ROUNDING)
        single[rounded] = levels[rounded].round() / 255
        moved &= ~rounded
    if moved.any():
        raise ImageError(
            f"{name} holds {array.dtype} values that float32 would change, such as "
            f"{float(array[moved][0])!r}, expected values of float32 or k / 255. Convert it with "
            "astype(numpy.float32), or float() of a tensor: that image is then the certified one."
        )
    return single


def as_images(value: Any, *, name: str = "the batch") -> Float32[np.ndarray, "b c h w"]:
    """Convert a batch (tensor or array of floats [B, C, H, W]); see :func:`as_image`."""
    return as_image(value, name=name, axes="[B, C, H, W]")


def as_array(value: Any, name: str, axes: str = "[C, H, W]") -> np.ndarray:
    """Return the values of a tensor or an array, in half precision as float32.

    Raises:
        ImageError: they cannot be read.
    """
    with raised_as(ImageError, f"{name} cannot be read as an array", f"Use values {axes}."):
        if hasattr(value, "detach"):
            value = value.detach().cpu()
            half = value.is_floating_point() and value.itemsize < 4  # numpy has no bfloat16
            value = (value.float() if half else value).numpy()
        return np.asarray(value)


def _check_sides(height: int, width: int, name: str) -> None:
    if min(height, width) < _SMALLEST:
        raise ImageError(
            f"{name} is {height}x{width} pixels, expected at least {_SMALLEST}x{_SMALLEST}. "
            "Use the whole image."
        )


def _check_pil(image: PIL.Image.Image, name: str) -> None:
    """Refuse what is not 8-bit RGB or grey; its header says so."""
    stored = str(getattr(image, "tile", ""))  # Pillow reduces 16-bit colour to RGB silently
    if image.mode[0] in "IF" or any(f";16{order}" in stored for order in "BLN"):
        raise ImageError(
            f"{name} has more than 8 bits a channel (mode {image.mode}), expected 8, as radii are "
            "in 8-bit pixels. Save it with 8 bits a channel first."
        )
    if image.mode not in _MODES or image.has_transparency_data:
        transparent = " with transparency" if image.has_transparency_data else ""
        raise ImageError(
            f"{name} has the mode {image.mode}{transparent} ({len(image.getbands())} channels), "
            "expected RGB or one grey channel. Flatten any transparency and save it as RGB."
        )


def _from_pil(image: PIL.Image.Image, name: str) -> np.ndarray:
    _check_pil(image, name)
    upright = PIL.ImageOps.exif_transpose(image).convert(_MODES[image.mode])
    return np.atleast_3d(np.asarray(upright)).transpose(2, 0, 1) / np.float32(255)


def to_grid(image: Float32[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
    """Return the nearest values on the 8-bit grid, k / 255; values beyond [0, 1] are clipped."""
    return (image.clip(0, 1) * 255).round() / np.float32(255)


def is_on_grid(image: Float32[np.ndarray, "*shape"]) -> bool:
    """Return whether every value is exactly one of the 8-bit grid."""
    return np.array_equal(image, to_grid(image))


def resize(
    image: Float32[np.ndarray, "c h w"], resolution: int
) -> Float32[np.ndarray, "c side side"]:
    """Resize the shorter side to ``resolution`` pixels, then crop the centre to a square.

    As torchvision's Resize and CenterCrop do on PIL images: bilinear, antialiased, on 8 bits.

    Returns:
        [C, resolution, resolution] on the 8-bit grid; the image itself if it has that size.

    Raises:
        SettingError: the resolution is below 2.
    """
    if resolution < _SMALLEST:
        raise SettingError(
            f"resolution must be at least {_SMALLEST}, got {resolution!r}. Use a number of pixels, "
            "such as 224."
        )
    height, width = image.shape[1:]
    if height == width == resolution:
        return image
    shorter = min(height, width)
    size = (resolution * width // shorter, resolution * height // shorter)
    left, top = (round((side - resolution) / 2) for side in size)
    resized = _to_pil(image).resize(size, PIL.Image.Resampling.BILINEAR)
    return as_image(resized.crop((left, top, left + resolution, top + resolution)))


def to_png(image: Float32[np.ndarray, "c h w"]) -> bytes:
    """Return the image as an 8-bit PNG file; values beyond [0, 1] (a noisy copy) are clipped."""
    file = io.BytesIO()
    _to_pil(image).save(file, "PNG")
    return file.getvalue()


def to_jpeg(image: Float32[np.ndarray, "c h w"]) -> bytes:
    """Return the image as a JPEG file of quality 90, to be looked at."""
    file = io.BytesIO()
    _to_pil(image).save(file, "JPEG", quality=90)
    return file.getvalue()


def match_channels(
    image: Float32[np.ndarray, "c h w"], channels: int, *, name: str = "the image"
) -> Float32[np.ndarray, "c h w"]:
    """Return the image if it has the ``channels`` (3 or 1) that the classifier accepts.

    Raises:
        ImageError: it has others. Nothing is converted: the radius would be in other pixels.
    """
    check_channels(image.shape[0], channels, name=name)
    return image


def check_channels(given: int, channels: int, *, name: str = "the image") -> None:
    """Refuse an image whose channels are not those that the classifier accepts.

    Raises:
        ImageError: they differ.
    """
    if given == channels:
        return
    kinds = {1: "grey", 3: "RGB"}
    wanted, got = (kinds.get(count, f"{count}-channel") for count in (channels, given))
    raise ImageError(
        f"{name} is {got}, but the classifier takes {wanted} images. Convert the images to "
        f"{wanted}, or use a classifier for {got} images."
    )


def digest(image: Float32[np.ndarray, "*shape"]) -> str:
    """Return the SHA-256, in hex, of shape and 8-bit values, of one image or of a batch.

    Off the 8-bit grid, of shape and float32 values: two images may share their 8-bit values.
    """
    values = _to_levels(image) if is_on_grid(image) else (image + 0.0).astype("<f4")  # no -0.0
    return hashlib.sha256(str(image.shape).encode() + values.tobytes()).hexdigest()


def _to_levels(image: np.ndarray) -> np.ndarray:
    return (image.clip(0, 1) * 255).round().astype(np.uint8)


def _to_pil(image: np.ndarray) -> PIL.Image.Image:
    levels = _to_levels(image)
    return PIL.Image.fromarray(levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0))
