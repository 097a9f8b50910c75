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
    certificate = SmoothedClassifier(labels, 0.25).certify(torch.zeros(3, 16, 16), n0=10, n=50)
    assert certificate.counts.n == 50


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


NAMES = ["cat", "dog", "fox", "owl"]
MATRIX = np.random.default_rng(0).normal(size=(3, 4)).astype("f4")


def save_wild(
    path: Path,
    nodes: list[Any],
    outputs: list[Any],
    *,
    kind: int = 1,
    shape: tuple[int | str, ...] = ("n", 3, 8, 8),
    matrix: np.ndarray[Any, Any] = MATRIX,
    metadata: dict[str, str] | None = None,
) -> str:
    """Save mean colours times a matrix as ``l``, then the nodes; return the spec."""
    helper, make, kinds = onnx.helper, onnx.helper.make_node, onnx.TensorProto
    axes = (1, 2) if shape[-1] == 3 else (2, 3)
    first = [
        make("Cast", ["x"], ["f"], to=kinds.FLOAT),
        make("ReduceMean", ["f", "axes"], ["colours"], keepdims=0),
        make("MatMul", ["colours", "matrix"], ["l"]),
    ]
    values = [
        onnx.numpy_helper.from_array(np.array(axes), "axes"),
        onnx.numpy_helper.from_array(matrix, "matrix"),
    ]
    graph = helper.make_graph(
        first + nodes, "g", [helper.make_tensor_value_info("x", kind, shape)], outputs, values
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    helper.set_model_props(model, metadata or {})
    onnx.save(model, path)
    return f"onnx:{path}"


def save_with_outputs(path: Path, kind: str) -> str:
    """Save a model with the outputs of exporters: a map, text, labels, names, or input of bytes."""
    make, helper = onnx.helper.make_node, onnx.helper
    first = [
        make("Softmax", ["l"], ["s"], axis=-1),
        make("ArgMax", ["s"], ["a"], axis=-1, keepdims=0),
        make("LabelEncoder", ["a"], ["t"], domain="ai.onnx.ml", keys_int64s=[0, 1, 2, 3],
             values_strings=NAMES),
        make("ZipMap", ["s"], ["z"], domain="ai.onnx.ml", classlabels_strings=NAMES),
    ]  # fmt: skip
    probability = helper.make_tensor_type_proto(1, [])
    maps = helper.make_sequence_type_proto(helper.make_map_type_proto(8, probability))
    text, logits = tensor("t", "n", kind=8), tensor("l", "n", 4)
    nodes, outputs, more = {
        "map": (first, [text, helper.make_value_info("z", maps)], {}),
        "text": (first[:3], [text], {}),
        "bytes": ([], [logits], {"kind": 2, "shape": ("n", 8, 8, 3)}),
        "labels": (first[:2], [tensor("a", "n", kind=7)], {}),
        "names": ([], [logits], {"metadata": {"names": repr(dict(enumerate(NAMES)))}}),
    }[kind]
    return save_wild(path, nodes, outputs, **more)


def tensor(name: str, *shape: int | str, kind: int = 1) -> Any:
    return onnx.helper.make_tensor_value_info(name, kind, shape)


def opened(spec: str) -> OnnxClassifier:
    classifier = load_classifier(spec)
    assert isinstance(classifier, OnnxClassifier)
    return classifier


def expected(batch: torch.Tensor, matrix: np.ndarray[Any, Any] = MATRIX) -> torch.Tensor:
    return batch.mean((2, 3)) @ torch.from_numpy(matrix)


def free_classes() -> tuple[list[Any], list[Any]]:
    """Nodes and output of logits whose number the file does not state."""
    every = onnx.numpy_helper.from_array(np.full(4, True))
    nodes = [
        onnx.helper.make_node("Constant", [], ["every"], value=every),
        onnx.helper.make_node("Compress", ["l", "every"], ["y"], axis=1),
    ]
    return nodes, [tensor("y", "n", "k")]


class TestOutputs:
    """Files as exporters write them."""

    def test_a_feature_map_before_the_logits_is_left_out(self, tmp_path: Path) -> None:
        outputs = [tensor("f", "n", 3, 8, 8), tensor("l", "n", 4)]
        classifier = opened(save_wild(tmp_path / "a.onnx", [], outputs))
        torch.testing.assert_close(classifier(images(5, 8)), expected(images(5, 8)))

    def test_several_candidates_are_asked_about(self, tmp_path: Path) -> None:
        outputs = [tensor("colours", "n", 3), tensor("l", "n", 4)]
        spec = save_wild(tmp_path / "a.onnx", [], outputs)
        with pytest.raises(SettingError, match=r"colours: tensor\(float\).*l: .*\?output=colours"):
            load_classifier(spec)
        torch.testing.assert_close(opened(f"{spec}?output=l")(images(5, 8)), expected(images(5, 8)))

    def test_a_feature_map_alone_is_refused(self, tmp_path: Path) -> None:
        spec = save_wild(tmp_path / "a.onnx", [], [tensor("f", "n", 3, 8, 8)])
        with pytest.raises(SettingError, match=r"must be logits \[N, K\] or labels \[N\], got f: "):
            load_classifier(spec)

    def test_bytes_with_channels_last(self, tmp_path: Path) -> None:
        shape = ("n", 8, 8, 3)
        spec = save_wild(tmp_path / "a.onnx", [], [tensor("l", "n", 4)], kind=2, shape=shape)
        batch = images(5, 8) * 1.5 - 0.25
        rounded = (batch * 255).round().clamp(0, 255)
        torch.testing.assert_close(opened(spec)(batch), expected(rounded), rtol=1e-4, atol=1e-3)
        with pytest.raises(SettingError, match="uint8 images normalises them itself, got mean="):
            load_classifier(f"{spec}?mean=0.5")

    def test_bgr_and_statistics_of_bytes(self, tmp_path: Path) -> None:
        spec = save_wild(tmp_path / "a.onnx", [], [tensor("l", "n", 4)])
        batch = images(5, 8)
        mean = torch.tensor([103.939, 116.779, 123.68]).reshape(1, 3, 1, 1)
        keras = opened(f"{spec}?channels=bgr&mean=103.939,116.779,123.68")(batch)
        wanted = expected(batch.flip(1) * 255 - mean)
        torch.testing.assert_close(keras, wanted, rtol=1e-4, atol=1e-3)
        stated = opened(f"{spec}?mean=127.5&std=127.5")(batch)
        torch.testing.assert_close(stated, expected(batch * 2 - 1), rtol=1e-4, atol=1e-5)
        kept = opened(f"{spec}?mean=2&scale=1")(batch)
        torch.testing.assert_close(kept, expected(batch - 2))
        with pytest.raises(SpecError, match="channels must be rgb or bgr, got 'gbr'"):
            load_classifier(f"{spec}?channels=gbr")

    @pytest.mark.parametrize("with_map", [True, False])
    def test_labels_as_text(self, with_map: bool, tmp_path: Path) -> None:
        make, domain = onnx.helper.make_node, "ai.onnx.ml"
        nodes = [
            make("Softmax", ["l"], ["s"], axis=-1),
            make("ArgMax", ["s"], ["a"], axis=-1, keepdims=0),
            make("LabelEncoder", ["a"], ["t"], domain=domain, keys_int64s=[0, 1, 2, 3],
                 values_strings=NAMES),
            make("ZipMap", ["s"], ["z"], domain=domain, classlabels_strings=NAMES),
        ]  # fmt: skip
        probability = onnx.helper.make_tensor_type_proto(1, [])
        kind = onnx.helper.make_sequence_type_proto(onnx.helper.make_map_type_proto(8, probability))
        outputs = [tensor("t", "n", kind=8), onnx.helper.make_value_info("z", kind)]
        classifier = opened(save_wild(tmp_path / "a.onnx", nodes, outputs[: 1 + with_map]))
        assert classifier.label_names == tuple(NAMES)
        answer, logits = classifier(images(5, 8)), expected(images(5, 8))
        if with_map:
            torch.testing.assert_close(answer, logits.softmax(1))
        else:
            assert answer.tolist() == logits.argmax(1).tolist()

    @pytest.mark.parametrize("shape", [("n", 1), ("n",)])
    @pytest.mark.parametrize("sigmoid", [True, False])
    def test_one_output_is_two_classes(
        self, shape: tuple[int | str, ...], sigmoid: bool, tmp_path: Path
    ) -> None:
        make, column = onnx.helper.make_node, MATRIX[:, :1].copy()
        nodes = [make("Sigmoid" if sigmoid else "Identity", ["l"], ["s"])]
        nodes.append(make("Squeeze" if len(shape) == 1 else "Identity", ["s"], ["y"]))
        spec = save_wild(tmp_path / "a.onnx", nodes, [tensor("y", *shape)], matrix=column)
        logit = expected(images(5, 8), column)
        one = logit.sigmoid()
        pair = [1 - one, one] if sigmoid else [0 * logit, logit]
        torch.testing.assert_close(opened(spec)(images(5, 8)), torch.cat(pair, 1))

    @pytest.mark.parametrize("keepdims", [0, 1])
    def test_labels_as_numbers(self, keepdims: int, tmp_path: Path) -> None:
        nodes = [onnx.helper.make_node("ArgMax", ["l"], ["a"], axis=1, keepdims=keepdims)]
        outputs = [tensor("a", *(("n", 1) if keepdims else ("n",)), kind=7)]
        classifier = opened(save_wild(tmp_path / "a.onnx", nodes, outputs))
        assert classifier(images(5, 8)).tolist() == expected(images(5, 8)).argmax(1).tolist()

    @pytest.mark.parametrize("shape", [("n", 3, 8, "w"), ("n", 3, "h", 8), ("n", "c", "h", "w")])
    def test_free_sides(self, shape: tuple[int | str, ...], tmp_path: Path) -> None:
        classifier = opened(save_wild(tmp_path / "a.onnx", [], [tensor("l", "n", 4)], shape=shape))
        torch.testing.assert_close(classifier(images(5, 8)), expected(images(5, 8)))
        assert classifier.resolution == (8 if 8 in shape else None)

    def test_names_in_the_metadata(self, tmp_path: Path) -> None:
        metadata = {"names": "{0: 'cat', 1: 'dog', 2: 'fox', 3: 'owl'}"}
        spec = save_wild(tmp_path / "a.onnx", [], [tensor("l", "n", 4)], metadata=metadata)
        assert opened(spec).label_names == tuple(NAMES)
        assert opened(f"{spec}?labels=a,b,c,d").label_names == ("a", "b", "c", "d")

    @pytest.mark.parametrize(
        ("classes", "names"),
        [
            ({"classlabels_strings": ["red", "green", "blue"]}, ("red", "green", "blue")),
            ({"classlabels_int64s": [20, 30, 10]}, ("20", "30", "10")),
            ({"classlabels_int64s": [0, 1, 2]}, None),
        ],
    )
    def test_maps_keep_the_classes_of_their_probabilities(
        self, classes: dict[str, Any], names: tuple[str, ...] | None, tmp_path: Path
    ) -> None:
        node = onnx.helper.make_node("ZipMap", ["l"], ["z"], domain="ai.onnx.ml", **classes)
        key = 8 if "classlabels_strings" in classes else 7
        value = onnx.helper.make_tensor_type_proto(1, [])
        kind = onnx.helper.make_sequence_type_proto(onnx.helper.make_map_type_proto(key, value))
        outputs = [onnx.helper.make_value_info("z", kind)]
        matrix = np.eye(3, dtype="f4")
        spec = save_wild(tmp_path / "a.onnx", [node], outputs, matrix=matrix)
        classifier, batch = opened(spec), images(5, 8)
        assert classifier.label_names == names
        torch.testing.assert_close(classifier(batch), expected(batch, matrix))
        if key == 8:
            turned = opened(f"{spec}?labels=blue,green,red")
            torch.testing.assert_close(turned(batch), expected(batch, matrix).flip(1))

    @pytest.mark.parametrize("shape", [("n",), ("n", 1)])
    def test_labels_as_floats(self, shape: tuple[int | str, ...], tmp_path: Path) -> None:
        make = onnx.helper.make_node
        nodes = [
            make("ArgMax", ["l"], ["a"], axis=1, keepdims=len(shape) - 1),
            make("Cast", ["a"], ["y"], to=onnx.TensorProto.FLOAT),
        ]
        matrix = np.eye(3, dtype="f4")
        spec = save_wild(tmp_path / "a.onnx", nodes, [tensor("y", *shape)], matrix=matrix)
        answer = opened(f"{spec}?labels=red,green,blue")(
            torch.eye(3)[..., None, None].expand(3, 3, 8, 8)
        )
        assert answer.dtype == torch.int64
        assert answer.tolist() == [0, 1, 2]

    @pytest.mark.parametrize("cast", [False, True])
    def test_numbers_of_classes_as_labels(self, cast: bool, tmp_path: Path) -> None:
        make, out = onnx.helper.make_node, "y" if cast else "a"
        nodes = [
            make("LinearClassifier", ["colours"], ["a", "s"], domain="ai.onnx.ml",
                 coefficients=np.eye(3).flatten().tolist(), intercepts=[0.0, 0.0, 0.0],
                 classlabels_ints=[20, 30, 10]),
            make("Cast", ["a"], ["y"], to=onnx.TensorProto.FLOAT),
        ]  # fmt: skip
        outputs = [tensor(out, "n", kind=1 if cast else 7)]
        classifier = opened(save_wild(tmp_path / "a.onnx", nodes, outputs))
        colours = torch.eye(3)[..., None, None].expand(3, 3, 8, 8)
        assert classifier(colours).tolist() == [0, 1, 2]
        assert classifier.label_names == ("20", "30", "10")

    @pytest.mark.parametrize("names", ["a,b,c", "a,b,c,d,e"])
    def test_names_of_another_number_are_refused(self, names: str, tmp_path: Path) -> None:
        spec = save_wild(tmp_path / "a.onnx", [], [tensor("l", "n", 4)])
        with pytest.raises(SpecError, match=r"one name for each of the 4 classes of .*, got"):
            load_classifier(f"{spec}?labels={names}")
        free = save_wild(tmp_path / "b.onnx", *free_classes())
        with pytest.raises(ClassifierError, match=r"y has 4 classes, but \d label names \(a, b"):
            opened(f"{free}?labels={names}")(images(1, 8))

    def test_names_of_another_number_in_the_metadata(self, tmp_path: Path) -> None:
        metadata = {"names": "['cat', 'dog', 'fox']"}
        spec = save_wild(tmp_path / "a.onnx", [], [tensor("l", "n", 4)], metadata=metadata)
        assert opened(spec).label_names is None
        free = save_wild(tmp_path / "b.onnx", *free_classes(), metadata=metadata)
        with pytest.raises(ClassifierError, match="4 classes, but 3 label names"):
            opened(free)(images(1, 8))

    def test_missing_weights_of_their_own_file_are_named(self, tmp_path: Path) -> None:
        save_with_weights_outside(tmp_path / "a.onnx", "initializer")
        with pytest.raises(WeightsError, match=r"keeps weights in the file .*w\.bin, which is not"):
            load_classifier(f"onnx:{tmp_path}/a.onnx")


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
            SettingError, match=r"must be one batch of float or uint8.*got ids: tensor\(int64\)"
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
