"""hub.py: folders as they are; the hub asked once; what was fetched before."""

from __future__ import annotations

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
