"""A program that ends a Ray cluster of one machine with the process that started it.

Ray's servers end with their driver, even after SIGKILL. The agents that they started may stay for
a minute and longer. All these processes inherit the variable VARIABLE. When the driver is gone,
this program sends SIGKILL to every process that has it, until none is left. It is run as
a file, and imports the standard library alone, so that it starts at once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

VARIABLE = "DENOISED_SMOOTHING_CLUSTER"
"""Environment variable of the processes of a cluster: its token."""
GRACE = 1.0
"""Seconds in which processes may end by themselves."""
ROUNDS = 60
PAUSE = 0.5
"""Rounds of signals at most, and seconds between them."""
_guards: list[subprocess.Popen[bytes]] = []
"""Those that this process started; they end after it."""


@contextmanager
def guarded() -> Iterator[None]:
    """Have the processes that are started meanwhile, and theirs, end with this process.

    Does nothing without ``/proc``, which names the environment of processes.
    """
    if not Path("/proc/self/environ").exists():
        yield
        return
    token = uuid.uuid4().hex
    # A session of its own keeps it alive when the group of this process is killed.
    command = [sys.executable, "-I", "-S", __file__, token, str(os.getpid())]
    none = subprocess.DEVNULL
    _guards.append(
        subprocess.Popen(
            command, stdin=none, stdout=none, stderr=none, start_new_session=True, cwd="/"
        )
    )
    os.environ[VARIABLE] = token
    try:
        yield
    finally:
        del os.environ[VARIABLE]


def members(token: str) -> list[int]:
    """Return the processes whose environment has the token, without this one."""
    entry, found = f"{VARIABLE}={token}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended, or belongs to another user
            if entry in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return [process for process in found if process != os.getpid()]


def end(token: str) -> None:
    """Kill all processes with the token; return when two rounds in a row found none."""
    empty = 0
    for _ in range(ROUNDS):
        left = members(token)
        empty = 0 if left else empty + 1
        if empty == 2:
            return
        for process in left:
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)
        time.sleep(PAUSE)


def main() -> None:
    """Wait for the end of the process that started this one, which then has another parent."""
    token, parent = sys.argv[1], int(sys.argv[2])
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    while os.getppid() == parent:
        time.sleep(PAUSE)
    time.sleep(GRACE)
    end(token)


if __name__ == "__main__":
    main()
