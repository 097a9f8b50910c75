from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from denoised_smoothing.certificates.certificate import Certificate
from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.certificates.parameters import Noise
from denoised_smoothing.certificates.plans import Anytime, FixedBudget
from denoised_smoothing.errors import CountsError, SettingError

from ..samples import Votes, counts_of, drive, setting_of, stages, tally

reproducible = settings(derandomize=True, deadline=None)


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
    counts = stages(None, (100, 0))
    counts[Stage.SELECTION] = counts_of(Stage.SELECTION, (0, 0), failed=10)
    certificate = FixedBudget(10, 100).certificate(counts, setting_of())
    assert (certificate.label, certificate.radius, certificate.lower_bound) == (None, 0.0, 0.0)


@pytest.mark.parametrize(("selection", "estimation"), [(9, 100), (11, 100), (10, 99), (10, 101)])
def test_a_fixed_budget_refuses_another_number_of_copies(selection: int, estimation: int) -> None:
    counts = stages((selection,), (estimation,))
    wrong = f"10 copies for selection, got {selection}:"
    if selection == 10:
        wrong = f"100 copies for estimation, got {estimation}:"
    with pytest.raises(CountsError, match=f"fixed budget needs {wrong} .* fixed in advance"):
        FixedBudget(10, 100).certificate(counts, setting_of())


def test_an_image_that_will_abstain_needs_its_whole_selection() -> None:
    with pytest.raises(CountsError, match="10 copies for selection, got 9:"):
        FixedBudget(10, 100).certificate(stages((9,), (0, 100)), setting_of())


def test_a_fixed_budget_refuses_a_missing_stage() -> None:
    counts = stages((10,), None)
    with pytest.raises(CountsError, match="100 copies for estimation, got 0:"):
        FixedBudget(10, 100).certificate(counts, setting_of())


def test_selection_and_estimation_must_be_independent_copies_of_one_image() -> None:
    plan = FixedBudget(10, 10)
    same = counts_of(Stage.SELECTION, (10,))
    with pytest.raises(CountsError, match="needs counts of selection and of estimation"):
        plan.certificate({Stage.SELECTION: same, Stage.ESTIMATION: same}, setting_of())
    other = LabelCounts("run", "another image", Stage.ESTIMATION, (10,))
    with pytest.raises(CountsError, match="Use counts of one image and run"):
        plan.certificate({Stage.SELECTION: same, Stage.ESTIMATION: other}, setting_of())


@pytest.mark.parametrize("value", [0, -1, 2.5, True, "100"])
@pytest.mark.parametrize("name", ["n0", "n"])
def test_an_impossible_budget_is_refused(name: str, value: object) -> None:
    message = f"^{name} must be a whole number of at least 1, got {value!r}"
    with pytest.raises(SettingError, match=message):
        FixedBudget(**{name: value})


def test_more_copies_than_the_budget_are_refused_two_sided_too() -> None:
    with pytest.raises(CountsError, match="20 copies for estimation, got 33:"):
        FixedBudget(10, 20, two_sided=True).certificate(stages((10,), (3, 30)), setting_of())


def test_a_budget_is_not_extended_afterwards() -> None:
    with pytest.raises(
        SettingError, match=r"plan 'fixed' cannot be extended by 500 copies: .*anyt"
    ):
        FixedBudget().extended(500)


def test_a_run_goes_on_with_the_same_budget_alone() -> None:
    plan = FixedBudget(10, 100)
    assert plan.joined(FixedBudget(10, 100)) is plan
    for other in (FixedBudget(10, 200), FixedBudget(10, 100, two_sided=True), Anytime()):
        assert plan.joined(other) is None


def test_the_error_of_the_noise_costs_next_to_nothing_of_the_radius() -> None:
    counts, plan = stages((100,), (10_000,)), FixedBudget()
    exact = plan.certificate(counts, setting_of(noise=Noise.FLOAT)).radius
    drawn = plan.certificate(counts, setting_of(noise=Noise.GRID)).radius
    assert exact - 1e-9 < drawn < exact


