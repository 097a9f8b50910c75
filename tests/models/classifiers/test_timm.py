"""timm.py: what is refused, and what it takes that the contract does not show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from denoised_smoothing import load_classifier
from denoised_smoothing.errors import ImageError, SettingError, SpecError, WeightsError
from denoised_smoothing.models.classifiers.base import ImageClassifier

from . import models

timm = pytest.importorskip("timm")


def changed(folder: Path, **values: Any) -> Path:
    """The folder, with other values of its preprocessing."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["pretrained_cfg"].update(values)
    path.write_text(json.dumps(config))
    return folder


def loaded(folder: Path) -> ImageClassifier:
    classifier = load_classifier(f"timm:{folder}")
    assert isinstance(classifier, ImageClassifier)
    return classifier


def test_a_model_with_no_label_names(tmp_path: Path) -> None:
    models.save_timm(tmp_path, label_names=None)
    assert loaded(tmp_path).label_names is None


def test_grey_images(tmp_path: Path) -> None:
    models.save_timm(tmp_path, channels=1)
    classifier = loaded(tmp_path)
    assert classifier.channels == 1
    assert classifier(torch.zeros(2, 1, 32, 32)).shape == (2, 4)


def test_other_channels_are_refused(tmp_path: Path) -> None:
    models.save_timm(tmp_path, channels=4)
    with pytest.raises(SettingError, match=r"3 \(RGB\), got 4 in .* python:"):
        loaded(tmp_path)


def test_weights_from_a_file_or_at_random(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_resnet").eval()
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    classifier = load_classifier(f"timm:test_resnet:{tmp_path}/weights.safetensors")
    assert isinstance(classifier, ImageClassifier)
    images = torch.rand(2, 3, 160, 160)
    expected = model((images - classifier.mean) / classifier.std)
    torch.testing.assert_close(classifier(images), expected)
    random = load_classifier("timm:test_resnet:none")
    assert random(images).shape == (2, 1000)
    with pytest.raises(WeightsError, match="no weights file away"):
        load_classifier("timm:test_resnet:away")


@pytest.mark.parametrize("mode", ["squash", "border"])
def test_other_ways_to_crop(tmp_path: Path, mode: str) -> None:
    model = models.save_timm(tmp_path)
    changed(tmp_path, crop_mode=mode)
    transform = timm.data.create_transform(
        **timm.data.resolve_model_data_config(timm.create_model(f"local-dir:{tmp_path}"))
    )
    import PIL.Image

    values = (torch.arange(48 * 48).reshape(48, 48) / 9.1).byte().numpy()
    image = PIL.Image.fromarray(values).convert("RGB")
    with torch.no_grad():
        expected = model(transform(image)[None])
        answer = loaded(tmp_path)(torch.from_numpy(values / 255).float().expand(1, 3, 48, 48))
    torch.testing.assert_close(answer, expected, rtol=0, atol=0.02 * float(expected.abs().max()))


def test_a_border_around_an_image_that_is_not_square_is_refused(tmp_path: Path) -> None:
    models.save_timm(tmp_path)
    classifier = loaded(changed(tmp_path, crop_mode="border"))
    with pytest.raises(ImageError, match=r"must be square, .* got 40x48\. Use"):
        classifier(torch.zeros(1, 3, 40, 48))


def test_what_is_not_reproduced_is_refused(tmp_path: Path) -> None:
    models.save_timm(tmp_path)
    with pytest.raises(
        SettingError, match=r"one of center, .*interpolation one of nearest, .* got lanczos"
    ):
        loaded(changed(tmp_path, interpolation="lanczos"))
    with pytest.raises(SettingError, match="crop must be square, got 32x48"):
        loaded(changed(tmp_path, interpolation="bicubic", input_size=[3, 32, 48]))


class TestRefused:
    def test_an_unknown_name(self) -> None:
        with pytest.raises(
            SpecError, match=r"no model 'resnet5', and there is no such folder\. Did"
        ):
            load_classifier("timm:resnet5")

    def test_a_name_without_weights(self) -> None:
        without = set(timm.list_models(include_tags=False)) - {
            name.partition(".")[0] for name in timm.list_pretrained()
        }
        name = sorted(without)[0]
        with pytest.raises(SpecError, match=rf"timm has no weights for '{name}'\. Name a folder"):
            load_classifier(f"timm:{name}")
        with pytest.raises(SpecError, match=r"timm has no weights for 'resnet18\.none'"):
            load_classifier("timm:resnet18.none")

    def test_a_folder_of_something_else(self, tmp_path: Path) -> None:
        (tmp_path / "model.onnx").touch()
        with pytest.raises(WeightsError, match=r"must hold config.json, got model.onnx\. Name a"):
            loaded(tmp_path)
        (tmp_path / "config.json").write_text('{"model_type": "vit"}')
        with pytest.raises(WeightsError, match=r"cannot load .* as a model of timm"):
            loaded(tmp_path)

    def test_missing_weights(self, tmp_path: Path) -> None:
        models.save_timm(tmp_path)
        tensors = load_file(tmp_path / "model.safetensors")
        tensors.pop("fc.weight")
        save_file(tensors, tmp_path / "model.safetensors")
        with pytest.raises(WeightsError, match=r"cannot load .* as a model of timm"):
            loaded(tmp_path)
