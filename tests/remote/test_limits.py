from __future__ import annotations

import itertools
import math

import pytest

from denoised_smoothing.errors import BudgetReachedError, SettingError
from denoised_smoothing.remote.limits import (
    Budget,
    BudgetGuard,
    CircuitBreaker,
    ClientSettings,
    TokenBucket,
)
from denoised_smoothing.remote.records import Outcome, Spending
from denoised_smoothing.remote.vendors.base import VendorError, retry_after


class TestTokenBucket:
    def test_queries_are_even(self) -> None:
        bucket, now, sent = TokenBucket(10.0), 100.0, []
        for _ in range(50):
            now += bucket.wait(now)
            bucket.take(now)
            sent.append(now)
        gaps = [later - earlier for earlier, later in itertools.pairwise(sent)]
        assert gaps == pytest.approx([0.1] * 49)

    def test_a_pause_saves_nothing_up(self) -> None:
        bucket = TokenBucket(10.0)
        bucket.take(0.0)
        bucket.take(1000.0)
        assert bucket.wait(1000.0) == pytest.approx(0.1)

    def test_without_a_rate_nothing_waits(self) -> None:
        bucket = TokenBucket(None)
        bucket.take(0.0)
        assert bucket.wait(0.0) == 0.0


class TestCircuitBreaker:
    def test_a_refusal_before_any_answer_opens_it(self) -> None:
        assert CircuitBreaker(5, 30.0).failed(0.0, refused=True)

    def test_later_it_takes_several_in_a_row(self) -> None:
        breaker = CircuitBreaker(3, 30.0)
        breaker.answered()
        assert [breaker.failed(0.0, refused=True) for _ in range(2)] == [False, False]
        breaker.answered()
        assert [breaker.failed(0.0, refused=True) for _ in range(3)] == [False, False, True]

    def test_failures_open_it_when_nothing_is_answered_for_long(self) -> None:
        breaker = CircuitBreaker(5, 30.0)
        breaker.answered()
        assert not breaker.failed(100.0, refused=False)
        assert not breaker.failed(129.0, refused=False)
        breaker.answered()
        assert not breaker.failed(131.0, refused=False)
        assert breaker.failed(161.0, refused=False)


class TestBudgetGuard:
    def test_queries_in_flight_count(self) -> None:
        guard = BudgetGuard(Budget(queries=3), 0.1, Spending(charged=1, cost=0.1), "All is stored")
        assert guard.reserve()
        assert guard.reserve()
        assert not guard.reserve()  # it depends on the others
        guard.settle(Outcome.THROTTLED)
        assert guard.reserve()
        guard.settle(Outcome.ANSWERED)
        guard.settle(Outcome.DROPPED)
        with pytest.raises(BudgetReachedError, match=r"3 queries is used up \(3 queries, \$0\.3"):
            guard.reserve()
        assert guard.spent == Spending(2, 1, 1, pytest.approx(0.2), pytest.approx(0.1))

    def test_money_is_spent_to_the_last_cent_and_no_further(self) -> None:
        guard = BudgetGuard(Budget(cost=1.0), 0.001, Spending(), "All is stored")
        for _ in range(1000):
            assert guard.reserve()
            guard.settle(Outcome.ANSWERED)
        with pytest.raises(BudgetReachedError, match=r"budget of \$1 is used up .*All is stored"):
            guard.reserve()

    @pytest.mark.parametrize("limit", [{"queries": -1}, {"cost": float("nan")}])
    def test_odd_limits_are_refused(self, limit: dict[str, float]) -> None:
        with pytest.raises(SettingError, match="must be at least 0, got"):
            Budget(**limit)  # type: ignore[arg-type]


class TestClientSettings:
    def test_waits_double_with_jitter_up_to_a_limit(self) -> None:
        settings = ClientSettings(first_wait=0.5, longest_wait=4.0)
        for repetition, least in ((1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (9, 4.0), (99, 4.0)):
            waits = [settings.wait(repetition, None) for _ in range(50)]
            assert least <= min(waits) <= max(waits) <= least + 0.5
            assert max(waits) > min(waits)

    def test_the_vendor_may_ask_for_more(self) -> None:
        assert ClientSettings(first_wait=0.5).wait(1, 7.0) == 7.0
        assert ClientSettings(first_wait=0.5).wait(1, 0.1) >= 0.5

    @pytest.mark.parametrize(
        ("odd", "message"),
        [
            ({"in_flight": 0}, "--in-flight must be 1 to 1024 queries, got 0"),
            ({"rate": 0}, "rate must be above 0 and finite, got 0"),
            ({"timeout": -1}, "timeout must be above 0 and finite, got -1"),
            ({"timeout": math.nan}, "timeout must be above 0 and finite, got nan"),
            ({"longest_pause": math.inf}, "longest_pause must be above 0 and finite, got inf"),
            ({"price": -0.1}, "--price must be at least 0 dollars a query, got -0.1"),
        ],
    )
    def test_odd_values_are_refused(self, odd: dict[str, float], message: str) -> None:
        with pytest.raises(SettingError, match=message):
            ClientSettings(**odd)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [("7", 7, 7), ("0.5", 0.5, 0.5), ("-3", 0, 0), ("Fri, 31 Dec 1999 23:59:59 GMT", 0, 0)],
)
def test_retry_after_is_read(text: str, low: float, high: float) -> None:
    seconds = retry_after({"retry-after": text})
    assert seconds is not None
    assert low <= seconds <= high


def test_odd_or_no_retry_after_is_none() -> None:
    for odd in ("soon", "inf", "-inf", "nan", "1e400", "Fri, 31 Dec 99999999 23:59:59 GMT"):
        assert retry_after({"Retry-After": odd}) is None
    assert retry_after({}) is None
    assert retry_after(None) is None


@pytest.mark.parametrize(
    ("status", "headers", "outcome"),
    [
        (429, {}, Outcome.THROTTLED),
        (503, {"Retry-After": "1"}, Outcome.THROTTLED),
        (503, {}, Outcome.FAILED),
        (500, {}, Outcome.FAILED),
        (401, {}, Outcome.REFUSED),
        (302, {}, Outcome.REFUSED),
        (413, {}, Outcome.REJECTED),
        (418, {}, Outcome.FAILED),
    ],
)
def test_statuses(status: int, headers: dict[str, str], outcome: Outcome) -> None:
    assert VendorError.of_status(status, "message", headers).outcome is outcome
