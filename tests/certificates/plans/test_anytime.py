from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from denoised_smoothing.certificates.bounds import clopper_pearson_upper
from denoised_smoothing.certificates.confidence_sequence import mixture_failure_bound
from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.certificates.parameters import Noise, SmoothingParameters
from denoised_smoothing.certificates.plans import Anytime, FixedBudget
from denoised_smoothing.certificates.radii import failure_for_radius, gaussian_radius
from denoised_smoothing.errors import CountsError, SettingError
from denoised_smoothing.smoothing.scheduler import ImageTask

from ..samples import Votes, conclude, counts_of, drive, setting_of, stages, streams_of

SETTING = setting_of(0.5)
PLAN = Anytime((0.25, 0.5), max_n=1000, n0=50, every=100)
reproducible = settings(derandomize=True, deadline=None)


def wanted(plan: Anytime, votes: Votes, later: Votes | None = None) -> int:
    """Copies of estimation and continuation that are wanted after these."""
    counts = stages((plan.n0,), votes)
    if later is not None:
        counts[Stage.CONTINUATION] = counts_of(Stage.CONTINUATION, later)
    targets = plan.targets(counts, SETTING)
    return targets[Stage.ESTIMATION] + targets.get(Stage.CONTINUATION, 0)


class TestTargets:
    def test_begin_with_selection_and_the_first_checkpoint(self) -> None:
        assert PLAN.targets({}, SETTING) == {Stage.SELECTION: 50, Stage.ESTIMATION: 100}

    def test_of_a_sure_image_end_when_all_radii_are_certified(self) -> None:
        """49 successes in a row certify 1 sigma, of 100 more than 90 are enough."""
        assert wanted(PLAN, (100,)) == 100
        certificate = PLAN.certificate(stages((50,), (100,)), SETTING)
        assert certificate.label == 0
        assert certificate.radius >= 0.5

    def test_go_on_while_only_some_radii_are_certified(self) -> None:
        counts = (166, 34)  # of 200: Phi(0.5) = 0.69 is undercut by far, Phi(1) = 0.84 is not
        certificate = PLAN.certificate(stages((50,), counts), SETTING)
        assert 0.25 <= certificate.radius < 0.5
        assert wanted(PLAN, counts) == 300

    def test_end_when_the_smallest_radius_that_is_left_is_improbable(self) -> None:
        assert wanted(PLAN, (10, 90)) == 100
        assert PLAN.certificate(stages((50,), (10, 90)), SETTING).label is None
        longer, counts = Anytime((0.25, 0.5), max_n=2000), (541, 159)  # 0.5 is still in reach
        assert wanted(longer, counts) == 700
        assert 0.25 <= longer.certificate(stages((50,), counts), SETTING).radius < 0.5

    def test_end_with_exactly_the_successes_that_are_given_up(self) -> None:
        [(_, judged), _] = PLAN.boundaries(SETTING)
        for n, few in zip(judged.checkpoints.tolist(), judged.give_up.tolist(), strict=True):
            assert wanted(PLAN, (few, n - few)) == n
            assert n == 1000 or wanted(PLAN, (few + 1, n - few - 1)) > n

    def test_end_when_no_further_success_could_help(self) -> None:
        """At 900 of 1000 with all of the rest 859 at most: the look at 0.5 wants 881."""
        assert wanted(PLAN, (759, 141)) == 900
        assert wanted(PLAN, (790, 110)) in (900, 1000)
        assert wanted(Anytime((0.5,), max_n=1000), (790, 110)) == 1000

    def test_decide_at_checkpoints_alone(self) -> None:
        for n in (1, 60, 99):
            assert wanted(PLAN, (n,)) == wanted(PLAN, (0, n)) == 100
        assert wanted(PLAN, (0, 101)) == 200
        assert wanted(Anytime((0.5,), max_n=130), (0, 120)) == 130

    def test_wait_for_the_selection_at_a_checkpoint(self) -> None:
        for selection in (None, (49,)):
            for n in (100, 200):
                targets = PLAN.targets(stages(selection, (n // 2, n - n // 2)), SETTING)
                assert targets == {Stage.SELECTION: 50, Stage.ESTIMATION: n}

    def test_without_a_candidate_end_at_the_first_checkpoint(self) -> None:
        counts = stages(None, (60, 40))
        counts[Stage.SELECTION] = counts_of(Stage.SELECTION, (), failed=50)
        assert PLAN.targets(counts, SETTING) == {Stage.SELECTION: 50, Stage.ESTIMATION: 100}
        certificate = PLAN.certificate(counts, SETTING)
        assert (certificate.label, certificate.radius, certificate.lower_bound) == (None, 0.0, 0.0)

    def test_of_copies_that_all_failed_end(self) -> None:
        pooled = Anytime((0.25,), max_n=1000, n0=0)
        counts = stages(None, (), failed=100)
        assert pooled.targets(counts, SETTING) == {Stage.ESTIMATION: 100}
        assert pooled.certificate(counts, SETTING).label is None

    def test_of_a_radius_that_no_copies_reach_cost_no_call(self) -> None:
        plan = Anytime((3.0, 4.0), max_n=1000)
        task = ImageTask("run", "7", np.zeros((1, 2, 2), np.float32))
        targets = plan.targets(task.counts, SETTING)
        assert targets == {Stage.SELECTION: 0, Stage.ESTIMATION: 0}
        assert task.next_range(targets, 100, 50) is None
        assert task.ends_with(targets)
        certificate = plan.certificate(task.counts, SETTING)
        assert (certificate.label, certificate.calls) == (None, 0)
        assert Anytime((3.0,), n0=0).targets({}, setting_of(0.25)) == {Stage.ESTIMATION: 0}

    @pytest.mark.parametrize("sigma", [0.12, 0.02, 0.001])
    def test_of_a_radius_of_very_many_sigma_cost_no_call(self, sigma: float) -> None:
        """Phi(-8.3) is below the precision of 1 - q0, Phi(-40) is 0."""
        plan = Anytime((1.0,), max_n=1000)
        for noise in Noise:
            targets = plan.targets({}, setting_of(sigma, noise=noise))
            assert targets == {Stage.SELECTION: 0, Stage.ESTIMATION: 0}

    def test_leave_out_radii_out_of_reach_beside_others(self) -> None:
        plan = Anytime((0.25, 4.0), max_n=1000)
        assert [radius for radius, _ in plan.boundaries(SETTING)] == [0.25]
        assert wanted(plan, (100,)) == 100

    @reproducible
    @given(st.integers(0, 2**32 - 1), st.floats(0.3, 1.0), st.booleans())
    def test_and_certificate_agree_on_every_radius(self, seed: int, p: float, pooled: bool) -> None:
        plan = Anytime((0.0, 0.25, 0.5, 1.0, 1.4), max_n=1000, n0=0 if pooled else 20)
        selection = None if pooled else (20,)
        random = np.random.default_rng(seed)
        for n in (100, 300, 1000):
            successes = int(random.binomial(n, p))
            counts = stages(selection, (successes, n - successes))
            certificate = plan.certificate(counts, SETTING)
            for radius, judged in plan.boundaries(SETTING):
                votes = max(successes, n - successes) if pooled else successes
                k = int(np.searchsorted(judged.checkpoints, n))
                by_boundary = bool(votes >= judged.certify[k])
                assert by_boundary == (
                    certificate.label is not None and certificate.radius >= radius - 1e-12
                )


class TestCertificate:
    def test_rests_on_the_mixture_before_the_cap(self) -> None:
        failure = mixture_failure_bound(290, 300, 0.00075)
        certificate = PLAN.certificate(stages((50,), (290, 10)), SETTING)
        assert certificate.lower_bound == 1.0 - failure
        assert certificate.radius == gaussian_radius(0.5, failure)

    def test_rests_on_the_look_at_the_cap(self) -> None:
        failure = clopper_pearson_upper(100, 1000, 0.00025)
        assert failure < mixture_failure_bound(900, 1000, 0.00075)
        certificate = PLAN.certificate(stages((50,), (900, 100)), SETTING)
        assert certificate.lower_bound == 1.0 - failure

    def test_without_selection_halves_alpha_and_takes_the_most_frequent_label(self) -> None:
        plan = Anytime((0.25,), max_n=1000, n0=0)
        certificate = plan.certificate(stages(None, (10, 290)), SETTING)
        assert certificate.label == 1
        assert certificate.lower_bound == 1.0 - mixture_failure_bound(290, 300, 0.000375)
        assert certificate.calls == 300

    def test_keeps_failed_copies_in_n(self) -> None:
        named, failed = stages((50,), (280, 20)), stages((50,), (280,), failed=20)
        radii = [PLAN.certificate(counts, SETTING).radius for counts in (named, failed)]
        assert radii[0] == radii[1] > 0.0

    def test_is_about_the_class_of_the_selection(self) -> None:
        assert PLAN.certificate(stages((0, 50), (990, 10)), SETTING).label is None

    def test_takes_the_error_of_the_grid_off(self) -> None:
        counts = stages((50,), (290, 10))
        drawn = PLAN.certificate(counts, setting_of(0.5, noise=Noise.GRID))
        exact = PLAN.certificate(counts, SETTING)
        assert exact.radius - 1e-9 < drawn.radius < exact.radius

    @pytest.mark.parametrize(
        ("counts", "message"),
        [
            (stages((51,), (100,)), "allows fewer than 51, 100 and 0 copies"),
            (stages((50,), (1001,)), "allows fewer than 50, 1001 and 0 copies"),
            (stages((50,), None), "needs counts of estimation, got none"),
        ],
    )
    def test_of_copies_that_the_plan_does_not_allow_is_refused(
        self, counts: dict[Stage, LabelCounts], message: str
    ) -> None:
        with pytest.raises(CountsError, match=message):
            PLAN.certificate(counts, SETTING)

    def test_of_stages_of_different_images_is_refused(self) -> None:
        counts = stages((50,), None)
        counts[Stage.ESTIMATION] = LabelCounts("run", "another", Stage.ESTIMATION, (10,))
        with pytest.raises(CountsError, match="Use counts of one image and run"):
            PLAN.certificate(counts, SETTING)


class TestContinuation:
    LONGER = PLAN.extended(450)

    def counts(self, at_cap: Votes, later: Votes) -> dict[Stage, LabelCounts]:
        return stages((50,), at_cap) | {Stage.CONTINUATION: counts_of(Stage.CONTINUATION, later)}

    def test_goes_on_where_the_cap_left_it_undecided(self) -> None:
        assert wanted(PLAN, (860, 140)) == 1000
        targets = self.LONGER.targets(stages((50,), (860, 140)), SETTING)
        assert targets == {
            Stage.SELECTION: 50,
            Stage.ESTIMATION: 1000,
            Stage.CONTINUATION: 100,
        }
        assert wanted(self.LONGER, (860, 140), (0, 50)) == 1100

    def test_may_certify_what_the_cap_did_not(self) -> None:
        before = PLAN.certificate(stages((50,), (865, 135)), SETTING)
        counts = self.counts((865, 135), (400,))
        after = self.LONGER.certificate(counts, SETTING)
        assert before.radius < 0.5 <= after.radius
        assert wanted(self.LONGER, (865, 135), (400,)) == 1400

    def test_is_judged_by_the_mixture_alone(self) -> None:
        after = self.LONGER.certificate(self.counts((865, 135), (450,)), SETTING)
        assert after.lower_bound == 1.0 - mixture_failure_bound(1315, 1450, 0.00075)

    def test_keeps_what_was_certified_at_the_cap(self) -> None:
        """880 of 1000 at 0.5 by the look alone; then 100 failures do not take it back."""
        successes = next(
            s
            for s in range(850, 1000)
            if clopper_pearson_upper(1000 - s, 1000, 0.00025) <= failure_for_radius(0.5, 0.5)
        )
        votes = (successes, 1000 - successes)
        before = PLAN.certificate(stages((50,), votes), SETTING)
        assert mixture_failure_bound(successes, 1000, 0.00075) > failure_for_radius(0.5, 0.5)
        after = self.LONGER.certificate(self.counts(votes, (0, 100)), SETTING)
        assert after.radius == before.radius >= 0.5
        assert after.calls == 1150
        assert wanted(self.LONGER, votes) == 1000  # decided: nothing more to draw
        assert wanted(self.LONGER, votes, (0, 100)) == 1100

    def test_gives_up_a_radius_next_to_one_that_the_cap_certified(self) -> None:
        """823 of 1000 certify 0.25; of 1100 they would not, and leave 0.5 out of reach."""
        longer, votes, q = PLAN.extended(500), (823, 177), failure_for_radius(0.5, 0.25)
        assert PLAN.certificate(stages((50,), votes), SETTING).radius >= 0.25
        assert mixture_failure_bound(823, 1100, 0.00075) > q
        assert wanted(longer, votes) == wanted(longer, votes, (0, 100)) == 1100

    def test_of_a_run_that_was_never_stopped_gives_the_same(self) -> None:
        for seed in range(20):
            random = np.random.default_rng(seed)
            p = (0.86, 0.14) if seed % 2 else (0.84, 0.16)
            streams = streams_of(random, p, self.LONGER, *Stage)
            at_cap = drive(PLAN, SETTING, streams)
            resumed = drive(self.LONGER, SETTING, streams, at_cap)
            certificate = self.LONGER.certificate(resumed, SETTING)
            if at_cap[Stage.ESTIMATION].n == 1000:
                assert certificate == conclude(self.LONGER, SETTING, streams)
            assert certificate.radius >= PLAN.certificate(at_cap, SETTING).radius

    def test_before_the_cap_is_reached_is_refused(self) -> None:
        with pytest.raises(CountsError, match=r"beyond the cap of 1000 come after .*100 after 900"):
            self.LONGER.certificate(self.counts((900,), (100,)), SETTING)

    def test_beyond_what_is_allowed_is_refused(self) -> None:
        with pytest.raises(CountsError, match="50, 1000 and 451 copies"):
            self.LONGER.certificate(self.counts((1000,), (451,)), SETTING)
        with pytest.raises(CountsError, match="50, 1000 and 1 copies"):
            PLAN.certificate(self.counts((1000,), (1,)), SETTING)

    def test_of_another_image_is_refused(self) -> None:
        counts = self.counts((1000,), ())
        counts[Stage.CONTINUATION] = LabelCounts("run", "8", Stage.CONTINUATION, (10,))
        with pytest.raises(
            CountsError, match="different image_ids cannot be added, got '7' and '8'"
        ):
            self.LONGER.certificate(counts, SETTING)


class TestPlan:
    def test_is_extended_by_copies_beyond_the_cap(self) -> None:
        longer = PLAN.extended(100).extended(50)
        assert (longer.max_n, longer.more, longer.most_calls()) == (1000, 150, 1200)
        with pytest.raises(
            SettingError, match=r"^more must be a whole number of at least 1, got 0"
        ):
            PLAN.extended(0)

    def test_joined_takes_the_larger_cap(self) -> None:
        larger = Anytime((0.25, 0.5), max_n=1400, n0=50, every=100)
        assert PLAN.joined(larger) == PLAN.extended(400)
        assert larger.joined(PLAN) is None, "more would be drawn than the smaller cap allows"
        assert PLAN.joined(PLAN) is PLAN
        assert PLAN.extended(400).joined(PLAN) == PLAN.extended(400)
        assert PLAN.extended(400).joined(larger) == PLAN.extended(400)

    @pytest.mark.parametrize(
        "other",
        [
            FixedBudget(),
            Anytime((0.25,), max_n=1000),
            Anytime((0.25, 0.5), max_n=1000, n0=0),
            Anytime((0.25, 0.5), max_n=1000, every=50),
        ],
    )
    def test_is_not_joined_with_a_different_one(self, other: Any) -> None:
        assert PLAN.joined(other) is None

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"max_n": 0}, "^max_n must .* got 0"),
            ({"every": 0}, "^every must .* got 0"),
            ({"n0": -1}, "^n0 must .* got -1"),
            ({"more": 1.5}, "^more must .* got 1.5"),
            ({"radii": ()}, r"^radii must be .* got \(\)"),
        ],
    )
    def test_out_of_range_is_refused(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(SettingError, match=message):
            Anytime(**options)

    def test_with_a_large_alpha_is_refused(self) -> None:
        with pytest.raises(SettingError, match=r"at most 0\.36 with an anytime plan"):
            PLAN.targets({}, setting_of(alpha=0.5))

    def test_puts_its_radii_in_order(self) -> None:
        assert Anytime((0.5, 0.25, 0.5)).radii == (0.25, 0.5)


class TestNextDecision:
    """Copies between two decisions are wanted at once; none beyond the first that is possible."""

    @pytest.mark.parametrize("n0", [0, 20])
    @pytest.mark.parametrize("p", [0.3, 0.55, 0.8, 0.95, 0.999])
    @pytest.mark.parametrize("every", [1, 10, 100])
    def test_the_result_is_that_of_looking_at_every_checkpoint(
        self, n0: int, p: float, every: int
    ) -> None:
        plan = Anytime(radii=(0.1, 0.25, 0.4), max_n=400, n0=n0, every=every)
        parameters = SmoothingParameters(sigma=0.25, alpha=0.001, dimension=12, seed=0)
        votes = (np.random.default_rng(n0 + every).random(400) >= p).astype(int)

        def counted(stage: Stage, labels: np.ndarray) -> LabelCounts:
            return LabelCounts("r", "i", stage, tuple(np.bincount(labels, minlength=2).tolist()))

        selection = {Stage.SELECTION: counted(Stage.SELECTION, np.zeros(n0, int))} if n0 else {}
        had, steps = 0, list[int]()
        while True:
            counts = {**selection, Stage.ESTIMATION: counted(Stage.ESTIMATION, votes[:had])}
            wanted = plan.targets(counts, parameters)[Stage.ESTIMATION]
            if wanted <= had:
                break
            # Nothing could have been decided at any checkpoint before, whatever the votes.
            for kind in (0, 1):
                for between in range(had + 1, wanted):
                    if between % every == 0:
                        rest = np.full(between - had, kind)
                        then = counted(Stage.ESTIMATION, np.append(votes[:had], rest))
                        later = {**selection, Stage.ESTIMATION: then}
                        assert plan.targets(later, parameters)[Stage.ESTIMATION] > between
            # Part of the copies asks for no fewer in all.
            for between in {had + 1, (had + wanted) // 2, wanted - 1} - {had, wanted}:
                part = {**selection, Stage.ESTIMATION: counted(Stage.ESTIMATION, votes[:between])}
                assert plan.targets(part, parameters)[Stage.ESTIMATION] >= wanted
            steps.append(wanted)
            had = wanted
        # The first checkpoint at which the plan, asked there, wants no more.
        checkpoints = [n for n in range(1, 401) if n % every == 0 or n == 400]
        for n in checkpoints:
            counts = {**selection, Stage.ESTIMATION: counted(Stage.ESTIMATION, votes[:n])}
            if plan.targets(counts, parameters)[Stage.ESTIMATION] <= n:
                assert had == n
                break
        else:
            pytest.fail("it never ends")
