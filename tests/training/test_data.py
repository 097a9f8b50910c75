from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from denoised_smoothing.datasets import ImageDataset
from denoised_smoothing.errors import ImageError, SettingError
from denoised_smoothing.training import data
from denoised_smoothing.training.data import (
    EpochSampler,
    Preparation,
    SampleStream,
    ValidationImages,
    channels_of,
)

PLAIN = Preparation(1, flip=False)


def numbered(count: int) -> ImageDataset:
    """Image k is of one value, k / 255, and has label k; the last has none."""
    return ImageDataset(
        name="numbered",
        fingerprint="",
        image_ids=[str(index) for index in range(count)],
        read=lambda index: np.full((1, 4, 4), index / 255, np.float32),
        labels=[*range(count - 1), None],
    )


def test_one_image_in_colour_makes_a_training_in_colour() -> None:
    images = [np.zeros((channels, 4, 4), np.float32) for channels in (1, 1, 3)]
    mixed = ImageDataset("mixed", "", ["a", "b", "c"], images.__getitem__, [None] * 3)
    assert channels_of(mixed) == 3
    assert channels_of(mixed, first=2) == channels_of(numbered(3)) == 1


def unlike(height: int, width: int, channels: int = 1, copies: int = 1) -> ImageDataset:
    """Copies of one image, in which no two values are equal."""
    size = channels * height * width
    values = np.arange(1, size + 1, dtype=np.float32).reshape(channels, height, width) / size
    return ImageDataset("unlike", "", ["first"] * copies, lambda index: values, [3] * copies)


def order(stream: SampleStream, numbers: Sequence[int] | range) -> list[int]:
    return [round(float(stream[number][0][0, 0, 0]) * 255) for number in numbers]


def test_each_pass_is_a_permutation_of_its_own() -> None:
    stream = SampleStream(numbered(40), PLAIN, seed=0)
    passes = [order(stream, range(40 * p, 40 * (p + 1))) for p in range(3)]
    for one in passes:
        assert sorted(one) == list(range(40))
    assert passes[0] != passes[1] != passes[2] != passes[0]


def test_order_follows_from_the_seed() -> None:
    first, again, other = (SampleStream(numbered(40), PLAIN, seed) for seed in (0, 0, 1))
    assert order(first, range(80)) == order(again, reversed(range(80)))[::-1]
    assert order(first, range(40)) != order(other, range(40))


def test_images_stay_decoded_while_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "KEPT", 5 * 16 * 4)  # five images of 4x4 float32 values
    read: list[int] = []
    whole = numbered(8)
    noted = replace(whole, read=lambda index: read.append(index) or whole.read(index))
    stream = SampleStream(noted, PLAIN, seed=0)
    first, again = (order(stream, range(8)) for _ in range(2))
    assert first == again == order(SampleStream(whole, PLAIN, seed=0), range(8))
    assert read == [*first, *first[5:]]


def test_a_sample_is_image_label_and_number() -> None:
    stream = SampleStream(numbered(3), PLAIN, seed=0)
    for number in range(3, 6):
        image, label, stated = stream[number]
        assert image.dtype == torch.float32
        assert stated == number
        assert label == (-1 if image[0, 0, 0] * 255 == 2 else round(float(image[0, 0, 0]) * 255))


def test_augmentation_is_keyed_by_number() -> None:
    preparation = Preparation(1, crop=4, pad=1)
    stream, again = (SampleStream(unlike(6, 6), preparation, seed=0) for _ in range(2))
    samples = [stream[number][0] for number in range(30)]
    for number in reversed(range(30)):
        assert torch.equal(again[number][0], samples[number])
    assert len({tuple(sample.flatten().tolist()) for sample in samples}) > 15


def test_crops_are_windows_of_the_padded_image() -> None:
    dataset = unlike(5, 6, channels=3)
    padded = np.pad(dataset.read(0), ((0, 0), (2, 2), (2, 2)))
    windows = {
        padded[:, i : i + 4, j : j + 4].tobytes(): (i, j) for i in range(6) for j in range(7)
    }
    assert len(windows) == 42
    stream = SampleStream(dataset, Preparation(3, crop=4, pad=2, flip=False), seed=0)
    found = {windows[stream[number][0].numpy().tobytes()] for number in range(400)}
    # Any one of 42 windows is missed by all of 400 with probability 42 * (41 / 42)^400 < 0.003.
    assert found == set(windows.values())


def test_half_of_the_samples_are_mirrored() -> None:
    dataset = unlike(4, 4, copies=400)
    stream = SampleStream(dataset, Preparation(1), seed=0)
    mirrored = 0
    for number in range(400):
        image = stream[number][0].numpy()
        mirrored += int(np.array_equal(image, dataset.read(0)[:, :, ::-1]))
        assert any(np.array_equal(image, dataset.read(0)[:, :, ::step]) for step in (1, -1))
    assert 160 <= mirrored <= 240  # four standard deviations: false alarm below 1e-4


