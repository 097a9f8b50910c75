from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from denoised_smoothing.errors import SpecError, WeightsError
from denoised_smoothing.models import shipped as module
from denoised_smoothing.models.denoisers.files import save_denoiser
from denoised_smoothing.models.denoisers.unet import UNet
from denoised_smoothing.models.shipped import (
    check_checksum,
    load_shipped_denoiser,
    shipped_denoisers,
    shipped_folder,
)

SHIPPED = sorted(shipped_folder("denoisers").parent.glob("*/*.safetensors"))
CARDS = shipped_folder("denoisers").parent / "cards"
HEADINGS = ("Data", "Training", "Quality", "Intended use", "Limits")
OPTIONS = {"sigma_min": "0.25", "sigma_max": "0.25"}


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that ships one denoiser, ``small``."""
    monkeypatch.setattr(module.resources, "files", lambda package: tmp_path)
    path = tmp_path / "shipped" / "denoisers" / "small.safetensors"
    save_denoiser(path, UNet(width=8, outer=1, inner=1), "unet", OPTIONS, half=True)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (path.parent / "SHA256SUMS").write_text(f"{digest}  {path.name}\n")
    return path


def test_found_and_loaded_by_name(shipped: Path) -> None:
    assert shipped_denoisers() == {"small": shipped}
    denoiser = load_shipped_denoiser("small")
    assert not denoiser.training
    assert denoiser.card.items() >= OPTIONS.items()


def test_another_name_is_refused(shipped: Path) -> None:
    with pytest.raises(SpecError, match="must be one of small, got 'large'"):
        load_shipped_denoiser("large")


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:-1] + bytes([whole[-1] ^ 1]),
        lambda whole: b"",
    ],
    ids=["half-written", "one bit", "empty"],
)
def test_an_altered_file_is_refused(shipped: Path, damage: Callable[[bytes], bytes]) -> None:
    shipped.write_bytes(damage(shipped.read_bytes()))
    with pytest.raises(WeightsError, match=r"small\.safetensors is not the file that was shipped"):
        load_shipped_denoiser("small")


def test_a_file_without_checksum_is_refused(shipped: Path) -> None:
    sums = shipped.parent / "SHA256SUMS"
    sums.write_text("")
    with pytest.raises(WeightsError, match=r"expected none\. Install the package again"):
        load_shipped_denoiser("small")
    sums.unlink()
    with pytest.raises(WeightsError, match=r"cannot read the checksum of "):
        load_shipped_denoiser("small")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_what_ships_is_as_it_was_made(path: Path) -> None:
    check_checksum(path)
    assert path.stat().st_size < 4e6


def test_all_of_it_is_small() -> None:
    assert SHIPPED
    assert sum(path.stat().st_size for path in SHIPPED) < 30e6
    assert max(path.stat().st_size for path in SHIPPED) < 6e6


@pytest.mark.parametrize("name", shipped_denoisers())
def test_its_card_says_where_it_came_from(name: str) -> None:
    card = load_shipped_denoiser(name).card
    assert 0 < float(card["sigma_min"]) <= float(card["sigma_max"])
    assert json.loads(card["quality"])["validation_mse"] > 0
    text = (CARDS / f"{name}.md").read_text("utf-8")
    headings = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    assert tuple(headings) == HEADINGS
    for command in (*json.loads(card.get("history", "[]")), card["command"]):
        assert command
        assert command in text
    assert f"seed {card['seed']}" in text
