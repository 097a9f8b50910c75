"""Commands as forks of one process that has imported all: they begin in milliseconds.

As a program it reads lines of JSON, ``{"argv": [...], "output": FILE}``, starts each as a process,
prints its pid, and at its end its exit status, which is negative for a signal. The environment
variable PRELOAD names a further module to import.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

EACH = 5 * int(os.environ.get("FAULTS", "1"))
"""Faults of each kind; ``FAULTS=10`` (``make faults``) does ten times as many."""


class Forks:
    """The program, and what it is told."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self._folder = folder
        paths = os.pathsep.join([str(folder), *filter(None, sys.path)])
        self._process = subprocess.Popen(
            [sys.executable, __file__], cwd=folder, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **variables},
        )  # fmt: skip
        self._line()

    def __enter__(self) -> Forks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self._process.communicate()

    def start(self, *arguments: str) -> int:
        """Start a command; return its pid."""
        output = self._folder / "output.txt"
        output.unlink(missing_ok=True)
        assert self._process.stdin is not None
        print(
            json.dumps({"argv": arguments, "output": str(output)}),
            file=self._process.stdin, flush=True,
        )  # fmt: skip
        return int(self._line())

    def end(self) -> tuple[int, str]:
        """Wait for the command; return its exit status and what it printed."""
        return int(self._line()), (self._folder / "output.txt").read_text()

    def run(self, *arguments: str) -> tuple[int, str]:
        """Start a command and wait for it."""
        self.start(*arguments)
        return self.end()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


def main() -> None:
    import torch  # noqa: F401

    import denoised_smoothing
    from denoised_smoothing.cli import certify, main
    from denoised_smoothing.engines import contract, pipeline  # noqa: F401
    from denoised_smoothing.runs import run  # noqa: F401

    assert certify
    if "PRELOAD" in os.environ:
        importlib.import_module(os.environ["PRELOAD"])
    print(denoised_smoothing.__name__, flush=True)
    for line in sys.stdin:
        told = json.loads(line)
        pid = os.fork()
        if pid:
            print(pid, flush=True)
            _, status = os.waitpid(pid, 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        signal.signal(signal.SIGINT, signal.default_int_handler)
        output = os.open(told["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.argv = ["denoised-smoothing", *told["argv"]]
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:
            import traceback

            traceback.print_exc()
            code = 70
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
