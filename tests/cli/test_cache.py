"""cache: what is shown, and what is removed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from denoised_smoothing.cli import main
from denoised_smoothing.models.cache import LIMIT_VARIABLE, Cache, cache_key

Command = Callable[..., tuple[int, str, str]]
MODEL, CHOICE = cache_key("model"), cache_key("choice")


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Command:
    """Runs the command for a cache of its own; exit code, standard output and error."""
    monkeypatch.setenv("DENOISED_SMOOTHING_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(LIMIT_VARIABLE, raising=False)

    def command(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(["cache", *arguments])
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    return command


def fill() -> tuple[Cache, int]:
    """Write a model and an older choice next to files of others; the size of both together."""
    cache = Cache()
    cache.model(MODEL, lambda folder: (folder / "model.xml").write_bytes(bytes(2000)) and None)
    cache.remember(CHOICE, {"engine": "torch"})
    os.utime(cache.folder / f"{CHOICE}.json", (10**9, 10**9))
    (cache.folder / "notes").write_text("mine")
    (cache.folder / f"{MODEL}.part").mkdir()  # of a process that is converting
    data = cache.folder.parent / "cifar-10-batches-py"
    data.mkdir()
    (data / "batch").write_bytes(bytes(500))
    size = sum(path.stat().st_size for path in (cache.folder / MODEL).iterdir())
    return cache, size + (cache.folder / f"{CHOICE}.json").stat().st_size


def test_shows_folder_size_limit_and_entries(run: Command) -> None:
    cache, size = fill()
    code, out, _ = run("--json")
    shown = json.loads(out)
    assert code == 0
    assert (shown["folder"], shown["size"]) == (str(cache.folder), size)
    assert shown["limit"] == 5_000_000_000
    assert [(row["kind"], row["name"]) for row in shown["entries"]] == [
        ("measured choice", f"{CHOICE}.json"),
        ("converted model", MODEL),
        ("unfinished", f"{MODEL}.part"),
        ("other", "cifar-10-batches-py"),
    ]
    assert shown["entries"][0]["used"].startswith("2001-09-0")
    assert shown["entries"][3]["size"] == 500


def test_prints_a_table(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, _ = fill()
    monkeypatch.setenv(LIMIT_VARIABLE, "none")
    code, out, _ = run()
    assert code == 0
    assert "converted model  2.1 kB" in out
    assert "other            500 bytes" in out
    assert out.endswith(f"{cache.folder}: 2.2 kB, no limit\n")


def test_empties_only_what_the_cache_wrote(run: Command) -> None:
    cache, _ = fill()
    assert run("--empty") == (0, f"Removed 2 entries (2.2 kB) from {cache.folder}\n", "")
    left = sorted(path.name for path in cache.folder.iterdir())
    assert left == sorted(["notes", f"{MODEL}.part"])
    assert (cache.folder.parent / "cifar-10-batches-py" / "batch").stat().st_size == 500
    assert json.loads(run("--empty", "--json")[1])["removed"] == []


def test_a_link_to_a_folder_of_the_user_is_not_followed(run: Command, tmp_path: Path) -> None:
    cache, _ = fill()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    link = cache.folder / cache_key("link")
    link.symlink_to(tmp_path / "mine")
    assert run("--empty")[0] == 0
    assert (link / "file").read_text() == "mine"


def test_without_a_cache_there_is_nothing(run: Command) -> None:
    assert "none" in run()[1]
    assert run("--empty")[1].startswith("Removed 0 entries (0 bytes)")


def test_what_cannot_be_removed_is_named(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, _ = fill()

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    code, _, error = run("--empty")
    assert code == 2
    assert f"cannot remove {cache.folder / CHOICE}.json: Permission denied" in error


def test_a_limit_that_is_no_size_is_refused(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, "lots")
    code, _, error = run()
    assert code == 2
    assert "must be a size such as 500MB or 5GB, or none for no limit, got 'lots'" in error
