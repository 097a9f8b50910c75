"""Damaged and odd inputs for the tests of adapters, and whether they are loaded or refused."""

from __future__ import annotations

import json
import logging
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from denoised_smoothing.errors import DenoisedSmoothingError

INPUTS = 200
"""Damaged or odd inputs of an adapter."""
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3, 7, 2**40, 0.5, float("nan"), "", "x", "3", [], [1], [0.5] * 3,
    ["a", "b"], [None], [[1]], {}, {"a": 1}, {"height": 0, "width": -2}, {"shortest_edge": 8},
)  # fmt: skip


@pytest.fixture
def quiet() -> Iterator[None]:
    """Libraries warn about odd values in their own ways."""
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


def places(held: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of all values of a configuration."""
    pairs = held.items() if isinstance(held, dict) else enumerate(held)
    for key, value in pairs:
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*path, key))


def with_odd_value(held: Any, dice: random.Random) -> Any:
    """Replace or remove one value of a configuration."""
    held = json.loads(json.dumps(held))
    *path, last = dice.choice(list(places(held)))
    inner = held
    for key in path:
        inner = inner[key]
    if dice.random() < 0.1:
        del inner[last]
    else:
        inner[last] = dice.choice(ODD)
    return held


def damaged(content: bytes, dice: random.Random) -> bytes:
    """Cut the file, replace bytes, most of them at its ends where headers are, or insert some."""
    kind, size = dice.randrange(4), len(content)
    if kind == 0:
        return content[: dice.randrange(size)]
    if kind == 1:
        return dice.randbytes(dice.randrange(64)) + content
    edited = bytearray(content)
    for _ in range(dice.randrange(1, 9)):
        near = dice.randrange(min(size, 600))
        place = dice.choice((near, size - 1 - near, dice.randrange(size)))
        edited[place] = dice.randrange(256)
    return bytes(edited)


def shapes_changed(tensors: dict[str, torch.Tensor], dice: random.Random) -> dict[str, Any]:
    """Give a weight another shape or type, or another name, or leave it out."""
    tensors, name = dict(tensors), dice.choice(list(tensors))
    tensor = tensors[name]
    changes: list[Callable[[], Any]] = [
        lambda: tensor.reshape(-1)[:0], lambda: tensor[None], lambda: tensor.flatten(),
        lambda: tensor.double(),
        lambda: tensor.to(torch.complex64), lambda: tensor.bool(), lambda: torch.zeros(()),
        lambda: torch.cat([tensor.reshape(-1)] * 2), lambda: tensor.half(),
    ]  # fmt: skip
    if dice.random() < 0.2:
        del tensors[name]
    elif dice.random() < 0.2:
        tensors[f"odd.{name}"] = tensors.pop(name)
    else:
        tensors[name] = dice.choice(changes)().contiguous()
    return tensors


@contextmanager
def one_damaged(files: list[Path], dice: random.Random) -> Iterator[None]:
    """Damage one of the files meanwhile: a value of a JSON file, or bytes."""
    file = dice.choice(files)
    content = file.read_bytes()
    odd = damaged(content, dice)
    if file.suffix == ".json" and dice.random() < 0.85:
        odd = json.dumps(with_odd_value(json.loads(content), dice)).encode()
    file.unlink()  # a library may have mapped it into memory
    file.write_bytes(odd)
    try:
        yield
    finally:
        file.unlink()
        file.write_bytes(content)


def is_refused_or_made(make: Callable[[], object]) -> bool:
    """Return whether something could be made; every other error than ours passes through."""
    try:
        make()
    except DenoisedSmoothingError:
        return False
    return True


def survives(make: Callable[[random.Random, int], object], inputs: int = INPUTS) -> None:
    """Make something of each damaged input; some must load, and some must be refused.

    Args:
        make: from the dice of the test and the number of the input.
    """
    dice = random.Random(0)
    made = sum(is_refused_or_made(partial(make, dice, number)) for number in range(inputs))
    assert 0 < made < inputs


def files_in(folder: Path) -> list[Path]:
    """Return the files of a folder, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file())
