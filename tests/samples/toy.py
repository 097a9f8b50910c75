"""Classifiers of grey 8x8 images for commands under test, named as python:toy:FACTORY."""

from __future__ import annotations

import os
import signal
import time

import torch
from torch import Tensor, nn


class Toy(nn.Module):
    """Fixed random weights, scaled so that the labels of noisy copies are well mixed."""

    channels = 1
    label_names = tuple("abcdefghij")

    def __init__(self) -> None:
        super().__init__()
        weights = torch.randn(10, 64, generator=torch.Generator().manual_seed(0))
        self.weights = nn.Parameter(weights)

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weights.T


class Slow(Toy):
    """Takes 0.05 seconds a forward pass, notes each in a file, and sends itself a signal at one.

    The environment variables are TOY_LOG, TOY_SIGNAL and TOY_AT.
    """

    passes = 0

    def forward(self, images: Tensor) -> Tensor:
        if len(images) <= 16:  # the check of the contract
            return super().forward(images)
        with open(os.environ["TOY_LOG"], "a") as log:  # noqa: PTH123
            log.write(f"{len(images)}\n")
        self.passes += 1
        time.sleep(0.05)
        if self.passes == int(os.environ.get("TOY_AT", "0")):
            os.kill(os.getpid(), signal.Signals[os.environ["TOY_SIGNAL"]])
        return super().forward(images)


class Gated(Toy):
    """Goes on after 30 forward passes, which take a moment, when the file TOY_GATE is there."""

    passes = 0

    def forward(self, images: Tensor) -> Tensor:
        self.passes += 1
        time.sleep(0.05)
        while self.passes > 30 and not os.path.exists(os.environ["TOY_GATE"]):  # noqa: PTH110
            time.sleep(0.05)
        return super().forward(images)


class KilledOnce(Toy):
    """Kills its process in the third forward pass, but only one in all.

    Notes in the file TOY_LOG which processes answered.
    """

    passes = 0

    def forward(self, images: Tensor) -> Tensor:
        self.passes += 1
        with open(os.environ["TOY_LOG"], "a+") as log:  # noqa: PTH123
            log.seek(0)
            killed = "killed" in log.read()
            if self.passes == 3 and not killed:
                print("killed", file=log, flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
            print(os.getpid(), file=log)
        return super().forward(images)


class Hungry(Toy):
    """Gets no memory after 30 forward passes, until the file TOY_GATE is there."""

    passes = 0

    def forward(self, images: Tensor) -> Tensor:
        self.passes += len(images) > 16  # others check the contract
        if self.passes > 30 and not os.path.exists(os.environ["TOY_GATE"]):  # noqa: PTH110
            raise MemoryError("no memory for the batch")
        return super().forward(images)


class Large(Toy):
    """Has 100 MB of weights that change nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.ones(25_000_000))


class Colour(Toy):
    """Takes RGB images of 8x8 pixels."""

    channels = 3

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.mean(dim=1))


class Primary(nn.Module):
    """Tells red, green and blue images without an error: its logits are the mean channels."""

    channels = 3
    label_names: tuple[str, ...] | None = ("red", "green", "blue")

    def forward(self, images: Tensor) -> Tensor:
        return 20 * images.mean(dim=(2, 3))


class Unnamed(Primary):
    """The same without names of its labels."""

    label_names = None


class Undecided(Toy):
    """Answers with NaN."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * float("nan")


def labels(images: Tensor) -> Tensor:
    """A classifier that is a function, and no module."""
    return (images.mean(dim=(1, 2, 3)) > 0.3).long()


def black_box() -> object:
    return labels


def nothing() -> None:
    """A factory that returns nothing."""


def needs_an_import() -> object:
    """A factory that imports from its own folder when it is called."""
    import toy_helper

    return toy_helper.make()


number = 3
