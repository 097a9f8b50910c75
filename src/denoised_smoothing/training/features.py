"""The outputs of layers of a classifier, for stability towards features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from denoised_smoothing.errors import SettingError

SIZES = 3
"""Sizes of feature maps, from the smallest, of which one layer each is chosen."""


class Features:
    """The outputs of some layers of a classifier.

    Args:
        classifier: a network, or an
            :class:`~denoised_smoothing.models.classifiers.base.ImageClassifier` of one.
        names: of its modules, whose outputs are tensors [B, C, ...]; none to choose by
            :func:`last_layers` at the first call.

    Raises:
        SettingError: it has no module of such a name.
    """

    def __init__(self, classifier: nn.Module, names: Sequence[str] = ()) -> None:
        self.classifier, self.names = classifier, list(dict.fromkeys(names))
        network = getattr(classifier, "network", classifier)
        self._modules = dict(
            (network if isinstance(network, nn.Module) else classifier).named_modules()
        )
        for name in self.names:
            if not name or name not in self._modules:
                raise SettingError(
                    f"the classifier has no layer {name!r}. Name some of its layers: "
                    f"{self._known()}."
                )

    def _known(self) -> str:
        return ", ".join(name for name in self._modules if name and name.count(".") < 2)

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Return the output of each layer [B, C, ...] for images [B, C, H, W] in [0, 1].

        Raises:
            SettingError: a layer computed no tensor; layers are to be chosen, and the classifier
                has no maps of several sizes.
        """
        if not self.names:
            self.names = last_layers(self._modules, lambda: self.classifier(images[:1]), images)
        outputs: dict[str, Tensor] = {}

        def keep(name: str, output: object) -> None:
            if isinstance(output, Tensor):
                outputs[name] = output.float()

        with _watched({name: self._modules[name] for name in self.names}, keep):
            self.classifier(images)
        for name in self.names:
            if name not in outputs:
                raise SettingError(
                    f"layer {name!r} computed no tensor when the classifier answered. Name other "
                    f"layers: {self._known()}."
                )
        return [outputs[name] for name in self.names]


@torch.no_grad()
def last_layers(
    modules: Mapping[str, nn.Module], call: Callable[[], object], images: Tensor
) -> list[str]:
    """Return the last layer of each of the :data:`SIZES` smallest sizes of feature maps.

    Layers are the children of the network; where one of them passes a size, its own children are
    layers too. For a ResNet these are the last stages, for an EfficientNet its last blocks. A map
    is an output [B, C, H, W] with the proportions of the images.

    Args:
        modules: of the network, by name, with itself as "".
        call: passes an image through it.
        images: like that image [B, C, H, W].

    Raises:
        SettingError: there are no maps of at least two sizes, as in a vision transformer.
    """
    heights: dict[str, int] = {}  # by name, in the order in which modules end

    def note(name: str, output: object) -> None:
        heights.pop(name, None)
        heights[name] = _height(output, *images.shape[2:])

    with _watched(modules, note):
        call()
    wanted = set(sorted(set(heights.values()) - {0})[:SIZES])
    if len(wanted) < 2:
        names = [name for name in modules if name and name.count(".") < 2]
        raise SettingError(
            "the classifier has no feature maps of several sizes to choose layers from. Name "
            f"layers (layers, --layers) with outputs [B, C, ...]: {', '.join(names)}."
        )
    layers, opened = [""], set[str]()
    while missing := wanted - {heights.get(name, 0) for name in layers}:
        passing = next(
            layer for layer in layers if layer not in opened
            and any(heights[name] in missing for name in heights if _is_within(name, layer))
        )  # fmt: skip
        inside = [name for name in heights if _is_within(name, passing)]
        children = [name for name in inside if not any(_is_within(name, up) for up in inside)]
        opened.add(passing)
        at = layers.index(passing)
        layers[at:at] = children
    return [
        [name for name in layers if heights.get(name, 0) == height][-1]
        for height in sorted(wanted, reverse=True)
    ]


def _height(output: object, height: int, width: int) -> int:
    """Return the height of a feature map of images of this size, 0 for any other output."""
    if not isinstance(output, Tensor) or output.ndim != 4:
        return 0
    found: int = output.shape[2]
    in_proportion = abs(found * width - output.shape[3] * height) < max(height, width)
    return found if 1 < found <= height and in_proportion else 0


@contextmanager
def _watched(
    modules: Mapping[str, nn.Module], seen: Callable[[str, object], None]
) -> Iterator[None]:
    """Pass the outputs of modules to ``seen`` for a time.

    Raises:
        SettingError: a module cannot be watched, such as one of TorchScript.
    """
    hooks = []

    def hook(name: str) -> Callable[[nn.Module, Any, object], None]:
        return lambda module, inputs, output: seen(name, output)

    try:
        for name, module in modules.items():
            try:
                hooks.append(module.register_forward_hook(hook(name)))
            except (RuntimeError, AttributeError) as error:
                raise SettingError(
                    "the outputs of the layers of this classifier cannot be read "
                    f"({type(module).__name__}: {error}). Use another target."
                ) from error
        yield
    finally:
        for added in hooks:
            added.remove()


def _is_within(name: str, layer: str) -> bool:
    return name != layer and (not layer or name.startswith(f"{layer}."))
