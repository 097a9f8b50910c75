from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest

from denoised_smoothing.certificates.certificate import Certificate
from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.certificates.groups import Groups
from denoised_smoothing.certificates.parameters import Noise
from denoised_smoothing.certificates.plans import Anytime, FixedBudget, RadiusTarget
from denoised_smoothing.certificates.radii import round_down

from .samples import Votes, counts_of, setting_of, stages


def certify(
    selection: Votes,
    estimation: Votes,
    alpha: float = 0.001,
    sigma: float = 0.25,
    failed: int = 0,
    *,
    two_sided: bool = False,
) -> Certificate:
    counts = stages(selection, estimation, failed)
    plan = FixedBudget(sum(selection), sum(estimation) + failed, two_sided=two_sided)
    return plan.certificate(counts, setting_of(sigma, alpha))


def anytime(
    selection: Votes | None, estimation: Votes, later: Votes = (), **options: Any
) -> Certificate:
    counts = stages(selection, estimation)
    if later:
        counts[Stage.CONTINUATION] = counts_of(Stage.CONTINUATION, later, failed=2)
    return Anytime(max_n=1000, **options).certificate(counts, setting_of())


CERTIFICATES = {
    "certified": certify((1, 98, 1), (10, 985, 5)),
    "failed copies": certify((1, 98, 1), (10, 985, 5), alpha=0.05, sigma=0.3, failed=7),
    "abstains": certify((51, 49), (510, 490)),
    "two-sided": certify((40, 30, 30), (450, 275, 275), two_sided=True),
    "anytime": anytime((1, 49), (3, 297)),
    "anytime at its cap": anytime((1, 49), (100, 900)),
    "anytime, continued": anytime((1, 49), (100, 900), (20, 178), more=500),
    "anytime without selection": anytime(None, (3, 297), n0=0),
    "anytime without a call": anytime((), ()),
    "radius target": RadiusTarget(of_n=2_000, n0=100).certificate(
        stages(
            (0, 100), (0, RadiusTarget(of_n=2_000, n0=100).n(stages((0, 100), None), setting_of()))
        ),
        setting_of(),
    ),
}
CERTIFICATES["anytime, sets and groups"] = anytime(
    (1, 49),
    (3, 297),
    sets=(2, 3),
    groups=(Groups({"low": (0, 1)}), Groups({"all": range(8), "nine": (9,)}, "coarse")),
)
each_certificate = pytest.mark.parametrize(
    "certificate", CERTIFICATES.values(), ids=list(CERTIFICATES)
)


@each_certificate
def test_certificate_survives_json(certificate: Certificate) -> None:
    assert Certificate.from_json(certificate.to_json()) == certificate


@each_certificate
def test_json_has_radii_rounded_down_and_what_they_rest_on(certificate: Certificate) -> None:
    values = json.loads(certificate.to_json())
    for name in ("radius", "radius_l1", "radius_linf", "lower_bound"):
        exact = getattr(certificate, name)
        assert exact - 1e-6 < values[name] <= exact
        assert values[name] == round_down(exact, 6)
    assert values["label"] == certificate.label
    assert values["seed"] == str(certificate.seed) == "9223372036854775809"
    assert (values["sigma"], values["alpha"]) == (certificate.sigma, certificate.alpha)
    assert (values["noise"], certificate.noise) == ("float", Noise.FLOAT)
    assert (values["run"], values["image_id"], values["calls"]) == ("run", "7", certificate.calls)


def test_a_linf_radius_below_a_level_is_noted() -> None:
    """sigma 0.25, 3,072 values: the Linf radius is 0.00794; with sigma 0.1, 0.00317 < 1/255."""
    counts = stages((0, 10), (21, 979))
    plan = FixedBudget(10, 1000)
    parameters = dataclasses.replace(setting_of(sigma=0.1), notes=("A <note>.",))
    certificate = plan.certificate(counts, parameters)
    first, second = certificate.notes
    assert first == "A <note>."
    assert second.startswith("The Linf radius is below 1/255")
    assert "no other 8-bit image lies within it" in second
    assert "Linf 0.00317 < 1/255; " in str(certificate)
    assert str(certificate).endswith(")\nnote: A <note>.")
    assert "A &lt;note&gt;. The Linf radius is below" in certificate._repr_html_()
    assert certificate.to_dict()["notes"] == [first, second]
    assert Certificate.from_json(certificate.to_json()) == certificate
    assert plan.certificate(counts, setting_of(sigma=0.25)).notes == ()
    abstains = plan.certificate(stages((5, 5), (500, 500)), parameters)
    assert abstains.notes == ("A <note>.",)
    assert str(abstains).endswith("\nnote: A <note>.")


def test_text_and_html_round_down() -> None:
    """Radius 0.44056..., Linf 0.0079487..., bound 0.96098...: each would be rounded up."""
    certificate = certify((0, 10), (21, 979))
    assert str(certificate) == (
        "label 1 within L2 radius 0.4405 (L1 0.4405, Linf 0.00794; lower bound 0.9609 at "
        "alpha 0.001, sigma 0.25, 1,010 classifier calls, float noise (unproven), torch float32, "
        "unchecked classifier)"
    )
    html = dict(re.findall(r"<tr><th>([^<]*)</th><td>([^<]*)</td></tr>", certificate._repr_html_()))
    assert html == {
        "label": "1",
        "L2 radius": "0.4405",
        "L1 radius": "0.4405",
        "Linf radius": "0.00794",
        "lower bound": "0.9609",
        "sigma": "0.25",
        "alpha": "0.001",
        "classifier calls": "1,010",
        "noise": "float noise (unproven)",
        "engine": "torch float32",
        "base classifier": "unchecked classifier",
    }


def test_an_abstention_says_that_nothing_is_certified() -> None:
    certificate = CERTIFICATES["abstains"]
    assert str(certificate).startswith("abstains: nothing certified (lower bound 0.46")
    assert "<td>abstains</td>" in certificate._repr_html_()


def test_a_high_confidence_is_not_rounded_to_certainty() -> None:
    assert "at alpha 1e-08," in str(certify((9,), (100,), alpha=1e-8))


def test_json_has_the_stages_and_bounds_that_the_plan_has() -> None:
    assert {"upper_bound", "continuation"}.isdisjoint(CERTIFICATES["certified"].to_dict())
    two_sided = CERTIFICATES["two-sided"]
    assert two_sided.upper_bound is not None
    upper = two_sided.to_dict()["upper_bound"]
    assert two_sided.upper_bound <= upper < two_sided.upper_bound + 1e-6  # rounded up
    continued = CERTIFICATES["anytime, continued"]
    assert continued.to_dict()["continuation"] == {"counts": {"0": 20, "1": 178}, "failed": 2}
    assert continued.calls == 50 + 1000 + 200


def test_grid_noise_is_named() -> None:
    counts = stages((10,), (1000,))
    certificate = FixedBudget(10, 1000).certificate(counts, setting_of(noise=Noise.GRID))
    assert str(certificate).endswith(
        "1,010 classifier calls, grid noise, torch float32, unchecked classifier)"
    )
    assert certificate.to_dict()["noise"] == "grid"
    assert Certificate.from_json(certificate.to_json()) == certificate
