"""Images of one colour in the folders blue, green and red."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image


def paint(folder: Path) -> Path:
    """Write an RGB image of 8x8 pixels to each of the three class folders; return ``folder``."""
    for channel, name in enumerate(("red", "green", "blue")):
        pixels = np.zeros((8, 8, 3), np.uint8)
        pixels[..., channel] = 255
        (folder / name).mkdir(parents=True)
        PIL.Image.fromarray(pixels).save(folder / name / "0.png")
    return folder
