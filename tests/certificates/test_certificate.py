from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from denoised_smoothing.certificates.certificate import Certificate
from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.certificates.plans import FixedBudget, plan_from_dict
from denoised_smoothing.certificates.prediction import Prediction
from denoised_smoothing.certificates.radii import round_down
from denoised_smoothing.certificates.setting import Noise, Setting
from denoised_smoothing.errors import CountsError, SettingError

Votes = tuple[int, ...]
reproducible = settings(derandomize=True, deadline=None)


def counts_of(stage: Stage, votes: Votes, failed: int = 0) -> LabelCounts:
    return LabelCounts("run", "7", stage, votes, failed)


def setting_of(sigma: float = 0.25, alpha: float = 0.001) -> Setting:
    return Setting(sigma=sigma, alpha=alpha, dimension=3072, seed=2**63 + 1)


def certify(
    selection: Votes,
    estimation: Votes,
    alpha: float = 0.001,
    sigma: float = 0.25,
    failed: int = 0,
) -> Certificate:
    counts = {
        Stage.SELECTION: counts_of(Stage.SELECTION, selection),
        Stage.ESTIMATION: counts_of(Stage.ESTIMATION, estimation, failed),
    }
    plan = FixedBudget(n0=counts[Stage.SELECTION].n, n=counts[Stage.ESTIMATION].n)
    return plan.certificate(counts, setting_of(sigma, alpha))


def cohen_certify(
    selection: Votes, estimation: Votes, n: int, alpha: float, sigma: float
) -> tuple[int | None, float]:
    """CERTIFY of Cohen et al. 2019, figure 2, from the formulas alone."""
    candidate = int(np.argmax(selection))
    successes = estimation[candidate]
    lower = stats.beta.ppf(alpha, successes, n - successes + 1) if successes else 0.0
    if lower < 0.5:
        return None, 0.0
    return candidate, sigma * stats.norm.ppf(lower)


TABLE = [  # n0 and n are the sums; several are abstentions, ties or just on one side of 1/2
    ((100, 0), (10_000, 0)),
    ((0, 100), (0, 100_000)),
    ((3, 97, 0), (400, 9_590, 10)),
    ((51, 49), (5_100, 4_900)),
    ((51, 49), (5_155, 4_845)),
    ((51, 49), (5_154, 4_846)),
    ((50, 50), (9_000, 1_000)),
    ((49, 51), (9_000, 1_000)),
    ((0, 0, 1), (0, 0, 1)),
    ((0, 0, 1), (0, 0, 10)),
    ((0, 10, 0), (10, 0, 0)),
    ((40, 30, 30), (350, 325, 325)),
    ((10, 60, 20, 10), (70, 803, 90, 37)),
    ((1, 2, 3, 4, 5, 6, 7, 8, 9, 55), (0, 1, 0, 0, 2, 0, 0, 0, 0, 997)),
]


@pytest.mark.parametrize("alpha", [1e-6, 0.001, 0.05, 0.5])
@pytest.mark.parametrize(("selection", "estimation"), TABLE)
def test_label_and_radius_equal_those_of_cohen_et_al(
    selection: Votes, estimation: Votes, alpha: float
) -> None:
    certificate = certify(selection, estimation, alpha, sigma=0.5)
    label, radius = cohen_certify(selection, estimation, sum(estimation), alpha, 0.5)
    assert certificate.label == label
    assert certificate.radius == pytest.approx(radius, rel=0, abs=1e-9)
    assert certificate.calls == sum(selection) + sum(estimation)


@reproducible
@given(
    st.lists(st.integers(0, 60), min_size=4, max_size=4).filter(any),
    st.lists(st.integers(0, 900) | st.integers(9_000, 20_000), min_size=4, max_size=4).filter(any),
    st.integers(0, 50),
    st.floats(1e-6, 0.5),
)
def test_any_counts_give_the_certificate_of_cohen_et_al(
    selection: list[int], estimation: list[int], failed: int, alpha: float
) -> None:
    """Failed copies are to the algorithm what votes for one more class would be."""
    certificate = certify(tuple(selection), tuple(estimation), alpha, sigma=1.0, failed=failed)
    n = sum(estimation) + failed
    label, radius = cohen_certify(tuple(selection), tuple(estimation), n, alpha, 1.0)
    assert certificate.label == label
    assert certificate.radius == pytest.approx(radius, rel=0, abs=1e-9)


