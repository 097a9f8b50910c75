"""The attack on a classifier as it is, with the linear classifier whose boundary is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from denoised_smoothing.attacks.plain import fool
from denoised_smoothing.errors import SettingError
from denoised_smoothing.images import is_on_grid

from .samples import Labels, Linear, exact_radius, picture


def test_the_first_length_beyond_the_boundary_changes_the_answer() -> None:
    image = picture(0.3)
    boundary = exact_radius(image)
    fooled = fool(Linear(), image, (0.5 * boundary, 0.9 * boundary, 1.2 * boundary, 3 * boundary))
    assert fooled is not None
    assert (fooled.before, fooled.after) == (0, 1)
    assert boundary < fooled.distance < 1.2 * boundary
    assert fooled.distance == pytest.approx(np.linalg.norm(fooled.image - image), rel=1e-5)
    assert is_on_grid(fooled.image)
    with torch.no_grad():
        assert Linear()(torch.tensor(fooled.image[None])).argmax() == 1


def test_where_no_length_reaches_the_boundary_there_is_none() -> None:
    image = picture(0.3)
    assert fool(Linear(), image, (0.5 * exact_radius(image),)) is None


def test_bad_input_is_refused() -> None:
    with pytest.raises(SettingError, match="at least one L2 length, got none"):
        fool(Linear(), picture(0.3), ())
    with pytest.raises(SettingError, match="gradient"):
        fool(Labels(), picture(0.3), (0.5,))
