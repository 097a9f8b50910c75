"""Damaged and odd files: every adapter of a library loads them or raises an error of ours."""

from __future__ import annotations

import io
import json
import logging
import random
import shutil
import struct
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from denoised_smoothing import load_classifier
from denoised_smoothing.errors import DenoisedSmoothingError

from . import models

INPUTS = 200
FOLDERS = 40
"""Of these, whole folders. The others are configurations, which take less time."""
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3, 7, 2**40, 0.5, float("nan"), "", "x", "3", [], [1], [0.5] * 3,
    ["a", "b"], [None], [[1]], {}, {"a": 1}, {"height": 0, "width": -2}, {"shortest_edge": 8},
)  # fmt: skip


@pytest.fixture(autouse=True)
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


def is_refused_or_made(make: Callable[[], object]) -> bool:
    """Return whether something could be made; every other error than ours passes through."""
    try:
        make()
    except DenoisedSmoothingError:
        return False
    return True


def survives(spec: str, image: torch.Tensor | None = None) -> bool:
    """Load, and classify an image; return whether both were possible."""
    if image is None:
        return is_refused_or_made(lambda: load_classifier(spec))
    return is_refused_or_made(lambda: load_classifier(spec)(image))


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


def damage_folder(folder: Path, files: list[Path], dice: random.Random) -> None:
    """Damage a file of a saved model: a value of a configuration, or bytes."""
    file = dice.choice(files)
    content = file.read_bytes()
    if file.suffix == ".json" and dice.random() < 0.85:
        content = json.dumps(with_odd_value(json.loads(content), dice)).encode()
    else:
        content = damaged(content, dice)
    (folder / file.name).write_bytes(content)


def fuzz_folder(source: Path, target: Path, scheme: str, image: torch.Tensor) -> int:
    """Load damaged copies of a folder; return how many could be loaded."""
    dice, loaded = random.Random(0), 0
    files = [file for file in source.iterdir() if file.is_file()]
    for number in range(FOLDERS):
        shutil.copytree(source, target, dirs_exist_ok=True)
        damage_folder(target, files, dice)
        loaded += survives(f"{scheme}:{target}", image if number % 4 == 0 else None)
    return loaded


def test_folders_of_transformers(tmp_path: Path) -> None:
    library = pytest.importorskip("transformers")
    from denoised_smoothing.models.classifiers.transformers import with_processor

    folder = tmp_path / "a"
    models.save_vit(folder)
    assert 0 < fuzz_folder(folder, tmp_path / "b", "hf", torch.rand(1, 3, 32, 32)) < FOLDERS
    dice, loaded, file = random.Random(0), 0, folder / "preprocessor_config.json"
    config, held = library.AutoConfig.from_pretrained(folder), json.loads(file.read_text())
    for _ in range(INPUTS - FOLDERS):
        file.write_text(json.dumps(with_odd_value(held, dice)))
        loaded += is_refused_or_made(
            lambda: with_processor(torch.nn.Flatten(), config, folder, "a", None)
        )
    assert 0 < loaded < INPUTS - FOLDERS


def test_folders_of_timm(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    from denoised_smoothing.models.classifiers.timm import timm_classifier

    model, image = models.save_timm(tmp_path / "a"), torch.rand(1, 3, 32, 32)
    assert 0 < fuzz_folder(tmp_path / "a", tmp_path / "b", "timm", image) < FOLDERS
    dice, loaded = random.Random(0), 0
    held = json.loads((tmp_path / "a" / "config.json").read_text())["pretrained_cfg"]
    for _ in range(INPUTS - FOLDERS):
        model.pretrained_cfg = with_odd_value(held, dice)
        loaded += is_refused_or_made(lambda: timm_classifier(model, "a"))
    assert 0 < loaded < INPUTS - FOLDERS


@pytest.mark.parametrize(
    "options", ["", "?mean=0.1,0.2,0.3&scale=255", "?output=logits&channels=bgr"]
)
def test_onnx(options: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    dice, path = random.Random(0), tmp_path / "a.onnx"
    models.save_onnx(path, ("n", 3, 8, 8))
    content, loaded = path.read_bytes(), 0
    for _ in range(INPUTS // 2):
        path.write_bytes(damaged(content, dice))
        loaded += survives(f"onnx:{path}{options}", torch.rand(1, 3, 8, 8))
    assert 0 < loaded < INPUTS // 2


ARCH = "shufflenet_v2_x0_5"


def test_checkpoints(tmp_path: Path) -> None:
    library = pytest.importorskip("torchvision").models
    dice, path = random.Random(0), tmp_path / "a.pth"
    weights, loaded = library.get_model(ARCH, weights=None, num_classes=3).state_dict(), 0
    few = {name: tensor for name, tensor in weights.items() if name.startswith("conv1")}
    buffer = io.BytesIO()
    torch.save({"arch": ARCH, "state_dict": few}, buffer)
    for number in range(INPUTS):
        if number % 8 == 0:
            torch.save(shapes_changed(weights, dice), path)
        elif number % 2:
            held = {"arch": ARCH, "state_dict": {"a": 1}, "epoch": 3, "classes": ["a"]}
            torch.save(with_odd_value(held, dice), path)
        else:
            path.write_bytes(damaged(buffer.getvalue(), dice))
        scheme = dice.choice((f"torchvision:{ARCH}:{path}", f"checkpoint:{path}"))
        loaded += survives(scheme)
    assert 0 < loaded < INPUTS


def test_weights_of_timm_and_of_cifar(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    from denoised_smoothing.models.classifiers.cifar_resnet import CifarResNet

    dice, path = random.Random(0), tmp_path / "a.safetensors"
    weights, loaded = CifarResNet(8).state_dict(), 0
    for number in range(INPUTS):
        odd = {"label_names": "[1]", "mean": "x", "std": "[0]", "resolution": "-", "arch": "3"}
        names = dice.sample(list(odd), dice.randrange(3))
        if number % 3:
            save_file(shapes_changed(weights, dice), path, {name: odd[name] for name in names})
        else:
            header = json.dumps(dice.choice(ODD)).encode()
            junk = struct.pack("<Q", dice.choice((len(header), 0, 2**60))) + header
            path.write_bytes(
                dice.choice((junk, damaged(path.read_bytes(), dice))) if number else b""
            )
        spec = "cifar-resnet8" if number % 20 else "timm:test_resnet"
        loaded += survives(f"{spec}:{path}")
    assert 0 < loaded < INPUTS
