"""What layers of a classifier compute, for stability towards features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from denoised_smoothing.errors import SettingError

SIZES = 3
"""Sizes of feature maps, from the smallest, of which one layer each is chosen."""


class Features:
    """What layers of a classifier compute.

    Args:
        classifier: a network, or an
            :class:`~denoised_smoothing.models.classifiers.base.ImageClassifier` of one.
        names: of its modules, whose outputs are tensors; none to choose by :func:`last_layers`
            at the first call.

    Raises:
        SettingError: it has no module of such a name.
    """

    def __init__(self, classifier: nn.Module, names: Sequence[str] = ()) -> None:
        self.classifier, self.outputs = classifier, dict[str, Tensor]()
        self._network: nn.Module = getattr(classifier, "network", classifier)
        self.names = list(names)
        self._watch()

    def _watch(self) -> None:
        modules = dict(self._network.named_modules())
        for name in self.names:
            if not name or name not in modules:
                known = ", ".join(name for name in modules if name and name.count(".") < 2)
                raise SettingError(
                    f"the classifier has no layer {name!r}. Name some of its layers: {known}."
                )
            modules[name].register_forward_hook(self._keep(name))

    def _keep(self, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self.outputs[name] = output.float()

        return keep

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Return the output of each layer [B, C, ...] for images [B, C, H, W] in [0, 1].

        Raises:
            SettingError: layers are to be chosen, and the classifier has no maps of several sizes.
        """
        if not self.names:
            self.names = last_layers(self._network, lambda: self.classifier(images[:1]))
            self._watch()
        self.classifier(images)
        return [self.outputs.pop(name) for name in self.names]


@torch.no_grad()
def last_layers(network: nn.Module, call: Callable[[], object]) -> list[str]:
    """Return the last layer of each of the :data:`SIZES` smallest sizes of feature maps.

    Layers are the children of the network; where one of them passes a size, its own children are
    layers too. For a ResNet these are the last stages, for an EfficientNet its last blocks.

    Args:
        network: whose layers are chosen.
        call: passes an image through it.

    Raises:
        SettingError: there are no maps of at least two sizes, as in a vision transformer.
    """
    heights: dict[str, int] = {}  # by name, in the order in which modules end

    def noted(name: str) -> Callable[..., None]:
        def note(module: nn.Module, inputs: Any, output: object) -> None:
            heights.pop(name, None)
            is_map = isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] > 1
            heights[name] = output.shape[2] if is_map else 0  # type: ignore[attr-defined]

        return note

    modules = dict(network.named_modules())
    hooks = [module.register_forward_hook(noted(name)) for name, module in modules.items()]
    try:
        call()
    finally:
        for hook in hooks:
            hook.remove()
    wanted = set(sorted(set(heights.values()) - {0})[:SIZES])
    if len(wanted) < 2:
        raise SettingError(
            "the classifier has no feature maps of several sizes to choose layers from. Name "
            f"some (--layers): {', '.join(name for name in modules if name.count('.') == 1)}."
        )
    layers, opened = [""], set[str]()
    while missing := wanted - {heights[name] for name in layers}:
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
        [name for name in layers if heights[name] == height][-1]
        for height in sorted(wanted, reverse=True)
    ]


def _is_within(name: str, layer: str) -> bool:
    return name != layer and (not layer or name.startswith(f"{layer}."))
