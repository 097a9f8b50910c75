from __future__ import annotations

import os
import signal
import sys
import time
import weakref

import pytest

from denoised_smoothing.cli.termination import PATIENCE, sigterm_as_ctrl_c
from denoised_smoothing.store import database


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def work(saved: list[str]) -> None:
    with sigterm_as_ctrl_c():
        try:
            terminate()
        except KeyboardInterrupt:
            terminate()
            saved.append("counts")
            sys.exit(130)


def test_the_first_sigterm_is_a_ctrl_c_and_later_ones_do_not_disturb_the_saving() -> None:
    before, saved = signal.getsignal(signal.SIGTERM), list[str]()
    with pytest.raises(SystemExit) as end:
        work(saved)
    assert (end.value.code, saved) == (143, ["counts"])
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_python_drops_comes_again(number: signal.Signals) -> None:
    class Box:
        """What a weak reference leads to."""

    box = Box()
    with sigterm_as_ctrl_c():
        reference = weakref.ref(box, lambda _: signal.raise_signal(number))
        del box  # an exception in the callback is printed by Python, and forgotten
        with pytest.raises(KeyboardInterrupt):
            time.sleep(20)
    assert reference() is None


@pytest.mark.parametrize("code", [0, 1, 130])
def test_without_a_sigterm_exit_codes_stay(code: int) -> None:
    with pytest.raises(SystemExit) as end, sigterm_as_ctrl_c():
        sys.exit(code)
    assert end.value.code == code


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_shortens_the_wait_for_an_unreachable_store(number: signal.Signals) -> None:
    before = database.PATIENCE, signal.getsignal(number)
    with sigterm_as_ctrl_c():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        assert database.PATIENCE == PATIENCE < before[0]
    assert (database.PATIENCE, signal.getsignal(number)) == before
