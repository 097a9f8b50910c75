"""What the fault suite shares."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "remote")]

SAMPLES = Path(__file__).parents[1] / "samples"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with twelve grey images, and the classifiers of ``toy.py``."""
    shutil.copy(SAMPLES / "toy.py", tmp_path)
    (tmp_path / "images").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8), np.uint8)
    for number, values in enumerate(pixels):
        PIL.Image.fromarray(values).save(tmp_path / f"images/{number:02}.png")
    return tmp_path
