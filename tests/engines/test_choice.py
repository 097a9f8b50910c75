"""Which engine is taken, why, and what is remembered of it."""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from denoised_smoothing.certificates.parameters import EngineName, Precision
from denoised_smoothing.engines import choice, converted
from denoised_smoothing.engines.choice import EngineChoice, choose_engine
from denoised_smoothing.engines.engine import Engine
from denoised_smoothing.engines.pipeline import Pipeline
from denoised_smoothing.engines.torch_engine import TorchEngine
from denoised_smoothing.errors import ClassifierError, MissingExtraError, SettingError
from denoised_smoothing.files import sha256_of
from denoised_smoothing.models.classifiers.base import ImageClassifier

from .samples import (
    INT8,
    ONNXRUNTIME,
    OPENVINO,
    SIGMA,
    Winding,
    convolutional,
    images,
    noisy,
    smoothed,
)

CPU = torch.device("cpu")
AUTO, FLOAT32 = EngineName.AUTO, Precision.FLOAT32


def choose(
    classifier: Any, engine: EngineName = AUTO, precision: Precision = FLOAT32, **options: Any
) -> EngineChoice:
    device = options.pop("device", CPU)
    pipeline = Pipeline(classifier, None, SIGMA, CPU)
    return choose_engine(
        pipeline, noisy, engine=engine, precision=precision, device=device, **options
    )


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with nothing in it."""
    monkeypatch.setenv("DENOISED_SMOOTHING_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "engines"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What was measured; openvino is the fastest, in batches of 100."""
    seen: list[tuple[str, int]] = []

    def throughput(engine: Engine, copies: Tensor, seconds: float) -> float:
        seen.append((engine.name, len(copies)))
        return (2.0 if engine.name == "openvino" else 1.0) + (len(copies) == 100)

    monkeypatch.setattr(choice, "throughput", throughput)
    return seen


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = convolutional()

    def forward(self, images: Tensor) -> Tensor:
        if torch.jit.is_tracing():
            raise RuntimeError("this cannot be traced")
        logits: Tensor = self.network(images)
        return logits


