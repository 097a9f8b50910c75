"""onnx.py: layouts, batches, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from denoised_smoothing import SmoothedClassifier, load_classifier
from denoised_smoothing.errors import ClassifierError, SettingError, SpecError, WeightsError
from denoised_smoothing.models.classifiers.onnx import OnnxClassifier
from denoised_smoothing.models.fingerprints import fingerprint

from . import models

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")


def images(count: int = 5, side: int = 16) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def saved(path: Path, *shape: int | str, **more: Any) -> OnnxClassifier:
    models.save_onnx(path, shape, **more)
    return OnnxClassifier(path)


def test_a_fixed_batch_of_any_length_gives_the_same(tmp_path: Path) -> None:
    free = saved(tmp_path / "free.onnx", "n", 3, 16, 16)
    for batch in (1, 2, 3, 8):
        fixed = saved(tmp_path / f"{batch}.onnx", batch, 3, 16, 16)
        torch.testing.assert_close(fixed(images()), free(images()))
        assert (fixed.resolution, fixed.channels) == (16, 3)


def test_channels_may_come_last(tmp_path: Path) -> None:
    first = saved(tmp_path / "first.onnx", "n", 3, "h", "w")
    last = saved(tmp_path / "last.onnx", "n", "h", "w", 3)
    torch.testing.assert_close(last(images()), first(images()))
    assert (last.resolution, last.channels) == (None, 3)


def test_labels_serve_as_answers(tmp_path: Path) -> None:
    logits = saved(tmp_path / "logits.onnx", "n", 3, "h", "w")
    labels = saved(tmp_path / "labels.onnx", "n", 3, "h", "w", labels=True)
    assert labels(images()).dtype == torch.int64
    assert labels(images()).tolist() == logits(images()).argmax(dim=1).tolist()
    certificate = SmoothedClassifier(labels, 0.25).certify(torch.zeros(3, 16, 16), n0=10, n=100)
    assert certificate.counts.n == 100


def test_features_are_no_logits_unless_they_are_pooled(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    models.save_onnx(path)
    graph = onnx.load(path)
    for name in ("features", "pooled"):
        value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        graph.graph.output.append(value)
    onnx.save(graph, path)
    pooled, features = (OnnxClassifier(path, output=name) for name in ("pooled", "features"))
    assert pooled(images()).shape == (5, 8)
    with pytest.raises(ClassifierError, match=r"such as answer.mean\(dim=\(2, 3\)\)"):
        SmoothedClassifier(features, 0.25).certify(torch.zeros(3, 16, 16), n0=10, n=100)


def test_another_output_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    models.save_onnx(path)
    assert load_classifier(f"onnx:{path}?output=logits")(images()).shape == (5, 4)
    with pytest.raises(SettingError, match=r"has no output 'other'\. Use logits"):
        load_classifier(f"onnx:{path}?output=other")


def test_a_resolution_may_be_stated(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    models.save_onnx(path)
    assert load_classifier(f"onnx:{path}?resolution=24").resolution == 24  # type: ignore[attr-defined]


def test_the_fingerprint_is_that_of_file_and_preparation(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    models.save_onnx(path)
    plain = fingerprint(OnnxClassifier(path))
    assert fingerprint(OnnxClassifier(path)) == plain
    assert fingerprint(OnnxClassifier(path, mean=(0.5,))) != plain
    models.save_onnx(path, half=True)
    assert fingerprint(OnnxClassifier(path)) != plain


def test_the_fingerprint_sees_weights_in_a_file_of_their_own(tmp_path: Path) -> None:
    path, external = tmp_path / "a.onnx", tmp_path / "a.onnx.data"
    models.save_onnx(path)
    onnx.save(
        onnx.load(path), path, save_as_external_data=True, location=external.name, size_threshold=0
    )
    before = fingerprint(OnnxClassifier(path))
    held = bytearray(external.read_bytes())
    held[0] ^= 1
    external.write_bytes(held)
    assert fingerprint(OnnxClassifier(path)) != before


def constant(*, outside: bool) -> Any:
    """A node that gives the weights [3, 4], which are in the file ``w.bin`` or in the model."""
    return onnx.helper.make_node("Constant", [], ["w"], value=weights("w", outside=outside))


def weights(name: str, *, outside: bool = True) -> Any:
    tensor = onnx.numpy_helper.from_array(np.zeros((3, 4), np.float32), name)
    if outside:
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="w.bin")
    return tensor


def branches(node: Any, *initializers: Any) -> Any:
    """An If on ``yes`` whose branch that is taken gives the weights of this node."""
    value = onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [3, 4])
    taken = onnx.helper.make_graph([node], "taken", [], [value], initializers)
    other = onnx.helper.make_graph([constant(outside=False)], "other", [], [value])
    return onnx.helper.make_node("If", ["yes"], ["w"], then_branch=taken, else_branch=other)


def save_with_weights_outside(path: Path, place: str) -> None:
    """Save mean colours times weights, which are in ``w.bin`` and named at a place of the model."""
    helper, kinds, make = onnx.helper, onnx.TensorProto, onnx.helper.make_node
    values = [
        onnx.numpy_helper.from_array(np.array((2, 3)), "axes"),
        onnx.numpy_helper.from_array(np.array(True), "yes"),
    ]
    nodes = [
        make("ReduceMean", ["x", "axes"], ["colours"], keepdims=0),
        make("MatMul", ["colours", "w"], ["logits"]),
    ]
    if place == "initializer":
        values.append(weights("w"))
    else:
        node = {
            "constant": constant(outside=True),
            "branch": branches(constant(outside=True)),
            "initializer of a branch": branches(make("Identity", ["v"], ["w"]), weights("v")),
            "branch of a branch": branches(branches(constant(outside=True))),
            "function": make("Weights", [], ["w"], domain="own"),
        }[place]
        nodes.insert(0, node)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    function = helper.make_function(
        "own", "Weights", [], ["w"], [constant(outside=True)], opsets[:1]
    )
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", kinds.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("logits", kinds.FLOAT, ["n", 4])],
        values,
    )
    functions = [function] if place == "function" else []
    onnx.save(
        helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=9), path
    )


@pytest.mark.parametrize(
    "place",
    [
        *("initializer", "constant", "branch", "initializer of a branch", "branch of a branch"),
        "function",
    ],
)
def test_the_fingerprint_sees_weights_outside_wherever_they_are_named(
    place: str, tmp_path: Path
) -> None:
    path, fingerprints = tmp_path / "a.onnx", []
    save_with_weights_outside(path, place)
    for factor in (1, 2):
        np.full((3, 4), factor, np.float32).tofile(tmp_path / "w.bin")
        model = OnnxClassifier(path)
        logits = model(torch.full((1, 3, 16, 16), 0.5))
        torch.testing.assert_close(logits, torch.full((1, 4), 1.5 * factor))
        fingerprints.append(fingerprint(model))
    assert fingerprints[0] != fingerprints[1]


class TestRefused:
    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match=r"there is no ONNX file .*away\.onnx\. Check the"):
            load_classifier(f"onnx:{tmp_path}/away.onnx")

    def test_a_file_of_something_else(self, tmp_path: Path) -> None:
        (tmp_path / "a.onnx").write_bytes(b"no model")
        with pytest.raises(WeightsError, match="ONNX Runtime cannot run"):
            load_classifier(f"onnx:{tmp_path}/a.onnx")

    def test_other_channels(self, tmp_path: Path) -> None:
        models.save_onnx(tmp_path / "a.onnx", ("n", 5, 16, 16))
        with pytest.raises(SettingError, match=r"3 \(RGB\), got 5 in"):
            load_classifier(f"onnx:{tmp_path}/a.onnx")

    def test_one_fixed_side(self, tmp_path: Path) -> None:
        models.save_onnx(tmp_path / "a.onnx", ("n", 3, 16, "w"))
        with pytest.raises(SettingError, match="both sides of the input must be fixed or none"):
            load_classifier(f"onnx:{tmp_path}/a.onnx")

    def test_other_inputs(self, tmp_path: Path) -> None:
        from onnx import TensorProto, helper

        value = helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", 7])
        out = helper.make_tensor_value_info("out", TensorProto.INT64, ["n", 7])
        graph = helper.make_graph(
            [helper.make_node("Identity", ["ids"], ["out"])], "g", [value], [out]
        )
        opset = [helper.make_opsetid("", 17)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=9)
        (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(
            SettingError, match=r"must be one batch of float.*got ids: tensor\(int64\)"
        ):
            load_classifier(f"onnx:{tmp_path}/a.onnx")

    def test_impossible_preparations(self, tmp_path: Path) -> None:
        models.save_onnx(tmp_path / "a.onnx")
        with pytest.raises(SettingError, match=r"std and scale must be above 0, got std=\(0.0,\)"):
            load_classifier(f"onnx:{tmp_path}/a.onnx?std=0")
        with pytest.raises(SettingError, match="mean must be one number, or one for each of 3"):
            load_classifier(f"onnx:{tmp_path}/a.onnx?mean=0.1,0.2")
        with pytest.raises(SpecError, match="mean must be numbers such as"):
            load_classifier(f"onnx:{tmp_path}/a.onnx?mean=grey")
