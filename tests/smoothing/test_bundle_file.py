"""The folder of a bundle, as someone else may send it: no code runs, and nothing else is in it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from denoised_smoothing.certificates.parameters import EngineName
from denoised_smoothing.errors import DenoisedSmoothingError, SpecError, WeightsError
from denoised_smoothing.models.classifiers.base import ImageClassifier
from denoised_smoothing.models.weights import load_weights
from denoised_smoothing.smoothing.bundle_file import read_bundle
from denoised_smoothing.smoothing.classifier import SmoothedClassifier

from ..engines.samples import ONNXRUNTIME, OPENVINO, convolutional, residual, smoothed, unet
from .bundles import change, list_all, record_of, write

CONVERTED = [
    pytest.param(EngineName.OPENVINO, id="openvino", marks=OPENVINO),
    pytest.param(EngineName.ONNXRUNTIME, id="onnxruntime", marks=ONNXRUNTIME),
]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    smoothed(residual(), unet()).save(folder)
    return folder


CODE = [
    ("classifier", "python:own:make"),
    ("classifier", "python:own:make:more"),
    ("classifier", "python3:own:make"),
    ("classifier", "python"),
    ("classifier", "python:os:getcwd"),
    ("classifier", "simulated"),
    ("classifier", "aws"),
    ("classifier", "http:http://127.0.0.1:9/?label=a"),
    ("classifier", "https://127.0.0.1:9/?label=a"),
    ("classifier", "openai:own"),
    ("denoiser", "python:own:make"),
    ("denoiser", "python7:own:make"),
    ("denoiser", "mean:python:own:make+digits-mse"),
    ("denoiser", "mean:digits-mse+python:own:make"),
    ("denoiser", "mean:python:own:make+unet"),
    ("denoiser", "mean:digits-mse+python9:own:make?mirror=yes"),
    ("denoiser", "mean:mean:python:own:make+digits-mse"),
    ("denoiser", "mean:" * 2000 + "python:own:make"),
]


@pytest.mark.parametrize("kept", [True, False], ids=["with its file", "without it"])
@pytest.mark.parametrize(("role", "spec"), CODE, ids=[spec[:40] for _, spec in CODE])
def test_no_code_runs_because_a_bundle_names_it(
    bundle: Path, role: str, spec: str, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even of a module in the working folder, which `python:` usually finds."""
    folder = bundle.parent
    (folder / "own.py").write_text("open('ran', 'w')\ndef make(): open('ran', 'w')\n")
    monkeypatch.chdir(folder)
    path = [*sys.path]
    if not kept:
        (bundle / f"{role}.safetensors").unlink()
    list_all(change(bundle, **{role: spec}))
    expected = "is not complete" if spec == "python" else "A bundle brings no code"
    if not (kept and spec == "python"):  # not loaded, so harmless where a file defines the part
        with pytest.raises(SpecError, match=expected):
            SmoothedClassifier.load(bundle, device="cpu")
    assert not (folder / "ran").exists()
    assert sys.path == path
    assert "own" not in sys.modules


def test_code_in_the_bundle_is_an_unexpected_file(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bundle / "own.py").write_text("open('ran', 'w')\n")
    monkeypatch.chdir(bundle)
    list_all(change(bundle, classifier="python:own:make"))
    for folder in (bundle, Path()):
        with pytest.raises(WeightsError, match=r"files of a bundle for torch .* got 'own.py'"):
            SmoothedClassifier.load(folder)
    assert not (bundle / "ran").exists()


def test_the_spec_of_code_is_left_out_if_a_file_defines_the_part(tmp_path: Path) -> None:
    smoothed(residual()).save(tmp_path / "one", classifier="python:own:make")
    assert read_bundle(tmp_path / "one").classifier == "unnamed"
    assert SmoothedClassifier.load(tmp_path / "one").resolution == 16


def replace_by_link(path: Path) -> None:
    moved = path.rename(path.parent.parent / "moved")
    path.symlink_to(moved)


def replace_by_hard_link(path: Path) -> None:
    os.link(path, path.parent.parent / "moved")


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


