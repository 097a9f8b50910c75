from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.certificates.plans import Anytime, FixedBudget
from denoised_smoothing.certificates.top_k import (
    TopKCertificate,
    top_k_certificates,
    top_k_radius,
)
from denoised_smoothing.errors import SettingError

from .samples import counts_of, drive, setting_of, stages, streams_of

PHI, QUANTILE = stats.norm.cdf, stats.norm.ppf


def of_the_paper(p: float, uppers: Sequence[float], k: int) -> float:
    """Jia et al. 2020, Theorem 1 at sigma 1: lower bound p, an upper bound for each other label.

    Their sums are capped at 1 - p (section 3.3 of the paper).
    """
    smallest_first = sorted(sorted(uppers)[-k:])
    sums = [min(sum(smallest_first[:t]), 1 - p) for t in range(1, k + 1)]

    def margin(r: float) -> float:
        reached = [PHI(QUANTILE(u) + r) / t for t, u in enumerate(sums, start=1)]
        return float(PHI(QUANTILE(p) - r) - min(reached))

    return float(optimize.brentq(margin, 0.0, 10.0, xtol=1e-12)) if margin(0.0) > 0.0 else 0.0


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@given(
    shares=st.lists(st.floats(0.01, 1.0), min_size=6, max_size=12),
    lower=st.floats(0.5, 1.0),
    raised=st.floats(1.0, 1.5),
)
def test_the_radius_is_that_of_the_paper(
    k: int, shares: list[float], lower: float, raised: float
) -> None:
    label, *others = (share / sum(shares) for share in shares)
    p, uppers = label * lower, [min(share * raised, 0.99) for share in others]
    smallest_first = sorted(sorted(uppers)[-k:])
    sums = [min(sum(smallest_first[:t]), 1.0) for t in range(1, k + 1)]
    assert top_k_radius(1.0, 1 - p, sums) == pytest.approx(of_the_paper(p, uppers, k), abs=1e-6)


def test_a_radius_by_hand() -> None:
    """p = 0.4 against 0.3 and 0.1, k = 2: the second of two rivals, or both by halves."""
    first = (QUANTILE(0.4) - QUANTILE(0.1)) / 2
    assert top_k_radius(1.0, 0.6, (0.1, 1.0)) == pytest.approx(first, abs=1e-9)
    both = optimize.brentq(lambda r: PHI(QUANTILE(0.4) - r) - PHI(QUANTILE(0.4) + r) / 2, 0, 3)
    assert top_k_radius(1.0, 0.6, (1.0, 0.4)) == pytest.approx(both, abs=1e-9)
    assert top_k_radius(1.0, 0.6, (0.1, 0.4)) == pytest.approx(max(first, both), abs=1e-9)


def test_an_error_of_the_noise_counts_at_the_image_and_at_its_neighbour() -> None:
    e, p, u = 0.01, 0.4, (0.1, 0.35)

    def margin(r: float) -> float:
        reached = min((PHI(QUANTILE(bound + e) + r) + e) / t for t, bound in enumerate(u, start=1))
        return float(PHI(QUANTILE(p - e) - r) - e - reached)

    expected = optimize.brentq(margin, 0.0, 3.0)
    assert top_k_radius(0.5, 1 - p, u, e) == pytest.approx(expected / 2, abs=1e-9)


def fixed(votes: Sequence[int], failed: int = 0, n0: Sequence[int] = (40, 35, 20, 5)) -> list:
    plan = FixedBudget(n0=sum(n0), n=sum(votes) + failed)
    certificate = plan.certificate(stages(tuple(n0), tuple(votes), failed), setting_of(1.0))
    return list(top_k_certificates(certificate, (1, 3)))


def test_the_bounds_of_a_fixed_budget() -> None:
    one, three = fixed((450, 250, 200, 60, 30), failed=10)
    assert isinstance(three, TopKCertificate)
    assert (one.label, three.label, three.k, three.alpha) == (0, 0, 3, 0.0005)
    assert three.lower_bound == pytest.approx(stats.beta.ppf(0.00025, 450, 551))
    # Labels 1 and 2 may be ahead; then label 1 alone; then none. Failed copies vote for any.
    counts = [60 + 10, 200 + 60 + 10, 250 + 200 + 60 + 10]
    level = 0.00025 / 3
    uppers = [stats.beta.ppf(1 - level, count + 1, 1000 - count) for count in counts]
    assert three.upper_bounds == pytest.approx([min(u, 1 - three.lower_bound) for u in uppers])
    assert three.radius == pytest.approx(top_k_radius(1.0, 1 - three.lower_bound, uppers), abs=1e-6)
    assert three.radius > one.radius > 0.0
    assert three.to_dict()["radius"] <= three.radius


def test_it_beats_simultaneous_bounds_of_every_class() -> None:
    """The paper's SimuEM gives each of 1,000 classes alpha / 1,000."""
    votes = (4000, 3000, 1500, *[10] * 150)
    plan = FixedBudget(n0=100, n=10_000)
    certificate = plan.certificate(stages((40, 35, 25), votes), setting_of(1.0))
    [found] = top_k_certificates(certificate, (3,))
    each = 0.001 / 1000
    p = stats.beta.ppf(each, 4000, 6001)
    uppers = stats.beta.ppf(1 - each, np.array(votes[1:]) + 1, 10_000 - np.array(votes[1:]))
    assert found.radius > of_the_paper(p, list(uppers), 3) > 0.0


