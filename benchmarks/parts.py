"""Commands with time limits: run them, interrupt them, keep how they ended, continue.

The output of a part goes to FOLDER/NAME.txt while it runs. How it ended is appended to
FOLDER/results.jsonl at once. What is done is not done again.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

GRACE = 20.0
"""Seconds between the interruption of a command and its end by force."""
RESULTS = "results.jsonl"


@dataclass(frozen=True)
class Part:
    """A command.

    Args:
        name: of the part and of its output.
        command: its words.
        limit: seconds after which it is interrupted.
        needs: files that it reads; without them it is not started.
        makes: a file that it writes when it is done, or None.
    """

    name: str
    command: tuple[str, ...]
    limit: float
    needs: tuple[str, ...] = ()
    makes: str | None = None

    @property
    def missing(self) -> list[str]:
        """The files that it reads and that do not exist."""
        return [file for file in self.needs if not Path(file).exists()]

    def output(self, folder: Path) -> Path:
        """Return the file of its output."""
        return folder / f"{self.name}.txt"


@dataclass(frozen=True)
class End:
    """How a part ended.

    Args:
        state: ``done`` (exit code 0), ``failed``, or ``stopped`` by its limit or by Ctrl-C.
        exit_code: negative for a signal.
        device: what it ran on.
        time: when it ended, UTC.
    """

    name: str
    state: str
    exit_code: int
    seconds: float
    device: str
    time: str
    command: str


def last_ends(folder: Path) -> dict[str, End]:
    """Return how each part ended last."""
    results = folder / RESULTS
    lines = results.read_text().splitlines() if results.exists() else []
    return {end.name: end for end in (End(**json.loads(line)) for line in lines)}


def state_of(part: Part, folder: Path) -> str:
    """Return ``done``, ``failed``, ``stopped``, ``waits`` for files, or ``new``."""
    end = last_ends(folder).get(part.name)
    if (end and end.state == "done") or (part.makes and Path(part.makes).exists()):
        return "done"
    if part.missing:
        return "waits"
    return end.state if end else "new"


def execute(
    parts: Sequence[Part],
    folder: Path,
    *,
    budget: float | None = None,
    grace: float = GRACE,
    device: str = "",
) -> bool:
    """Run the parts that are not done, one after the other, and return whether all are done.

    Args:
        folder: of outputs and results.
        budget: seconds for all parts, with the time to interrupt them; None for no limit.
        grace: seconds between the interruption of a command and its end by force.
        device: what the parts run on, for the results.

    Raises:
        KeyboardInterrupt: by Ctrl-C, after the end of the part that ran was kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    until = float("inf") if budget is None else time.monotonic() + budget - grace
    for part in parts:
        state, seconds = state_of(part, folder), min(part.limit, until - time.monotonic())
        if state == "done":
            say(f"{part.name}: done before")
        elif state == "waits":
            say(f"{part.name}: waits for {', '.join(part.missing)}")
        elif seconds <= 0:
            say(f"{part.name}: not started, because the budget is used up")
        else:
            say(f"{part.name}: at most {seconds:.0f} s")
            run(part, folder, seconds, grace, device)
    return all(state_of(part, folder) == "done" for part in parts)


def run(part: Part, folder: Path, seconds: float, grace: float, device: str) -> None:
    """Run a part for at most ``seconds``, and keep how it ended.

    Raises:
        KeyboardInterrupt: by Ctrl-C, after that.
    """
    began, stopped, interrupted = time.monotonic(), False, False
    with part.output(folder).open("ab", buffering=0) as output:
        output.write(f"$ {shlex.join(part.command)}\n".encode())
        # Its own process group, so that all of it can be killed.
        process = subprocess.Popen(
            part.command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"}, process_group=0,
            # A shell that started this script in the background may have switched it off.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            stopped = True
        except KeyboardInterrupt:
            stopped = interrupted = True
        if stopped:
            stop(process, grace)
    code = process.returncode
    state = "done" if code == 0 else "stopped" if stopped else "failed"
    took, now = round(time.monotonic() - began, 1), f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
    end = End(part.name, state, code, took, device, now, shlex.join(part.command))
    with (folder / RESULTS).open("a") as results:
        results.write(json.dumps(asdict(end)) + "\n")
    say(f"{part.name}: {state} after {took:.0f} s, exit code {code}")
    if state == "failed":
        lines = part.output(folder).read_text(errors="replace").splitlines()[-15:]
        say("\n".join(f"    {line}" for line in lines))
    if interrupted:
        raise KeyboardInterrupt


def stop(process: subprocess.Popen[bytes], grace: float) -> None:
    """Interrupt a command as Ctrl-C does, and kill what is left of it after ``grace`` seconds.

    It is interrupted twice: Python drops an interruption that arrives in a callback.
    """
    for _ in range(2):
        process.send_signal(signal.SIGINT)  # nothing happens after its end
        with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            process.wait(grace / 2)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def listing(parts: Sequence[Part], folder: Path) -> Iterator[str]:
    """Yield the lines of a Markdown table of the parts, then their commands."""
    ends = last_ends(folder)
    yield "| part | limit, s | state | seconds |"
    yield "| --- | ---: | --- | ---: |"
    for part in parts:
        took = f"{ends[part.name].seconds:.0f}" if part.name in ends else ""
        yield f"| {part.name} | {part.limit:.0f} | {state_of(part, folder)} | {took} |"
    for part in parts:
        yield f"\n{part.name}:\n    {shlex.join(part.command)}"
        if part.missing:
            yield f"    waits for {', '.join(part.missing)}"


def say(text: str) -> None:
    """Print at once."""
    print(text, flush=True)
