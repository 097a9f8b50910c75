from __future__ import annotations

import hashlib
import sys
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from denoised_smoothing.errors import MissingExtraError, SpecError, WeightsError
from denoised_smoothing.models.classifiers.torchvision import _remove_altered, load_torchvision

models = pytest.importorskip("torchvision.models")
NAME = "squeezenet1_1"

Download = Callable[[Callable[[str], Any]], None]


@pytest.fixture
def download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Download:
    """Let a function that writes a file stand in for the internet."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def replace(fetch: Callable[[str], Any]) -> None:
        monkeypatch.setattr(
            "torch.hub.download_url_to_file", lambda url, path, *_, **__: fetch(path)
        )

    return replace


def network(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    model: torch.nn.Module = models.get_model(NAME, weights=None)
    return model.eval()


def images() -> torch.Tensor:
    """Of the size of the weights' crops, so that they are but normalised."""
    return torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))


def normalised() -> torch.Tensor:
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).reshape(2, 1, 3, 1, 1)
    return (images() - mean) / std


def test_random_weights() -> None:
    classifier = load_torchvision(NAME, weights="none")
    assert not classifier.training
    assert (classifier.resolution, classifier.channels) == (224, 3)
    assert classifier.label_names is None
    torch.testing.assert_close(classifier(images()), classifier.network(normalised()))


def test_a_local_file_has_the_names_of_the_default_weights(tmp_path: Path) -> None:
    path = tmp_path / "squeezenet.safetensors"
    save_file(network().state_dict(), path)
    classifier = load_torchvision(NAME, weights=str(path))
    assert not classifier.training
    assert classifier.resolution == 224
    assert classifier.label_names is not None
    assert (classifier.label_names[0], len(classifier.label_names)) == ("tench", 1000)
    torch.testing.assert_close(classifier(images()), network()(normalised()))


def test_published_weights_are_downloaded(download: Download) -> None:
    download(lambda path: torch.save(network().state_dict(), path))
    for weights in ("DEFAULT", "IMAGENET1K_V1"):
        classifier = load_torchvision(NAME, weights=weights)
        assert classifier.label_names is not None
        assert classifier.label_names[0] == "tench"
        torch.testing.assert_close(classifier(images()), network()(normalised()))


def test_an_altered_download_is_downloaded_again(
    download: Download, caplog: pytest.LogCaptureFixture
) -> None:
    """torch.hub compares new downloads only, and here not even these."""
    paths = []

    def fetch(path: str) -> None:
        torch.save(network().state_dict(), path)
        paths.append(path)

    download(fetch)
    load_torchvision(NAME)
    load_torchvision(NAME)
    assert len(paths) == 2
    assert f"{paths[0]} is not the published file" in caplog.text


def test_an_intact_download_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (folder := tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    for name in (f"net-{hashlib.sha256(b'weights').hexdigest()[:8]}.pth", "net.pth"):
        (folder / name).write_bytes(b"weights")
        _remove_altered(f"https://download.pytorch.org/models/{name}")
        assert (folder / name).exists()


def test_resolution_and_normalisation_are_those_of_the_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "denoised_smoothing.models.classifiers.torchvision._download", lambda *_: torch.nn.Flatten()
    )
    classifier = load_torchvision("efficientnet_v2_l")
    assert classifier.resolution == 480
    torch.testing.assert_close(classifier.mean.flatten(), torch.tensor([0.5, 0.5, 0.5]))


def test_a_failed_download_says_what_to_do(download: Download) -> None:
    def fail(path: str) -> None:
        raise urllib.error.URLError("no route to host")

    download(fail)
    with pytest.raises(
        WeightsError,
        match=r"https://download.pytorch.org/\S+ .*no route to host.*use torchvision:.*:FILE",
    ):
        load_torchvision(NAME)


class Trap:
    """A pickle of it would create a file when opened."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.mark,)


def test_code_in_a_download_is_not_run(download: Download, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    download(lambda path: torch.save({"weight": Trap(mark)}, path))
    with pytest.raises(WeightsError, match="cannot download the weights of"):
        load_torchvision(NAME)
    assert not mark.exists()


def test_a_file_of_another_classifier_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "squeezenet.safetensors"
    save_file(network().state_dict(), path)
    with pytest.raises(WeightsError, match=r"\(as torchvision:alexnet\) .* another architecture"):
        load_torchvision("alexnet", weights=str(path))


def test_a_pickle_is_opened_and_a_missing_file_refused(tmp_path: Path) -> None:
    path = tmp_path / "squeezenet.pth"
    torch.save(network().state_dict(), path)
    classifier = load_torchvision(NAME, weights=str(path))
    torch.testing.assert_close(classifier(images()), network()(normalised()))
    with pytest.raises(WeightsError, match=r"no weights file absent.safetensors"):
        load_torchvision(NAME, weights="absent.safetensors")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnet5", r"Did you mean .*resnet50.*\?"),
        ("ResNet50", r"Did you mean .*resnet50.*\?"),
        ("fcn_resnet50", "Did you mean"),
        ("xyzzy", "Use resnet50"),
    ],
)
def test_an_unknown_name_gets_suggestions(name: str, hint: str) -> None:
    with pytest.raises(SpecError, match=rf"no image classifier '{name}'\. {hint}"):
        load_torchvision(name)


def test_unknown_weights_get_the_list() -> None:
    with pytest.raises(SpecError, match=r"no weights 'V1' for .*IMAGENET1K_V1, DEFAULT, none or"):
        load_torchvision(NAME, weights="V1")


def test_without_torchvision_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(MissingExtraError, match=r"torchvision:resnet50 needs.*smoothing\[torchv"):
        load_torchvision("resnet50")
