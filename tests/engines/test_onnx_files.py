"""The files outside of an ONNX model, wherever it names them."""

from __future__ import annotations

import pytest

from denoised_smoothing.engines.onnx_files import external_files

onnx = pytest.importorskip("onnx")


def outside(location: str) -> object:
    tensor = onnx.TensorProto(name=location, data_type=1, dims=[1], data_location=1)
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    other = tensor.external_data.add()
    other.key, other.value = "offset", "0"
    return tensor


def test_they_are_found_in_every_message() -> None:
    helper = onnx.helper
    sparse = onnx.SparseTensorProto(values=outside("values"), indices=outside("indices"))
    inner = onnx.GraphProto(initializer=[outside("inner")])
    node = helper.make_node("If", [], ["y"])
    node.attribute.add(name="g", type=5, g=inner)
    node.attribute.add(name="gs", type=10, graphs=[onnx.GraphProto(initializer=[outside("list")])])
    node.attribute.add(name="t", type=4, t=outside("attribute"))
    node.attribute.add(name="ts", type=9, tensors=[outside("attributes")])
    node.attribute.add(name="s", type=11, sparse_tensor=sparse)
    deep = helper.make_node("Constant", [], ["z"])
    deep.attribute.add(name="value", type=4, t=outside("function"))
    function = onnx.FunctionProto(name="f", node=[deep])
    function.attribute_proto.add(name="value", type=4, t=outside("default"))
    training = onnx.TrainingInfoProto(
        initialization=onnx.GraphProto(initializer=[outside("first")]),
        algorithm=onnx.GraphProto(initializer=[outside("step")]),
    )
    graph = onnx.GraphProto(
        node=[node],
        initializer=[outside("../up"), onnx.TensorProto(name="in", raw_data=b"1234")],
        sparse_initializer=[onnx.SparseTensorProto(values=outside("sparse"))],
    )
    model = onnx.ModelProto(graph=graph, functions=[function], training_info=[training])
    assert external_files(model.SerializeToString()) == {
        "../up", "values", "indices", "inner", "list", "attribute", "attributes", "function",
        "default", "first", "step", "sparse",
    }  # fmt: skip


@pytest.mark.parametrize(
    "content", [b"x", b"\xff" * 20, b"\x3a\xff\xff\xff\xff\x0f", b"\x08", b"\x00\x00\x00\x00ORTM"]
)
def test_what_is_no_model_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="it is no ONNX model"):
        external_files(content)


def test_every_part_of_a_model_is_followed() -> None:
    """The table of messages names all fields of onnx that lead to a tensor."""
    from denoised_smoothing.engines.onnx_files import _PARTS

    kinds = {
        "ModelProto": "model", "TrainingInfoProto": "training", "GraphProto": "graph",
        "FunctionProto": "function", "NodeProto": "node", "AttributeProto": "attribute",
        "SparseTensorProto": "sparse", "TensorProto": "tensor",
    }  # fmt: skip
    for message, kind in kinds.items():
        fields = getattr(onnx, message).DESCRIPTOR.fields
        expected = {
            field.number: kinds[field.message_type.name]
            for field in fields
            if field.message_type is not None and field.message_type.name in kinds
        }
        if kind == "tensor":
            expected = {13: "entry"}
        assert _PARTS[kind] == expected
