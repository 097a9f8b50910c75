"""Checkpoints in the layouts of the published code; weights made here, with its parameter names.

The reference networks are written after the description of these layouts, module by module.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from denoised_smoothing import load_classifier, load_denoiser
from denoised_smoothing.errors import SpecError, WeightsError
from denoised_smoothing.models.classifiers.base import ImageClassifier

torchvision = pytest.importorskip("torchvision")


class Reference(nn.Module):
    """A CIFAR ResNet of basic blocks with projections, with the published names."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(Block(16, 16) for _ in range(blocks)))
        self.layer2 = nn.Sequential(Block(16, 32), *(Block(32, 32) for _ in range(blocks - 1)))
        self.layer3 = nn.Sequential(Block(32, 64), *(Block(64, 64) for _ in range(blocks - 1)))
        self.fc = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        features = torch.relu(self.bn1(self.conv1(images)))
        features = self.layer3(self.layer2(self.layer1(features)))
        return self.fc(nn.functional.avg_pool2d(features, 8).flatten(1))


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        stride = outputs // inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        if stride == 2:
            projection = nn.Conv2d(inputs, outputs, 1, 2, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, features: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(features)))))
        shortcut = self.downsample(features) if hasattr(self, "downsample") else features
        return torch.relu(inner + shortcut)


class Normalise(nn.Module):
    """The layer that came first: its numbers are no parameters, so no file holds them."""

    def forward(self, images: Tensor) -> Tensor:
        mean, std = torch.tensor([[0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]])
        return (images - mean.reshape(3, 1, 1)) / std.reshape(3, 1, 1)


def used(module: nn.Module, images: Tensor) -> nn.Module:
    """With statistics of batch normalisation that are not those of the start."""
    with torch.no_grad():
        module.train()(images)
    return module.eval()


def images(side: int = 32) -> Tensor:
    return torch.rand(4, 3, side, side, generator=torch.Generator().manual_seed(0))


def save(path: Path, module: nn.Module, arch: str | None, **more: Any) -> Path:
    held = {"epoch": 90, "state_dict": module.state_dict(), **more}
    torch.save(held if arch is None else {"arch": arch, **held}, path)
    return path


@pytest.fixture
def smoothing(tmp_path: Path) -> tuple[Path, nn.Module]:
    torch.manual_seed(0)
    model = used(nn.Sequential(Normalise(), Reference(20)), images())
    optimiser = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9).state_dict()
    return save(
        tmp_path / "checkpoint.pth.tar", model, "cifar_resnet20", optimizer=optimiser
    ), model


def test_a_classifier_behind_its_normalising_layer(smoothing: tuple[Path, nn.Module]) -> None:
    path, model = smoothing
    assert "1.layer2.0.downsample.0.weight" in torch.load(path, weights_only=True)["state_dict"]
    classifier = load_classifier(f"checkpoint:{path}")
    assert isinstance(classifier, ImageClassifier)
    assert classifier.resolution == 32
    assert classifier.label_names is not None
    assert classifier.label_names[3] == "cat"
    torch.testing.assert_close(classifier(images()), model(images()))


def test_the_names_of_data_parallel(tmp_path: Path) -> None:
    from torchvision import models

    torch.manual_seed(0)
    inner = models.resnet18()
    model = nn.Sequential(Normalise(), nn.ModuleDict({"module": inner}))
    path = save(tmp_path / "imagenet.pth.tar", model, "resnet18")
    assert "1.module.conv1.weight" in torch.load(path, weights_only=True)["state_dict"]
    classifier = load_classifier(f"checkpoint:{path}")
    assert isinstance(classifier, ImageClassifier)
    assert classifier.resolution == 224
    assert classifier.label_names is not None
    assert classifier.label_names[0] == "tench"
    batch = images(224)
    normalised = (batch - classifier.mean) / classifier.std
    torch.testing.assert_close(classifier(batch), inner.eval()(normalised))


def dncnn(depth: int, width: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU(True)]
    for _ in range(depth - 2):
        layers.append(nn.Conv2d(width, width, 3, padding=1, bias=False))
        layers += [nn.BatchNorm2d(width, eps=0.0001, momentum=0.95), nn.ReLU(True)]
    layers.append(nn.Conv2d(width, 3, 3, padding=1, bias=False))
    return nn.ModuleDict({"dncnn": nn.Sequential(*layers)})


