"""Classifiers that break the contract, or seem to: each answers with 3 logits or a label.

Label 1 is above, label 0 below the plane on which the mean of an image is MIDDLE, label 2 on it.
So a noisy copy of an image on the plane has neither label 0 nor 1 with probability 1/2.
"""

from __future__ import annotations

import threading
import warnings
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

MIDDLE = 128 / 255
LEVEL = 1 / 255


def judged(images: Tensor) -> Tensor:
    """Logits [B, 3]."""
    levels = (images / LEVEL).round().flatten(1).sum(1) - 128 * images[0].numel()
    return torch.stack([-levels, levels, 0.5 - levels.abs()], 1)


class Base(nn.Module):
    """The plane as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return judged(images)


class Attribute(Base):
    def forward(self, images: Tensor) -> Tensor:
        self.kept = images
        self.start(images).relu()
        return judged(self.kept)


class Stack(Base):
    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.kept.append(images)
        images.relu()
        return judged(self.kept.pop())


class Dictionary(Base):
    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, Tensor] = {}

    def forward(self, images: Tensor) -> Tensor:
        self.kept["images"] = images
        images.relu()
        return judged(self.kept["images"])


class Buffer(Base):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        self.kept = images.clone()
        images.relu()
        return judged(self.kept)


class Global(Base):
    def forward(self, images: Tensor) -> Tensor:
        global _kept
        _kept = images
        images.relu()
        return judged(_kept)


_kept = torch.zeros(0)


def closure() -> nn.Module:
    kept: list[Tensor] = [torch.zeros(0)]

    class Closure(Base):
        def forward(self, images: Tensor) -> Tensor:
            kept[0] = images
            images.relu()
            return judged(kept[0])

    return Closure()


def uneven() -> nn.Module:
    kept: list[Tensor] = [torch.zeros(0)]

    class Uneven(Base):
        def forward(self, images: Tensor) -> Tensor:
            turns = int(images.abs().sum() * 100) % 23
            while turns:
                turns -= 1
            kept[0] = images
            images.relu()
            return judged(kept[0])

    return Uneven()


class Locked(Base):
    """State behind a lock, which is right in threads."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Tensor] = []
        self.lock = threading.Lock()

    def forward(self, images: Tensor) -> Tensor:
        with self.lock:
            self.kept.append(images)
            images.relu()
            return judged(self.kept.pop())


class NumpyState(Base):
    """A global array, written and read without torch in between."""

    def forward(self, images: Tensor) -> Tensor:
        _numpy["kept"] = images.numpy()
        for _ in range(3):
            pass
        return judged(torch.from_numpy(_numpy["kept"]))


_numpy: dict[str, Any] = {}


class Holder:
    def __init__(self) -> None:
        self.inner = [deque([torch.zeros(1)], maxlen=1)]


class Nested(Base):
    def __init__(self) -> None:
        super().__init__()
        self.holder = Holder()

    def forward(self, images: Tensor) -> Tensor:
        self.holder.inner[0].append(images)
        return judged(self.holder.inner[0][0])


class Fifo(Base):
    """Each call finds its own value where two take turns."""

    def __init__(self, queue: Any = None) -> None:
        super().__init__()
        self.kept = deque() if queue is None else queue

    def forward(self, images: Tensor) -> Tensor:
        self.kept.append(images)
        images.relu()
        return judged(self.kept.popleft())


class QueueInC(Base):
    def __init__(self) -> None:
        super().__init__()
        self.kept: SimpleQueue[Tensor] = SimpleQueue()

    def forward(self, images: Tensor) -> Tensor:
        self.kept.put(images)
        images.relu()
        return judged(self.kept.get())


def closure_of_a_queue() -> nn.Module:
    kept: deque[Tensor] = deque()

    class Closure(Base):
        def forward(self, images: Tensor) -> Tensor:
            kept.append(images)
            images.relu()
            return judged(kept.popleft())

    return Closure()


class GlobalQueue(Base):
    def forward(self, images: Tensor) -> Tensor:
        _queue.append(images)
        images.relu()
        return judged(_queue.popleft())


_queue: deque[Tensor] = deque()


class LabelsWithState(Base):
    """Labels, equal ones for dark images."""

    def forward(self, images: Tensor) -> Tensor:
        self.kept = images
        self.start(images).relu()
        return (judged(self.kept)[:, 1] > 0).long()