def test_few_labels_in_the_selection() -> None:
    """Only the label itself has votes there, so that any others may be rivals."""
    [one, three] = fixed((600, 250, 150), n0=(100,))
    counts = [250, 400, 400]
    level = 0.00025 / 3
    uppers = [stats.beta.ppf(1 - level, count + 1, 1000 - count) for count in counts]
    assert three.upper_bounds == pytest.approx([min(u, 1 - three.lower_bound) for u in uppers])
    assert one.certified


def test_without_votes_nothing_is_proven() -> None:
    plan = FixedBudget(n0=10, n=100)
    counts = {
        Stage.SELECTION: counts_of(Stage.SELECTION, (), 10),
        Stage.ESTIMATION: counts_of(Stage.ESTIMATION, ()),
    }
    [found] = top_k_certificates(plan.certificate(counts, setting_of()), (2,))
    assert (found.label, found.radius, found.certified) == (None, 0.0, False)


def test_a_plan_without_selection_is_refused() -> None:
    plan = Anytime((0.25,), max_n=100, n0=0)
    certificate = plan.certificate(stages(None, (60, 40)), setting_of())
    with pytest.raises(SettingError, match="--n0 50"):
        top_k_certificates(certificate, (2,))


@pytest.mark.parametrize("ks", [(2,), (2, 3)])
def test_the_exact_chance_that_a_bound_is_wrong(ks: tuple[int, ...]) -> None:
    """Summed over all counts of three labels, at probabilities on the edge of the bounds.

    Half of alpha is for label 0, a quarter for label 2, which is the only rival if label 1 may be
    ahead. The other quarter, for labels 1 and 2 together, is missed only where label 0 is.
    """
    n, alpha = 80, 0.05
    level = alpha / len(ks) / 2
    p0 = stats.beta.ppf(level, 36, n - 35) - 1e-9  # where 36 copies vote for label 0
    p2 = stats.beta.ppf(1 - level / 2, 25, n - 24) + 1e-9  # where 24 copies vote for label 2
    p = (p0, 1 - p0 - p2, p2)
    plan, setting = FixedBudget(n0=30, n=n), setting_of(1.0, alpha)
    truth = of_the_paper(p0, p[1:], 2)
    wrong = {"lower": 0.0, "upper": 0.0, "any": 0.0}
    for votes in ((a, b, n - a - b) for a in range(n + 1) for b in range(n + 1 - a)):
        certificate = plan.certificate(stages((15, 10, 5), votes), setting)
        found = top_k_certificates(certificate, ks)[0]
        chance = float(stats.multinomial.pmf(votes, n, p))
        wrong["lower"] += chance * (found.lower_bound > p0)
        one, both = found.upper_bounds
        wrong["upper"] += chance * (one < p2)
        if found.lower_bound > p0 or one < p2 or both < p[1] + p2:
            wrong["any"] += chance
        else:
            assert found.radius <= truth + 1e-9
    assert wrong["lower"] == pytest.approx(level, rel=1e-4)
    assert wrong["upper"] == pytest.approx(level / 2, rel=1e-4)
    assert 1.25 * level < wrong["any"] <= 1.5 * level


@pytest.mark.parametrize("ks", [(), (0,), (1.5,)])
def test_ks_must_be_whole_numbers(ks: tuple[int, ...]) -> None:
    plan = FixedBudget(n0=10, n=100)
    certificate = plan.certificate(stages((10,), (60, 40)), setting_of())
    with pytest.raises(SettingError, match="ks must be whole numbers of at least 1"):
        top_k_certificates(certificate, ks)


@pytest.mark.parametrize(
    "p",
    [(0.25, 0.25, 0.25, 0.25), (0.4, 0.2, 0.2, 0.2), (0.3, 0.3, 0.15, 0.15)],
    ids=["four alike", "three behind", "failed copies decide"],
)
def test_an_anytime_plan_gives_few_wrong_certificates(p: Sequence[float]) -> None:
    """A coarse check of a plan whose number of copies is random; the split is summed above."""
    random, repeats, alpha = np.random.default_rng(3), 400, 0.05
    plan, setting, wrong = Anytime((0.1,), max_n=300, n0=20), setting_of(0.5, alpha), 0
    for _ in range(repeats):
        streams = streams_of(random, p, plan, Stage.SELECTION, Stage.ESTIMATION)
        certificate = plan.certificate(drive(plan, setting, streams), setting)
        for found in top_k_certificates(certificate, (2,)):
            assert found.label is not None
            others = sorted((q for k, q in enumerate(p) if k != found.label), reverse=True)
            others[1] += 1 - sum(p)  # copies that fail would vote for the second rival
            others.sort(reverse=True)
            truth = of_the_paper(p[found.label], others, 2) * 0.5
            wrong += found.radius > truth + 1e-9
    assert stats.binomtest(wrong, repeats, alpha, alternative="greater").pvalue > 1e-6
