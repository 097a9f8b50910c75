"""The fields of requests."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from denoised_smoothing.certificates.plans import Anytime
from denoised_smoothing.web.schemas import AttackRequest, CertificateRequest


def test_a_sigma_and_a_radius_may_be_fractions() -> None:
    values = {"example": "0", "sigma": "64/255", "plan": "anytime", "radii": ["32/255", 0.5, "0.1"]}
    request = CertificateRequest.model_validate(values)
    assert request.sigma == 64 / 255
    plan = request.sampling_plan()
    assert isinstance(plan, Anytime)
    assert plan.radii == (0.1, 32 / 255, 0.5)
    attack = {"example": "0", "label": 0, "epsilon": "8/255"}
    assert AttackRequest.model_validate(attack).epsilon == 8 / 255


@pytest.mark.parametrize("sigma", ["64/0", "x", "", "-1/2", "0/255", "nan", "1/0.0", [0.5], None])
def test_others_are_refused(sigma: object) -> None:
    values = {"example": "0", "label": 0, "epsilon": sigma}
    with pytest.raises(ValidationError, match="epsilon"):
        AttackRequest.model_validate(values)
