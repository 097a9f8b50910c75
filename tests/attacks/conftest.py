from __future__ import annotations

import pytest

from denoised_smoothing.reporting.results import RunResults

from ..reporting.samples import image, results


@pytest.fixture
def four() -> RunResults:
    """Right at 0.5 and 0.25, wrong at 1.0, abstained."""
    return results(
        image(0, 1, 1, 0.5), image(1, 1, 1, 0.25), image(2, 0, 1, 1.0), image(3, 1, None, 0.0)
    )
