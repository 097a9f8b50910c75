"""Damaged and odd files: every adapter of a library loads them or raises an error of ours."""

from __future__ import annotations

import io
import json
import random
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from denoised_smoothing import load_classifier
from denoised_smoothing.engines.pipeline import Pipeline

from ... import fuzz
from ...fuzz import (
    INPUTS,
    ODD,
    damaged,
    files_in,
    is_refused_or_made,
    one_damaged,
    shapes_changed,
    with_odd_value,
)
from ...fuzz import quiet as quiet
from . import models

pytestmark = pytest.mark.usefixtures("quiet")

FOLDERS = 40
"""Of the inputs, whole folders. The others are configurations, which take less time."""


def survives(spec: str, image: torch.Tensor | None = None) -> bool:
    """Load, and classify an image; return whether both were possible."""
    if image is None:
        return is_refused_or_made(lambda: load_classifier(spec))
    return is_refused_or_made(lambda: answer(spec, image))


def answer(spec: str, images: torch.Tensor) -> None:
    """Classify images as a run does."""
    with torch.inference_mode():
        Pipeline(load_classifier(spec), None, 0.25, torch.device("cpu"))(images)


def fuzz_folder(folder: Path, spec: str, image: torch.Tensor) -> int:
    """Load a folder with one damaged file each time; return how often it could be loaded."""
    dice, loaded, files = random.Random(0), 0, files_in(folder)
    for number in range(FOLDERS):
        with one_damaged(files, dice):
            loaded += survives(spec, image if number % 4 == 0 else None)
    return loaded


def test_folders_of_transformers(tmp_path: Path) -> None:
    library = pytest.importorskip("transformers")
    from denoised_smoothing.models.classifiers.transformers import with_processor

    folder = tmp_path / "a"
    models.save_vit(folder)
    assert 0 < fuzz_folder(folder, f"hf:{folder}", torch.rand(1, 3, 32, 32)) < FOLDERS
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
    assert 0 < fuzz_folder(tmp_path / "a", f"timm:{tmp_path}/a", image) < FOLDERS
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


@pytest.mark.parametrize("kind", ["map", "text", "bytes", "labels", "names"])
def test_onnx_with_other_outputs(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from .test_onnx import save_with_outputs

    path = tmp_path / "a.onnx"
    spec = save_with_outputs(path, kind)
    content, image = path.read_bytes(), torch.rand(2, 3, 8, 8)
    options = ("", "", "", "?labels=a,b,c,d", "?labels=owl,fox,dog,cat", "?output=l", "?labels=a,b")

    def make(dice: random.Random, number: int) -> None:
        path.write_bytes(damaged(content, dice) if number % 8 else content)
        answer(spec + dice.choice(options), image)

    fuzz.survives(make, INPUTS // 2)


@pytest.mark.parametrize("save", ["save_clip", "save_siglip"])
def test_zero_shot(save: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    from denoised_smoothing.models.classifiers import zero_shot

    folder, image = tmp_path / "a", torch.rand(1, 3, 32, 32)
    model = getattr(models, save)(folder)
    files = files_in(folder)
    of_model = {folder / "config.json", folder / "model.safetensors"}
    options = (
        "cat,dog",
        "cat,dog&template={} {}",
        "cat,cat",
        "a,\N{SNOWMAN}",
        "a,b&template={0} {x}",
    )

    def make(dice: random.Random, number: int) -> None:
        spec = f"zero-shot:{folder}?labels={options[0] if number % 4 else dice.choice(options)}"
        with one_damaged(files, dice):
            answer(spec, image)

    fuzz.survives(make, FOLDERS // 2)
    monkeypatch.setattr(zero_shot, "load_model", lambda *_: model)  # which takes the most time
    files = sorted({*files} - of_model)
    fuzz.survives(make, INPUTS // 2)


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