@pytest.mark.parametrize(
    ("successes", "n", "alpha", "lower", "radius_over_sigma"),
    [  # alpha ** (1 / n), or the summed binomial tail solved for p, at 40 digits
        (100, 100, 0.001, 0.93325430079699104, 1.5004750241206365),
        (1000, 1000, 0.001, 0.99311604842093377, 2.4632626147808088),
        (100_000, 100_000, 0.001, 0.99993092483300939, 3.8114565633899519),
        (990, 1000, 0.001, 0.97603618715531137, 1.9780095821411992),
        (80, 100, 0.05, 0.72279975032908635, 0.59117898877015895),
        (600, 1000, 0.01, 0.56311803164897528, 0.1588793419232853),
    ],
)
def test_certificate_known_values(
    successes: int, n: int, alpha: float, lower: float, radius_over_sigma: float
) -> None:
    certificate = certify((0, 10), (n - successes, successes), alpha, sigma=0.25)
    assert certificate.label == 1
    assert certificate.lower_bound == pytest.approx(lower, rel=0, abs=1e-12)
    assert certificate.radius == pytest.approx(0.25 * radius_over_sigma, rel=0, abs=1e-9)
    assert certificate.radius_l1 == certificate.radius
    assert certificate.radius_linf == pytest.approx(certificate.radius / math.sqrt(3072))


@reproducible
@given(st.integers(1, 500), st.integers(0, 100), st.integers(0, 20), st.integers(1, 20))
def test_a_failed_copy_never_raises_a_radius(
    votes: int, others: int, failed: int, more_failed: int
) -> None:
    radius = certify((0, 9), (others, votes), failed=failed).radius
    lost = min(votes, more_failed)
    assert certify((0, 9), (others, votes - lost), failed=failed + lost).radius <= radius
    lost = min(others, more_failed)
    assert certify((0, 9), (others - lost, votes), failed=failed + lost).radius == radius
    assert certify((0, 9), (others, votes), failed=failed + more_failed).radius <= radius


def test_failed_copies_can_cost_the_certificate() -> None:
    assert certify((9,), (600,)).label == 0
    assert certify((9,), (600,), failed=600).label is None


def test_without_any_label_in_the_selection_it_abstains() -> None:
    counts = {
        Stage.SELECTION: counts_of(Stage.SELECTION, (0, 0), failed=10),
        Stage.ESTIMATION: counts_of(Stage.ESTIMATION, (100, 0)),
    }
    certificate = FixedBudget(10, 100).certificate(counts, setting_of())
    assert (certificate.label, certificate.radius, certificate.lower_bound) == (None, 0.0, 0.0)


@pytest.mark.parametrize(("selection", "estimation"), [(9, 100), (11, 100), (10, 99), (10, 101)])
def test_a_fixed_budget_refuses_another_number_of_copies(selection: int, estimation: int) -> None:
    counts = {
        Stage.SELECTION: counts_of(Stage.SELECTION, (selection,)),
        Stage.ESTIMATION: counts_of(Stage.ESTIMATION, (estimation,)),
    }
    wrong = f"10 copies for selection .* from {selection}:"
    if selection == 10:
        wrong = f"100 copies for estimation .* from {estimation}:"
    with pytest.raises(CountsError, match=f"fixed budget of {wrong} .* fixed in advance"):
        FixedBudget(10, 100).certificate(counts, setting_of())


def test_a_fixed_budget_refuses_a_missing_stage() -> None:
    counts = {Stage.SELECTION: counts_of(Stage.SELECTION, (10,))}
    with pytest.raises(CountsError, match="100 copies for estimation cannot be certified from 0:"):
        FixedBudget(10, 100).certificate(counts, setting_of())


def test_a_fixed_budget_wants_all_its_copies_from_the_start() -> None:
    plan, selection = FixedBudget(10, 100), counts_of(Stage.SELECTION, (8,), failed=2)
    wanted = {Stage.SELECTION: 10, Stage.ESTIMATION: 100}
    assert plan.targets({}) == plan.targets({Stage.SELECTION: selection}) == wanted


def test_selection_and_estimation_must_be_independent_copies_of_one_image() -> None:
    plan = FixedBudget(10, 10)
    same = counts_of(Stage.SELECTION, (10,))
    with pytest.raises(CountsError, match="expected counts of selection and of estimation"):
        plan.certificate({Stage.SELECTION: same, Stage.ESTIMATION: same}, setting_of())
    other = LabelCounts("run", "another image", Stage.ESTIMATION, (10,))
    with pytest.raises(CountsError, match="must be of one image and run"):
        plan.certificate({Stage.SELECTION: same, Stage.ESTIMATION: other}, setting_of())


@pytest.mark.parametrize("value", [0, -1, 2.5, True, "100"])
@pytest.mark.parametrize("name", ["n0", "n"])
def test_an_impossible_budget_is_refused(name: str, value: object) -> None:
    message = f"^{name} is a number of noisy copies .* at least 1, got {value!r}"
    with pytest.raises(SettingError, match=message):
        FixedBudget(**{name: value})


def test_plans_survive_as_plain_values() -> None:
    plan = FixedBudget(17, 4_000)
    assert plan.to_dict() == {"kind": "fixed", "n0": 17, "n": 4_000}
    assert plan_from_dict(plan.to_dict()) == plan


@pytest.mark.parametrize(("values", "kind"), [({"kind": "psychic", "n": 1}, "psychic"), ({}, "")])
def test_an_unknown_plan_is_refused(values: dict[str, object], kind: str) -> None:
    message = f"unknown sampling plan '{kind}'; this version knows \\['fixed'\\]"
    with pytest.raises(SettingError, match=message):
        plan_from_dict(values)


