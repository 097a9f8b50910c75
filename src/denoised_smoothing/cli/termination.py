"""SIGTERM (of Slurm, Kubernetes, `timeout`) ends a command as Ctrl-C does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from denoised_smoothing.cli.options import INTERRUPTED

TERMINATED = 128 + signal.SIGTERM
"""Exit code after SIGTERM."""


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Raise KeyboardInterrupt for the first SIGTERM, and end with its exit code.

    Further ones change nothing: what was counted is being saved, and SIGKILL comes next anyway.
    """
    received = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal received
        first, received = not received, True
        if first:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except SystemExit as end:
        if received and end.code == INTERRUPTED:
            raise SystemExit(TERMINATED) from end
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
