from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest

from denoised_smoothing.errors import SettingError
from denoised_smoothing.training.config import (
    Objective,
    Target,
    TrainingConfig,
    Weighting,
)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sigma": 0.0}, r"sigma .*0\.0"),
        ({"sigma": math.nan}, "sigma .*nan"),
        ({"sigma_max": math.inf}, "sigma .*inf"),
        (
            {"sigma": 0.5, "sigma_max": 0.25},
            r"sigma_max must be at least sigma, got 0\.25 and 0\.5",
        ),
        (
            {"steps": 0},
            r"^steps must be at least 1 and finite, got 0\. Use 1 or more",
        ),
        ({"batch_size": 0}, "batch_size must be at least 1 and finite, got 0"),
        ({"epoch_steps": -1}, "epoch_steps must be at least 1 and finite, got -1"),
        ({"learning_rate": 0.0}, r"learning_rate must be above 0 and finite, got 0\.0"),
        ({"learning_rate": math.nan}, "learning_rate must be above 0 and finite, got nan"),
        ({"learning_rate": math.inf}, "learning_rate must be above 0 and finite, got inf"),
        ({"ema": 1.0}, r"ema must be in \[0, 1\), got 1\.0"),
        ({"ema": -0.1}, r"ema must be in \[0, 1\), got -0\.1"),
        ({"steps": 10, "mse_steps": 11}, r"in \[0, 10\], the number of steps, got 11"),
        ({"temperature": 0.0}, r"temperature must be above 0 and finite, got 0\.0"),
        ({"temperature": math.inf}, "temperature must be above 0 and finite, got inf"),
        ({"copies": 0}, "copies must be at least 1 and finite, got 0"),
        ({"anchor": -1.0}, r"anchor must be at least 0 and finite, got -1\.0"),
        (
            {"consistency": math.nan, "copies": 2},
            "consistency must be at least 0 and finite, got nan",
        ),
        ({"consistency": 1.0}, r"got copies=1\. Use at least 2"),
        ({"entropy": 1.0}, r"got copies=1\. Use at least 2"),
        ({"layers": "bn2"}, r"for target features, got target soft and layers 'bn2'\."),
        (
            {"target": Target.FEATURES, "layers": "bn2", "copies": 2, "consistency": 1.0},
            "are about answers, and target features has none",
        ),
        ({"mse_steps": -1}, r"in \[0, 8000\], the number of steps, got -1"),
    ],
)
def test_senseless_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        TrainingConfig(**settings)


def test_learning_rate_rises_in_a_line_and_falls_as_a_cosine() -> None:
    config = TrainingConfig(steps=8000, warmup=300)
    factors = [config.learning_rate_factor(step) for step in range(8000)]
    assert factors[0] == pytest.approx(1 / 300)
    assert factors[149] == pytest.approx(0.5)
    assert factors[299] == factors[300] == 1.0
    assert factors[300 + 7700 // 2] == pytest.approx(0.5)
    assert 0 < factors[-1] < 1e-6
    assert factors[300:] == sorted(factors[300:], reverse=True)
    assert config.learning_rate_factor(8000) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("steps", "warmup", "peak"), [(100, 300, 9), (5, 300, 0), (100, 0, 0)])
def test_warmup_takes_at_most_a_tenth(steps: int, warmup: int, peak: int) -> None:
    config = TrainingConfig(steps=steps, warmup=warmup)
    assert [config.learning_rate_factor(step) for step in range(steps)].index(1.0) == peak


@pytest.mark.parametrize(
    ("objective", "mse_steps", "first"),
    [
        (Objective.MSE, None, None),
        (Objective.STABILITY, None, 0),
        (Objective.HYBRID, None, 5),
        (Objective.HYBRID, 0, 0),
        (Objective.HYBRID, 3, 3),
        (Objective.HYBRID, 10, None),
    ],
)
def test_when_stability_begins(
    objective: Objective, mse_steps: int | None, first: int | None
) -> None:
    config = TrainingConfig(objective=objective, steps=10, mse_steps=mse_steps)
    uses = [config.uses_stability(step) for step in range(10)]
    assert uses == [first is not None and step >= first for step in range(10)]


def test_sigma_range() -> None:
    assert TrainingConfig(sigma=0.5).sigma_range == (0.5, 0.5)
    assert TrainingConfig(sigma=0.25, sigma_max=1.0).sigma_range == (0.25, 1.0)


def test_plain_values_say_it_all() -> None:
    config = TrainingConfig(
        objective=Objective.HYBRID,
        target=Target.LABEL,
        sigma_max=1.0,
        weighting=Weighting.VARIANCE,
    )
    plain = json.loads(json.dumps(config.to_dict()))
    enums = {
        "objective": Objective("hybrid"),
        "target": Target("label"),
        "weighting": Weighting("variance"),
    }
    again = {**plain, **enums}
    assert TrainingConfig(**again) == config


def test_every_setting_has_a_help_text() -> None:
    assert all(field.metadata["help"].endswith(".") for field in dataclasses.fields(TrainingConfig))
