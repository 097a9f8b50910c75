"""The cache: whole or not at all, checked before use, and never in the way."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from denoised_smoothing.errors import SettingError
from denoised_smoothing.models import cache
from denoised_smoothing.models.cache import Cache, ModelFiles, cache_key

KEY, OTHER = cache_key("a"), cache_key("b")
VALUES = {"engine": "openvino", "forward": 50, "notes": ["a note"]}
CONTENTS = {"model.bin": bytes(range(256)), "model.xml": b"<net/>"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the cache, which does not exist yet."""
    monkeypatch.setenv("DENOISED_SMOOTHING_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(cache.LIMIT_VARIABLE, raising=False)
    return tmp_path / "cache" / "engines"


@pytest.fixture
def unwritable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DENOISED_SMOOTHING_CACHE", str(tmp_path / "file" / "cache"))


def write(folder: Path) -> None:
    for name, content in CONTENTS.items():
        (folder / name).write_bytes(content)


def fail(folder: Path) -> None:
    write(folder)
    raise ValueError("it was made again")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def add(key: str, size: int, used: float) -> Path:
    """Write a model of that size, last used so many seconds ago."""
    made = Cache().model(key, lambda part: (part / "model").write_bytes(bytes(size)) and None)
    os.utime(made.folder, 2 * (time.time() - used,))
    return made.folder


class TestModels:
    def test_are_made_once(self, folder: Path) -> None:
        made = Cache().model(KEY, write)
        assert Cache().model(KEY, fail) == made
        assert (made.folder, made.contents) == (folder / KEY, CONTENTS)
        assert names(folder) == [KEY]

    def test_a_failure_leaves_nothing(self, folder: Path) -> None:
        with pytest.raises(ValueError, match="made again"):
            Cache().model(KEY, fail)
        assert names(folder) == []

    def test_the_second_of_two_processes_takes_what_the_first_made(self, folder: Path) -> None:
        def slow(part: Path) -> None:
            Cache().model(KEY, write)
            (part / "model").write_text("another")

        assert Cache().model(KEY, slow).contents == CONTENTS
        assert names(folder) == [KEY]

    @pytest.mark.usefixtures("unwritable")
    def test_are_made_each_time_where_nothing_can_be_written(self) -> None:
        made = Cache().model(KEY, write)
        assert made.contents == CONTENTS == ModelFiles.read(made.folder).contents
        with pytest.raises(ValueError, match="made again"):
            Cache().model(KEY, fail)
        shutil.rmtree(made.folder)

    def test_digests_depend_on_names_and_contents(self, tmp_path: Path) -> None:
        digests = set()
        for number, files in enumerate(({"a": "b"}, {"a": "c"}, {"c": "b"}, {"a": "", "b": ""})):
            (tmp_path / str(number)).mkdir()
            for name, text in files.items():
                (tmp_path / str(number) / name).write_text(text)
            digests.add(ModelFiles.read(tmp_path / str(number)).digest)
        assert len(digests) == 4

    def test_keys_depend_on_each_part(self) -> None:
        assert cache_key("a", "b") == cache_key("a", "b") != cache_key("ab")


def _alter(model: Path) -> None:
    content = bytearray(CONTENTS["model.bin"])
    content[100] ^= 1
    (model / "model.bin").write_bytes(content)


def _swap(model: Path) -> None:
    """The whole folder of another key, with its record."""
    other = Cache().model(OTHER, lambda part: (part / "model.xml").write_text("other") and None)
    shutil.rmtree(model)
    other.folder.rename(model)


def _replace_by_file(model: Path) -> None:
    shutil.rmtree(model)
    model.write_text("")


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "altered": _alter,
    "cut": lambda model: os.truncate(model / "model.bin", 10),
    "file missing": lambda model: (model / "model.bin").unlink(),
    "file added": lambda model: (model / "model.onnx.data").write_text(""),
    "folder added": lambda model: (model / "more").mkdir(),
    "renamed": lambda model: (model / "model.bin").rename(model / "model.bin2"),
    "another key": _swap,
    "no record": lambda model: (model / cache.RECORD).unlink(),
    "record is not JSON": lambda model: (model / cache.RECORD).write_bytes(b"\xff{"),
    "record is a list": lambda model: (model / cache.RECORD).write_text("[]"),
    "empty": lambda model: [path.unlink() for path in model.iterdir()],
    "a file": _replace_by_file,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_model_is_made_again(
    damage: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Cache().model(KEY, write)
    DAMAGES[damage](folder / KEY)
    caplog.clear()
    assert Cache().model(KEY, write).contents == CONTENTS
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert str(folder / KEY) in record.getMessage()
    assert Cache().model(KEY, fail).contents == CONTENTS
    assert names(folder) == [KEY]


def test_a_damaged_model_that_cannot_be_replaced_is_not_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a folder of another user; the tests may run as one who can write everywhere."""
    Cache().model(KEY, write)
    _alter(folder / KEY)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    assert Cache().model(KEY, write).contents == CONTENTS


def _make_at_once(start: Any, results: Any) -> None:
    def slow(part: Path) -> None:
        time.sleep(0.05)
        write(part)

    start.wait()
    results.put(Cache().model(KEY, slow).contents)


@pytest.mark.parametrize("damaged", [False, True])
def test_two_processes_at_once_end_with_a_good_model(folder: Path, damaged: bool) -> None:
    if damaged:
        Cache().model(KEY, write)
        _alter(folder / KEY)
    context = get_context("spawn")
    start, results = context.Barrier(2), context.Queue()
    processes = [context.Process(target=_make_at_once, args=(start, results)) for _ in range(2)]
    for process in processes:
        process.start()
    assert [results.get(timeout=60) for _ in processes] == 2 * [CONTENTS]
    for process in processes:
        process.join()
    assert Cache().model(KEY, fail).contents == CONTENTS
    assert names(folder) == [KEY]


class TestChoices:
    def test_are_remembered(self, folder: Path) -> None:
        assert Cache().recall(KEY) is None
        Cache().remember(KEY, VALUES)
        assert Cache().recall(KEY) == VALUES
        assert names(folder) == [f"{KEY}.json"]

    @pytest.mark.parametrize(
        "text",
        [
            "", "{", "null", "[]", "7", '"text"', "{}", "\0", "[" * 100_000,
            '{"engine": "openvino", "forward": 50, "notes": []}',  # of earlier versions
            '{"values": {"engine": "openvino", "forward": 50, "notes": []}}',
            '{"values": [], "sha256": null}',
        ],
    )  # fmt: skip
    def test_damaged_ones_are_forgotten(
        self, text: str, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        Cache().remember(KEY, VALUES)
        (folder / f"{KEY}.json").write_text(text)
        assert Cache().recall(KEY) is None
        assert f"{KEY}.json is damaged" in caplog.text
        Cache().remember(KEY, VALUES)
        assert Cache().recall(KEY) == VALUES

    @pytest.mark.parametrize("edit", [{"forward": 0}, {"engine": "tensorrt"}, {"more": 1}])
    def test_edited_ones_are_forgotten(self, edit: dict[str, Any], folder: Path) -> None:
        Cache().remember(KEY, VALUES)
        path = folder / f"{KEY}.json"
        held = json.loads(path.read_text())
        path.write_text(json.dumps(held | {"values": held["values"] | edit}))
        assert Cache().recall(KEY) is None

    def test_those_of_another_key_are_forgotten(self, folder: Path) -> None:
        Cache().remember(KEY, VALUES)
        (folder / f"{KEY}.json").rename(folder / f"{OTHER}.json")
        assert Cache().recall(OTHER) is None

    @pytest.mark.usefixtures("unwritable")
    def test_are_measured_each_time_where_nothing_can_be_written(self) -> None:
        Cache().remember(KEY, VALUES)
        assert Cache().recall(KEY) is None


class TestLimit:
    def test_the_least_recently_used_go_first(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keys = [cache_key(number) for number in range(4)]
        for key, used in zip(keys[:3], (300, 200, 100), strict=True):
            add(key, 1000, used)
        Cache().model(keys[0], fail)  # the oldest is used again
        monkeypatch.setenv(cache.LIMIT_VARIABLE, "3600B")
        add(keys[3], 1000, 0)
        assert names(folder) == sorted([keys[0], keys[2], keys[3]])

    def test_the_newest_stays_even_if_it_is_too_large(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(cache.LIMIT_VARIABLE, "1KB")
        Cache().remember(OTHER, {})
        add(KEY, 2000, 0)
        assert names(folder) == [KEY]

    def test_what_another_process_writes_and_other_files_stay(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(cache.LIMIT_VARIABLE, "1KB")
        for name, days in ((f"{OTHER}.writing", 0.5), (f"{OTHER}.killed", 1.5), ("mine", 9.0)):
            (folder / name).mkdir(parents=True)
            (folder / name / "model").write_bytes(bytes(2000))
            os.utime(folder / name, 2 * (time.time() - days * 24 * 3600,))
        add(KEY, 100, 0)
        assert names(folder) == sorted([KEY, f"{OTHER}.writing", "mine"])

    def test_a_model_that_is_removed_while_it_is_read_is_made_again(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Cache().model(KEY, write)
        read = Path.read_bytes

        def remove_first(path: Path) -> bytes:
            shutil.rmtree(folder / KEY, ignore_errors=True)
            monkeypatch.setattr(Path, "read_bytes", read)
            return read(path)

        monkeypatch.setattr(Path, "read_bytes", remove_first)
        assert Cache().model(KEY, write).contents == CONTENTS

    @pytest.mark.parametrize(
        ("text", "size"),
        [
            ("500MB", 500_000_000), ("1.5 gb", 1_500_000_000), (" 2kb ", 2000), ("7", 7),
            ("3B", 3), ("1TB", 10**12), ("0", None), ("0GB", None), ("none", None), ("None", None),
        ],
    )  # fmt: skip
    def test_sizes(self, text: str, size: int | None) -> None:
        assert cache.parse_limit(text) == size

    @pytest.mark.parametrize("text", ["lots", "-1", "5 PB", "GB", "1e9", "inf", "nan", "5GB 3MB"])
    def test_a_limit_that_is_no_size_is_refused(
        self, text: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(cache.LIMIT_VARIABLE, text)
        with pytest.raises(SettingError, match=f"500MB or 5GB, or none .* got {text!r}. Correct"):
            Cache()

    def test_is_five_gigabytes_unless_it_is_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for text in (None, ""):
            monkeypatch.delenv(cache.LIMIT_VARIABLE, raising=False)
            if text is not None:
                monkeypatch.setenv(cache.LIMIT_VARIABLE, text)
            assert Cache().limit == 5_000_000_000
