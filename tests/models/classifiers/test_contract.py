"""What every classifier adapter keeps, whatever library is behind it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from denoised_smoothing import SmoothedClassifier, load_classifier
from denoised_smoothing.models.classifiers.base import ImageClassifier
from denoised_smoothing.models.classifiers.cifar_resnet import CifarResNet, save_cifar_resnet
from denoised_smoothing.models.fingerprints import fingerprint
from denoised_smoothing.models.protocols import Classifier

from . import models

NAMES = ("cat", "dog", "fox", "owl")
Answer = Callable[[PIL.Image.Image], Tensor]


@dataclass(frozen=True)
class Case:
    """A spec, and what the library itself answers on an 8-bit image: logits [K]."""

    spec: str
    answer: Answer
    names: tuple[str, ...] | None = NAMES
    resolution: int | None = 32
    tolerance: float = 0.02
    """Of the library's answer, which rounds images to 8 bits after resizing them."""
    classes: int | None = 4


def torchvision_case(folder: Path) -> Case:
    from torchvision import models as library

    torch.manual_seed(0)
    network = library.get_model("shufflenet_v2_x0_5", weights=None).eval()
    save_file(network.state_dict(), folder / "shufflenet.safetensors")
    weights = library.get_model_weights("shufflenet_v2_x0_5").DEFAULT
    transform = weights.transforms()
    return Case(
        f"torchvision:shufflenet_v2_x0_5:{folder}/shufflenet.safetensors",
        lambda image: network(transform(image)[None])[0],
        tuple(weights.meta["categories"]),
        224,
        classes=1000,
    )


def timm_case(folder: Path) -> Case:
    import timm.data

    model = models.save_timm(folder)
    transform = timm.data.create_transform(
        **timm.data.resolve_model_data_config(timm.create_model(f"local-dir:{folder}"))
    )
    return Case(f"timm:{folder}", lambda image: model(transform(image)[None])[0])


def transformers_case(folder: Path, model: Any) -> Case:
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(folder)

    def answer(image: PIL.Image.Image) -> Tensor:
        logits: Tensor = model(**processor(image, return_tensors="pt")).logits[0]
        return logits

    return Case(f"hf:{folder}", answer)


def vit_case(folder: Path) -> Case:
    return transformers_case(folder, models.save_vit(folder))


def cropped_case(folder: Path) -> Case:
    from transformers import CLIPImageProcessor

    crop = {"height": 32, "width": 32}
    processor = CLIPImageProcessor(size={"shortest_edge": 36}, crop_size=crop)
    return transformers_case(folder, models.save_vit(folder, processor))


def convnext_case(folder: Path) -> Case:
    case = transformers_case(folder, models.save_convnext(folder))
    return Case(case.spec, case.answer, None)


def zero_shot_case(folder: Path, model: Any, processor: Any, tokenizer: Any) -> Case:
    sentences = [f"a photo of a {name}" for name in NAMES]
    tokens = tokenizer(sentences, padding="max_length", max_length=24, return_tensors="pt")
    if "siglip" in type(model).__name__.lower():
        tokens.pop("attention_mask")

    def answer(image: PIL.Image.Image) -> Tensor:
        pixels = processor(image, return_tensors="pt")
        logits: Tensor = model(**tokens, **pixels).logits_per_image[0]
        return logits

    return Case(f"zero-shot:{folder}?labels={','.join(NAMES)}", answer)


def clip_case(folder: Path) -> Case:
    from transformers import AutoImageProcessor, AutoTokenizer

    model = models.save_clip(folder)
    parts = (loader.from_pretrained(folder) for loader in (AutoImageProcessor, AutoTokenizer))
    return zero_shot_case(folder, model, *parts)


def siglip_case(folder: Path) -> Case:
    from transformers import AutoImageProcessor, AutoTokenizer

    model = models.save_siglip(folder)
    parts = (loader.from_pretrained(folder) for loader in (AutoImageProcessor, AutoTokenizer))
    return zero_shot_case(folder, model, *parts)


