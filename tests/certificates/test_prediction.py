from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.certificates.prediction import Prediction, PredictionBudget
from denoised_smoothing.errors import CountsError, SettingError

from .samples import Votes, counts_of, setting_of, tally

reproducible = settings(derandomize=True, deadline=None)


def predict(votes: Votes, alpha: float = 0.001, failed: int = 0) -> Prediction:
    counts = counts_of(Stage.PREDICTION, votes, failed)
    return PredictionBudget(max(1, counts.n)).prediction(counts, setting_of(alpha=alpha))


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


@pytest.mark.parametrize(("votes", "failed"), [((), 1), ((0, 0), 5), ((7, 7), 0)])
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
        "engine": "torch",
        "precision": "float32",
        "notes": [],
        "seed": "9223372036854775809",
        "counts": {"1": 20},
        "failed": 3,
    }
    assert str(prediction) == "label 1 (p-value 1.9e-06, 23 classifier calls)"
    assert str(predict((1, 1))) == "abstains (p-value 1, 2 classifier calls)"


class TestCurtailment:
    @reproducible
    @given(
        st.integers(0, 2**32 - 1),
        st.lists(st.floats(0.05, 1.0), min_size=1, max_size=4),
        st.integers(1, 700),
        st.sampled_from([1e-6, 0.001, 0.05, 0.5]),
    )
    def test_gives_the_label_that_all_copies_give(
        self, seed: int, weights: list[float], n: int, alpha: float
    ) -> None:
        random, parameters, budget = (
            np.random.default_rng(seed),
            setting_of(alpha=alpha),
            PredictionBudget(n),
        )
        shares = np.array([0.05, *weights])
        labels = random.choice(np.arange(-1, len(weights)), n, p=shares / shares.sum())
        counts = {}
        while True:
            wanted = budget.targets(counts, parameters)[Stage.PREDICTION]
            if counts and counts[Stage.PREDICTION].n == wanted:
                break
            counts = {Stage.PREDICTION: tally(Stage.PREDICTION, labels[:wanted])}
        early = budget.prediction(counts[Stage.PREDICTION], parameters)
        late = budget.prediction(tally(Stage.PREDICTION, labels), parameters)
        assert early.label == late.label
        assert abs(early.p_value - alpha) <= abs(late.p_value - alpha) * (1 + 1e-9)

    def test_ends_when_the_rest_cannot_change_the_answer(self) -> None:
        """600 to 0 of 1000 stay 600 to 400 at least, p-value 2.7e-10; 550 to 450 is 0.0017."""
        budget, parameters = PredictionBudget(1000), setting_of()
        for votes, wanted in (((600,), 600), ((500,), 600), ((0, 300), 400), ((300, 300), 700)):
            counts = {Stage.PREDICTION: counts_of(Stage.PREDICTION, votes)}
            assert budget.targets(counts, parameters) == {Stage.PREDICTION: wanted}
        early = budget.prediction(counts_of(Stage.PREDICTION, (600,)), parameters)
        assert early.p_value == pytest.approx(stats.binomtest(600, 1000).pvalue)
        with pytest.raises(CountsError, match=r"prediction needs 1000 copies, .* got 500\."):
            budget.prediction(counts_of(Stage.PREDICTION, (500,)), parameters)

    def test_is_looked_at_after_every_tenth(self) -> None:
        budget, parameters = PredictionBudget(1000), setting_of()
        assert budget.targets({}, parameters) == {Stage.PREDICTION: 100}
        counts = {Stage.PREDICTION: counts_of(Stage.PREDICTION, (130,))}
        assert budget.targets(counts, parameters) == {Stage.PREDICTION: 200}


def test_more_copies_than_the_budget_are_refused() -> None:
    with pytest.raises(CountsError, match=r"prediction needs 10 copies, .* got 11\."):
        PredictionBudget(10).prediction(counts_of(Stage.PREDICTION, (11,)), setting_of())


@pytest.mark.parametrize("n", [0, -1, 2.5, True])
def test_an_impossible_budget_is_refused(n: int) -> None:
    with pytest.raises(SettingError, match=f"^n must be a whole number of at least 1, got {n!r}"):
        PredictionBudget(n)
