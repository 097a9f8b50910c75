"""A bad network and three SIGKILLs at once: server, store and money agree."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from fake import FakeVendor, Trouble, at_random, by_chance

from denoised_smoothing import CertificationRun, FixedBudget, SmoothedClassifier, Store
from denoised_smoothing.datasets import load_dataset
from denoised_smoothing.remote.classifier import RemoteClassifier
from denoised_smoothing.remote.limits import ClientSettings
from denoised_smoothing.remote.log import StoreLog
from denoised_smoothing.remote.records import Charge, Outcome
from denoised_smoothing.remote.vendors.http import HttpEndpoint

PLAN = FixedBudget(n0=40, n=120)
SETTINGS = ClientSettings(
    in_flight=64, rate=None, timeout=0.4, attempts=60, first_wait=0.01, longest_wait=0.05,
    price=0.001,
)  # fmt: skip
FAULTS = (
    Trouble.THROTTLED, Trouble.FAILED, Trouble.DROPPED, Trouble.CUT, Trouble.STALLED,
    Trouble.GARBAGE,
)  # fmt: skip
KILLS = 3
CHILD = """
import sys
sys.path[:0] = sys.argv[3:]
import test_network
test_network.execute(*sys.argv[1:3])
"""


def execute(url: str, store: str) -> None:
    """Certify the images of the working folder in grey as RGB by a server."""
    vendor = HttpEndpoint(f"{url}/classify", "predictions")
    smoothed = SmoothedClassifier(RemoteClassifier(vendor, settings=SETTINGS), 0.25)
    run = CertificationRun(
        smoothed, load_dataset("folder:images"), PLAN, classifier="http:x", denoiser="none",
        name="r", alpha=0.001, seed=7, limit=4,
    )  # fmt: skip
    with Store(store) as opened:
        run.execute(opened)


def counts(store: Path) -> list[object]:
    with Store(store, read_only=True) as opened:
        names = opened.run("r").label_names
        return [
            (image.image_id, stage, {names[i]: n for i, n in held.votes.items()}, held.failed)
            for image in opened.images("r")
            for stage, held in image.counts.items()
        ]


@pytest.mark.timeout(240)
def test_everything_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.chdir(folder)
    source, script = random.Random(3), at_random(dict.fromkeys(FAULTS, 0.1))
    store = folder / "s.sqlite"
    where = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "remote")]
    with FakeVendor(by_chance({"cat": 0.8, "dog": 0.2}), script, 0.02, stall=1.0) as fake:
        command = [sys.executable, "-c", CHILD, fake.url, str(store), *where]
        for _ in range(KILLS):
            before = fake.attempts
            child = subprocess.Popen(command)
            while fake.attempts < before + 30 + source.randrange(60):
                assert child.poll() is None
                time.sleep(0.005)
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
        subprocess.run(command, check=True)
        while fake.in_flight:
            time.sleep(0.05)
        served = fake.counts()
    with FakeVendor(by_chance({"cat": 0.8, "dog": 0.2})) as calm:
        execute(calm.url, str(folder / "calm.sqlite"))
    with Store(store, read_only=True) as opened:
        log = StoreLog(opened, "r")
        attempts, spent = list(log.history()), log.spending()
    assert counts(store) == counts(folder / "calm.sqlite")

    ends = Counter(attempt.outcome for attempt in attempts)
    lost = ends[Outcome.SENT]
    print(f"\n{len(attempts)} attempts, server {sum(served.values())}: {dict(ends)}, {served}")
    assert 0 < lost <= KILLS * (SETTINGS.in_flight + SETTINGS.in_flight // 4 + 2)
    assert len(attempts) - lost <= sum(served.values()) <= len(attempts)
    # Each vote was decided by one answer, and no answer that was kept was asked for again.
    answered = Counter(a.key for a in attempts if a.outcome is Outcome.ANSWERED)
    assert len(answered) == 4 * PLAN.most_calls()
    assert set(answered.values()) == {1}
    for outcome, troubles in {
        Outcome.THROTTLED: (Trouble.THROTTLED,), Outcome.FAILED: (Trouble.FAILED,),
        Outcome.GARBLED: (Trouble.GARBAGE,),
    }.items():  # fmt: skip
        there = sum(served[trouble.value] for trouble in troubles)
        assert there - lost <= ends[outcome] <= there
    assert served["answered"] - lost <= ends[Outcome.ANSWERED] <= served["answered"]
    # A charge is booked for what the server answered, a doubt for what was cut off.
    paid = served["answered"] + served[Trouble.GARBAGE.value]
    assert spent.charged <= paid <= spent.charged + lost
    assert spent.cost == pytest.approx(spent.charged * 0.001)
    assert spent.doubtful == sum(a.outcome.charge is Charge.MAYBE for a in attempts)
    assert spent.max_cost == pytest.approx(spent.queries * 0.001)