def run_onnx(path: Path, batch: int, values: np.ndarray) -> Tensor:
    """The first row of what ONNX Runtime says to a batch that repeats one image."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    kind = np.float16 if "float16" in session.get_inputs()[0].type else np.float32
    return torch.from_numpy(
        session.run(None, {"images": np.stack([values] * batch).astype(kind)})[0][0]
    ).float()


def onnx_case(folder: Path) -> Case:
    path = folder / "dynamic.onnx"
    models.save_onnx(path)

    def answer(image: PIL.Image.Image) -> Tensor:
        values = (np.asarray(image, np.float32) / 255 - 0.5) / 0.25
        return run_onnx(path, 1, values.transpose(2, 0, 1))

    spec = f"onnx:{path}?mean=0.5&std=0.25,0.25,0.25&labels={','.join(NAMES)}"
    return Case(spec, answer, resolution=None)


def fixed_onnx_case(folder: Path) -> Case:
    path = folder / "fixed.onnx"
    models.save_onnx(path, (3, 32, 32, 3))

    def answer(image: PIL.Image.Image) -> Tensor:
        from torchvision.transforms import functional

        small = functional.resize(image, [32, 32])
        return run_onnx(path, 3, np.asarray(small, np.float32))

    (folder / "labels.txt").write_text("\n".join(NAMES))
    return Case(f"onnx:{path}?scale=255&labels={folder}/labels.txt", answer, tolerance=2.0)


def half_onnx_case(folder: Path) -> Case:
    path = folder / "half.onnx"
    models.save_onnx(path, ("n", 3, "h", "w"), half=True)

    def answer(image: PIL.Image.Image) -> Tensor:
        return run_onnx(path, 1, np.asarray(image, np.float32).transpose(2, 0, 1) / 255)

    return Case(f"onnx:{path}", answer, None, None)


def python_case(folder: Path) -> Case:
    def answer(image: PIL.Image.Image) -> Tensor:
        return as_batch(image).flatten()

    return Case("python:torch.nn:Flatten", answer, None, None, classes=None)


def cifar_resnet_case(folder: Path) -> Case:
    torch.manual_seed(0)
    network = CifarResNet(8, 4).eval()
    path = folder / "resnet8.safetensors"
    save_cifar_resnet(path, ImageClassifier(network, [0.4] * 3, [0.2] * 3, NAMES, 32), {})

    def answer(image: PIL.Image.Image) -> Tensor:
        values = (np.asarray(image, np.float32) / 255 - 0.4) / 0.2
        return network(torch.from_numpy(values.transpose(2, 0, 1))[None])[0]

    return Case(f"cifar-resnet8:{path}", answer)


CASES = {
    "torchvision": torchvision_case,
    "timm": timm_case,
    "vit": vit_case,
    "cropped": cropped_case,
    "convnext": convnext_case,
    "clip": clip_case,
    "siglip": siglip_case,
    "onnx": onnx_case,
    "onnx-fixed": fixed_onnx_case,
    "onnx-half": half_onnx_case,
    "python": python_case,
    "cifar-resnet": cifar_resnet_case,
}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    made: Case = CASES[request.param](tmp_path_factory.mktemp(request.param))
    return made


@pytest.fixture(scope="module")
def classifier(case: Case) -> Any:
    return load_classifier(case.spec)


def images(count: int = 3, side: int = 32) -> Tensor:
    """Noisy images, some of whose values are beyond [0, 1]."""
    generator = torch.Generator().manual_seed(1)
    clean = torch.rand(count, 3, 4, 4, generator=generator)
    smooth = nn.functional.interpolate(clean, size=(side, side), mode="bilinear")
    return smooth + 0.25 * torch.randn(smooth.shape, generator=generator)


def picture(height: int, width: int) -> PIL.Image.Image:
    """A smooth 8-bit image, other than square."""
    generator = torch.Generator().manual_seed(2)
    values = nn.functional.interpolate(
        torch.rand(1, 3, 5, 4, generator=generator), size=(height, width), mode="bicubic"
    )[0]
    array = (values.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return PIL.Image.fromarray(array)


def as_batch(image: PIL.Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image, np.float32).transpose(2, 0, 1) / 255)[None]


def test_images_to_logits(case: Case, classifier: Any) -> None:
    assert isinstance(classifier, Classifier)
    logits = classifier(images())
    assert logits.shape == (3, case.classes or 3 * 32 * 32)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()
    assert logits.std(dim=0).min() > 0, "the answer does not depend on the image"


def test_says_what_a_data_set_needs_to_know(case: Case, classifier: Any) -> None:
    assert getattr(classifier, "label_names", None) == case.names
    assert getattr(classifier, "resolution", None) == case.resolution
    assert getattr(classifier, "channels", 3) == 3


def test_the_same_images_get_the_same_answer(case: Case, classifier: Any) -> None:
    if not case.spec.startswith("python:"):  # the engine does it for what others make
        assert not getattr(classifier, "training", False)
    assert torch.equal(classifier(images()), classifier(images()))


def test_an_image_does_not_depend_on_the_others(classifier: Any) -> None:
    together = classifier(images(5))
    for index in range(5):
        alone = classifier(images(5)[index : index + 1])
        torch.testing.assert_close(together[index : index + 1], alone, rtol=1e-3, atol=1e-4)


def test_answers_on_the_device_of_the_images(classifier: Any) -> None:
    assert classifier(images()).device == images().device


def test_nothing_of_a_module_stays_behind_on_another_device(classifier: Any) -> None:
    if not isinstance(classifier, nn.Module):
        pytest.skip("no module")
    state = classifier.state_dict(keep_vars=True)
    held = [*classifier.parameters(), *classifier.buffers()]
    assert {id(tensor) for tensor in held} >= {id(tensor) for tensor in state.values()}
    for module in classifier.modules():
        loose = [name for name, value in vars(module).items() if isinstance(value, Tensor)]
        assert loose == [], f"{type(module).__name__} holds tensors that would not move"


def test_half_precision(case: Case, classifier: Any) -> None:
    full, halved = classifier(images()), load_classifier(case.spec)
    if isinstance(halved, nn.Module):
        halved = halved.to(torch.bfloat16)
    logits = halved(images().to(torch.bfloat16))
    assert logits.isfinite().all()
    spread = full.std()
    assert (logits.float() - full).abs().max() < 0.2 * spread + 0.02 * full.abs().max()


def test_answers_as_the_library_itself(case: Case, classifier: Any) -> None:
    """On an image of another size and shape, through the library's own transforms or processor."""
    side = case.resolution or 40
    image = picture(side + side // 3 + 1, side + side // 2)
    with torch.inference_mode():
        expected = case.answer(image)
        answer = classifier(as_batch(image))[0]
    scale = expected.abs().max()
    torch.testing.assert_close(answer, expected, rtol=0, atol=float(case.tolerance * scale))
    assert answer.argmax() == expected.argmax()


def test_an_image_of_the_networks_size_is_not_cropped_again(case: Case, classifier: Any) -> None:
    if not isinstance(classifier, ImageClassifier):
        pytest.skip("its preprocessing is its own")
    side = case.resolution or 32
    batch = images(2, side)
    normalised = (batch - classifier.mean) / classifier.std
    torch.testing.assert_close(classifier(batch), classifier.network(normalised))


def test_gradients_reach_the_image(classifier: Any) -> None:
    if not isinstance(classifier, nn.Module):
        pytest.skip("no gradients")
    batch = images().requires_grad_()
    classifier(batch).square().sum().backward()
    assert batch.grad is not None
    assert batch.grad.abs().sum() > 0


def test_in_another_place_it_has_the_same_fingerprint(
    case: Case, classifier: Any, tmp_path: Path
) -> None:
    found = re.search(r":(/[^?:]+)", case.spec)
    if found is None:
        pytest.skip("it is in no place")
    place, moved = Path(found[1]), tmp_path / Path(found[1]).name
    (shutil.copytree if place.is_dir() else shutil.copyfile)(place, moved)
    again = load_classifier(case.spec.replace(str(place), str(moved)))
    assert fingerprint(again) == fingerprint(classifier)


def test_loaded_again_it_has_the_same_fingerprint(case: Case, classifier: Any) -> None:
    assert fingerprint(load_classifier(case.spec)) == fingerprint(classifier)


def test_a_bundle_of_it_answers_the_same(case: Case, classifier: Any, tmp_path: Path) -> None:
    smoothed = SmoothedClassifier(classifier, 0.25, device="cpu")
    smoothed.save(tmp_path / "bundle", shape=(3, 32, 32), classifier=case.spec)
    of_code = case.spec.startswith("python:")  # which no bundle runs
    given = load_classifier(case.spec) if of_code else None
    loaded = SmoothedClassifier.load(tmp_path / "bundle", classifier=given, device="cpu")
    assert loaded.fingerprints() == smoothed.fingerprints()
    assert getattr(loaded.classifier, "label_names", None) == case.names
    with torch.inference_mode():
        assert torch.equal(loaded.classifier(images()), classifier(images()))
