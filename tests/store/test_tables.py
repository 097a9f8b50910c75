"""store/tables.py: text that a database cannot hold is the same when it is read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import sqlalchemy as sa

from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.errors import StoreError, StoreUnreachableError
from denoised_smoothing.remote.log import StoreLog
from denoised_smoothing.remote.records import Attempt, CopyKey, Outcome
from denoised_smoothing.store import Store, StoredExample, StoredImage

from .servers import LOCKED, Server

TEXTS = [
    "cat",
    "Caf\N{LATIN SMALL LETTER E WITH ACUTE}",
    "\N{CAT FACE}\u732b",
    "cat\0dog",
    "cat \ud83d",
    os.fsdecode(b"caf\xe9.png"),
    r"\u{}",
    r"\u{41} C:\u",
    "\\\"';--%s%(x)s:x",
]


@pytest.fixture(params=["sqlite", "UTF8", "LATIN1", "SQL_ASCII"])
def any_target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """What names a new store, in each encoding."""
    if request.param == "sqlite":
        return str(tmp_path / "runs.sqlite")
    server: Server = request.getfixturevalue("server")
    return server.database(request.param)


def counts(run: str, image_id: str, n: int) -> dict[Stage, LabelCounts]:
    return {Stage.SELECTION: LabelCounts(run, image_id, Stage.SELECTION, (n,))}


def test_any_text_comes_back(any_target: str) -> None:
    """As names, ids, settings, labels, versions and answers; also to find rows by."""
    for name in TEXTS:
        key = CopyKey(name, Stage.SELECTION, 0)
        sent = Attempt(key, 1, name, name, "s", 0.1, "now")
        ended = Attempt(
            key, 1, name, name, "s", 0.1, "now", Outcome.ANSWERED, name, True, name, name, 0.5
        )
        with Store(any_target) as store, store.claim(name):
            store.begin(name, {"data": name}, seed=1, info={"note": [name]})
            for n in (1, 2):  # the second replaces the first
                images = [StoredImage(i, t, 0, t, counts(name, t, n)) for i, t in enumerate(TEXTS)]
                store.save_images(name, images)
            store.save_examples(name, [StoredExample(t, "clean", 0, b"") for t in TEXTS])
            StoreLog(store, name).write([sent], [])
            StoreLog(store, name).write([], [ended])
    with Store(any_target) as store:
        assert [run.name for run in store.runs()] == TEXTS
        for name in TEXTS:
            run, log = store.begin(name, {"data": name}, seed=1, info={}), StoreLog(store, name)
            assert (run.name, run.info) == (name, {"note": [name]})
            images = [StoredImage(i, t, 0, t, counts(name, t, 2)) for i, t in enumerate(TEXTS)]
            assert store.images(name) == images
            assert {example.image_id for example in store.examples(name)} == set(TEXTS)
            [found] = log.history()
            assert (found.key.image_id, found.label, found.version) == (name, name, name)
            assert log.answer(found.key) == name


@pytest.mark.parametrize(
    ("encoding", "held"),
    [
        ("UTF8", ["cat", "Caf\xe9", "\N{CAT FACE}\u732b", r"\u{}cat\u{0}dog"]),
        ("LATIN1", ["cat", "Caf\xe9", r"\u{}\u{1f431}\u{732b}", r"\u{}cat\u{0}dog"]),
        ("SQL_ASCII", ["cat", r"\u{}Caf\u{e9}", r"\u{}\u{1f431}\u{732b}", r"\u{}cat\u{0}dog"]),
    ],
)
def test_what_the_encoding_has_is_stored_as_it_is(
    server: Server, encoding: str, held: list[str]
) -> None:
    target = server.database(encoding)
    with Store(target) as store:
        for name in TEXTS[:4]:
            store.begin(name, {}, seed=1, info={})
    engine = sa.create_engine(target, connect_args={"client_encoding": "utf8"})
    with engine.connect() as connection:
        names = connection.exec_driver_sql("select name from runs order by created").scalars()
        assert list(names) == held
    engine.dispose()


@pytest.mark.parametrize(
    ("password", "said"),
    [
        (None, "no password supplied.*Set the environment variable PGPASSWORD, or write the line"),
        ("wrong", "password authentication failed.*Correct the user in the URL, or the password"),
    ],
)
def test_a_password_that_is_asked_for_is_named(
    server: Server, monkeypatch: pytest.MonkeyPatch, password: str | None, said: str
) -> None:
    monkeypatch.setenv("PGPASSFILE", "/none")
    monkeypatch.delenv("PGPASSWORD", raising=False)
    if password is not None:
        monkeypatch.setenv("PGPASSWORD", password)
    with pytest.raises(StoreError, match=f"(?s){said}") as caught:
        Store(server.url(LOCKED))
    assert not isinstance(caught.value, StoreUnreachableError)  # nothing to wait for
