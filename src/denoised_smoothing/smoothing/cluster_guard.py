"""A program that ends a Ray cluster of one machine with the process that started it.

Ray's servers end with their driver, even after SIGKILL. The agents that they started may stay for
a minute and longer. All these processes inherit the variable VARIABLE, but those that set their
own title overwrite their environment with it. So this program notes all that have the variable,
and their children, while the driver lives. When the driver is gone, it sends SIGKILL to them until
none is left. It is run as a file, and imports the standard library alone, so that it starts at
once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections import defaultdict
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


class Members:
    """The processes of a cluster: those with its token in their environment, and their children."""

    def __init__(self, token: str) -> None:
        self._entry = f"{VARIABLE}={token}".encode()
        self._known: dict[int, bytes] = {}
        """The start of each process by its number, which another one may get later."""

    def update(self) -> list[int]:
        """Look for new ones; return those that live, without this process."""
        starts, children = {}, defaultdict(list)
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it ended, or belongs to another user
                # After the name, which may hold any character: state, parent, ..., start.
                fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
                process = int(folder.name)
                children[int(fields[1])].append(process)
                if fields[0] != b"Z":
                    starts[process] = fields[19]
        known = {p for p, start in self._known.items() if starts.get(p) == start}
        new = [p for p in starts.keys() - known if self._has_token(p)] + list(known)
        while new:
            process = new.pop()
            known.add(process)
            new += [child for child in children[process] if child not in known]
        known.discard(os.getpid())
        self._known = {process: starts[process] for process in known & starts.keys()}
        return list(self._known)

    def _has_token(self, process: int) -> bool:
        with suppress(OSError):
            return self._entry in Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
        return False


def end(members: Members) -> None:
    """Kill all processes of a cluster; return when two rounds in a row found none."""
    empty = 0
    for _ in range(ROUNDS):
        left = members.update()
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
    members = Members(token)
    while os.getppid() == parent:
        members.update()
        time.sleep(PAUSE)
    time.sleep(GRACE)
    end(members)


if __name__ == "__main__":
    main()
