"""Prediction sets: thresholds against independent computations, and coverage by simulation."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from denoised_smoothing.certificates.parameters import SmoothingParameters
from denoised_smoothing.certificates.prediction_sets import (
    Demand,
    Evidence,
    PredictionSet,
    SetRule,
    calibrate_scores,
    calibrate_votes,
    fewest_images,
    score_rank,
    vote_threshold,
)
from denoised_smoothing.errors import SettingError

DATA_SETS = 4_000


def worst(p: np.ndarray, shift: float, error: float = 0.0) -> np.ndarray:
    """The least probability at distance shift * sigma, by the formula of the papers."""
    inner = stats.norm.cdf(stats.norm.ppf(np.clip(p - error, 0, 1)) - shift) - error
    return np.maximum(inner, 0.0)


class TestDemand:
    @pytest.mark.parametrize("coverage", [0.0, 1.0, -0.1, math.nan, "much"])
    def test_coverage_is_a_probability(self, coverage: float) -> None:
        with pytest.raises(SettingError, match=r"coverage must lie strictly between 0 and 1, got"):
            Demand(coverage, 0.25, 0.5)

    @pytest.mark.parametrize("radius", [-0.1, math.inf, math.nan])
    def test_radius_is_a_length(self, radius: float) -> None:
        with pytest.raises(SettingError, match="radius must be a length of at least 0, got"):
            Demand(0.9, radius, 0.5)

    @pytest.mark.parametrize("error", [-1e-9, 1.0, math.nan, "little"])
    def test_error_is_a_distance(self, error: float) -> None:
        with pytest.raises(SettingError, match="error must be at least 0 and below 1, got"):
            Demand(0.9, 0.25, 0.5, error)

    def test_sigma_is_above_0(self) -> None:
        with pytest.raises(SettingError, match="sigma must be above 0"):
            Demand(0.9, 0.1, 0.0)

    def test_a_half_space_attains_the_bound(self) -> None:
        # The event "first coordinate + noise > 0" at distance a from its border.
        a = np.linspace(-3, 3, 13)
        found = Demand(0.9, 0.25, 0.5).worst(stats.norm.cdf(a))
        assert found == pytest.approx(stats.norm.cdf(a - 0.5), rel=1e-12)

    @pytest.mark.parametrize("error", [0.0, 1e-3, 0.05])
    @pytest.mark.parametrize("shift", [0.0, 0.24, 1.0, 3.0])
    def test_the_worst_probability_is_convex(self, shift: float, error: float) -> None:
        values = Demand(0.9, shift, 1.0, error).worst(np.linspace(0, 1, 2001))
        assert np.diff(values, 2).min() > -1e-12
        assert values == pytest.approx(worst(np.linspace(0, 1, 2001), shift, error), abs=1e-12)

    @pytest.mark.parametrize("error", [0.0, 1e-3])
    def test_the_miss_of_copies_is_the_inverse(self, error: float) -> None:
        demand = Demand(0.9, 0.25, 0.5, error)
        miss = demand.miss_of_copies()
        assert demand.worst(np.array([1.0 - miss])) == pytest.approx(0.9, abs=1e-12)
        expected = stats.norm.sf(stats.norm.ppf(0.9 + error) + 0.5) - error
        assert miss == pytest.approx(expected, rel=1e-12)


class TestScores:
    def test_the_threshold_is_an_order_statistic(self) -> None:
        scores = np.random.default_rng(0).permutation(200)[:, None].astype(float)
        # 1 - Phi(Phi^-1(0.9) + 0.5) is 0.03739, and 0.03739 * 201 is 7.5.
        rule = calibrate_scores(scores, Demand(0.9, 0.25, 0.5))
        assert (rule.rank, rule.threshold, rule.needed, rule.copies) == (7, 6.0, 1, 1)
        assert rule.clean_coverage == pytest.approx(1 - 7 / 201)

    def test_of_several_copies(self) -> None:
        scores = np.arange(100.0)[:, None] + np.linspace(0, 0.99, 100)
        rule = calibrate_scores(scores, Demand(0.9, 0.5, 1.0))
        # c = 100 Phi(0.25) is 60: the 60th largest score of an image; j is 0.09 * 101 = 9.
        assert rule.rank == 9
        assert rule.threshold == pytest.approx(8 + 0.40)
        assert rule.needed == vote_threshold(60, 100, 0.1 - 9 / 101, Demand(0.9, 0.5, 1.0))
        assert 38 <= rule.needed <= 40  # 100 Phi(-0.25) is 40.1

    def test_round_numbers_are_not_lost_to_rounding(self) -> None:
        assert score_rank(9, 1, Demand(0.9, 0.0, 0.5)) == 1
        assert score_rank(19, 1, Demand(0.9, 0.0, 0.5)) == 2

    @pytest.mark.parametrize(("coverage", "shift", "needed"), [(0.9, 1.0, 88), (0.95, 0.5, 62)])
    def test_too_few_images_are_refused_with_the_smallest_number(
        self, coverage: float, shift: float, needed: int
    ) -> None:
        miss = stats.norm.sf(stats.norm.ppf(coverage) + shift)
        assert 1 / (needed + 1) <= miss < 1 / needed
        demand = Demand(coverage, shift * 0.5, 0.5)
        assert fewest_images(demand.miss_of_copies()) == needed
        assert calibrate_scores(np.zeros((needed, 1)), demand).rank == 1
        with pytest.raises(SettingError, match=f"at least {needed} calibration images, got"):
            calibrate_scores(np.zeros((needed - 1, 1)), demand)

    def test_an_error_of_the_noise_that_is_too_large(self) -> None:
        with pytest.raises(SettingError, match="cannot be proven by any number of calibration"):
            score_rank(10**9, 1, Demand(0.9, 1.0, 0.25, error=1e-4))

    def test_nan_is_refused(self) -> None:
        with pytest.raises(SettingError, match=r"got NaN for 1 of 50 images"):
            calibrate_scores(np.array([[np.nan]] + [[0.0]] * 49), Demand(0.9, 0.0, 0.5))

    def test_too_few_copies_are_refused(self) -> None:
        with pytest.raises(SettingError, match="2 noisy copies of an image are too few"):
            calibrate_scores(np.zeros((500, 2)), Demand(0.9, 2.0, 1.0))

    @pytest.mark.parametrize(("shift", "images"), [(0.5, 200), (1.0, 400)])
    def test_coverage_is_attained_where_all_images_are_equally_likely(
        self, shift: float, images: int
    ) -> None:
        """The threshold is the j-th smallest of uniform numbers, so that its law is known."""
        demand = Demand(0.9, shift, 1.0)
        rank = score_rank(images, 1, demand)
        random = np.random.default_rng(1)
        scores = np.sort(random.normal(size=(DATA_SETS, images)), axis=1)
        rules = scores[:, rank - 1]
        assert rules[0] == calibrate_scores(scores[0][:, None], demand).threshold
        held = random.normal(size=DATA_SETS) - shift >= rules
        above = np.linspace(0, 1, 200_001)[1:-1]
        density = stats.beta.pdf(above, images + 1 - rank, rank)
        exact = float((worst(above, shift) * density).sum() / density.sum())
        assert held.mean() == pytest.approx(exact, abs=4 * math.sqrt(0.09 / DATA_SETS))
        assert 0.9 <= exact < 0.915
        # The threshold that ignores the change misses far more.
        naive = scores[:, score_rank(images, 1, Demand(0.9, 0.0, 1.0)) - 1]
        assert (random.normal(size=DATA_SETS) - shift >= naive).mean() < 0.82


class TestVotes:
    @pytest.mark.parametrize("error", [0.0, 1e-3])
    @pytest.mark.parametrize("shift", [0.0, 0.5, 1.0])
    @pytest.mark.parametrize(("n", "least"), [(20, 15), (100, 40), (100, 100), (1000, 900)])
    def test_the_threshold_is_the_largest_by_search(
        self, n: int, least: int, shift: float, error: float
    ) -> None:
        loss, p = 0.01, np.linspace(0, 1, 20_001)
        t = vote_threshold(least, n, loss, Demand(0.9, shift, 1.0, error))
        wanted = stats.binom.sf(least - 1, n, p) - loss
        moved = worst(p, shift, error)
        assert (stats.binom.sf(t - 1, n, moved) >= wanted).all()
        assert (stats.binom.sf(t, n, moved) < wanted + 1.5e-4).any()
        assert 0 < t <= least

    def test_it_is_sharper_than_two_confidence_intervals(self) -> None:
        for n, least, ours in ((100, 70, 50), (1000, 700, 509)):
            lower = stats.beta.ppf(0.005, least, n - least + 1)
            theirs = stats.binom.ppf(0.005, n, worst(lower, 0.5))
            assert vote_threshold(least, n, 0.01, Demand(0.9, 0.5, 1.0)) == ours > theirs
            assert ours <= n * worst(np.array(least / n), 0.5) + 1

    def test_the_rule(self) -> None:
        votes = [*range(100)] * 2
        rule = calibrate_votes(votes, 100, Demand(0.8, 0.25, 1.0))
        # j is 0.18 * 201 = 36.18, and the 36th smallest number is 17.
        assert (rule.rank, rule.images, rule.copies) == (36, 200, 100)
        expected = vote_threshold(17, 100, 0.2 - 36 / 201, Demand(0.8, 0.25, 1.0))
        assert rule.threshold == rule.needed == expected > 5

    def test_no_votes_for_the_true_label(self) -> None:
        with pytest.raises(SettingError, match="every label: the true label has at most 0 of 100"):
            calibrate_votes([0] * 20 + [100] * 80, 100, Demand(0.9, 0.25, 1.0))

    def test_impossible_numbers(self) -> None:
        with pytest.raises(SettingError, match=r"between 0 and n = 100, got 5 to 101"):
            calibrate_votes([5, 101] * 20, 100, Demand(0.9, 0.25, 1.0))
        with pytest.raises(SettingError, match="at least 11 calibration images, got 3"):
            calibrate_votes([5, 50, 51], 100, Demand(0.9, 0.25, 1.0))
        assert calibrate_votes([90] * 11, 100, Demand(0.9, 0.25, 1.0)).rank == 1

    @pytest.mark.parametrize("spread", [0.0, 1.0])
    def test_coverage_holds_under_the_worst_change(self, spread: float) -> None:
        n, images, demand = 100, 100, Demand(0.9, 0.5, 1.0)
        random = np.random.default_rng(2)
        positions = random.normal(1.0, spread, (DATA_SETS, images + 1))
        votes = np.sort(random.binomial(n, stats.norm.cdf(positions[:, :-1])), axis=1)
        rank = 9
        loss = 0.1 - rank / 101
        thresholds = {c: vote_threshold(c, n, loss, demand) for c in {*votes[:, rank - 1].tolist()}}
        t = np.array([thresholds[c] for c in votes[:, rank - 1].tolist()])
        held = random.binomial(n, stats.norm.cdf(positions[:, -1] - 0.5)) >= t
        assert held.mean() > 0.9 - 3 * math.sqrt(0.09 / DATA_SETS)
        assert held.mean() < (0.98 if spread == 0.0 else 0.925)


class TestRule:
    RULE = SetRule(Evidence.VOTES, Demand(0.9, 0.25, 0.5), 10, 100, 10, 500, 45)

    def test_labels_by_value(self) -> None:
        assert self.RULE.labels({3: 10, 1: 40, 7: 9, 2: 40, 5: 11}) == (1, 2, 5, 3)
        assert self.RULE.labels({}) == ()

    def test_a_set_says_what_it_claims(self) -> None:
        parameters = SmoothingParameters(0.5, 0.1, 3072, seed=7)
        found = PredictionSet((3, 5), (60, 12), self.RULE, parameters, "500 images of run 'a'")
        values = json.loads(json.dumps(found.to_dict()))
        assert (values["labels"], values["values"], values["seed"]) == ([3, 5], [60, 12], "7")
        assert (values["coverage"], values["radius"], values["evidence"]) == (0.9, 0.25, "votes")
        assert values["coverage_unchanged"] == pytest.approx(1 - 45 / 501)
        assert "true label with probability 0.9, also where somebody" in values["statement"]
        assert "average, not a statement about one image" in str(found)
        assert str(found).startswith("labels 3, 5. ")

    def test_the_claim_is_rounded_down(self) -> None:
        rule = replace(self.RULE, demand=Demand(0.9999999, 0.1234567, 0.5))
        assert "with probability 0.999999, also" in rule.statement
        assert "by at most 0.123456 in L2" in rule.statement