def test_resizes_before_cropping() -> None:
    sample = SampleStream(unlike(12, 20), Preparation(1, resolution=8, crop=6), seed=0)[0]
    assert sample[0].shape == (1, 6, 6)
    assert SampleStream(unlike(12, 20), Preparation(1, resolution=8), seed=0)[0][0].shape[1:] == (
        8,
        8,
    )


def test_images_smaller_than_the_crops_are_refused() -> None:
    with pytest.raises(ImageError, match="as large as crops of 6 pixels, got 9x5 of image first"):
        SampleStream(unlike(5, 9), Preparation(1, crop=6, pad=4), seed=0)[0]


def test_images_of_other_channels_are_refused() -> None:
    with pytest.raises(ImageError, match=r"is grey, but .* RGB"):
        ValidationImages(unlike(4, 4), Preparation(3), limit=1)[0]


def test_validation_is_the_first_images_in_order() -> None:
    images = ValidationImages(numbered(5), Preparation(1), limit=3)
    assert len(images) == 3
    assert [images[index][1:] for index in range(3)] == [(0, 0), (1, 1), (2, 2)]
    assert len(ValidationImages(numbered(5), Preparation(1), limit=9)) == 5


def test_validation_takes_the_middle() -> None:
    dataset = unlike(6, 9)
    image = ValidationImages(dataset, Preparation(1, crop=4, pad=2), limit=1)[0][0]
    assert np.array_equal(image.numpy(), dataset.read(0)[:, 1:5, 2:6])
    whole = ValidationImages(dataset, Preparation(1), limit=1)[0][0]
    assert np.array_equal(whole.numpy(), dataset.read(0))


def epoch(sampler: EpochSampler, number: int) -> list[int]:
    sampler.set_epoch(number)
    return list(sampler)


def test_resuming_at_an_epoch_equals_going_on() -> None:
    sampler = EpochSampler(12, rank=0, world_size=1)
    assert len(sampler) == 12
    assert [n for e in range(4) for n in epoch(sampler, e)] == list(range(48))
    assert epoch(EpochSampler(12, rank=0, world_size=1), 2) == list(range(24, 36))


@pytest.mark.parametrize("world", [2, 3, 4])
def test_devices_share_an_epoch(world: int) -> None:
    samplers = [EpochSampler(12, rank, world) for rank in range(world)]
    parts = [epoch(sampler, 1) for sampler in samplers]
    assert [len(part) for part in parts] == [len(sampler) for sampler in samplers]
    assert {len(part) for part in parts} == {12 // world}
    assert sorted(number for part in parts for number in part) == list(range(12, 24))


def test_larger_squares_are_reduced_to_crops() -> None:
    """Where neighbours differ by d, those of a reduced square differ by d / factor."""
    ramp = np.broadcast_to(np.arange(64, dtype=np.float32) / 255, (1, 64, 64))
    preparation = Preparation(1, crop=16, flip=False, scale=0.25)
    steps = []
    for seed in range(60):
        crop = preparation.augment(ramp, np.random.default_rng(seed))
        assert crop.shape == (1, 16, 16)
        steps.append(float(crop[0, 0, 12] - crop[0, 0, 3]) / 9 * 255)
    assert min(steps) == pytest.approx(1, abs=0.15)
    assert max(steps) == pytest.approx(4, abs=0.3)
    plain = Preparation(1, crop=16, flip=False)
    crop = plain.augment(ramp, np.random.default_rng(0))
    assert crop[0, 0, 12] - crop[0, 0, 3] == pytest.approx(9 / 255)


def test_colours_change_by_no_more_than_stated() -> None:
    grey = np.full((3, 8, 8), 0.5, np.float32)
    preparation = Preparation(3, flip=False, colour=0.2)
    changed = [preparation.augment(grey, np.random.default_rng(seed)) for seed in range(40)]
    means = np.stack([image.mean((1, 2)) for image in changed])
    assert all(image.dtype == np.float32 for image in changed)
    assert means.min() >= 0.4 * 0.9 - 1e-6
    assert means.max() <= 0.6 * 1.1 + 1e-6
    assert means.std(axis=0).min() > 0.02
    assert (means[:, 0] - means[:, 1]).std() > 0.01
    assert np.array_equal(changed[0], preparation.augment(grey, np.random.default_rng(0)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0.0, "crop": 8}, "scale must be above 0 and at most 1, and needs crops, got 0"),
        ({"scale": 0.5}, "needs crops, got 0.5 with crop=None"),
        ({"colour": 1.0}, r"colour must be in \[0, 1\), got 1"),
    ],
)
def test_augmentation_out_of_range_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Preparation(1, **options)  # type: ignore[arg-type]