UNEXPECTED = r"holds .*, which its bundle\.json does not list\. .* Delete it"
FOLDERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "module": (lambda f: (f / "own.py").write_text(""), UNEXPECTED),
    "hidden file": (lambda f: (f / ".hidden").write_text(""), UNEXPECTED),
    "pickle": (lambda f: torch.save({}, f / "weights.pt"), UNEXPECTED),
    "not UTF-8": (lambda f: Path(os.fsdecode(bytes(f) + b"/\xff")).write_text(""), UNEXPECTED),
    "escape": (lambda f: (f / "\x1b[2J").write_text(""), UNEXPECTED),
    "folder": (lambda f: (f / "model").mkdir(), UNEXPECTED),
    "link": (lambda f: (f / "more").symlink_to("/etc/passwd"), UNEXPECTED),
    "dangling link": (lambda f: (f / "more").symlink_to("nowhere"), UNEXPECTED),
    "link to itself": (lambda f: (f / "more").symlink_to(f), UNEXPECTED),
    "linked file": (
        lambda f: replace_by_link(f / "classifier.safetensors"), "safetensors .* a symbolic link"
    ),
    "linked record": (lambda f: replace_by_link(f / "bundle.json"), "it is a symbolic link"),
    "hard link": (
        lambda f: replace_by_hard_link(f / "classifier.safetensors"), "safetensors .* a hard link"
    ),
    "folder for a file": (
        lambda f: replace_by_folder(f / "denoiser.safetensors"), "safetensors .* a folder"
    ),
    "folder for the record": (lambda f: replace_by_folder(f / "bundle.json"), "it is a folder"),
    "pipe": (lambda f: replace_by_pipe(f / "denoiser.safetensors"), "no ordinary file"),
    "pipe for the record": (lambda f: replace_by_pipe(f / "bundle.json"), "no ordinary file"),
    "no file": (lambda f: (f / "denoiser.safetensors").unlink(), "is missing from the bundle"),
}  # fmt: skip


@pytest.mark.parametrize(("harm", "message"), FOLDERS.values(), ids=FOLDERS)
def test_the_folder_holds_the_listed_files_and_nothing_else(
    bundle: Path, harm: Callable[[Path], Any], message: str
) -> None:
    harm(bundle)
    with pytest.raises(WeightsError, match=message) as error:
        SmoothedClassifier.load(bundle)
    assert str(error.value).isprintable()


def test_the_folder_itself_may_be_linked(bundle: Path) -> None:
    (bundle.parent / "current").symlink_to(bundle)
    assert SmoothedClassifier.load(bundle.parent / "current").resolution == 16


@pytest.mark.parametrize(
    "name",
    [
        *("../moved", "/etc/passwd", "own.py", "weights.pt", "", ".", "..", "model"),
        *("bundle.json", "model/model.onnx", "./classifier.safetensors", "classifier.safetensors/"),
        *("classifier.safetensors\n", "classifier.safetensors\x00", "CLASSIFIER.SAFETENSORS"),
        *("\ud800", "x" * 100_000, "model/../classifier.safetensors", "..\\moved"),
    ],
    ids=lambda name: ascii(name)[:30],
)
def test_a_bundle_lists_only_files_that_its_engine_has(bundle: Path, name: str) -> None:
    (bundle.parent / "moved").write_text("")
    files = record_of(bundle)["files"]
    change(bundle, files={**files, name: "0" * 64})
    with pytest.raises(WeightsError, match="must be the files that 'bundle' writes") as error:
        read_bundle(bundle)
    assert len(str(error.value)) < 1000
    change(bundle, files={**files, "classifier.safetensors": "0" * 63})
    with pytest.raises(WeightsError, match="as 64 hexadecimal digits"):
        read_bundle(bundle)


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ran",)


def test_pickled_weights_are_refused(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundle.parent)
    for role in ("classifier", "denoiser"):
        torch.save(Harmful(), bundle / f"{role}.safetensors")
    with pytest.raises(WeightsError, match="is a pickle"):
        SmoothedClassifier.load(list_all(bundle))
    assert not (bundle.parent / "ran").exists()


def with_metadata(path: Path, **metadata: str) -> None:
    from safetensors.torch import save

    tensors, old = load_weights(path)
    content = save(tensors, {**old, **metadata})  # the tensors may be views of the file
    path.unlink()
    path.write_bytes(content)


ODD_TEXTS = ["", "null", "5", "-1", "[]", '["a"]', '[[1], "x"]', "{}", "NaN", "1e999"]
ODD_TEXTS += ["[" * 100_000]


@pytest.mark.parametrize("key", ["architecture", "mean", "std", "label_names", "resolution"])
def test_odd_metadata_of_a_classifier(bundle: Path, key: str) -> None:
    depths = [f"cifar-resnet{depth}" for depth in ("0", "9", "14", "999999998", "8" * 5000)]
    for text in depths if key == "architecture" else [*ODD_TEXTS, "9" * 20, "9" * 5000]:
        with_metadata(bundle / "classifier.safetensors", **{key: text})
        with pytest.raises(DenoisedSmoothingError):
            SmoothedClassifier.load(list_all(bundle), device="cpu")


@pytest.mark.parametrize("key", ["architecture", "config"])
def test_odd_metadata_of_a_denoiser(bundle: Path, key: str) -> None:
    configs = [
        json.dumps({option: value})
        for option in ("width", "outer", "inner", "image_channels", "more")
        for value in (None, -1, 0, 10**12, 1e300, "x", [1], {}, True)
    ]
    texts = configs if key == "config" else ["memnet", "diffusion", "x", "cifar-resnet8", ""]
    for text in [*texts, *ODD_TEXTS]:
        with_metadata(bundle / "denoiser.safetensors", **{key: text})
        with pytest.raises(DenoisedSmoothingError):
            SmoothedClassifier.load(list_all(bundle), device="cpu")


