"""A network with all it needs between an image in [0, 1] and its logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from denoised_smoothing.errors import SettingError
from denoised_smoothing.models.classifiers.preprocessing import Resize


class ImageClassifier(nn.Module):
    """Normalises, resizes if asked to, and classifies: images [B, C, H, W] in [0, 1] to logits.

    All of it happens after the noise, as part of the base classifier, so that radii are in the
    pixels of the image that came in.

    Args:
        network: normalised images [B, C, H, W] to logits [B, K].
        mean, std: one number a channel, subtracted and divided by.
        label_names: K names, or None.
        resolution: height and width to which the data set should bring images, or None.
        input_size: height and width to which the images are brought, a :class:`Resize` that says
            how, or None for as they come.

    Raises:
        SettingError: mean and std differ in length, or a std is not above 0.
    """

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        label_names: Sequence[str] | None = None,
        resolution: int | None = None,
        input_size: int | Resize | None = None,
    ) -> None:
        super().__init__()
        if len(mean) != len(std) or not all(value > 0 for value in std):
            raise SettingError(
                f"mean and std need one number a channel and every std above 0, "
                f"got mean={tuple(mean)} and std={tuple(std)}"
            )
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(1, -1, 1, 1))
        self.label_names = None if label_names is None else tuple(label_names)
        self.resolution = resolution
        self.resize = Resize((input_size,) * 2) if isinstance(input_size, int) else input_size
        self.channels = len(mean)

    mean: Tensor
    std: Tensor

    @property
    def network_size(self) -> tuple[int, int] | None:
        """Height and width of what the network sees; None for those of the images."""
        return None if self.resize is None else self.resize.size

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Logits of images in [0, 1]."""
        if self.resize is not None:
            images = self.resize(images)
        logits: Tensor = self.network((images - self.mean) / self.std)
        return logits


def check_channels(channels: int, name: str) -> int:
    """The channels that a model takes, if images have so many.

    Raises:
        SettingError: they have 1 or 3.
    """
    if channels not in (1, 3):
        raise SettingError(
            f"{name} takes images of {channels} channels; images have 1 (grey) or 3 (RGB), so "
            "wrap it in a function that makes its input of these, as python:MODULE:FACTORY"
        )
    return channels
