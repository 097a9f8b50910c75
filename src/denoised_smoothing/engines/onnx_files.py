"""The files outside of an ONNX model in which it keeps weights, without the package ``onnx``.

ONNX Runtime opens such a file by its name, relative to the working folder, if it is not given. The
names are therefore read before. The numbers below are those of ``onnx.proto3``.
"""

from __future__ import annotations

from collections.abc import Iterator

_PARTS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor",
        6: "graph",
        10: "tensor",
        11: "graph",
        22: "sparse",
        23: "sparse",
    },
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
"""By the kind of a message: the numbers of the fields that hold other messages, and their kinds."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10


def external_files(model: bytes) -> set[str]:
    """Return the names of the files in which an ONNX model keeps weights.

    Raises:
        ValueError: it is no ONNX model.
    """
    if model[4:8] == b"ORTM":  # another format, which ONNX Runtime reads as well
        raise ValueError("it is no ONNX model, but one in the format ORT")
    found, pending = set[str](), [("model", memoryview(model))]
    while pending:
        kind, message = pending.pop()
        for number, content in _fields(message):
            part = _PARTS[kind].get(number)
            if part == "entry":
                texts = {n: bytes(text).decode("utf-8", "replace") for n, text in _fields(content)}
                if texts.get(1) == "location":
                    found.add(texts.get(2, ""))
            elif part is not None:
                pending.append((part, content))
    return found


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield number and content of the fields of a protobuf message that have a length."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            _, at = _varint(message, at)
        elif kind == _BYTES:
            length, at = _varint(message, at)
            if at + length > len(message):
                raise ValueError("it is no ONNX model, or not complete")
            yield number, message[at : at + length]
            at += length
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"it is no ONNX model: a field has the unknown type {kind}")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Return the whole number at a place, and the place after it."""
    value = 0
    for index, byte in enumerate(message[at : at + _LONGEST_VARINT]):
        value |= (byte & 127) << (7 * index)
        if byte < 128:
            return value, at + index + 1
    raise ValueError("it is no ONNX model, or not complete")
