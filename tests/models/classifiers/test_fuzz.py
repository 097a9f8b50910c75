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

from ...fuzz import (
    INPUTS,
    ODD,
    damaged,
    files_in,
    one_damaged,
    shapes_changed,
    survives,
    with_odd_value,
)
from ...fuzz import quiet as quiet
from . import models

pytestmark = pytest.mark.usefixtures("quiet")

FOLDERS = 40
"""Of the inputs, whole folders. The others are configurations, which take less time."""


def answer(spec: str, images: torch.Tensor) -> None:
    """Classify images as a run does."""
    with torch.inference_mode():
        Pipeline(load_classifier(spec), None, 0.25, torch.device("cpu"))(images)


def survives_as_folder(spec: str) -> None:
    """Load a folder with one damaged file each time, and classify an image every fourth time."""
    files, image = files_in(Path(spec.partition(":")[2])), torch.rand(1, 3, 32, 32)

    def make(dice: random.Random, number: int) -> None:
        with one_damaged(files, dice):
            if number % 4:
                load_classifier(spec)
            else:
                answer(spec, image)

    survives(make, FOLDERS)


def test_folders_of_transformers(tmp_path: Path) -> None:
    library = pytest.importorskip("transformers")
    from denoised_smoothing.models.classifiers.transformers import with_processor

    folder = tmp_path / "a"
    models.save_vit(folder)
    survives_as_folder(f"hf:{folder}")
    file = folder / "preprocessor_config.json"
    config, held = library.AutoConfig.from_pretrained(folder), json.loads(file.read_text())

    def make(dice: random.Random, _: int) -> None:
        file.write_text(json.dumps(with_odd_value(held, dice)))
        with_processor(torch.nn.Flatten(), config, folder, "a", None)

    survives(make, INPUTS - FOLDERS)


def test_folders_of_timm(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    from denoised_smoothing.models.classifiers.timm import timm_classifier

    model = models.save_timm(tmp_path / "a")
    survives_as_folder(f"timm:{tmp_path}/a")
    held = json.loads((tmp_path / "a" / "config.json").read_text())["pretrained_cfg"]

    def make(dice: random.Random, _: int) -> None:
        model.pretrained_cfg = with_odd_value(held, dice)
        timm_classifier(model, "a")

    survives(make, INPUTS - FOLDERS)


@pytest.mark.parametrize(
    "options", ["", "?mean=0.1,0.2,0.3&scale=255", "?output=logits&channels=bgr"]
)
def test_onnx(options: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    path = tmp_path / "a.onnx"
    models.save_onnx(path, ("n", 3, 8, 8))
    content = path.read_bytes()

    def make(dice: random.Random, _: int) -> None:
        path.write_bytes(damaged(content, dice))
        answer(f"onnx:{path}{options}", torch.rand(1, 3, 8, 8))

    survives(make, INPUTS // 2)


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

    survives(make, INPUTS // 2)


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

    survives(make, FOLDERS // 2)
    monkeypatch.setattr(zero_shot, "load_model", lambda *_: model)  # which takes the most time
    files = sorted({*files} - of_model)
    survives(make, INPUTS // 2)


ARCH = "shufflenet_v2_x0_5"


def test_checkpoints(tmp_path: Path) -> None:
    library = pytest.importorskip("torchvision").models
    path = tmp_path / "a.pth"
    weights = library.get_model(ARCH, weights=None, num_classes=3).state_dict()
    few = {name: tensor for name, tensor in weights.items() if name.startswith("conv1")}
    buffer = io.BytesIO()
    torch.save({"arch": ARCH, "state_dict": few}, buffer)

    def make(dice: random.Random, number: int) -> None:
        if number % 8 == 0:
            torch.save(shapes_changed(weights, dice), path)
        elif number % 2:
            held = {"arch": ARCH, "state_dict": {"a": 1}, "epoch": 3, "classes": ["a"]}
            torch.save(with_odd_value(held, dice), path)
        else:
            path.write_bytes(damaged(buffer.getvalue(), dice))
        load_classifier(dice.choice((f"torchvision:{ARCH}:{path}", f"checkpoint:{path}")))

    survives(make)


def test_weights_of_timm_and_of_cifar(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    from denoised_smoothing.models.classifiers.cifar_resnet import CifarResNet

    path, weights = tmp_path / "a.safetensors", CifarResNet(8).state_dict()

    def make(dice: random.Random, number: int) -> None:
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
        load_classifier(f"{spec}:{path}")

    survives(make)
