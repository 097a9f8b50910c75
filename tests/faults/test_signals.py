"""Signals at random moments: the counts are those of an undisturbed run, and each end says why."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import pytest
from forks import EACH, Forks

from denoised_smoothing.store import Store

COMMAND = (
    "certify", "folder:images", "--classifier", "python:toy:Slow", "--sigma", "0.3",
    "--engine", "torch", "--batch-size", "200", "--n0", "400", "--n", "50", "--seed", "11",
    "--run", "r",
)  # fmt: skip
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}
LONGEST = 1.6
"""Seconds of a whole run, about."""


def counts(store: Path) -> list[object]:
    with Store(store, read_only=True) as opened:
        return [(image.image_id, image.counts, image.finished) for image in opened.images("r")]


@pytest.mark.parametrize("kind", CODES, ids=lambda kind: kind.name)
@pytest.mark.timeout(60 * EACH)
def test_signals_at_random_moments(kind: signal.Signals, folder: Path) -> None:
    source, done, whole = random.Random(kind), 0, 0
    with Forks(folder, TOY_LOG="passes.log") as forks:
        code, text = forks.run(*COMMAND, "--store", "whole.sqlite")
        assert code == 0, text
        expected = counts(folder / "whole.sqlite")
        while done < EACH:
            pid = forks.start(*COMMAND)
            time.sleep(source.uniform(0.1, LONGEST))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, kind)
            code, text = forks.end()
            assert "Traceback" not in text
            if code == 0:  # it was faster than the signal
                assert counts(folder / "runs.sqlite") == expected
                whole += 1
                for path in folder.glob("runs.sqlite*"):
                    path.unlink()
                continue
            assert code == CODES[kind], text
            if kind is not signal.SIGKILL:
                assert "Interrupted." in text
            done += 1
        code, text = forks.run(*COMMAND)
        assert code == 0, text
        assert counts(folder / "runs.sqlite") == expected
    print(f"\n{kind.name}: {done} runs were ended, {whole} were whole before")
