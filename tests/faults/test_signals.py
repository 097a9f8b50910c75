"""Signals at random moments: each end says why, and nothing is lost."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from forks import EACH, Forks

from denoised_smoothing.models.denoisers.files import load_denoiser_file
from denoised_smoothing.store import Store

COMMAND = (
    "certify", "folder:images", "--classifier", "python:toy:Slow", "--sigma", "0.3",
    "--engine", "torch", "--batch-size", "200", "--n0", "400", "--n", "50", "--seed", "11",
    "--run", "r",
)  # fmt: skip
TRAIN = (
    "train", "digits:train", "--sigma", "0.5", "--steps", "30", "--epoch-steps", "10",
    "--batch-size", "8", "--option", "width=8", "--option", "outer=1", "--option", "inner=1",
    "--crop", "8", "--validation-limit", "20", "--seed", "1", "--accelerator", "cpu", "--output",
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


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_denoiser_file(path).state_dict()


@pytest.mark.timeout(90 * EACH)
def test_a_training_resumes_to_the_same_weights(folder: Path) -> None:
    pytest.importorskip("lightning")
    pytest.importorskip("sklearn", reason="the digits are those of scikit-learn")
    source, done, output = random.Random(0), 0, folder / "w.safetensors"
    with Forks(folder, PRELOAD="denoised_smoothing.training.fit") as forks:
        forks.run(*TRAIN, "first.safetensors")  # whose reading of files is not measured
        began = time.monotonic()
        code, text = forks.run(*TRAIN, "whole.safetensors")
        longest = time.monotonic() - began
        assert code == 0, text
        expected = weights(folder / "whole.safetensors")
        while done < EACH or not output.exists():
            kind = source.choice(list(CODES))
            pid = forks.start(*TRAIN, output.name)
            if done < EACH:
                time.sleep(source.uniform(0.1, longest))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, kind)
            code, text = forks.end()
            assert "Traceback" not in text
            if code:
                assert code == CODES[kind], text
                assert kind is signal.SIGKILL or "nterrupted" in text
                done += 1
            if output.exists():
                found = weights(output)
                assert found.keys() == expected.keys()
                assert all(torch.equal(found[name], expected[name]) for name in expected)
                if done < EACH:
                    output.unlink()
                    shutil.rmtree(folder / "w.safetensors.training")
