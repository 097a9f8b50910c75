from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from denoised_smoothing.datasets import load_dataset
from denoised_smoothing.errors import SettingError, WeightsError
from denoised_smoothing.models.classifiers.base import ImageClassifier
from denoised_smoothing.models.classifiers.cifar_resnet import (
    CifarResNet,
    folded,
    load_cifar_resnet,
    save_cifar_resnet,
)

SHARED = Path(
    os.environ.get("DENOISED_SMOOTHING_SHARED", Path(__file__).resolve().parents[4] / "shared")
)
RESNET56 = SHARED / "data/cifar10_classifiers/resnet56.safetensors"
CIFAR10 = SHARED / "data/cifar10/test.parquet"


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (56, 0.85), (110, 1.73)])
def test_the_sizes_that_the_paper_states(depth: int, millions: float) -> None:
    """He et al. 2016, Table 6."""
    parameters = sum(p.numel() for p in CifarResNet(depth).parameters())
    assert round(parameters / 1e6, 2) == millions


@pytest.mark.parametrize("depth", [20, 56])
def test_depth_counts_the_layers(depth: int) -> None:
    layers = [m for m in CifarResNet(depth).modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth


@pytest.mark.parametrize("depth", [-4, 0, 2, 18, 54, 57])
def test_a_depth_that_is_not_6n_plus_2_is_refused(depth: int) -> None:
    with pytest.raises(SettingError, match=rf"must be 6n \+ 2, got {depth}\."):
        CifarResNet(depth)


@pytest.mark.parametrize(("layer", "inputs"), [("layer2", 16), ("layer3", 32)])
def test_shortcuts_subsample_and_pad_a_quarter_on_each_side(layer: str, inputs: int) -> None:
    block = CifarResNet(8).eval().get_submodule(layer)[0]  # type: ignore[index]
    nn.init.zeros_(block.conv2.weight)
    features = torch.rand(2, inputs, 8, 6, generator=torch.Generator().manual_seed(0))
    expected = torch.zeros(2, 2 * inputs, 4, 3)
    for row in range(4):
        for column in range(3):
            kept = features[:, :, 2 * row, 2 * column]
            expected[:, inputs // 2 : inputs // 2 + inputs, row, column] = kept
    assert torch.equal(block(features), expected)


@pytest.mark.parametrize("size", [(4, 4), (8, 8), (32, 32), (9, 13)])
def test_takes_images_of_any_size(size: tuple[int, int]) -> None:
    images = torch.rand(2, 1, *size)
    assert CifarResNet(8, classes=7, channels=1).eval()(images).shape == (2, 7)


def small(seed: int = 0) -> ImageClassifier:
    torch.manual_seed(seed)
    network = CifarResNet(8, classes=2, channels=1)
    return ImageClassifier(network, [0.4], [0.3], ["cat", "dog"], resolution=8).eval()


def test_round_trip(tmp_path: Path) -> None:
    classifier, path = small(), tmp_path / "classifier.safetensors"
    save_cifar_resnet(path, classifier, {"data": "digits:train"})
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for loaded in (load_cifar_resnet(path), load_cifar_resnet(path, 8)):
        assert not loaded.training
        assert loaded.label_names == ("cat", "dog")
        assert loaded.resolution == 8
        assert loaded.channels == 1
        assert torch.equal(loaded.mean, classifier.mean)
        assert torch.equal(loaded.std, classifier.std)
        assert torch.equal(loaded(images), classifier(images))


def test_a_file_without_metadata_is_taken_for_a_published_one(tmp_path: Path) -> None:
    path = tmp_path / "published.safetensors"
    save_file(CifarResNet(20).state_dict(), path)
    classifier = load_cifar_resnet(path, 20)
    torch.testing.assert_close(classifier.mean.flatten(), torch.tensor([0.485, 0.456, 0.406]))
    torch.testing.assert_close(classifier.std.flatten(), torch.tensor([0.229, 0.224, 0.225]))
    assert (classifier.resolution, classifier.label_names) == (32, None)
    with pytest.raises(WeightsError, match=r"does not name its architecture\. Use cifar-res"):
        load_cifar_resnet(path)


def test_older_files_have_no_counters(tmp_path: Path) -> None:
    path = tmp_path / "old.safetensors"
    tensors = small().network.state_dict()
    save_file({k: v for k, v in tensors.items() if "num_batches" not in k}, path)
    assert load_cifar_resnet(path, 8)(torch.rand(1, 1, 8, 8)).shape == (1, 2)


def test_weights_of_another_depth_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "classifier.safetensors"
    save_cifar_resnet(path, small(), {})
    with pytest.raises(WeightsError, match=r"cifar-resnet14\).*layer1\.1\..* is missing.* and \d+"):
        load_cifar_resnet(path, 14)
    with pytest.raises(SettingError, match="got 9"):
        load_cifar_resnet(path, 9)


def test_weights_of_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "linear.safetensors"
    save_file(nn.Linear(2, 2).state_dict(), path)
    with pytest.raises(WeightsError, match=r"CIFAR ResNet must have conv1.weight.* got bias"):
        load_cifar_resnet(path, 20)


def test_a_pickle_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "resnet.pth"
    torch.save(small().network.state_dict(), path)
    with pytest.raises(WeightsError, match="is a pickle"):
        load_cifar_resnet(path, 8)
    with pytest.raises(WeightsError, match=r"no weights file .*absent\.safetensors"):
        load_cifar_resnet(tmp_path / "absent.safetensors", 8)


@pytest.fixture(scope="module")
def cifar10() -> tuple[Tensor, Tensor]:
    if not (RESNET56.is_file() and CIFAR10.is_file()):
        pytest.skip(f"needs {RESNET56.name} and {CIFAR10.name}; see DENOISED_SMOOTHING_SHARED")
    pytest.importorskip("pyarrow")
    dataset = load_dataset(f"parquet:{CIFAR10}")
    images = torch.stack([torch.from_numpy(dataset[index].image) for index in range(200)])
    return images, torch.tensor(dataset.labels[:200])


@pytest.mark.parametrize(
    ("sigma", "least", "most"),
    [(0.0, 0.80, 0.90), (0.25, 0.06, 0.20)],
    ids=["clean, 84.15 % of 2,000", "noisy, 12.3 % of 2,000"],
)
def test_the_published_resnet56(
    cifar10: tuple[Tensor, Tensor], sigma: float, least: float, most: float
) -> None:
    """The bands are about three standard errors of 200 images wide to either side."""
    images, labels = cifar10
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        answers = load_cifar_resnet(RESNET56, 56)(images + sigma * noise).argmax(dim=1)
    accuracy = (answers == labels).float().mean().item()
    assert least <= accuracy <= most


def test_folded_normalisations_change_no_answer() -> None:
    torch.manual_seed(0)
    classifier = ImageClassifier(CifarResNet(14), [0.5] * 3, [0.25] * 3)
    images = torch.rand(8, 3, 32, 32)
    classifier.train()(images)  # statistics of its own
    faster = folded(classifier.eval())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in faster.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in classifier.modules())
    with torch.no_grad():
        torch.testing.assert_close(faster(images), classifier(images), rtol=1e-4, atol=1e-4)


def test_what_cannot_be_folded_stays_as_it_is() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    assert folded(network) is network
