"""DnCNN: a plain residual convolutional denoiser."""

from __future__ import annotations

from torch import Tensor, nn

from denoised_smoothing.models.denoisers.base import DenoiserNetwork
from denoised_smoothing.models.protocols import Images, Sigma


class DnCNN(DenoiserNetwork):
    """Convolutions that predict the noise (Zhang et al. 2017, section III).

    The denoiser of Salman et al. 2020 has 17 layers of 64 channels, ``dncnn-wide`` has 128.

    Args:
        image_channels: channels C of the images.
        depth: number of convolutions, at least 3.
        width: channels between them.
    """

    def __init__(self, image_channels: int = 3, depth: int = 17, width: int = 64) -> None:
        super().__init__(image_channels=image_channels, depth=depth, width=width)
        layers: list[nn.Module] = [nn.Conv2d(image_channels, width, 3, padding=1), nn.ReLU(True)]
        for _ in range(depth - 2):
            layers += [
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(True),
            ]
        layers.append(nn.Conv2d(width, image_channels, 3, padding=1, bias=False))
        self.noise = nn.Sequential(*layers)
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, noisy: Images, sigma: Sigma) -> Images:
        """Subtract the predicted noise; sigma is not used."""
        noise: Tensor = self.noise(noisy)
        return noisy - noise
