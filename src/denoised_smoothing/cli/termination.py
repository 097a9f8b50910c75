"""SIGTERM (of Slurm, Kubernetes, `timeout`) ends a command as Ctrl-C does.

After either, a store that is unreachable is waited for :data:`PATIENCE` seconds only. Python drops
an interruption that comes in a callback, such as that of a weak reference. Then it comes again.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from denoised_smoothing.cli.options import INTERRUPTED

TERMINATED = 128 + signal.SIGTERM
"""Exit code after SIGTERM."""
PATIENCE = 3.0
"""Seconds to wait for an unreachable store after a signal."""
AGAIN = 0.05
"""Seconds after which a signal that Python dropped is sent again."""
STORE = "denoised_smoothing.store.database"


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Raise KeyboardInterrupt for the first SIGTERM, and end with its exit code.

    Further ones change nothing: what was counted is being saved, and SIGKILL comes next anyway.
    """
    received, last = False, signal.SIGINT
    held: dict[Any, float] = {}
    again: list[threading.Timer] = []

    def hurry() -> None:
        """Shorten the wait for the store in all threads, if there is a store."""
        if (store := sys.modules.get(STORE)) is not None:
            held.setdefault(store, vars(store)["PATIENCE"])
            vars(store)["PATIENCE"] = min(PATIENCE, held[store])

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal last
        last = signal.SIGINT
        hurry()
        raise KeyboardInterrupt

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal received, last
        first, received = not received, True
        if first:
            last = signal.SIGTERM
            hurry()
            raise KeyboardInterrupt

    def dropped(error: sys.UnraisableHookArgs) -> None:
        nonlocal received
        if not issubclass(error.exc_type, KeyboardInterrupt):
            hook(error)
            return
        received = received and last != signal.SIGTERM
        again.append(threading.Timer(AGAIN, os.kill, (os.getpid(), last)))
        again[-1].daemon = True
        again[-1].start()

    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield
        return
    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, stop)}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # and not ignored
        before[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    hook, sys.unraisablehook = sys.unraisablehook, dropped
    try:
        yield
    except SystemExit as end:
        if received and end.code == INTERRUPTED:
            raise SystemExit(TERMINATED) from end
        raise
    finally:
        for timer in again:
            timer.cancel()
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)
        for store, patience in held.items():
            store.PATIENCE = patience
