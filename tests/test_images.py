"""images.py: reading, checking, resizing and writing the one form of an image."""

from __future__ import annotations

import hashlib
import io
import struct
import subprocess
import sys
import zlib
from itertools import product
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from denoised_smoothing import images
from denoised_smoothing.errors import ImageError, SettingError


def random_image(*shape: int, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).integers(0, 256, shape)
    return (values / 255).astype(np.float32)


def encoded(image: PIL.Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def png_of_16_bits(colour_type: int, channels: int) -> bytes:
    """A 4x4 PNG of 16 bits a channel, which Pillow reads but does not write in colour."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", 4, 4, 16, colour_type, 0, 0, 0)
    rows = (b"\0" + bytes(2 * channels * 4)) * 4
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


class TestLoadImage:
    @pytest.mark.parametrize("channels", [1, 3])
    def test_reads_back_a_png_exactly(self, tmp_path: Path, channels: int) -> None:
        image = random_image(channels, 5, 7)
        path = tmp_path / "image.png"
        path.write_bytes(images.to_png(image))
        for source in (path, str(path), path.read_bytes()):
            loaded = images.load_image(source)
            assert loaded.dtype == np.float32
            assert np.array_equal(loaded, image)

    @pytest.mark.parametrize(
        ("mode", "file_format", "channels"),
        [
            ("L", "PNG", 1),
            ("1", "PNG", 1),
            ("P", "PNG", 3),
            ("RGB", "JPEG", 3),
            ("L", "JPEG", 1),
            ("RGB", "BMP", 3),
            ("RGB", "WEBP", 3),
        ],
    )
    def test_modes_and_formats(self, mode: str, file_format: str, channels: int) -> None:
        loaded = images.load_image(encoded(PIL.Image.new(mode, (6, 4)), file_format))
        assert loaded.shape == (channels, 4, 6)
        assert images.is_on_grid(loaded)

    def test_palette_gives_its_colours(self) -> None:
        colours = PIL.Image.new("RGB", (2, 2), (255, 0, 51)).quantize(2)
        assert colours.mode == "P"
        loaded = images.load_image(encoded(colours))
        assert np.array_equal(loaded[:, 0, 0], np.array([1, 0, 51 / 255], np.float32))

    def test_one_bit_gives_black_and_white(self) -> None:
        bits = PIL.Image.new("1", (2, 2), 1)
        bits.putpixel((0, 0), 0)
        assert images.load_image(encoded(bits)).tolist() == [[[0, 1], [1, 1]]]

    def test_turns_upright_by_exif_orientation(self) -> None:
        picture = PIL.Image.new("RGB", (8, 4))
        picture.paste((255, 255, 255), (0, 0, 4, 4))
        exif = PIL.Image.Exif()
        exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
        loaded = images.load_image(encoded(picture, exif=exif))
        assert loaded.shape == (3, 8, 4)
        assert loaded[:, :4].min() == 1
        assert loaded[:, 4:].max() == 0

    @pytest.mark.parametrize(
        ("mode", "file_format", "said"),
        [
            ("RGBA", "PNG", r"mode RGBA with transparency \(4 channels\)"),
            ("LA", "PNG", r"mode LA with transparency \(2 channels\)"),
            ("CMYK", "JPEG", r"mode CMYK \(4 channels\)"),
        ],
    )
    def test_refuses_other_channels(
        self, tmp_path: Path, mode: str, file_format: str, said: str
    ) -> None:
        path = tmp_path / "four.img"
        path.write_bytes(encoded(PIL.Image.new(mode, (4, 4)), file_format))
        with pytest.raises(ImageError, match=rf"four\.img' has the {said}.*save it as RGB"):
            images.load_image(path)

    def test_refuses_a_transparent_palette(self) -> None:
        content = encoded(PIL.Image.new("P", (4, 4)), transparency=0)
        with pytest.raises(ImageError, match="mode P with transparency"):
            images.load_image(content)

    @pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
    def test_refuses_16_bits(self, tmp_path: Path, colour_type: int, channels: int) -> None:
        path = tmp_path / "deep.png"
        path.write_bytes(png_of_16_bits(colour_type, channels))
        with pytest.raises(ImageError, match=r"deep\.png' has more than 8 bits.*expected 8"):
            images.load_image(path)

    def test_refuses_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(ImageError, match=r"no image file .*away\.png'\. Check the path"):
            images.load_image(tmp_path / "away.png")

    @pytest.mark.parametrize("file_format", ["PNG", "JPEG", "BMP", "WEBP"])
    def test_refuses_a_truncated_file(self, tmp_path: Path, file_format: str) -> None:
        path = tmp_path / "cut.img"
        whole = encoded(PIL.Image.effect_noise((64, 64), 50), file_format)
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ImageError, match=r"cut\.img' cannot be decoded.*save it again"):
            images.load_image(path)

    @pytest.mark.parametrize("content", [b"", b"no image at all", b"GIF89a" + bytes(20)])
    def test_refuses_what_is_no_image(self, content: bytes) -> None:
        with pytest.raises(ImageError, match=r"row 3 cannot be decoded.*PNG, JPEG, BMP, WEBP"):
            images.load_image(content, name="row 3")

    def test_refuses_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ImageError, match="cannot be decoded"):
            images.load_image(tmp_path)

    def test_refuses_1x1(self) -> None:
        content = encoded(PIL.Image.new("RGB", (1, 1)))
        with pytest.raises(ImageError, match="the image is 1x1 pixels, expected at least 2x2"):
            images.load_image(content)


class TestAsImage:
    @pytest.mark.parametrize(
        "value",
        [
            np.full((3, 4, 5), 0.5),
            np.full((3, 4, 5), 0.5, np.float16),
            torch.full((3, 4, 5), 0.5, requires_grad=True),
            torch.full((3, 4, 5), 0.5, dtype=torch.bfloat16),
        ],
        ids=["float64", "float16", "gradient", "bfloat16"],
    )
    def test_accepts(self, value: object) -> None:
        image = images.as_image(value)
        assert image.dtype == np.float32
        assert np.array_equal(image, np.full((3, 4, 5), 0.5, np.float32))

    @pytest.mark.parametrize("dtype", [np.float64, np.longdouble])
    def test_8_bit_values_over_255_in_float64_are_on_the_grid(self, dtype: type) -> None:
        levels = np.arange(256).reshape(1, 16, 16)
        expected = levels.astype(np.float32) / np.float32(255)
        wide = levels.astype(dtype)
        for value in (wide / 255, wide * (dtype(1) / 255), (wide / 255 + 1e-16).clip(0, 1)):
            assert np.array_equal(images.as_image(value), expected)
            assert np.array_equal(images.as_image(torch.tensor(np.float64(value))), expected)

    def test_float64_of_a_float32_image_is_that_image(self) -> None:
        image = np.random.default_rng(0).random((3, 8, 8), np.float32)
        assert np.array_equal(images.as_image(image.astype(np.float64)), image)

    @pytest.mark.parametrize("off", [1e-9, 0.51 / 255])
    def test_refuses_float64_values_that_float32_would_change(self, off: float) -> None:
        value = np.full((1, 4, 4), 128 / 255)
        value[0, 1, 2] += off
        said = r"^row 3 holds float64 values .* such as 0\.50.*float32 or k / 255\. Convert it with"
        for form in (value, torch.from_numpy(value)):
            with pytest.raises(ImageError, match=said):
                images.as_image(form, name="row 3")
        single = value.astype(np.float32)
        assert np.array_equal(images.as_image(single), single)

    def test_accepts_pil(self) -> None:
        image = images.as_image(PIL.Image.new("RGB", (5, 4), (255, 0, 128)))
        assert image[:, 0, 0].tolist() == [1.0, 0.0, np.float32(128 / 255)]

    @pytest.mark.parametrize("mode", ["I", "F", "I;16"])
    def test_refuses_deep_pil(self, mode: str) -> None:
        with pytest.raises(ImageError, match=rf"more than 8 bits a channel \(mode {mode}\)"):
            images.as_image(PIL.Image.new(mode, (4, 4)))

    @pytest.mark.parametrize(
        ("value", "said"),
        [
            (np.zeros((3, 4, 4), np.uint8), r"type uint8, expected floats.*by 255"),
            (torch.zeros(3, 4, 4, dtype=torch.int64), r"type int64, expected floats.*by 255"),
            ("cat.png", r"expected floats in \[0, 1\]\. Read files with load_image"),
            (np.zeros((4, 4)), r"shape \[4, 4\], expected \[C, H, W\]"),
            (np.zeros((1, 3, 4, 4)), r"shape \[1, 3, 4, 4\], expected \[C, H, W\]"),
            (np.zeros((3, 0, 4)), r"shape \[3, 0, 4\], expected \[C, H, W\]"),
            (np.zeros((4, 8, 8)), r"4 channels .*3 \(RGB\) or 1 \(grey\)"),
            (np.zeros((8, 8, 3)), r"8 channels .*move a last axis"),
            (np.zeros((3, 1, 1)), r"is 1x1 pixels, expected at least 2x2"),
            (np.full((3, 4, 4), np.nan), r"NaN or infinite values"),
            (np.full((3, 4, 4), np.inf), r"NaN or infinite values"),
            (np.full((3, 4, 4), 255.0), r"values from 255 to 255, expected \[0, 1\]\. Divide.*255"),
            (np.full((3, 4, 4), -1.0), r"values from -1 to -1.*Undo the normalisation"),
        ],
    )
    def test_refuses(self, value: object, said: str) -> None:
        with pytest.raises(ImageError, match=said):
            images.as_image(value)

    def test_names_the_image(self) -> None:
        with pytest.raises(ImageError, match=r"^row 7 has 2 channels"):
            images.as_image(np.zeros((2, 4, 4)), name="row 7")


class TestAsImages:
    def test_accepts_a_batch(self) -> None:
        batch = random_image(2, 1, 4, 5)
        assert np.array_equal(images.as_images(torch.from_numpy(batch)), batch)

    @pytest.mark.parametrize(
        ("value", "said"),
        [
            (np.zeros((3, 4, 4)), r"shape \[3, 4, 4\], expected \[B, C, H, W\]"),
            (np.zeros((0, 3, 4, 4)), r"shape \[0, 3, 4, 4\], .*at least one value"),
            (np.zeros((2, 4, 8, 8)), "4 channels"),
            (np.full((2, 3, 4, 4), np.nan), "the batch holds NaN"),
        ],
    )
    def test_refuses(self, value: object, said: str) -> None:
        with pytest.raises(ImageError, match=said):
            images.as_images(value)

    def test_says_the_axes_of_what_it_cannot_read(self) -> None:
        said = r"the batch cannot be read as an array .* Use values \[B, C, H, W\]\."
        with pytest.raises(ImageError, match=said):
            images.as_images(torch.zeros(2, 3, 4, 4, device="meta"))


class TestGrid:
    def test_all_256_values_are_fixed_points(self) -> None:
        values = np.arange(256, dtype=np.uint8) / np.float32(255)
        assert images.is_on_grid(values)
        assert images.to_grid(values).dtype == np.float32

    def test_goes_to_the_nearest_value(self) -> None:
        values = np.random.default_rng(1).random(2_000, np.float32)
        grid = images.to_grid(values)
        assert np.abs(grid - values).max() <= 0.5 / 255 + 1e-7
        assert images.is_on_grid(grid)
        assert not images.is_on_grid(values)

    def test_agrees_with_torchvision(self) -> None:
        transforms = pytest.importorskip("torchvision.transforms.functional")
        picture = PIL.Image.effect_noise((16, 16), 50)
        assert np.array_equal(images.as_image(picture), transforms.to_tensor(picture).numpy())


class TestResize:
    def test_leaves_the_right_size_alone(self) -> None:
        image = random_image(3, 8, 8)
        assert images.resize(image, 8) is image

    def test_crops_the_centre_of_the_right_height(self) -> None:
        image = random_image(3, 8, 12)
        assert np.array_equal(images.resize(image, 8), image[:, :, 2:10])

    @pytest.mark.parametrize("shape", [(3, 61, 40), (1, 33, 70), (3, 20, 20), (3, 9, 31)])
    def test_agrees_with_torchvision(self, shape: tuple[int, ...]) -> None:
        transforms = pytest.importorskip("torchvision.transforms")
        image = random_image(*shape)
        picture = PIL.Image.open(io.BytesIO(images.to_png(image)))
        both = transforms.Compose([transforms.Resize(24), transforms.CenterCrop(24)])
        resized = images.resize(image, 24)
        assert resized.shape == (shape[0], 24, 24)
        assert np.array_equal(resized, images.as_image(both(picture)))

    @pytest.mark.parametrize("resolution", [1, 0, -3])
    def test_refuses_no_pixels(self, resolution: int) -> None:
        with pytest.raises(SettingError, match=f"must be at least 2, got {resolution}"):
            images.resize(random_image(3, 8, 8), resolution)


def test_to_png_clips_a_noisy_copy() -> None:
    noisy = np.array([[[-0.5, 2.0], [0.0, 1.0]]], np.float32)
    assert images.load_image(images.to_png(noisy)).tolist() == [[[0, 1], [0, 1]]]


class TestMatchChannels:
    def test_returns_what_fits(self) -> None:
        image = random_image(1, 4, 4)
        assert images.match_channels(image, 1) is image

    def test_refuses_grey_for_a_colour_classifier(self) -> None:
        with pytest.raises(ImageError, match=r"row 2 is grey, but.* takes RGB.*Convert.*to RGB"):
            images.match_channels(random_image(1, 4, 4), 3, name="row 2")

    def test_refuses_colour_for_a_grey_classifier(self) -> None:
        with pytest.raises(ImageError, match=r"the image is RGB, but.* takes grey.*for RGB images"):
            images.match_channels(random_image(3, 4, 4), 1)


class TestDigest:
    def test_is_the_same_on_every_machine(self) -> None:
        image = np.array([[[0, 0.2], [0.4, 1]]], np.float32)
        content = b"(1, 2, 2)" + bytes([0, 51, 102, 255])
        assert images.digest(image) == hashlib.sha256(content).hexdigest()

    def test_tells_images_apart(self) -> None:
        image = random_image(3, 4, 6)
        changed = image.copy()
        changed[2, 3, 5] = 1 - changed[2, 3, 5]
        digests = {images.digest(i) for i in (image, changed, image.reshape(3, 6, 4))}
        assert len(digests) == 3

    def test_tells_images_off_the_grid_apart_by_their_exact_values(self) -> None:
        image = np.full((3, 4, 6), 100 / 255, np.float32)
        others = [image.copy(), image + np.float32(1e-3), image + np.float32(1.001e-3)]
        others[0][2, 3, 5] = np.nextafter(image[2, 3, 5], np.float32(1))
        assert len({images.to_grid(each).tobytes() for each in (image, *others)}) == 1
        assert len({images.digest(each) for each in (image, *others)}) == 4

    def test_ignores_memory_layout_and_the_sign_of_zero(self) -> None:
        for image in (random_image(3, 4, 6), np.full((3, 4, 6), 0.3, np.float32)):
            assert images.digest(np.asfortranarray(image)) == images.digest(image)
            image[0, 0, 0] = 0.0
            negative = image.copy()
            negative[0, 0, 0] = -0.0
            assert images.digest(negative) == images.digest(image)


def test_imports_no_torch() -> None:
    code = "import sys, denoised_smoothing.images; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class TestImageShape:
    """The shape of an image, from its header alone."""

    @pytest.mark.parametrize(
        ("mode", "file_format"),
        [
            *product(("RGB", "L", "P", "1"), ("PNG", "BMP")),
            *product(("RGB", "L"), ("JPEG", "WEBP")),
        ],
    )
    @pytest.mark.parametrize("orientation", [None, 1, 3, 5, 6, 7, 8])
    def test_is_that_of_the_loaded_image(
        self, mode: str, file_format: str, orientation: int | None
    ) -> None:
        image = PIL.Image.new("RGB", (7, 5), "red").convert(mode)
        exif = PIL.Image.Exif()
        if orientation is not None:
            exif[0x0112] = orientation
        content = encoded(image, file_format, exif=exif)
        assert images.image_shape(content) == images.load_image(content).shape

    def test_damage_behind_the_header_is_not_seen(self, tmp_path: Path) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8)
        for file_format in ("PNG", "JPEG", "BMP"):
            content = encoded(PIL.Image.fromarray(noise), file_format)
            path = tmp_path / "half"
            path.write_bytes(content[: len(content) // 2])
            assert images.image_shape(path) == (3, 50, 40)
            with pytest.raises(ImageError, match="cannot be decoded"):
                images.load_image(path)

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (encoded(PIL.Image.new("RGBA", (4, 4))), "image has the mode RGBA with transparency"),
            (encoded(PIL.Image.new("CMYK", (4, 4)), "JPEG"), "image has the mode CMYK"),
            (png_of_16_bits(2, 3), "image has more than 8 bits"),
            (encoded(PIL.Image.new("RGB", (1, 4))), "image is 4x1 pixels"),
            (b"no image", "image cannot be decoded"),
        ],
    )
    def test_what_its_header_refuses_is_refused(self, content: bytes, said: str) -> None:
        with pytest.raises(ImageError, match=said):
            images.image_shape(content)
        with pytest.raises(ImageError, match=said):
            images.load_image(content)
