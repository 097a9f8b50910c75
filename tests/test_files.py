from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from denoised_smoothing.errors import SettingError
from denoised_smoothing.files import (
    cache_folder,
    expand_home,
    read_lines,
    read_pairs,
    sha256_of,
    write_atomically,
)


def test_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    for content in (b"old", b"new"):
        write_atomically(tmp_path / "file", content)
    assert (tmp_path / "file").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_failure_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomically(tmp_path / "file", b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(SettingError, match=r"file': No space left on device. Name a file"):
        write_atomically(tmp_path / "file", b"new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_a_folder_is_no_output(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="cannot write the output"):
        write_atomically(tmp_path, b"")


def test_a_checksum_is_that_of_the_contents_together(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"a" * 100_000)
    two.write_bytes(b"b")
    assert sha256_of(one) == hashlib.sha256(b"a" * 100_000).hexdigest()
    assert sha256_of(one, two) == hashlib.sha256(b"a" * 100_000 + b"b").hexdigest()


def test_the_cache_folder_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DENOISED_SMOOTHING_CACHE", str(tmp_path / "named"))
    assert cache_folder() == tmp_path / "named"
    monkeypatch.delenv("DENOISED_SMOOTHING_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "denoised-smoothing"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "denoised-smoothing"


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of an unknown user stays as it is, and is missing."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert expand_home("~/a") == tmp_path / "a"
    assert expand_home("~nobody-of-that-name/a") == Path("~nobody-of-that-name/a")


def test_files_of_names(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("# a comment\n\n kat = cat \nfox=dog\n", "utf-8")
    assert read_pairs(path, "pairs") == {"kat": "cat", "fox": "dog"}
    assert read_lines(path, "lines") == ["kat = cat", "fox=dog"]
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="pairs, in UTF-8"):
        read_pairs(path, "pairs")
    path.write_text("kat = cat\nkat=dog", "utf-8")
    with pytest.raises(ValueError, match=r"pairs, one for each name \('kat' has two\)"):
        read_pairs(path, "pairs")
    path.write_text("kat cat", "utf-8")
    with pytest.raises(ValueError, match="pairs"):
        read_pairs(path, "pairs")


@pytest.mark.parametrize("path", ["", ".", "/"])
def test_a_path_without_a_name_is_refused(path: str) -> None:
    with pytest.raises(SettingError, match=r"the output .[./]. has no name\. Name a file or"):
        write_atomically(path, b"")
