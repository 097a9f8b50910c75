"""What is no label, in the answers of every vendor, by one rule."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from denoised_smoothing.remote.labels import AnswerRule
from denoised_smoothing.remote.vendors.aws import Rekognition
from denoised_smoothing.remote.vendors.azure import ImageAnalysis
from denoised_smoothing.remote.vendors.base import Vendor
from denoised_smoothing.remote.vendors.clarifai import Clarifai
from denoised_smoothing.remote.vendors.google import CloudVision
from denoised_smoothing.remote.vendors.http import HttpEndpoint
from denoised_smoothing.remote.vendors.kserve import KServe

Labels = list[tuple[Any, Any]]
URL = "http://localhost:1/v2/models/m"
# A vendor, and its answer with these labels and scores.
VENDORS: dict[str, tuple[Callable[[], Vendor], Callable[[Labels], Any]]] = {
    "aws": (
        Rekognition,
        lambda labels: {"Labels": [{"Name": name, "Confidence": score} for name, score in labels]},
    ),
    "google": (
        CloudVision,
        lambda labels: {
            "responses": [
                {"label_annotations": [{"description": n, "score": score} for n, score in labels]}
            ]
        },
    ),
    "azure": (
        ImageAnalysis,
        lambda labels: {
            "modelVersion": "1",
            "tagsResult": {"values": [{"name": n, "confidence": score} for n, score in labels]},
        },
    ),
    "clarifai": (
        lambda: Clarifai("m"),
        lambda labels: {
            "outputs": [
                {
                    "data": {"concepts": [{"name": n, "value": score} for n, score in labels]},
                    "model": {},
                }
            ]
        },
    ),
    "http": (
        lambda: HttpEndpoint(URL, "found"),
        lambda labels: {"found": [{"label": name, "score": score} for name, score in labels]},
    ),
}
NAMES = (
    float("nan"),
    True,
    False,
    7,
    -1,
    0.5,
    None,
    "",
    "  ",
    "-1",
    "NaN",
    "cat \ud83d",
    ["cat"],
    {},
)
SCORES = (float("nan"), True, None, "0.9", "", [], {})


@pytest.fixture(params=VENDORS)
def label_of(request: pytest.FixtureRequest) -> Callable[[Labels], str | None]:
    make, answer = VENDORS[request.param]
    vendor = make()
    return lambda labels: AnswerRule().label(
        vendor.reply(json.loads(json.dumps(answer(labels)))).scored
    )


def test_only_text_is_a_label(label_of: Callable[[Labels], str | None]) -> None:
    assert label_of([("Cat", 0.9), ("dog", 0.8)]) == "cat"
    for name in NAMES:
        assert label_of([(name, 0.9)]) is None, name
        assert label_of([(name, 0.9), ("dog", 0.8)]) == "dog", name


def test_without_numbers_as_scores_there_is_no_order(
    label_of: Callable[[Labels], str | None],
) -> None:
    assert label_of([("cat", 1), ("dog", float("-inf"))]) == "cat"
    for score in SCORES:
        assert label_of([("cat", score)]) is None, score
        assert label_of([("cat", 0.9), ("dog", score)]) is None, score


@pytest.mark.parametrize("name", [name for name in NAMES if not isinstance(name, (list, dict))])
def test_a_label_alone(name: Any) -> None:
    vendor = HttpEndpoint(URL, "label")
    assert AnswerRule().label(vendor.reply({"label": name}).scored) is None
    assert AnswerRule().label(vendor.reply({"label": "7"}).scored) == "7"  # text may name a digit


@pytest.mark.parametrize(
    ("kind", "data", "label"),
    [
        ("FP32", [0.1, 0.2, 0.9], "c"),
        ("FP32", [[0.1, 0.9, 0.2]], "b"),
        ("FP32", [float("nan"), 0.2, 0.9], None),
        ("FP32", [None, 0.2, 0.9], None),
        ("FP32", [0.1, "0.9", 0.2], None),
        ("FP32", [0.1, 0.2, 0.3, 0.9], "c"),  # the last has no name
        ("INT64", [2], "c"),
        ("INT64", [-1], None),
        ("INT64", [7], None),
        ("INT64", [True], None),
        ("INT64", [None], None),
        ("INT64", [1.0], None),
        ("INT64", [], None),
        ("BYTES", ["Cat"], "cat"),
        ("BYTES", [""], None),
        ("BYTES", [1], None),
        ("BYTES", [None], None),
    ],
)
def test_tensors(kind: str, data: list[Any], label: str | None) -> None:
    output = {"name": "y", "datatype": kind, "shape": [1, len(data)], "data": data}
    reply = KServe(URL, ("a", "b", "c")).reply({"outputs": [output]})
    assert AnswerRule().label(reply.scored) == label


def test_a_tensor_of_too_many_values_is_not_read() -> None:
    output = {"name": "y", "datatype": "FP32", "shape": [1], "data": [0] * 100_000}
    assert KServe(URL).reply({"outputs": [output]}).scored
    output["data"] = [0] * 100_001
    with pytest.raises(ValueError, match="100,001 values, and at most 100,000"):
        KServe(URL).reply({"outputs": [output]})


def test_without_names_the_numbers_of_a_tensor_are_the_labels() -> None:
    output = {"name": "y", "datatype": "INT64", "shape": [1], "data": [7]}
    assert AnswerRule().label(KServe(URL).reply({"outputs": [output]}).scored) == "7"