class TestCurtailment:
    """Sampling ends early only where that changes neither label nor radius."""

    N0, N = 10, 1000

    @reproducible
    @given(
        st.integers(0, 2**32 - 1),
        st.lists(st.floats(0.0, 1.0), min_size=2, max_size=4).filter(lambda p: sum(p) > 0.1),
        st.booleans(),
    )
    def test_gives_what_the_full_count_gives(
        self, seed: int, weights: list[float], two_sided: bool
    ) -> None:
        random = np.random.default_rng(seed)
        shares = np.array([*weights, 0.1 * random.random()])
        labels = random.choice(
            np.arange(-1, len(weights)), 2 * self.N, p=np.roll(shares / shares.sum(), 1)
        )
        streams = {Stage.SELECTION: labels[self.N :], Stage.ESTIMATION: labels[: self.N]}
        plan, parameters = FixedBudget(self.N0, self.N, two_sided=two_sided), setting_of()
        stopped = drive(plan, parameters, streams)
        whole = {
            Stage.SELECTION: tally(Stage.SELECTION, streams[Stage.SELECTION][: self.N0]),
            Stage.ESTIMATION: tally(Stage.ESTIMATION, streams[Stage.ESTIMATION]),
        }
        early, late = plan.certificate(stopped, parameters), plan.certificate(whole, parameters)
        assert (early.label, early.radius) == (late.label, late.radius)
        assert early.lower_bound <= late.lower_bound
        if late.upper_bound is not None:
            assert early.upper_bound is not None
            assert early.upper_bound >= late.upper_bound
        if late.label is not None:
            assert stopped == whole

    def test_ends_a_hopeless_image_after_so_many_tenths(self) -> None:
        """All remaining for the candidate would make 549 of 1000, one-sided bound below 1/2."""
        plan = FixedBudget(10, 1000)
        for had, successes, wanted in ((500, 49, 500), (500, 50, 600), (400, 49, 500)):
            counts = stages((10,), (successes, had - successes))
            assert plan.targets(counts, setting_of())[Stage.ESTIMATION] == wanted
        with pytest.raises(CountsError, match=r"1000 copies for estimation, got 500:"):
            plan.certificate(stages((10,), (50, 450)), setting_of())
        assert plan.certificate(stages((10,), (49, 451)), setting_of()).label is None

    def test_failed_copies_make_a_two_sided_budget_hopeless_too(self) -> None:
        """550 of 1000 may all be votes for a runner-up, which the candidate's 450 cannot pass."""
        plan = FixedBudget(10, 1000, two_sided=True)
        for votes, failed, wanted in (((50,), 550, 600), ((50, 550), 0, 600), ((500,), 100, 700)):
            counts = stages((10,), votes, failed)
            assert plan.targets(counts, setting_of())[Stage.ESTIMATION] == wanted
        assert plan.certificate(stages((10,), (50,), 550), setting_of()).label is None

    @pytest.mark.parametrize(("n", "step"), [(20, 20), (100, 50), (1000, 100), (10_000, 1000)])
    def test_is_looked_at_after_every_tenth_in_whole_chunks(self, n: int, step: int) -> None:
        plan, asked = FixedBudget(10, n), []
        while not asked or asked[-1] < n:
            counts = stages((10,), (asked[-1],) if asked else None)
            asked.append(plan.targets(counts, setting_of())[Stage.ESTIMATION])
        assert asked == list(range(step, n + 1, step))

    def test_waits_for_the_selection(self) -> None:
        plan = FixedBudget(10, 1000)
        for selection in (None, (9,)):
            assert plan.targets(stages(selection, None), setting_of())[Stage.ESTIMATION] == 100
            assert plan.targets(stages(selection, (100,)), setting_of()) == {
                Stage.SELECTION: 10,
                Stage.ESTIMATION: 100,
            }

    def test_without_a_candidate_draws_nothing_more(self) -> None:
        counts = {Stage.SELECTION: counts_of(Stage.SELECTION, (), failed=10)}
        wanted = FixedBudget(10, 1000).targets(counts, setting_of())
        assert wanted == {Stage.SELECTION: 10, Stage.ESTIMATION: 0}
        counts[Stage.ESTIMATION] = counts_of(Stage.ESTIMATION, (100,))
        wanted = FixedBudget(10, 1000).targets(counts, setting_of())
        assert wanted == {Stage.SELECTION: 10, Stage.ESTIMATION: 100}


class TestTwoSided:
    def test_certifies_where_none_has_a_majority(self) -> None:
        votes = (400, *[67] * 8, 64)
        assert certify((10,), votes).label is None
        certificate = certify((10,), votes, two_sided=True)
        winner = stats.beta.ppf(0.0005, 400, 601)
        other = stats.beta.isf(0.0005, 68, 933)
        assert certificate.label == 0
        assert certificate.lower_bound == pytest.approx(winner, abs=1e-12)
        assert certificate.upper_bound == pytest.approx(other, abs=1e-12)
        expected = 0.125 * (stats.norm.ppf(winner) - stats.norm.ppf(other))
        assert certificate.radius == pytest.approx(expected, abs=1e-12)

    @pytest.mark.parametrize("votes", [(300, 100, 600), (100, 600, 300), (600, 300, 100)])
    def test_any_other_label_may_be_the_runner_up(self, votes: Votes) -> None:
        selection = tuple(10 * (n == 600) for n in votes)
        upper = certify(selection, votes, two_sided=True).upper_bound
        assert upper == pytest.approx(stats.beta.isf(0.0005, 301, 700), abs=1e-12)

    def test_of_two_classes_costs_half_of_alpha(self) -> None:
        two_sided = certify((10,), (990, 10), two_sided=True)
        assert two_sided.radius == pytest.approx(certify((10,), (990, 10), 0.0005).radius)

    def test_failed_copies_count_for_the_runner_up(self) -> None:
        votes = (400, *[50] * 8)
        named = certify((10,), (*votes, 200), two_sided=True)
        failed = certify((10,), votes, failed=200, two_sided=True)
        assert failed.upper_bound == pytest.approx(stats.beta.isf(0.0005, 251, 750), abs=1e-12)
        assert 0.0 < failed.radius < named.radius
        assert certify((10,), votes, failed=400, two_sided=True).label is None

    def test_abstains_where_another_is_ahead(self) -> None:
        assert certify((10,), (300, 500, 200), two_sided=True).label is None

    def test_is_in_the_plan_only_where_it_was_asked_for(self) -> None:
        """So that runs of before there was the option go on."""
        assert "two_sided" not in FixedBudget().to_dict()
        assert FixedBudget(two_sided=True).to_dict()["two_sided"] is True
