"""Networks of known architectures with the classes and channels that their weights have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from denoised_smoothing.errors import SpecError
from denoised_smoothing.models.checkpoints import Checkpoint, by_own_names
from denoised_smoothing.models.weights import fill

RGB = 3


@dataclass(frozen=True)
class Fitted:
    """A network with the weights of a file.

    Args:
        network: images [B, channels, H, W] to logits [B, classes], or [B, 1] for two classes.
        classes: the number of classes.
        channels: the number of channels.
    """

    network: nn.Module
    classes: int
    channels: int


def fitted(
    build: Callable[[int, int], nn.Module], classes: int, checkpoint: Checkpoint, arch: str
) -> Fitted:
    """Return the network of the weights, as wide as they are.

    Args:
        build: the number of classes and of channels to a network.
        classes: the usual number of classes of the architecture.
        checkpoint: the weights.
        arch: the architecture, for messages.

    Raises:
        WeightsError: the weights are of another architecture.
    """
    network, channels = build(classes, RGB), RGB
    own = network.state_dict()
    tensors = by_own_names(own, checkpoint.tensors, checkpoint.path)
    sides = _side(own, tensors, 0, classes), _side(own, tensors, 1, channels)
    if sides != (classes, channels):
        classes, channels = sides
        network = build(classes, channels)
    fill(network, tensors, f"{checkpoint.path} (as {arch})")
    return Fitted(network, max(classes, 2), channels)


def _side(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], axis: int, usual: int) -> int:
    """Return the length of an axis where the weights differ from the usual one in it alone."""
    lengths = set()
    for name in own.keys() & tensors.keys():
        shape, usual_shape = list(tensors[name].shape), list(own[name].shape)
        if len(shape) == len(usual_shape) > axis and usual_shape[axis] == usual:
            length, usual_shape[axis] = shape[axis], shape[axis]
            if shape == usual_shape and length != usual:
                lengths.add(length)
    return lengths.pop() if len(lengths) == 1 else usual


def class_names(
    given: Sequence[str] | None, known: Sequence[Sequence[str] | None], classes: int, name: str
) -> tuple[str, ...] | None:
    """Return the names of the classes: those given, else the first known ones that fit, or None.

    Raises:
        SpecError: the given names are more or fewer than the classes.
    """
    if given is not None and len(given) != classes:
        raise SpecError(
            f"labels must be one name for each of the {classes} classes of {name}, got "
            f"{len(given)} ({', '.join(given[:3])}, ...). Correct labels=FILE."
        )
    fits = [names for names in known if names is not None and len(names) == classes]
    chosen = given if given is not None else next(iter(fits), None)
    return None if chosen is None else tuple(chosen)
