"""Damaged and odd sequences: all are read or refused, and a damaged image is refused alone."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from denoised_smoothing.datasets import from_sequence

from ..fuzz import INPUTS, ODD, survives
from ..fuzz import quiet as quiet
from .samples import IMAGES, LABELS, NAMES, PNGS, check_others, read

pytestmark = pytest.mark.usefixtures("quiet")


def truncated() -> PIL.Image.Image:
    """An image of Pillow that is decoded later, and then fails."""
    return PIL.Image.open(io.BytesIO(PNGS[0][:70]))


def closed() -> PIL.Image.Image:
    image = PIL.Image.new("RGB", (4, 4))
    image.close()
    return image


ODD_VALUES: list[Any] = [
    *ODD, *(PIL.Image.new(mode, (4, 5)) for mode in ("1", "L", "P", "RGBA", "CMYK", "I;16", "F",
    "LA")),
    PIL.Image.new("RGB", (1, 1)), b"abc", PNGS[0], 1j, Path("x"), object(), int, range(3), {1, 2},
    *(torch.zeros(3, 5, 4, dtype=kind) for kind in (torch.bool, torch.int64, torch.complex64)),
    torch.zeros(3, 5, 4, device="meta"), torch.zeros(3, 5, 4).to_sparse(), torch.zeros(()),
    torch.zeros(3, 5, 4, dtype=torch.uint8, device="meta"), torch.zeros(0),
    torch.tensor(float("inf")),
    torch.zeros(3, 5, 4, dtype=torch.uint8).to_sparse(), torch.zeros(3, 5, 4, requires_grad=True),
    torch.zeros(2, 3, 5, 4),
    torch.zeros(3, 5, 4, dtype=torch.bfloat16), torch.tensor(3, device="meta"), torch.tensor(2),
    np.zeros((3, 5, 4), object), np.zeros((3, 5, 4), "U3"), np.zeros((3, 5, 4), "M8[s]"),
    np.float32(2),
    np.zeros((5, 4), np.uint8), np.zeros((5, 4, 3), np.uint16), np.ma.masked_all((3, 5, 4)),
    np.array("x"),
    np.zeros((3, 5, 4), [("a", "f4")]), np.datetime64("2020"), np.str_("a"), np.float64(1.5),
    np.bool_(1),
    np.array(None), [[0.5] * 4] * 5, [[1, 2], [3]], "\udcff", "a\0", 2**31, 2**70, 1e300,
    float("-inf"),
    np.full((3, 5, 4), np.nan, np.float32), np.zeros((3, 0, 4), np.float32), np.zeros((3, 5, 4),
    ">f4"),
    np.zeros((3, 5, 4), np.longdouble), np.zeros((3, 5, 4), np.float16),
]  # fmt: skip


class Odd:
    """A data set whose length, items or names are odd."""

    def __init__(self, items: list[Any], length: Any, classes: Any) -> None:
        self.items, self.length, self.named = items, length, classes

    def __len__(self) -> int:
        return self.length() if callable(self.length) else self.length

    def __getitem__(self, index: int) -> Any:
        return self.items[index]

    @property
    def classes(self) -> Any:
        if isinstance(self.named, Exception):
            raise self.named
        return self.named


def failing() -> int:
    raise RuntimeError("no length")


def test_odd_items() -> None:
    values = [*ODD_VALUES, truncated(), closed()]

    def make(dice: random.Random, number: int) -> None:
        items: list[Any] = list(zip(IMAGES, LABELS, strict=True))
        index, value = dice.randrange(4), values[number % len(values)]
        image, label = items[index]
        odd = (
            (value, label),
            (image, value),
            value,
            (value,),
            (image, label, value),
            [value, label],
        )
        items[index] = odd[
            number // len(values) % 2 if number < 2 * len(values) else dice.randrange(6)
        ]
        read(from_sequence(items))

    survives(make, 400)


def test_odd_images_are_refused_alone() -> None:
    dice, values, refused = random.Random(0), [*ODD_VALUES, truncated(), closed()], 0
    for _ in range(INPUTS):
        items: list[Any] = list(zip(IMAGES, LABELS, strict=True))
        odd = set(dice.sample(range(4), 1))
        for index in odd:
            items[index] = dice.choice(values), LABELS[index]
        refused += check_others(from_sequence(items), odd)
    assert 0 < refused < INPUTS


def test_odd_data_sets() -> None:
    lengths = (4, 4, 4, 4, 0, -1, 5, 2**70, "4", None, failing, 2.0)
    names = (
        None,
        NAMES,
        ["a"],
        AttributeError("x"),
        RuntimeError("x"),
        [1, 2, 3],
        [None, ["a", "b"], []],
    )

    def make(dice: random.Random, number: int) -> None:
        labels = dice.choice(
            (LABELS, ["a", "b", None, "a"], [*NAMES, "cat"], [None] * 4, ["a", 1, 2, 1])
        )
        items = list(zip(IMAGES, labels, strict=True))
        classes = dice.choice((*names, *ODD))
        read(from_sequence(Odd(items, lengths[number % len(lengths)], classes)))

    survives(make)
