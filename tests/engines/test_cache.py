"""The cache: whole or not at all, and never in the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from denoised_smoothing.engines import cache


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DENOISED_SMOOTHING_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def unwritable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DENOISED_SMOOTHING_CACHE", str(tmp_path / "file" / "cache"))


def write(folder: Path) -> None:
    (folder / "model").write_text("model")


def test_a_folder_is_made_once(folder: Path) -> None:
    made = []

    def make(part: Path) -> None:
        made.append(part)
        write(part)

    assert [cache.cached_folder("key", make) for _ in range(2)] == [folder / "key"] * 2
    assert len(made) == 1
    assert [path.name for path in folder.iterdir()] == ["key"]


def test_a_failure_leaves_nothing(folder: Path) -> None:
    def fail(part: Path) -> None:
        write(part)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        cache.cached_folder("key", fail)
    assert list(folder.iterdir()) == []


def test_whoever_is_second_takes_what_the_first_made(folder: Path) -> None:
    def slow(part: Path) -> None:
        cache.cached_folder("key", write)
        (part / "model").write_text("another")

    assert (cache.cached_folder("key", slow) / "model").read_text() == "model"
    assert [path.name for path in folder.iterdir()] == ["key"]


@pytest.mark.usefixtures("unwritable")
def test_where_it_cannot_be_written_it_is_done_without() -> None:
    assert (cache.cached_folder("key", write) / "model").read_text() == "model"
    cache.remember("key", {"a": 1})
    assert cache.recall("key") is None


def test_values_are_remembered(folder: Path) -> None:
    assert cache.recall("key") is None
    cache.remember("key", {"a": 1})
    assert cache.recall("key") == {"a": 1}
    (folder / "key.json").write_text("{")
    assert cache.recall("key") is None


def test_keys_and_digests_depend_on_all_that_they_are_of(tmp_path: Path) -> None:
    assert cache.cache_key("a", "b") == cache.cache_key("a", "b")
    assert cache.cache_key("a", "b") != cache.cache_key("ab")
    write(tmp_path)
    before = cache.digest_of_files(tmp_path)
    (tmp_path / "model").write_text("nodel")
    assert cache.digest_of_files(tmp_path) != before
