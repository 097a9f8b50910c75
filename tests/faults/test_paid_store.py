"""A store that vanishes while answers are bought: each answer is kept, and none is bought twice."""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path

import pytest
from fake import FakeVendor, by_chance
from forks import EACH
from test_store_faults import KINDS, Command, Disturbance

from denoised_smoothing.remote.log import StoreLog
from denoised_smoothing.remote.records import Outcome
from denoised_smoothing.runs import writer
from denoised_smoothing.store import Store

VOTES = {"cat": 0.8, "dog": 0.2}


def moved(disturbance: Disturbance, _: str) -> None:
    if disturbance.is_first:
        Path("elsewhere").mkdir()
        for path in Path.cwd().glob("runs.sqlite*"):
            path.rename(f"elsewhere/{path.name}")


VANISHES = {name: KINDS[name][0] for name in ("deleted", "replaced")} | {"moved": moved}


@pytest.mark.parametrize("case", range(EACH))
@pytest.mark.parametrize("kind", VANISHES)
def test_bought_answers_survive_a_store_that_vanishes(
    kind: str,
    case: int,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(writer, "SAVE_SECONDS", 0.0)
    monkeypatch.chdir(folder)
    first = random.Random(f"{kind} {case}").randint(60, 140)
    with FakeVendor(by_chance(VOTES), latency=0.002) as fake:
        certify = Command(capsys, monkeypatch, [
            "certify", "folder:images", "--classifier", f"http:{fake.url}/x?label=predictions",
            "--denoiser", "none", "--sigma", "0.25", "--n0", "20", "--n", "40", "--limit", "3",
            "--seed", "5", "--in-flight", "8", "--run", "r", "--store", "runs.sqlite",
        ])  # fmt: skip
        code, text, disturbance = certify(first, VANISHES[kind])
        assert disturbance.count > first, "the store vanished during the run"
        assert code == 1, text
        assert "error: " in text
        assert "Traceback" not in text
        bought = fake.counts()["answered"]
        rescue = re.search(r"All that was saved is in (\S+)\. Move that file to (\S+), then", text)
        assert rescue, text
        Path(rescue[1]).replace(rescue[2])
        assert answered("runs.sqlite") == bought
        code, text, _ = certify()
        assert code == 0, text
        assert not fake.answered_twice()
        assert answered("runs.sqlite") == fake.counts()["answered"] == 3 * 60


def answered(store: str) -> int:
    """The answers in the log, each to another noisy copy."""
    with Store(store, read_only=True) as opened:
        keys = Counter(
            attempt.key for attempt in StoreLog(opened, "r").history()
            if attempt.outcome is Outcome.ANSWERED
        )  # fmt: skip
    assert set(keys.values()) <= {1}
    return len(keys)
