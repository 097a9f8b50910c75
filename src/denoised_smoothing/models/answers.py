"""A classifier's answer to a batch: whether it can be used, and the label of each image."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Int, Num
from torch import Tensor

from denoised_smoothing.errors import ClassifierError

NO_CLASS, UNUSABLE = -1, -2
"""The label of a vote for no class, and of an answer that must not be counted."""

_LOGITS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_LABELS = {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}


def labels_of(answer: Num[Tensor, "b ..."]) -> Int[Tensor, " b"]:
    """Return the label of each image, from logits [B, K] or labels [B].

    The label of logits is the first of the largest. Logits with NaN are :data:`UNUSABLE`, as are
    labels below -1. If several logits are the largest and infinite, none of them is larger than
    another: the copy votes for :data:`NO_CLASS`.
    """
    if answer.ndim == 1:
        return answer.long().clamp_min(UNUSABLE)
    labels = answer.max(dim=1).indices
    # Of each logit by itself: the largest one of a converted model hides NaN and infinity.
    tied = (answer == -torch.inf).all(dim=1) | ((answer == torch.inf).sum(dim=1) > 1)
    return labels.masked_fill(tied, NO_CLASS).masked_fill(answer.isnan().any(dim=1), UNUSABLE)


def logits_in(answer: object) -> object:
    """Return the logits in an answer that holds more; any other answer as it is.

    They are ``answer.logits`` (transformers), ``answer["logits"]``, or the only tensor of two
    axes in a tuple.
    """
    if isinstance(answer, Tensor):
        return answer
    held = [getattr(answer, "logits", None)]
    if isinstance(answer, Mapping):
        held.append(answer.get("logits"))
    found = [part for part in held if isinstance(part, Tensor)][:1]
    if isinstance(answer, tuple) and not found:
        found = [part for part in answer if isinstance(part, Tensor) and part.ndim == 2]
    return found[0] if len(found) == 1 else answer


def check_tensor(answer: object, role: str = "classifier") -> Tensor:
    """Return the answer of a classifier or denoiser if it is a dense tensor, or holds logits.

    Raises:
        ClassifierError: it is not; says how to get the tensor.
    """
    remedy = "Return a torch.Tensor."
    if role == "classifier":
        answer = logits_in(answer)
    if isinstance(answer, Tensor):
        if answer.layout is torch.strided and not answer.is_nested:
            return answer
        remedy = "Return a dense tensor, such as answer.to_dense()."
    elif isinstance(answer, Mapping):
        keys = ", ".join(map(repr, answer))
        remedy = f"Return one entry of {keys}, such as {role}(images)[{next(iter(answer), '')!r}]."
    elif isinstance(answer, (tuple, list)):
        remedy = f"Return one of its {len(answer)} entries, such as {role}(images)[0]."
    elif isinstance(answer, np.ndarray):
        remedy = "Return torch.from_numpy(answer)."
    raise ClassifierError(
        f"The {role} answered with {type(answer).__name__}, expected a dense torch.Tensor. {remedy}"
    )


def check_answer(answer: object, images: Tensor) -> Tensor:
    """Return the classifier's answer to images if it is logits [B, K] or labels [B].

    Raises:
        ClassifierError: it is not; says how to make it so.
    """
    answer = check_tensor(answer)
    if remedy := _remedy(answer, len(images)):
        raise ClassifierError(
            f"The classifier answered images of shape {list(images.shape)} with a tensor of shape "
            f"{list(answer.shape)} and {answer.dtype}, expected floating-point logits "
            f"[{len(images)}, K] of at least 2 classes or integer labels [{len(images)}]. {remedy}"
        )
    return answer


def _remedy(answer: Tensor, batch: int) -> str:
    """Return what to do about an answer that cannot be used, or an empty text."""
    dtype, (rows, *sides) = answer.dtype, answer.shape or (-1,)
    if rows != batch:
        return "Return one row or one label per image."
    if answer.is_complex():
        return "Return real logits, such as answer.abs() or answer.real."
    if len(sides) > 1:
        places = tuple(range(2, answer.ndim))
        pooled = "flatten(1)" if answer.shape[2:].numel() == 1 else f"mean(dim={places})"
        return f"Return one number per class, such as answer.{pooled}."
    if dtype in _LOGITS and sides in ([], [1]):
        return (
            "For two classes, with y = answer.flatten(), return torch.stack([-y, y], dim=1) if y "
            "is a logit, or torch.stack([1 - y, y], dim=1) if it is a probability. Return labels "
            "as answer.flatten().long()."
        )
    if sides == [0]:
        return "Return one column per class."
    if dtype in (_LOGITS if sides else _LABELS):
        return ""
    if not sides:
        return "Return labels as answer.long()."
    return "Return logits as answer.float(), or one label per image, such as answer[:, 0].long()."