@pytest.mark.parametrize("parallel", [False, True])
def test_a_dncnn(tmp_path: Path, parallel: bool) -> None:
    torch.manual_seed(0)
    inner = dncnn(5, 8)
    used(inner["dncnn"], images())  # type: ignore[index]
    model = nn.ModuleDict({"module": inner}) if parallel else inner
    path = save(tmp_path / "d.pth.tar", model, "imagenet_dncnn" if parallel else "cifar_dncnn")
    denoiser = load_denoiser(f"checkpoint:{path}")
    assert denoiser is not None
    expected = images() - inner["dncnn"](images())  # type: ignore[index]
    torch.testing.assert_close(denoiser(images(), 0.25), expected)


class MemNetReference(nn.Module):
    """The published MemNet, by names, with two blocks of two units."""

    def __init__(self) -> None:
        super().__init__()

        def unit(inputs: int, outputs: int, size: int = 3) -> nn.Module:
            parts = {"bn": nn.BatchNorm2d(inputs), "relu": nn.ReLU()}
            conv = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
            sequential = nn.Sequential()
            for name, part in {**parts, "conv": conv}.items():
                sequential.add_module(name, part)
            return sequential

        self.feature_extractor, self.reconstructor = unit(3, 8), unit(8, 3)
        self.dense_memory = nn.ModuleList(
            nn.ModuleDict(
                {
                    "recursive_unit": nn.ModuleList(
                        nn.ModuleDict({"relu_conv1": unit(8, 8), "relu_conv2": unit(8, 8)})
                        for _ in range(2)
                    ),
                    "gate_unit": unit((2 + block + 1) * 8, 8, 1),
                }
            )
            for block in range(2)
        )

    def forward(self, images: Tensor) -> Tensor:
        out = self.feature_extractor(images)
        kept = [out]
        for block in self.dense_memory:
            short = []
            for unit in block["recursive_unit"]:
                out = out + unit["relu_conv2"](unit["relu_conv1"](out))
                short.append(out)
            out = block["gate_unit"](torch.cat(short + kept, 1))
            kept.append(out)
        return self.reconstructor(out) + images


def test_a_memnet(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = used(MemNetReference(), images())
    denoiser = load_denoiser(f"checkpoint:{save(tmp_path / 'm.pth.tar', model, 'memnet')}")
    assert denoiser is not None
    torch.testing.assert_close(denoiser(images(), 0.25), model(images()))


def test_without_an_architecture_it_is_asked_for(smoothing: tuple[Path, nn.Module]) -> None:
    path, model = smoothing
    save(path, model, None)
    said = r"names no architecture\. Write checkpoint:.*\?arch=NAME with one of cifar_"
    for load in (load_classifier, load_denoiser):
        with pytest.raises(WeightsError, match=said):
            load(f"checkpoint:{path}")
    classifier = load_classifier(f"checkpoint:{path}?arch=cifar_resnet20")
    torch.testing.assert_close(classifier(images()), model(images()))


def test_what_does_not_fit_is_refused(smoothing: tuple[Path, nn.Module], tmp_path: Path) -> None:
    path, model = smoothing
    with pytest.raises(
        SpecError, match=r"one of cifar_dncnn, .*got 'cifar_resnet20' in .*for classifiers"
    ):
        load_denoiser(f"checkpoint:{path}")
    with pytest.raises(WeightsError, match=r"\(as cifar_resnet110\) holds weights of another"):
        load_classifier(f"checkpoint:{path}?arch=cifar_resnet110")
    save(path, model, "cifar_wrn")
    with pytest.raises(SpecError, match=r"must be one of cifar_resnet20, .*got 'cifar_wrn' in "):
        load_classifier(f"checkpoint:{path}")
    for arch in ("memnet", "cifar_dncnn"):
        with pytest.raises(WeightsError, match=f"has no weights of {arch}: "):
            load_denoiser(f"checkpoint:{path}?arch={arch}")
    with pytest.raises(WeightsError, match=r"there is no weights file .*away\. Check the path"):
        load_classifier(f"checkpoint:{tmp_path}/away")
    torch.save([torch.zeros(2)], path)
    with pytest.raises(WeightsError, match="must be a dictionary of weights"):
        load_classifier(f"checkpoint:{path}")


def test_a_file_that_would_run_code_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth.tar"
    torch.save({"arch": "cifar_resnet20", "model": nn.Linear(2, 2), "state_dict": {}}, path)
    with pytest.raises(WeightsError, match=r"cannot open .* without running code .*nn\S*Linear"):
        load_classifier(f"checkpoint:{path}")