class Labels(nn.Module):
    """Labels from ``first`` on."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.network, self.first = convolutional(), first

    def forward(self, images: Tensor) -> Tensor:
        labels: Tensor = self.network(images).argmax(dim=1) + self.first
        return labels


@OPENVINO
def test_labels_that_an_engine_would_cut_to_32_bits_are_refused() -> None:
    assert choose(Labels(2**31 - 20), EngineName.OPENVINO).notes == ()
    with pytest.raises(ClassifierError, match=r"openvino computes labels in 32 .* --engine torch"):
        choose(Labels(2**40), EngineName.OPENVINO)


@OPENVINO
class TestAuto:
    def test_takes_the_fastest_and_measures_once(
        self, fresh: Path, measured: list[tuple[str, int]]
    ) -> None:
        for _ in range(2):
            chosen = choose(convolutional())
            assert (chosen.engine.name, chosen.forward) == ("openvino", 100)
            assert measured == [
                (name, size) for name in ("openvino", "torch") for size in (100, 200, 400)
            ]
        assert list(fresh.glob("*.json"))

    def test_measures_again_where_the_cache_cannot_be_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: list[tuple[str, int]]
    ) -> None:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("DENOISED_SMOOTHING_CACHE", str(tmp_path / "file" / "cache"))
        assert choose(convolutional()).engine.name == "openvino"
        assert choose(convolutional()).engine.name == "openvino"
        assert len(measured) == 12

    @pytest.mark.parametrize(
        ("classifier", "reason"),
        [
            (Winding, "openvino: its logits differ from torch's by more than 0.001"),
            (Untraceable, "not openvino: openvino cannot convert this pipeline .*\\. Use --engine"),
        ],
    )
    @pytest.mark.usefixtures("fresh", "measured")
    def test_falls_back_to_torch_and_says_why(
        self, classifier: Callable[[], nn.Module], reason: str
    ) -> None:
        chosen = choose(classifier())
        assert chosen.engine.name == "torch"
        [note] = chosen.notes
        assert re.search(reason, note), note
        assert choose(classifier()).notes == chosen.notes  # remembered as well

    def test_an_engine_of_that_name_is_not_replaced_by_another(self) -> None:
        loggers = logging.root.level, [*logging.root.filters], [*logging.root.handlers]
        with pytest.raises(ClassifierError, match=r"openvino cannot convert .*--engine torch"):
            choose(Untraceable(), EngineName.OPENVINO)
        assert (logging.root.level, logging.root.filters, logging.root.handlers) == loggers

    def test_a_plain_callable_runs_in_torch(self) -> None:
        chosen = choose(lambda images: images.flatten(1))
        assert chosen.engine.name == "torch"
        assert "is no torch module" in chosen.notes[0]
        with pytest.raises(ClassifierError, match=r"another callable. Use --engine torch"):
            choose(lambda images: images.flatten(1), EngineName.OPENVINO)


def test_without_a_faster_engine_it_is_torch_and_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, measured: list[tuple[str, int]]
) -> None:
    monkeypatch.setattr(choice, "find_spec", lambda name: None)
    chosen = choose(convolutional())
    assert (chosen.engine.name, chosen.forward) == ("torch", 200)
    assert "pip install 'denoised-smoothing[openvino]'" in chosen.notes[0]
    assert measured == []


@pytest.mark.parametrize(
    ("engine", "package", "extra"),
    [
        (EngineName.OPENVINO, "openvino", "openvino"),
        (EngineName.ONNXRUNTIME, "onnxruntime", "onnxruntime"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, engine: EngineName, package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"'{package}', .*denoised-smoothing\[{extra}"):
        choose(convolutional(), engine)


@pytest.mark.parametrize(
    ("engine", "precision", "message"),
    [
        (
            EngineName.TORCH,
            Precision.FLOAT16,
            "torch does not compute in float16 on cpu. Use bfloat16",
        ),
        (EngineName.TORCH, Precision.INT8, "torch does not compute in int8 on cpu. Use .*openvino"),
        (EngineName.OPENVINO, Precision.FLOAT16, "openvino does not compute in float16 on a CPU"),
        (
            EngineName.ONNXRUNTIME,
            Precision.INT8,
            "onnxruntime does not compute in int8 .* Use float32, or",
        ),
    ],
)
def test_a_precision_that_an_engine_has_not_is_refused(
    engine: EngineName, precision: Precision, message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        choose(convolutional(), engine, precision)


def test_what_is_converted_runs_on_a_cpu() -> None:
    pipeline = Pipeline(convolutional(), None, SIGMA, CPU)
    with pytest.raises(SettingError, match=r"runs on a CPU, got device meta. Use --engine torch"):
        choose_engine(
            pipeline, noisy, engine=EngineName.OPENVINO, device=torch.device("meta"), forward=4
        )


@OPENVINO
def test_bfloat16_where_the_processor_has_none_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """OpenVINO would compute in float32 there, and the certificate would name another."""
    import openvino

    class Without:
        def __init__(self, model: Any) -> None:
            self.model = model

        def get_property(self, name: str) -> Any:
            return openvino.Type.f32

    compiled = openvino.Core.compile_model
    monkeypatch.setattr(
        openvino.Core, "compile_model", lambda *args: Without(compiled(*args)), raising=True
    )
    with pytest.raises(SettingError, match="computes in f32 on this processor, not in bfloat16"):
        choose(convolutional(), EngineName.OPENVINO, Precision.BFLOAT16)


@OPENVINO
@pytest.mark.parametrize("package", ["denoised-smoothing", "openvino", "nncf"])
def test_another_version_of_a_package_measures_and_converts_again(
    package: str, fresh: Path, measured: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(convolutional())
    made = set(fresh.iterdir())
    measured.clear()
    version = choice._version
    monkeypatch.setattr(choice, "_version", lambda name: version(name) + (name == package) * ".1")
    choose(convolutional())
    assert measured
    assert len(set(fresh.iterdir()) - made) >= 1


def test_reduced_precision_is_told_how_often_labels_agree() -> None:
    chosen = choose(convolutional(), EngineName.TORCH, Precision.BFLOAT16)
    assert "torch in bfloat16 gives " in chosen.notes[0]
    assert chosen.engine.identity()["precision"] == "bfloat16"


class Small(TorchEngine):
    """A device that holds so many copies."""

    def __init__(self, holds: int) -> None:
        super().__init__(Pipeline(nn.Flatten(), None, SIGMA, CPU), CPU)
        self.holds = holds

    def answer(self, copies: Tensor) -> Tensor:
        if len(copies) > self.holds:
            raise torch.OutOfMemoryError("out of memory")
        return super().answer(copies)


def test_batches_are_made_for_what_the_network_sees() -> None:
    """An adapter that enlarges images fills the memory with large ones."""
    as_they_come, enlarged = (
        choose(ImageClassifier(convolutional(), input_size=side), EngineName.TORCH).forward
        for side in (None, 64)
    )
    assert as_they_come == 200  # of 16x16 pixels
    assert enlarged == 12


def test_an_attribute_called_resize_is_none_of_an_adapter() -> None:
    classifier = convolutional()
    classifier.__dict__["resize"] = nn.Upsample(scale_factor=2)  # not one of its layers
    assert choose(classifier, EngineName.TORCH).forward == 200


@OPENVINO
def test_an_engine_that_failed_is_tried_again(
    fresh: Path, measured: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk passes; what was chosen meanwhile must not stay."""

    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(converted.OpenVinoEngine, "convert", full)
        assert choose(convolutional()).engine.name == "torch"
    assert choose(convolutional()).engine.name == "openvino"