def scripted() -> nn.Module:
    class Scripted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kept = torch.zeros(1)

        def forward(self, images: Tensor) -> Tensor:
            self.kept = images
            levels = (self.kept * 255).round().flatten(1).sum(1) - 128 * images[0].numel()
            return torch.stack([-levels, levels, 0.5 - levels.abs()], 1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TorchScript is no longer developed
        return torch.jit.script(Scripted())


class Counting(Base):
    calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return judged(images)


class Previous(Base):
    """The answer to the batch before."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: Tensor | None = None

    def forward(self, images: Tensor) -> Tensor:
        before, self.kept = self.kept, images
        return judged(images if before is None or before.shape != images.shape else before)


class BatchStatistics(Base):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1, track_running_stats=False)

    def forward(self, images: Tensor) -> Tensor:
        return judged(MIDDLE + self.norm(images))


class TrainingMode(Base):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)

    def forward(self, images: Tensor) -> Tensor:
        self.norm.train()
        return judged(MIDDLE + self.norm(images))


class LessTheMean(Base):
    def forward(self, images: Tensor) -> Tensor:
        return judged(images - images.mean(0) + MIDDLE)


class Masked(Base):
    """The mean of the batch, and a class that is never chosen."""

    def forward(self, images: Tensor) -> Tensor:
        mean = (images.mean() - MIDDLE).expand(len(images))
        return torch.stack([-mean, mean, torch.full_like(mean, -1e9)], 1)


class Huge(Base):
    """The mean of the batch, and some copies with a huge logit."""

    def forward(self, images: Tensor) -> Tensor:
        logits = judged(images - images.mean(0) + MIDDLE)
        huge = images.flatten(1)[:, 0] > images.flatten(1)[:, 1]
        return logits + 1e9 * torch.stack([huge, huge.logical_not() & False, huge & False], 1)


class LabelsOfTheMean(Base):
    def forward(self, images: Tensor) -> Tensor:
        return (judged(images - images.mean() + MIDDLE)[:, 1] > 0).long()


class PaddingOfLabels(Base):
    """Labels, all 0 where the batch holds an image of zeros."""

    def forward(self, images: Tensor) -> Tensor:
        padded = (images == 0).flatten(1).all(1).any()
        return (images.flatten(1)[:, 0] > -9).long() * (not bool(padded))


class Sorted(Base):
    def forward(self, images: Tensor) -> Tensor:
        return judged(images).sort(0).values


class Rank(Base):
    def forward(self, images: Tensor) -> Tensor:
        place = images.flatten(1).sum(1).argsort().argsort()
        return functional.one_hot(place * 2 // len(images), 3).float()


class SignOfTheBatch(Base):
    def forward(self, images: Tensor) -> Tensor:
        return judged(images.mean(0, keepdim=True)).expand(len(images), 3)


class Padding(Base):
    def forward(self, images: Tensor) -> Tensor:
        padded = (images == 0).flatten(1).all(1).any()
        return judged(images).roll(int(padded), 1)


class Position(Base):
    def forward(self, images: Tensor) -> Tensor:
        return judged(images) * (torch.arange(len(images)) % 2 * 2 - 1)[:, None]


class Dropout(Base):
    def forward(self, images: Tensor) -> Tensor:
        return judged(functional.dropout(images, 0.5, training=True))


class RandomLabel(Base):
    def forward(self, images: Tensor) -> Tensor:
        return torch.randint(0, 3, (len(images),))


class Half(Base):
    """A network in half precision, whose logits are rounded."""

    def forward(self, images: Tensor) -> Tensor:
        return judged(images).half().float()


class ShiftOfTheBatch(Base):
    """Logits less the largest of the batch, which changes no label."""

    def forward(self, images: Tensor) -> Tensor:
        logits = judged(images)
        return logits - logits.max()


def alone(images: Tensor) -> Tensor:
    return judged(images)


class CallableWithState:
    def __call__(self, images: Tensor) -> Tensor:
        self.kept = images
        images.relu()
        return judged(self.kept)


class SharedCallable(CallableWithState):
    may_be_shared = True


def callable_of_the_batch(images: Tensor) -> Tensor:
    return judged(images - images.mean(0) + MIDDLE)


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "BatchNorm without running statistics": (BatchStatistics, r"'norm' \(BatchNorm2d\)"),
    "BatchNorm put into training mode": (TrainingMode, r"the module 'norm' \(BatchNorm2d\)"),
    "mean over the batch": (LessTheMean, "with copies of other images"),
    "sorting over the batch": (Sorted, "with copies of other images"),
    "rank in the batch": (Rank, "with copies of other images"),
    "sign of the whole batch": (SignOfTheBatch, "with copies of other images"),
    "mean of the batch next to a masked class": (Masked, "with copies of other images"),
    "mean of the batch next to huge logits": (Huge, "not a function of that copy"),
    "mean of the batch, with labels": (LabelsOfTheMean, "not a function of that copy"),
    "padding": (Padding, "with zeros in place of other copies"),
    "padding, with labels": (PaddingOfLabels, "with zeros in place of other copies"),
    "position in the batch": (Position, "in another order"),
    "answer to the batch before": (Previous, "were classified"),
    "dropout in evaluation mode": (Dropout, r"classified again.*stochastic=True"),
    "random labels": (RandomLabel, "classified again"),
    "callable with a mean over the batch": (lambda: callable_of_the_batch, "with copies of other"),
}
ONE_THREAD: dict[str, Callable[[], object]] = {
    "state in an attribute": Attribute,
    "state in a list": Stack,
    "state in a dictionary": Dictionary,
    "state in a buffer": Buffer,
    "state in a global": Global,
    "state in a closure": closure,
    "state after a loop of as many turns as the batch asks for": uneven,
    "state behind a lock": Locked,
    "state in numpy, between lines": NumpyState,
    "state in a deque of an object": Nested,
    "queue in an attribute": Fifo,
    "queue of an object in C": QueueInC,
    "queue in a closure": closure_of_a_queue,
    "queue in a global": GlobalQueue,
    "state in an attribute, with labels": LabelsWithState,
    "state in TorchScript": scripted,
    "counter of calls": Counting,
    "callable": lambda: alone,
    "callable with state": CallableWithState,
    "callable with state that says it may be shared": SharedCallable,
}
SHARED: dict[str, Callable[[], object]] = {
    "module": Base,
    "half precision": Half,
    "shift of all logits by the batch": ShiftOfTheBatch,
}
