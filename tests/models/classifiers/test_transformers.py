"""transformers.py and zero_shot.py: what is refused, and what the contract does not show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from denoised_smoothing import load_classifier
from denoised_smoothing.errors import ImageError, SettingError, SpecError, WeightsError
from denoised_smoothing.models.classifiers.base import ImageClassifier

from . import models

transformers = pytest.importorskip("transformers")


def loaded(folder: Path) -> ImageClassifier:
    classifier = load_classifier(f"hf:{folder}")
    assert isinstance(classifier, ImageClassifier)
    return classifier


def processed(folder: Path, **values: Any) -> Path:
    """The folder, with other values of its processor."""
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return folder


def test_names_that_transformers_fills_in_are_none(tmp_path: Path) -> None:
    models.save_vit(tmp_path, id2label={0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"})
    classifier = loaded(tmp_path)
    assert classifier.label_names is None
    assert classifier(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_grey_images(tmp_path: Path) -> None:
    processor = transformers.ViTImageProcessor(
        size={"height": 32, "width": 32}, image_mean=[0.5], image_std=[0.5]
    )
    models.save_vit(tmp_path, processor, num_channels=1)
    classifier = loaded(tmp_path)
    assert classifier.channels == 1
    assert classifier(torch.zeros(2, 1, 32, 32)).shape == (2, 4)


def test_other_channels_are_refused(tmp_path: Path) -> None:
    models.save_vit(tmp_path, num_channels=5)
    with pytest.raises(SettingError, match=r"3 \(RGB\), got 5 in"):
        loaded(tmp_path)


def test_a_processor_that_only_normalises(tmp_path: Path) -> None:
    models.save_vit(tmp_path)
    classifier = loaded(processed(tmp_path, do_resize=False))
    assert classifier.resize is None
    assert classifier.resolution == 32


def test_a_rescaling_of_another_range(tmp_path: Path) -> None:
    """Its normalisation is checked against the processor itself when it is loaded."""
    models.save_vit(tmp_path)
    classifier = loaded(processed(tmp_path, rescale_factor=1 / 127.5, image_mean=[1.0] * 3))
    torch.testing.assert_close(classifier.mean.flatten(), torch.full((3,), 0.5))
    torch.testing.assert_close(classifier.std.flatten(), torch.full((3,), 0.25))


def test_a_large_convnext_is_not_cropped(tmp_path: Path) -> None:
    models.save_convnext(tmp_path, side=384)
    classifier = loaded(tmp_path)
    assert classifier.resolution == 384
    assert classifier.resize is not None
    assert classifier.resize.scaled is None


def test_the_shorter_side_without_a_crop_takes_square_images(tmp_path: Path) -> None:
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, do_center_crop=False)
    models.save_vit(tmp_path, processor)
    classifier = loaded(tmp_path)
    assert classifier(torch.zeros(1, 3, 40, 40)).shape == (1, 4)
    with pytest.raises(ImageError, match=r"must be square, .* got 40x48"):
        classifier(torch.zeros(1, 3, 40, 48))


@pytest.mark.parametrize(("mean", "std"), [([0, 0, 0], [1, 1, 1]), (0, 1), (0.25, [0.5])])
def test_numbers_instead_of_lists(mean: Any, std: Any, tmp_path: Path) -> None:
    model = models.save_vit(tmp_path)
    classifier = loaded(processed(tmp_path, image_mean=mean, image_std=std))
    batch = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(value).flatten()[0] for value in (mean, std))
    expected = model((batch - mean) / std).logits
    torch.testing.assert_close(classifier(batch), expected)


def test_null_arguments_of_a_processor(tmp_path: Path) -> None:
    models.save_vit(tmp_path)
    plain = loaded(tmp_path)
    unset = dict.fromkeys(("crop_size", "do_center_crop", "default_to_square"))
    batch = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(loaded(processed(tmp_path, **unset))(batch), plain(batch))


@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize("top", [False, True])
def test_the_processor_of_efficientnet(top: bool, offset: bool, tmp_path: Path) -> None:
    options = {"include_top": top, "rescale_offset": offset, "rescale_factor": 1 / 127.5}
    size = {"height": 32, "width": 32}
    processor = transformers.EfficientNetImageProcessor(size=size, resample=2, **options)
    model = models.save_vit(tmp_path, processor)
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    expected = model(processor(images=image, return_tensors="pt")["pixel_values"]).logits
    answer = loaded(tmp_path)(image[None] / 255)
    torch.testing.assert_close(answer, expected, rtol=1e-4, atol=1e-4)


def test_a_timm_wrapper(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    inner = timm.create_model("test_resnet", num_classes=4)
    held = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "input_size": [3, 32, 32]}
    config = transformers.TimmWrapperConfig.from_dict({
        "architecture": "test_resnet", "num_classes": 4, "label_names": list("abcd"),
        "pretrained_cfg": held,
    })  # fmt: skip
    model = transformers.TimmWrapperForImageClassification(config).eval()
    model.timm_model.load_state_dict(inner.state_dict())
    model.save_pretrained(tmp_path)
    classifier = loaded(tmp_path)
    assert (classifier.label_names, classifier.resolution) == (tuple("abcd"), 32)
    batch = torch.rand(2, 3, 32, 32)
    normalised = (batch - classifier.mean) / classifier.std
    assert classifier.mean.flatten().tolist() == pytest.approx([0.4, 0.5, 0.6])
    torch.testing.assert_close(classifier(batch), inner.eval()(normalised))


def test_label_names_may_be_given(tmp_path: Path) -> None:
    models.save_vit(tmp_path)
    spec = f"hf:{tmp_path}?labels="
    assert load_classifier(f"{spec}a,b,c,d").label_names == ("a", "b", "c", "d")  # type: ignore[attr-defined]
    with pytest.raises(SpecError, match=r"one name for each of the 4 classes .* got 2"):
        load_classifier(f"{spec}a,b")


@pytest.mark.parametrize(
    "options", [{"problem_type": "multi_label_classification"}, {"num_labels": 1}]
)
def test_models_that_choose_no_single_label_are_refused(
    options: dict[str, Any], tmp_path: Path
) -> None:
    config = {"id2label": {0: "a"}} if "num_labels" in options else options
    models.save_vit(tmp_path, **config)
    with pytest.raises(SettingError, match=r"must answer one of several labels, got .*python:"):
        loaded(tmp_path)


class TestRefusedProcessors:
    def test_one_that_crops_without_scaling(self, tmp_path: Path) -> None:
        crop = {"height": 32, "width": 32}
        processor = transformers.CLIPImageProcessor(do_resize=False, crop_size=crop)
        models.save_vit(tmp_path, processor)
        with pytest.raises(
            SettingError, match=r"is not supported, got do_resize=False, .* Wrap the"
        ):
            loaded(tmp_path)

    def test_one_that_cuts_more_than_there_is(self, tmp_path: Path) -> None:
        crop = {"height": 32, "width": 32}
        processor = transformers.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=crop)
        models.save_vit(tmp_path, processor)
        with pytest.raises(SettingError, match=r"crop must be at most 28 pixels, .* got 32x32"):
            loaded(tmp_path)

    def test_one_that_does_something_else(self, tmp_path: Path) -> None:
        """MobileViT exchanges red and blue, which no value of its configuration hints at here."""
        processor = transformers.MobileViTImageProcessor(
            size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}
        )
        models.save_vit(tmp_path, processor)
        said = r"image processor of .* \(MobileViTImageProcessor\w*\) must only .* it differs by"
        with pytest.raises(SettingError, match=said):
            loaded(tmp_path)

    def test_none_at_all(self, tmp_path: Path) -> None:
        models.save_vit(tmp_path, False)
        with pytest.raises(WeightsError, match=r"has no image processor .*Save the mod"):
            loaded(tmp_path)


class TestRefusedModels:
    def test_one_without_its_head(self, tmp_path: Path) -> None:
        models.save_vit(tmp_path)
        transformers.ViTModel(models.vit_config()).save_pretrained(tmp_path)
        with pytest.raises(WeightsError, match=r"no weights for classifier\.bias, .*without its c"):
            loaded(tmp_path)

    def test_one_that_classifies_no_images(self, tmp_path: Path) -> None:
        config = transformers.BertConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16
        )
        transformers.BertForSequenceClassification(config).save_pretrained(tmp_path)
        with pytest.raises(WeightsError, match=r"cannot load .* as ImageClassification"):
            loaded(tmp_path)

    def test_one_that_brings_its_own_code(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(
            json.dumps({"model_type": "odd", "auto_map": {"AutoConfig": "odd.OddConfig"}})
        )
        with pytest.raises(WeightsError, match="without code of its own"):
            loaded(tmp_path)

    def test_a_folder_without_weights(self, tmp_path: Path) -> None:
        models.save_vit(tmp_path)
        (tmp_path / "model.safetensors").unlink()
        with pytest.raises(WeightsError, match=r"cannot load .* as ImageClassification"):
            loaded(tmp_path)

    @pytest.mark.parametrize("name", ["away", "./away", "a/b/c"])
    def test_a_folder_that_is_not_there(self, name: str, hub_is_away: None) -> None:
        with pytest.raises(WeightsError, match=rf"{name}.*Check the (path|name)"):
            load_classifier(f"hf:{name}")


class TestZeroShot:
    def test_labels_are_needed(self, tmp_path: Path) -> None:
        with pytest.raises(SpecError, match=r"names no labels\. Write zero-shot:.*quotes"):
            load_classifier(f"zero-shot:{tmp_path}")

    def test_a_template_takes_the_label(self, tmp_path: Path) -> None:
        models.save_clip(tmp_path)
        images = torch.rand(2, 3, 32, 32)
        spec = f"zero-shot:{tmp_path}?labels=cat,dog"
        plain, other = (load_classifier(f"{spec}{t}")(images) for t in ("", "&template=my {}"))
        assert not torch.allclose(plain, other)
        with pytest.raises(SpecError, match=r"template must contain \{\}, got 'my'"):
            load_classifier(f"{spec}&template=my")

    def test_another_kind_of_model(self, tmp_path: Path) -> None:
        models.save_vit(tmp_path)
        with pytest.raises(WeightsError, match=r"cannot load .* as ZeroShotImageClassification"):
            load_classifier(f"zero-shot:{tmp_path}?labels=cat,dog")

    def test_a_model_without_tokenizer(self, tmp_path: Path) -> None:
        models.save_clip(tmp_path)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (tmp_path / name).unlink()
        with pytest.raises(
            WeightsError, match=r"no tokenizer|maps different labels to equal tokens"
        ):
            load_classifier(f"zero-shot:{tmp_path}?labels=cat,dog")