@pytest.mark.parametrize("field", ["label_names", "resolution", "resize", None])
def test_odd_sizes_of_a_classifier_with_a_spec(tmp_path: Path, field: str | None) -> None:
    def made() -> ImageClassifier:
        return ImageClassifier(convolutional(), resolution=16, input_size=16, label_names="abcde")

    smoothed(made()).save(tmp_path / "one", classifier="python:m:made")
    path = tmp_path / "one" / "classifier.safetensors"
    form = json.loads(load_weights(path)[1]["form"])
    size = form["resize"]
    odd: list[Any] = [5, -1, 0, True, "x", [1], {}, {"size": [1, 1]}, 10**12, [[]]]
    if field == "resize":
        odd += [{**size, name: value} for name in size for value in (None, 10**12, [1], "x", {})]
        odd += [{**size, "more": 1}]
        odd.remove({**size, "scaled": None})
    texts = ODD_TEXTS if field is None else [json.dumps({**form, field: value}) for value in odd]
    for text in texts:
        with_metadata(path, form=text)
        with pytest.raises(WeightsError):
            SmoothedClassifier.load(list_all(tmp_path / "one"), classifier=made(), device="cpu")


@pytest.mark.parametrize("shape", [[1, 16, 16], [3, 8, 8]])
def test_a_shape_that_the_model_does_not_take(bundle: Path, shape: list[int]) -> None:
    change(bundle, shape=shape, resolution=shape[1])
    if shape[0] == 3:  # a convolutional network takes images of any size
        assert SmoothedClassifier.load(bundle, device="cpu").resolution == 8
        return
    with pytest.raises(DenoisedSmoothingError, match="is grey, but the classifier takes RGB"):
        SmoothedClassifier.load(bundle, device="cpu")


@pytest.mark.parametrize("engine", CONVERTED)
class TestConvertedModels:
    @pytest.fixture
    def converted(self, tmp_path: Path, engine: EngineName) -> Path:
        smoothed(residual(), None, engine).save(tmp_path / "one")
        return tmp_path / "one"

    def test_another_content(self, converted: Path) -> None:
        for path in sorted((converted / "model").iterdir()):
            whole = path.read_bytes()
            for content in (b"", b"x", bytes(100), whole[: len(whole) // 2]):
                path.write_bytes(content)
                with pytest.raises(WeightsError):
                    SmoothedClassifier.load(list_all(converted))
            path.write_bytes(whole)

    def test_another_shape(self, converted: Path) -> None:
        for shape in ([1, 16, 16], [3, 8, 8]):
            change(converted, shape=shape, resolution=shape[1])
            with pytest.raises(WeightsError):
                SmoothedClassifier.load(converted)

    def test_links_and_more_files(self, converted: Path) -> None:
        model = converted / "model"
        for name in ("own.py", "cache.json", "model.onnx.dat"):
            (model / name).write_text("")
            with pytest.raises(WeightsError, match="does not list"):
                SmoothedClassifier.load(converted)
            with pytest.raises(WeightsError, match="must be the files that 'bundle' writes"):
                SmoothedClassifier.load(list_all(converted))
            (model / name).unlink()
            list_all(converted)
        assert SmoothedClassifier.load(converted).resolution == 16
        model.rename(converted.parent / "moved")
        model.symlink_to(converted.parent / "moved")
        with pytest.raises(WeightsError, match=r"model in .* must be a folder of its own"):
            SmoothedClassifier.load(converted)
        model.unlink()
        with pytest.raises(WeightsError, match="is missing from the bundle"):
            SmoothedClassifier.load(converted)

    def test_a_spec_of_code_is_a_name_only(self, converted: Path) -> None:
        change(converted, classifier="python:own:make")
        assert SmoothedClassifier.load(converted).resolution == 16
        shutil.rmtree(converted)


@ONNXRUNTIME
@pytest.mark.parametrize("location", ["secret", "../secret", "/etc/passwd", "model.onnx.data"])
def test_weights_outside_of_the_bundle(
    tmp_path: Path, location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx

    smoothed(residual(), None, EngineName.ONNXRUNTIME).save(tmp_path / "one")
    path = tmp_path / "one" / "model" / "model.onnx"
    model = onnx.load(path)
    tensor = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    (tmp_path / "secret").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    path.write_bytes(model.SerializeToString())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match="from its own files, got weights in the file"):
        SmoothedClassifier.load(list_all(tmp_path / "one"))


def test_a_record_may_not_list_a_file_twice(bundle: Path) -> None:
    text = json.dumps(record_of(bundle))
    (bundle / "bundle.json").write_text(text.replace('"files": {', '"files": {"a": 1, "a": 2, '))
    with pytest.raises(WeightsError, match="'a' is given more than once"):
        read_bundle(bundle)
    write(bundle, json.loads(text))
    assert read_bundle(bundle).sigma == 0.5