@pytest.mark.parametrize(
    ("sigma", "alpha", "message"),
    [
        (0.0, 0.001, "sigma .* got 0.0"),
        (math.nan, 0.001, "sigma .* got nan"),
        (0.25, 0.0, "alpha .* got 0.0"),
        (0.25, 1.0, "alpha .* got 1.0"),
    ],
)
def test_a_setting_out_of_range_is_refused(sigma: float, alpha: float, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        setting_of(sigma, alpha)


CERTIFICATES = {
    "certified": certify((1, 98, 1), (10, 985, 5)),
    "failed copies": certify((1, 98, 1), (10, 985, 5), alpha=0.05, sigma=0.3, failed=7),
    "abstains": certify((51, 49), (510, 490)),
}
each_certificate = pytest.mark.parametrize(
    "certificate", CERTIFICATES.values(), ids=list(CERTIFICATES)
)


@each_certificate
def test_certificate_survives_json(certificate: Certificate) -> None:
    assert Certificate.from_json(certificate.to_json()) == certificate


def test_label_and_radius_are_derived_from_the_counts_in_the_json() -> None:
    values = CERTIFICATES["certified"].to_dict() | {"label": 2, "radius": 9.9}
    assert Certificate.from_json(json.dumps(values)) == CERTIFICATES["certified"]
    values["estimation"] = {"counts": [10, 984, 5], "failed": 0}
    with pytest.raises(CountsError, match=r"1000 copies for estimation .* from 999"):
        Certificate.from_json(json.dumps(values))


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


def test_text_and_html_round_down() -> None:
    """Radius 0.44056..., Linf 0.0079487..., bound 0.96098...: each would be rounded up."""
    certificate = certify((0, 10), (21, 979))
    assert str(certificate) == (
        "label 1 within L2 radius 0.4405 (L1 0.4405, Linf 0.00794; lower bound 0.9609 at "
        "alpha 0.001, sigma 0.25, 1,010 classifier calls, float noise)"
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
        "noise": "float",
    }


def test_an_abstention_says_that_nothing_is_certified() -> None:
    certificate = CERTIFICATES["abstains"]
    assert str(certificate).startswith("abstains: nothing certified (lower bound 0.46")
    assert "<td>abstains</td>" in certificate._repr_html_()


def test_a_high_confidence_is_not_rounded_to_certainty() -> None:
    assert "at alpha 1e-08," in str(certify((9,), (100,), alpha=1e-8))


def predict(votes: Votes, alpha: float = 0.001, failed: int = 0) -> Prediction:
    counts = counts_of(Stage.PREDICTION, votes, failed)
    return Prediction.from_counts(counts, setting_of(alpha=alpha))


@pytest.mark.parametrize("alpha", [1e-6, 0.001, 0.05])
@pytest.mark.parametrize(
    "votes",
    [(60, 40), (40, 60), (59, 41), (0, 10, 0), (500, 500), (70, 30, 30), (551, 449), (0, 3, 15)],
)
def test_predict_equals_the_test_of_hung_and_fithian(votes: Votes, alpha: float) -> None:
    second, first = sorted(votes)[-2:]
    p_value = stats.binomtest(first, first + second).pvalue
    prediction = predict(votes, alpha)
    assert prediction.p_value == pytest.approx(p_value, rel=1e-9)
    assert prediction.label == (None if p_value > alpha else votes.index(first))


@pytest.mark.parametrize(("votes", "failed"), [((), 0), ((0, 0), 5), ((7, 7), 0)])
def test_predict_abstains_without_a_winner(votes: Votes, failed: int) -> None:
    prediction = predict(votes, alpha=0.999, failed=failed)
    assert (prediction.label, prediction.p_value) == (None, 1.0)


def test_prediction_tells_what_it_rests_on() -> None:
    prediction = predict((0, 20), failed=3)
    assert prediction.to_dict() == {
        "label": 1,
        "p_value": 2 * 0.5**20,
        "sigma": 0.25,
        "alpha": 0.001,
        "calls": 23,
        "noise": "float",
        "seed": "9223372036854775809",
        "counts": [0, 20],
        "failed": 3,
    }
    assert str(prediction) == "label 1 (p-value 1.9e-06, 23 classifier calls)"
    assert str(predict((1, 1))) == "abstains (p-value 1, 2 classifier calls)"


@pytest.mark.parametrize("seed", [1.5, "1", True])
def test_a_seed_is_a_whole_number(seed: Any) -> None:
    with pytest.raises(SettingError, match=f"seed of the noise is a whole number, got {seed!r}"):
        Setting(0.25, 0.001, 3072, seed)


@pytest.mark.parametrize("value", ["0.1", None])
def test_alpha_and_sigma_are_numbers(value: Any) -> None:
    with pytest.raises(SettingError, match="alpha is the probability"):
        Setting(0.25, value, 3072, 0)
    with pytest.raises(SettingError, match="sigma is the standard deviation"):
        Setting(value, 0.001, 3072, 0)
