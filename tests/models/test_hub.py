"""hub.py: folders as they are; the hub asked once; what was fetched before."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from denoised_smoothing.errors import WeightsError
from denoised_smoothing.models.hub import model_folder

hub = pytest.importorskip("huggingface_hub")


def answer(monkeypatch: pytest.MonkeyPatch, *files: str) -> None:
    """The hub is there, and has a model of these files."""
    siblings = [SimpleNamespace(rfilename=file) for file in files]
    info = SimpleNamespace(siblings=siblings)
    monkeypatch.setattr(hub.HfApi, "model_info", lambda self, name, timeout: info)


def record(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []

    def download(name: str, **options: Any) -> str:
        calls.append({"name": name, **options})
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", download)
    return calls


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    assert model_folder(str(tmp_path), holds="config.json") == tmp_path


@pytest.mark.parametrize(
    ("files", "skips"), [(("model.safetensors", "pytorch_model.bin"), True), (("a.bin",), False)]
)
def test_the_hub_is_asked_and_one_form_of_the_weights_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: tuple[str, ...], skips: bool
) -> None:
    answer(monkeypatch, *files)
    [*_] = calls = record(monkeypatch, tmp_path)
    assert model_folder("owner/name", holds="config.json") == tmp_path
    assert calls[0]["name"] == "owner/name"
    assert not calls[0]["local_files_only"]
    assert ("*.bin" in calls[0]["ignore_patterns"]) == skips
    assert "*.h5" in calls[0]["ignore_patterns"]


def test_without_the_hub_what_was_fetched_before_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hub_is_away: None
) -> None:
    calls = record(monkeypatch, tmp_path)
    assert model_folder("owner/name", holds="config.json") == tmp_path
    assert calls[0]["local_files_only"]


LARGE, SMALL = b"weights" * 1000, b"{}"
NAMES = {  # the second as ``git hash-object`` prints it
    "model.safetensors": hashlib.sha256(LARGE).hexdigest(),
    "config.json": "9e26dfeeb6e641a33dae4961196235bdb965b21b",
}


class Download:
    """A model in the layout of the hub's cache: links to files that are named by their hashes."""

    def __init__(self, root: Path) -> None:
        self.folder, self.count = root / "snapshots" / "main", 0
        self.blobs = root / "blobs"

    def __call__(self, name: str, **options: Any) -> str:
        self.count += 1
        for file, content in (("model.safetensors", LARGE), ("config.json", SMALL)):
            link, blob = self.folder / file, self.blobs / NAMES[file]
            link.parent.mkdir(parents=True, exist_ok=True)
            self.blobs.mkdir(exist_ok=True)
            if not link.exists():
                blob.write_bytes(content)
                link.symlink_to(Path("../../blobs") / blob.name)
        return str(self.folder)


@pytest.fixture
def downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Download:
    download = Download(tmp_path)
    monkeypatch.setattr(hub, "snapshot_download", download)
    download("owner/name")
    return download


@pytest.mark.parametrize("file", NAMES)
def test_an_altered_file_is_downloaded_again(
    file: str,
    downloaded: Download,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    answer(monkeypatch, *NAMES)
    assert model_folder("owner/name", holds="config.json") == downloaded.folder
    assert (downloaded.count, caplog.records) == (2, [])
    path = downloaded.folder / file
    before = path.read_bytes()
    path.write_bytes(before[:-1] + b"X")
    assert model_folder("owner/name", holds="config.json") == downloaded.folder
    assert downloaded.count == 4
    assert f"{path} is not the file that the hub has. It" in caplog.text
    assert path.read_bytes() == before


def test_an_altered_file_is_refused_without_the_hub(
    downloaded: Download, hub_is_away: None
) -> None:
    (downloaded.folder / "model.safetensors").write_bytes(LARGE[1:])
    said = r"model.safetensors is not the file that the hub has of 'owner/name': .* access to the h"
    with pytest.raises(WeightsError, match=said):
        model_folder("owner/name", holds="config.json")
    assert (downloaded.folder / "model.safetensors").read_bytes() == LARGE[1:]


def test_a_file_that_arrives_altered_is_refused(
    downloaded: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, *NAMES)
    (downloaded.folder / "config.json").write_bytes(b"{")
    monkeypatch.setitem(NAMES, "config.json", 40 * "0")
    with pytest.raises(WeightsError, match=r"config.json is not the file that the hub has of"):
        model_folder("owner/name", holds="config.json")


def test_files_that_are_not_used_are_not_compared(
    downloaded: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, *NAMES)
    (downloaded.folder / "tf_model.h5").symlink_to("../../blobs/" + 64 * "0")
    model_folder("owner/name", holds="config.json")
    assert downloaded.count == 2


def test_without_either_the_error_is_prompt_and_says_what_to_do(hub_is_away: None) -> None:
    began = time.monotonic()
    said = r"'owner/name' is neither a folder .*no route to the hub\)\. Check the name, or save it"
    with pytest.raises(WeightsError, match=said):
        model_folder("owner/name", holds="config.json")
    assert time.monotonic() - began < 60, "it was tried again and again"


def test_a_name_that_the_hub_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(self: Any, name: str, timeout: float) -> None:
        raise hub.errors.RepositoryNotFoundError.__new__(hub.errors.RepositoryNotFoundError)

    monkeypatch.setattr(hub.HfApi, "model_info", absent)
    with pytest.raises(WeightsError, match=r"no readable model 'owner/nane'\. Check the n"):
        model_folder("owner/nane", holds="config.json")


@pytest.mark.parametrize("name", ["a/b/c", "/away", "./away", "../away", "x y"])
def test_what_can_only_be_a_path_is_not_looked_up(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(hub.HfApi, "model_info", lambda *_, **__: pytest.fail("the hub was asked"))
    with pytest.raises(WeightsError, match=r"there is no folder .*\. Check the path, or na"):
        model_folder(name, holds="config.json")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(WeightsError, match="there is no folder"):
        model_folder(str(tmp_path / "x"), holds="config.json")
