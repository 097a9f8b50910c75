"""The output of an ONNX model that classifies: which one it is, what it means, its label names."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from denoised_smoothing.errors import ClassifierError, SettingError
from denoised_smoothing.models.classifiers.fine_tuned import class_names

_FLOATS = ("tensor(float)", "tensor(float16)", "tensor(double)")
_INTEGERS = tuple(f"tensor({sign}int{bits})" for sign in ("", "u") for bits in (8, 16, 32, 64))
_PASSED = ("Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten")
"""Operations that change no value."""


def _rank_of(output: Any) -> int | None:
    """Return how directly an output answers: 0 for logits, 3 for strings; None for no answer."""
    shape = list(output.shape or [])
    if output.type.startswith("seq(map("):
        return 1
    sides = shape[2:]
    if any(isinstance(side, int) and side != 1 for side in sides) or len(shape) > 4:
        return None
    if output.type in _FLOATS:
        return 0
    if len(shape) > 1 and shape[1] != 1:
        return None
    return 2 if output.type in _INTEGERS else 3 if output.type == "tensor(string)" else None


def choose(outputs: Sequence[Any], wanted: str | None, name: str) -> Any:
    """Return the output that is named, or the only one that can be the answer by its shape.

    Logits [N, K] or [N, K, 1, 1] come before maps of labels to probabilities, these before labels.

    Raises:
        SettingError: no output can be, or several can; names them.
    """
    listed = ", ".join(f"{item.name}: {item.type}{item.shape}" for item in outputs)
    if wanted is not None:
        for output in outputs:
            if output.name == wanted:
                return output
        names = " or ".join(item.name for item in outputs)
        raise SettingError(f"{name} has no output {wanted!r}. Use {names}.")
    ranks = [rank for item in outputs if (rank := _rank_of(item)) is not None]
    if not ranks:
        raise SettingError(
            f"an output of {name} must be logits [N, K] or labels [N], got {listed}. Export the "
            "model with its classifying layer."
        )
    best = [item for item in outputs if _rank_of(item) == min(ranks)]
    if len(best) > 1:
        raise SettingError(
            f"several outputs of {name} may be the answer: {listed}. Name the logits: "
            f"onnx:FILE?output={best[0].name}."
        )
    return best[0]


class Answer:
    """The meaning of an output: logits [N, K], or labels [N].

    One number for each image, [N] or [N, 1], is the probability of class 1 behind a sigmoid, and
    a logit against 0 otherwise. Integers are labels. Strings and the keys of maps are names.

    Args:
        model: the ONNX model, for its label names.
        output: the output that is chosen.
        given: K names instead of those of the file, or None.
        path: of the file, for messages.

    Raises:
        SpecError: the given names are more or fewer than the classes that the file states.
    """

    def __init__(
        self, model: Any, output: Any, given: Sequence[str] | None = None, path: str = "the model"
    ) -> None:
        self.name = source = str(output.name)
        nodes = {out: node for node in model.graph.node for out in node.output}
        while (node := nodes.get(source)) is not None and node.op_type in _PASSED:
            source = node.input[0]
        self.keys = None if node is None else _names_in(node)
        names = self.keys if self.keys is not None else _names_of(model)
        if self.keys is not None and given is not None and set(given) == set(self.keys):
            self.keys = tuple(given)  # the same names in another order
        self.is_probability = node is not None and node.op_type == "Sigmoid"
        self.is_label = node is not None and (
            node.op_type == "ArgMax" or (_classifies(node) and source == node.output[0])
        )
        classes = self._classes(output)
        self.label_names = names if given is None else tuple(given)
        if classes is not None:
            self.label_names = class_names(given, [names], classes, path)

    def decode(self, answer: Any) -> NDArray[Any]:
        """Return logits [N, K] or labels [N] of what ONNX Runtime returned.

        Raises:
            ClassifierError: a label has no name, or the names are more or fewer than the logits.
        """
        decoded = self._decoded(answer)
        names = self.label_names
        if names is not None and decoded.ndim == 2 and decoded.shape[1] != len(names):
            raise ClassifierError(
                f"The output {self.name} has {decoded.shape[1]} classes, but {len(names)} label "
                f"names ({', '.join(names[:3])}, ...). List one for each: onnx:FILE?labels=FILE."
            )
        return decoded

    def _classes(self, output: Any) -> int | None:
        """Return the number of classes that the file states, or None."""
        if self.keys is not None:
            return len(self.keys)
        if self.is_label or output.type not in _FLOATS or not output.shape:
            return None
        count = output.shape[1] if len(output.shape) > 1 else 1
        return max(count, 2) if isinstance(count, int) else None

    def _decoded(self, answer: Any) -> NDArray[Any]:
        if isinstance(answer, list):  # of maps, which ONNX Runtime sorts by their keys
            rows = [{str(key): value for key, value in row.items()} for row in answer]
            keys = self.keys or tuple(rows[0])
            return np.array([[row[key] for key in keys] for row in rows], np.float32)
        values = np.asarray(answer)
        if values.ndim > 2 and np.prod(values.shape[2:]) == 1:  # 1x1 features after a pooling
            values = values.reshape(values.shape[:2])
        if values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]
        if self.is_label and values.dtype.kind == "f":  # behind a Cast
            values = values.astype(np.int64)
        if values.dtype.kind in "OUS" or (self.is_label and self.keys is not None):
            return self._numbers(values.reshape(len(values)))
        if values.ndim == 1 and values.dtype.kind == "f":
            return np.stack([(1 - values) if self.is_probability else 0 * values, values], axis=1)
        return values

    def _numbers(self, labels: NDArray[Any]) -> NDArray[np.int64]:
        known = {name: number for number, name in enumerate(self.keys or self.label_names or ())}
        unnamed = sorted({str(label) for label in labels} - known.keys())
        if unnamed:
            raise ClassifierError(
                f"The output {self.name} is a label as text, and {unnamed[0]!r} is no known name. "
                "List all names: onnx:FILE?labels=FILE, or name the logits: onnx:FILE?output=NAME."
            )
        return np.array([known[str(label)] for label in labels], np.int64)


def _classifies(node: Any) -> bool:
    """Return whether the first output of a node is the label: a classifier of ai.onnx.ml."""
    return str(node.op_type).endswith("Classifier")


def _names_of(model: Any) -> tuple[str, ...] | None:
    """Return the label names that the nodes of a model, or its metadata, state once."""
    found = {names for node in model.graph.node if (names := _names_in(node))}
    if len(found) == 1:
        return found.pop()
    for entry in model.metadata_props:
        known = entry.key in ("names", "labels", "classes")  # Ultralytics writes a dictionary
        if known and (names := _names_written(entry.value)):
            return names
    return None


def _names_in(node: Any) -> tuple[str, ...] | None:
    """Return the label names that an operator of ai.onnx.ml lists, in the order of its classes."""
    lists = {item.name: item for item in node.attribute}
    if node.op_type == "LabelEncoder":
        keys = list(lists["keys_int64s"].ints) if "keys_int64s" in lists else []
        if "values_strings" not in lists or sorted(keys) != list(range(len(keys))):
            return None
        names = [name.decode() for name in lists["values_strings"].strings]
        return tuple(name for _, name in sorted(zip(keys, names, strict=True)))
    for key in ("classlabels_strings", "classlabels_int64s", "classlabels_ints"):
        if key in lists and (lists[key].strings or lists[key].ints):
            texts = tuple(name.decode() for name in lists[key].strings)
            numbers = tuple(lists[key].ints)
            return texts or (
                None if numbers == tuple(range(len(numbers))) else tuple(map(str, numbers))
            )
    return None


def _names_written(text: str) -> tuple[str, ...] | None:
    try:
        held = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    if isinstance(held, dict) and set(held) == set(range(len(held))):
        held = [held[number] for number in range(len(held))]
    is_list = isinstance(held, (list, tuple)) and len(held) > 1
    return tuple(held) if is_list and all(isinstance(name, str) for name in held) else None