@OPENVINO
def test_what_no_fingerprint_sees_but_changes_the_answer_converts_again(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blind(held: Any) -> str:
        return "same" if not isinstance(held, tuple) else repr(held[3:])

    monkeypatch.setattr(choice, "fingerprint", blind)
    choose(convolutional(), EngineName.OPENVINO)
    choose(nn.Sequential(convolutional(), nn.Softmax(dim=1)), EngineName.OPENVINO)
    assert len(list(fresh.iterdir())) == 2


def negate(path: Path) -> None:
    """Change the sign of the floats in the middle half of a file."""
    content = bytearray(path.read_bytes())
    for place in range(len(content) // 16 * 4, len(content) * 3 // 4, 4):
        content[place + 3] ^= 0x80
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [negate, lambda path: os.truncate(path, 100), Path.unlink])
@pytest.mark.parametrize(
    ("engine", "file"),
    [
        pytest.param(EngineName.OPENVINO, "model.bin", marks=OPENVINO),
        pytest.param(EngineName.ONNXRUNTIME, "model.onnx", marks=ONNXRUNTIME),
    ],
)
def test_a_damaged_model_in_the_cache_changes_no_count(
    engine: EngineName, file: str, damage: Callable[[Path], None], fresh: Path
) -> None:
    def counts() -> Any:
        certified = smoothed(convolutional(), engine=engine).certify(images()[0], n=200, seed=0)
        return certified.selection.votes, certified.counts.votes

    intact = counts()
    [path] = fresh.glob(f"*/{file}")
    digest = sha256_of(path)
    damage(path)
    assert counts() == intact
    assert sha256_of(path) == digest


@OPENVINO
def test_an_edited_choice_is_measured_again(fresh: Path, measured: list[tuple[str, int]]) -> None:
    choose(convolutional())
    [path] = fresh.glob("*.json")
    path.write_text(path.read_text().replace('"forward": 100', '"forward": 0'))
    measured.clear()
    assert choose(convolutional()).forward == 100
    assert measured


@OPENVINO
@pytest.mark.usefixtures("fresh", "measured")
@pytest.mark.parametrize("engine", [AUTO, EngineName.OPENVINO])
def test_a_limit_of_the_cache_that_is_no_size_is_refused(
    engine: EngineName, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DENOISED_SMOOTHING_CACHE_LIMIT", "lots")
    with pytest.raises(SettingError, match=r"CACHE_LIMIT must be a size .* got 'lots'"):
        choose(convolutional(), engine)


@ONNXRUNTIME
def test_weights_in_an_external_file_are_those_that_were_checked(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a model of more than 1 GiB."""
    expected = choose(convolutional(), EngineName.ONNXRUNTIME).engine.answer(noisy(200))
    [inside] = fresh.iterdir()
    shutil.rmtree(inside)
    export = torch.onnx.export
    external = {"external_data": True}
    monkeypatch.setattr(
        torch.onnx, "export", lambda *args, **more: export(*args, **more | external)
    )
    for _ in range(2):
        engine = choose(convolutional(), EngineName.ONNXRUNTIME).engine
        assert (inside / "model.onnx.data").stat().st_size > 1000
        assert torch.equal(engine.answer(noisy(200)), expected)
        negate(inside / "model.onnx.data")


class TestFitting:
    def test_halves_until_it_fits(self) -> None:
        assert choice.largest_batch(Small(300), 1000, noisy) == 250

    def test_fewer_copies_are_noted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(choice, "TorchEngine", lambda pipeline, device: Small(300))
        chosen = choose(nn.Flatten(), EngineName.TORCH, device=torch.device("meta"))
        assert chosen.forward == 250
        assert chosen.notes == ("250 copies a forward pass: memory does not hold 4000",)

    def test_what_fits_stays(self) -> None:
        assert choice.largest_batch(Small(1000), 1000, noisy) == 1000

    def test_a_single_copy_that_does_not_fit_is_an_error(self) -> None:
        with pytest.raises(ClassifierError, match="does not hold the pipeline with a single copy"):
            choice.largest_batch(Small(0), 8, noisy)


@OPENVINO
def test_weights_changed_since_are_seen() -> None:
    classifier = convolutional()
    pipeline = smoothed(classifier, engine=EngineName.OPENVINO)
    before = pipeline.prepared.record(images()[0])
    label = pipeline.predict(images()[0], n=50, seed=0).label
    with torch.no_grad():
        classifier[-1].bias.zero_()
        classifier[-1].bias[(label or 0) - 1] = 1000.0
    assert pipeline.predict(images()[0], n=50, seed=0).label == ((label or 0) - 1) % 5
    assert pipeline.prepared.record(images()[0])["model_digest"] != before["model_digest"]


class TestInt8:
    def test_needs_calibration_images(self) -> None:
        pipeline = smoothed(convolutional(), None, AUTO, Precision.INT8, calibration=None)
        with pytest.raises(SettingError, match=r"calibration=images .*--calibration"):
            pipeline.certify(images()[0])

    def test_they_must_be_of_the_size_that_is_certified(self) -> None:
        pipeline = smoothed(
            convolutional(), None, AUTO, Precision.INT8, calibration=images(2, side=8)
        )
        with pytest.raises(SettingError, match=r"shape \[3, 8, 8\], those to certify \[3, 16, 16"):
            pipeline.certify(images()[0])

    @INT8
    def test_quantisation_is_deterministic(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        digests = set()
        for number in range(2):
            monkeypatch.setenv("DENOISED_SMOOTHING_CACHE", str(tmp_path / str(number)))
            pipeline = smoothed(convolutional(), None, EngineName.OPENVINO, Precision.INT8)
            digests.add(pipeline.prepared.record(images()[0])["model_digest"])
        assert len(digests) == 1
