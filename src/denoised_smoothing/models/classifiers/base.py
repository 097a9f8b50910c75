"""A network with its preprocessing: images in [0, 1] to logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from denoised_smoothing.errors import SettingError, raised_as
from denoised_smoothing.models.classifiers.preprocessing import Resize


class ImageClassifier(nn.Module):
    """Resizes (optionally), normalises and classifies images [B, C, H, W] in [0, 1].

    All of it is part of the base classifier, after the noise, so that radii are in the pixels of
    the original image.

    Args:
        network: normalised images [B, C, H, W] to logits [B, K], or [B, 1] for two classes.
        mean, std: one number for each channel, to subtract and to divide by.
        label_names: K names, or None.
        resolution: height and width that the data set's images should have, or None.
        input_size: height and width to which images are resized here, a :class:`Resize`, or None
            to leave them.

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
        with raised_as(
            SettingError, f"mean and std must be numbers, got {mean} and {std}", "Correct them."
        ):
            mean, std = ([float(value) for value in values] for values in (mean, std))
        if len(mean) != len(std) or not all(value > 0 for value in std):
            raise SettingError(
                "mean and std must have one number for each channel, and std must be above 0, "
                f"got mean={tuple(mean)} and std={tuple(std)}. Correct them."
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
        """Height and width of the network's input, or None for those of the images."""
        return None if self.resize is None else self.resize.size

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Return the logits of images in [0, 1]; those of a network of one logit are 0 and it."""
        if self.resize is not None:
            images = self.resize(images)
        logits: Tensor = self.network((images - self.mean) / self.std)
        if logits.ndim == 2 and logits.shape[1] == 1:
            return torch.cat([torch.zeros_like(logits), logits], dim=1)
        return logits


def check_channels(channels: int, name: str) -> int:
    """Return the channels of a model's input if they are 1 or 3.

    Raises:
        SettingError: otherwise.
    """
    if channels not in (1, 3):
        raise SettingError(
            f"the input of a classifier must have 1 channel (grey) or 3 (RGB), got {channels} in "
            f"{name}. Wrap it in a function of such images: python:MODULE:FACTORY."
        )
    return channels


def for_channels(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Return a mean or std for each channel, given one for all or one for each of others.

    Their average stands for channels that they do not describe, as of a grey image for RGB.
    """
    if len(values) == channels:
        return tuple(values)
    return (sum(values) / len(values),) * channels
