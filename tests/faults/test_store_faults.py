"""A store that fails at a random moment of a run: nothing is lost, and the message says what to do.

After each fault the same command resumes the run, and its counts equal those of a run that nothing
disturbed. The moments are drawn from a fixed seed.
"""

from __future__ import annotations

import random
import re
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from forks import EACH

from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.cli import main
from denoised_smoothing.runs import writer
from denoised_smoothing.store import Store, database

CASES = EACH
"""Moments of each kind of fault."""
CERTIFY = (
    *("certify", "digits", "--classifier", "digits", "--sigma", "0.5", "--limit", "3"),
    *("--n0", "20", "--n", "2000", "--seed", "1", "--run", "r", "--store", "runs.sqlite"),
)
EXIT_CODES = (0, 1, 2)
"""Of the documented ones, those that a fault of the store may cause."""
WRITES = re.compile(r"BEGIN IMMEDIATE|INSERT|UPDATE|DELETE|COMMIT", re.IGNORECASE)

Counts = dict[str, dict[Stage, LabelCounts]]


class Disturbance:
    """Counts the statements that reach a store, and disturbs it from one of them on.

    Args:
        first: number of that statement, from 1 on; 0 for none.
        happens: called with this object and the text of each statement from then on.
    """

    def __init__(self, first: int, happens: Callable[[Disturbance, str], None]) -> None:
        self.first, self.happens, self.count = first, happens, 0
        self.writes_since = 0
        """Rows that were written after that statement, at least."""

    @property
    def is_first(self) -> bool:
        return self.count == self.first

    def watch(self, engine: sa.Engine) -> sa.Engine:
        def listen(cursor: Any, text: str, *rest: Any) -> None:
            self._statement(text)

        for name in ("do_execute", "do_executemany"):
            sa.event.listen(engine, name, listen)
        return engine

    def _statement(self, text: str) -> None:
        self.count += 1
        if 0 < self.first <= self.count:
            self.writes_since += not self.is_first and re.match("INSERT|UPDATE", text) is not None
            self.happens(self, text)


def once(message: str) -> Callable[[Disturbance, str], None]:
    """SQLite reports an error for one statement."""

    def happens(disturbance: Disturbance, _: str) -> None:
        if disturbance.is_first:
            raise sqlite3.OperationalError(message)

    return happens


def from_then_on(message: str) -> Callable[[Disturbance, str], None]:
    """SQLite refuses every write from then on."""

    def happens(_: Disturbance, text: str) -> None:
        if WRITES.match(text):
            raise sqlite3.OperationalError(message)

    return happens


def slow(_: Disturbance, text: str) -> None:
    time.sleep(0.01)


def delete(disturbance: Disturbance, _: str) -> None:
    if disturbance.is_first:
        for path in Path.cwd().glob("runs.sqlite*"):
            path.unlink()


def replace(disturbance: Disturbance, _: str) -> None:
    if disturbance.is_first:
        with Store("other.sqlite") as other:
            other.begin("other", {}, seed=1, info={})
        Path("other.sqlite").replace("runs.sqlite")


KINDS: dict[str, tuple[Callable[[Disturbance, str], None], str]] = {
    "full once": (once("database or disk is full"), "Free some space"),
    "full": (from_then_on("database or disk is full"), "Free some space"),
    "locked": (once("database is locked"), "Wait until that ends"),
    "read-only": (from_then_on("attempt to write a readonly database"), "Make the file and its"),
    "broken": (once("disk I/O error"), "Everything saved before is kept"),
    "slow": (slow, ""),
    "deleted": (delete, "was deleted, moved or replaced while it was open"),
    "replaced": (replace, "was deleted, moved or replaced while it was open"),
}
"""Each fault, and what the message about it says."""


class Command:
    """Runs ``certify`` in a folder of its own: exit code and printed text."""

    def __init__(
        self,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        arguments: Sequence[str] = CERTIFY,
    ) -> None:
        self.arguments = list(arguments)
        self._capsys, self._monkeypatch, self._open = capsys, monkeypatch, database.open_engine
        monkeypatch.setattr(writer, "SAVE_SECONDS", 0.0)

    def __call__(self, first: int = 0, happens: Any = slow) -> tuple[int, str, Disturbance]:
        disturbance = Disturbance(first, happens)

        def watched(url: sa.URL, read_only: bool) -> sa.Engine:
            engine = self._open(url, read_only)
            return disturbance.watch(engine) if "other" not in str(url) else engine

        with self._monkeypatch.context() as patch:
            patch.setattr(database, "open_engine", watched)
            with pytest.raises(SystemExit) as end:
                main(self.arguments)
        printed = self._capsys.readouterr()
        return int(end.value.code or 0), " ".join((printed.out + printed.err).split()), disturbance


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Command:
    monkeypatch.chdir(tmp_path)
    return Command(capsys, monkeypatch)


def counts() -> Counts:
    with Store("runs.sqlite", read_only=True) as store:
        images = store.images("r")
        assert all(image.finished for image in images)
        return {image.image_id: dict(image.counts) for image in images}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Counts, int, int]:
    """The counts, the statements that opening a store takes, and those of the whole run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("undisturbed"))
        patch.setattr(writer, "SAVE_SECONDS", 0.0)
        disturbance, real = Disturbance(0, slow), database.open_engine
        patch.setattr(database, "open_engine", lambda *args: disturbance.watch(real(*args)))
        Store("opened.sqlite").close()
        opening, disturbance.count = disturbance.count, 0
        with pytest.raises(SystemExit) as end:
            main(list(CERTIFY))
        assert not end.value.code
        whole = disturbance.count
        return counts(), opening, whole


@pytest.mark.parametrize("case", range(CASES))
@pytest.mark.parametrize("kind", KINDS)
def test_a_store_that_fails_during_a_run(
    kind: str, case: int, command: Command, undisturbed: tuple[Counts, int, int]
) -> None:
    expected, opening, whole = undisturbed
    happens, advice = KINDS[kind]
    moment = random.Random(f"{kind} {case}").randint(opening + 1, whole)
    code, text, disturbance = command(moment, happens)
    assert code in EXIT_CODES
    assert "Traceback" not in text
    if kind == "slow":
        assert code == 0, text
    if code:
        assert "error: " in text
        assert advice in text
    moved = re.search(r"All that was saved is in (\S+)\. Move that file to (\S+), then", text)
    is_lost = kind in ("deleted", "replaced")
    assert (moved is not None) == (code != 0 and is_lost)
    assert code or not (is_lost and disturbance.writes_since)
    if moved:
        Path(moved[1]).replace(moved[2])
    if code or is_lost:  # also where the file was deleted after the run
        code, text, _ = command()
        assert code == 0, text
    assert counts() == expected
