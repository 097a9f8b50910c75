"""Which answers are judged, what is said of the others, and the labels of those."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from denoised_smoothing.errors import ClassifierError
from denoised_smoothing.models.answers import check_answer, check_tensor, labels_of

INF, NAN = float("inf"), float("nan")
IMAGES = torch.zeros(4, 3, 2, 2)


@pytest.mark.parametrize(
    ("logits", "label"),
    [
        ((0.0, 2.0, 1.0), 1),
        ((2.0, 1.0, 2.0), 0),
        ((0.0, 0.0, 0.0), 0),
        ((-INF, -INF, -3.0), 2),
        ((-INF, INF, 0.0), 1),
        ((INF, -INF, -INF), 0),
        ((-INF, -INF, -INF), -1),
        ((INF, 0.0, INF), -1),
        ((INF, INF, INF), -1),
        ((NAN, 1.0, 2.0), -2),
        ((INF, NAN, INF), -2),
        ((NAN, NAN, NAN), -2),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_label_of_logits(logits: tuple[float, ...], label: int, dtype: torch.dtype) -> None:
    rows = torch.tensor([(0.0, 0.0, 9.0), logits], dtype=dtype)
    assert labels_of(rows).tolist() == [2, label]
    assert rows.tolist()[0] == [0.0, 0.0, 9.0]


def test_equal_logits_have_the_label_of_argmax() -> None:
    logits = torch.randint(0, 4, (2000, 7), generator=torch.Generator().manual_seed(0)).float()
    assert torch.equal(labels_of(logits), logits.argmax(dim=1))


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64])
def test_labels_are_kept_and_those_below_minus_one_cannot_be_used(dtype: torch.dtype) -> None:
    last = torch.iinfo(dtype).max
    answer = torch.tensor([0, last, -1, -2, -7], dtype=dtype)
    assert labels_of(answer).tolist() == [0, last, -1, -2, -2]


@pytest.mark.parametrize(
    "answer",
    [
        torch.zeros(4, 2, dtype=torch.float64),
        torch.zeros(4, 1000, dtype=torch.bfloat16),
        torch.zeros(4, dtype=torch.uint8),
        torch.zeros(4, dtype=torch.int64),
    ],
)
def test_logits_and_labels_are_an_answer(answer: Tensor) -> None:
    assert check_answer(answer, IMAGES) is answer


@pytest.mark.parametrize(
    ("answer", "remedy"),
    [
        (torch.zeros(4, 2, dtype=torch.complex64), r"real logits, such as answer\.abs\(\)"),
        (torch.zeros(4, dtype=torch.complex128), r"real logits, such as answer\.abs\(\)"),
        (torch.zeros(4, dtype=torch.bool), r"labels as answer\.long\(\)"),
        (torch.zeros(4, dtype=torch.uint64), r"labels as answer\.long\(\)"),
        (torch.zeros(4, 2, dtype=torch.bool), r"logits as answer\.float\(\), or one label"),
        (torch.zeros(4, 2, dtype=torch.int64), r"such as answer\[:, 0\]\.long\(\)"),
        (torch.zeros(4, 1, dtype=torch.int64), r"such as answer\[:, 0\]\.long\(\)"),
        (torch.zeros(4, 2).to(torch.float8_e4m3fn), r"logits as answer\.float\(\)"),
        (torch.zeros(4, 1), r"y = answer.flatten\(\), return torch.stack\(\[-y, y\], dim=1\)"),
        (torch.zeros(4), r"torch.stack\(\[1 - y, y\], dim=1\) if it is a probability"),
        (torch.zeros(4, 0), "one column per class"),
        (torch.zeros(4, 5, 1, 1), r"such as answer\.flatten\(1\)"),
        (torch.zeros(4, 5, 7, 7), r"such as answer\.mean\(dim=\(2, 3\)\)"),
        (torch.zeros(5, 3), "one row or one label per image"),
        (torch.zeros(3), "one row or one label per image"),
        (torch.tensor(1.0), "one row or one label per image"),
    ],
)
def test_other_tensors_are_refused_with_what_to_do(answer: Tensor, remedy: str) -> None:
    with pytest.raises(ClassifierError, match=remedy) as caught:
        check_answer(answer, IMAGES)
    assert str(caught.value).startswith(
        "The classifier answered images of shape [4, 3, 2, 2] with a tensor of shape "
        f"{list(answer.shape)} and {answer.dtype}, expected floating-point logits [4, K] of at "
        "least 2 classes or integer labels [4]. "
    )


def test_the_two_classes_of_one_output_are_an_answer() -> None:
    """The lines of the message, on a logit and on a probability of class 1."""
    y = torch.tensor([[-2.0], [3.0]]).flatten()
    for row in (torch.stack([-y, y], dim=1), torch.stack([1 - y.sigmoid(), y.sigmoid()], dim=1)):
        assert labels_of(check_answer(row, IMAGES[:2])).tolist() == [0, 1]


class ModelOutput(NamedTuple):
    logits: Tensor


LOGITS = torch.arange(8.0).reshape(4, 2)


@pytest.mark.parametrize(
    "answer",
    [
        ModelOutput(LOGITS),
        {"logits": LOGITS},
        {"loss": torch.zeros(()), "logits": LOGITS},
        (LOGITS,),
        (LOGITS, IMAGES),
        (torch.zeros(()), LOGITS, (IMAGES,)),
    ],
)
def test_logits_in_an_answer_that_holds_more(answer: Any) -> None:
    assert check_answer(answer, IMAGES) is LOGITS


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((IMAGES[:, :, 0, 0], IMAGES[:, :, 1, 1]), "with tuple, .* one of its 2 entries"),
        ({"out": IMAGES, "aux": IMAGES}, r"one entry of 'out', 'aux', such as .*\['out'\]"),
        ((IMAGES, None), r"with tuple, .* one of its 2 entries, such as classifier\(images\)\[0\]"),
        ([0, 1], "with list, expected a dense torch.Tensor"),
        (np.zeros((4, 2)), r"with ndarray, .* Return torch\.from_numpy\(answer\)"),
        (None, r"with NoneType, expected a dense torch.Tensor\. Return a torch.Tensor"),
        (
            torch.eye(4).to_sparse(),
            r"with Tensor, expected a dense .* such as answer\.to_dense\(\)",
        ),
        ({}, r"with dict, expected a dense torch.Tensor"),
    ],
)
def test_what_is_no_tensor_is_refused_with_what_to_do(answer: Any, message: str) -> None:
    with pytest.raises(ClassifierError, match=message):
        check_answer(answer, IMAGES)


def test_a_denoiser_that_gives_no_tensor_is_named() -> None:
    with pytest.raises(ClassifierError, match=r"The denoiser .* such as denoiser\(images\)\[0\]"):
        check_tensor((IMAGES,), "denoiser")
