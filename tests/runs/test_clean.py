"""Labels of clean images, recorded once each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from denoised_smoothing.certificates.plans import FixedBudget
from denoised_smoothing.datasets import ImageDataset
from denoised_smoothing.errors import ClassifierError, ImageError, RefusedImagesError
from denoised_smoothing.reporting.results import load_results
from denoised_smoothing.reporting.tables import comparison
from denoised_smoothing.runs import clean
from denoised_smoothing.runs.run import CertificationRun
from denoised_smoothing.runs.shards import Shard, merge
from denoised_smoothing.smoothing.classifier import SmoothedClassifier
from denoised_smoothing.store import Store

LABELS = [0, 1, 1, 0, 1, 0]
VALUES = [np.full((1, 2, 2), shade / 255, np.float32) for shade in (20, 200, 230, 30, 90, 40)]
"""Dark and bright images; the one at 4 is dark and called bright."""


def bright(images: Tensor) -> Tensor:
    return (images.mean(dim=(1, 2, 3)) > 0.5).long()


def always_bright(noisy: Tensor, sigma: float) -> Tensor:
    return torch.full_like(noisy, 1 - sigma)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "runs.sqlite") as opened:
        yield opened


def request(denoiser: Any = None, **changes: Any) -> CertificationRun:
    data = ImageDataset(
        "folder:made", "f", [f"{k}" for k in range(6)], lambda index: VALUES[index], LABELS
    )
    settings: dict[str, Any] = {"plan": FixedBudget(5, 20), "alpha": 0.05, "name": "a", "seed": 3}
    smoothed = SmoothedClassifier(bright, 0.1, denoiser, device="cpu")
    return CertificationRun(smoothed, data, **{**settings, **changes})


def test_classifier_alone_and_behind_the_denoiser(store: Store) -> None:
    request(always_bright).execute(store)
    assert store.run("a").info["clean"] == {
        "index": [0, 1, 2, 3, 4, 5],
        "classifier": [0, 1, 1, 0, 0, 0],
        "denoised": [1] * 6,
    }
    [row] = comparison([load_results(store, "a")], (0.0,))
    assert row.summary is not None
    assert (row.summary.clean, row.summary.denoised) == (Fraction(5, 6), Fraction(1, 2))
    assert row.texts()[3:5] == ["83.3", "50.0"]


def test_without_a_denoiser_there_is_one_label(store: Store) -> None:
    request().execute(store)
    assert store.run("a").info["clean"]["denoised"] is None
    [row] = comparison([load_results(store, "a")], (0.0,))
    assert row.texts()[3:5] == ["83.3", "–"]


def test_a_resumed_run_adds_the_missing_ones(store: Store) -> None:
    request(limit=2).execute(store)
    assert store.run("a").info["clean"]["index"] == [0, 1]
    request(limit=4).execute(store)
    held = store.run("a").info["clean"]
    assert (held["index"], held["classifier"]) == ([0, 1, 2, 3], [0, 1, 1, 0])


def test_images_that_cannot_be_read_are_left_out(store: Store) -> None:
    def read(index: int) -> np.ndarray:
        if index == 1:
            raise ImageError("damaged")
        return VALUES[index]

    run = request(shape=(1, 2, 2))
    run = replace(run, dataset=replace(run.dataset, read=read))
    with pytest.raises(ImageError):
        run.execute(store)
    assert store.run("a").info["clean"]["index"] == [0, 2, 3, 4, 5]


def test_refused_images_are_not_read_again(store: Store) -> None:
    """The refusal is raised as before, and a repeated run tries each damaged image once."""
    tried = []

    def read(index: int) -> np.ndarray:
        tried.append(index)
        if index == 1:
            raise ImageError("damaged")
        return VALUES[index]

    run = request(shape=(1, 2, 2))
    run = replace(run, dataset=replace(run.dataset, read=read))
    for expected in (2, 2):  # by the notes on engines, and to certify it
        tried.clear()
        with pytest.raises(RefusedImagesError, match="1 of 6 images"):
            replace(run).execute(store)
        assert tried.count(1) <= expected


def plain_labels(pipeline: Any, images: Tensor) -> Any:
    return None if pipeline is None else bright(images).tolist()


@pytest.mark.parametrize("save_every", [2, 100])
def test_labels_before_an_interruption_are_kept(
    store: Store, monkeypatch: pytest.MonkeyPatch, save_every: int
) -> None:
    monkeypatch.setattr(clean, "BATCH", 2)
    monkeypatch.setattr(clean, "SAVE_EVERY", save_every)

    def stop(pipeline: Any, images: Tensor) -> Any:
        if pipeline is not None and images.mean() > 0.2 and images.mean() < 0.27:  # the last two
            raise KeyboardInterrupt
        return plain_labels(pipeline, images)

    with monkeypatch.context() as patch:
        patch.setattr(clean, "_labels", stop)
        with pytest.raises(KeyboardInterrupt):
            request().execute(store)
    assert store.run("a").info["clean"]["index"] == [0, 1, 2, 3]
    request().execute(store)
    assert store.run("a").info["clean"]["classifier"] == [0, 1, 1, 0, 0, 0]


def test_an_answer_that_cannot_be_used_is_noted(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The certified run succeeds; its certificates do not depend on clean labels."""

    def fail(pipeline: Any, images: Tensor) -> Any:
        raise ClassifierError("NaN")

    with monkeypatch.context() as patch:
        patch.setattr(clean, "_labels", fail)
        request().execute(store)
    info = store.run("a").info
    assert info["clean_error"] == "Labels of clean images are missing: NaN"
    assert "clean" not in info
    assert len(load_results(store, "a").images) == 6
    request().execute(store)
    assert store.run("a").info["clean_error"] is None
    assert len(store.run("a").info["clean"]["index"]) == 6


def test_merged_shards_have_all_of_them(store: Store, tmp_path: Path) -> None:
    parts = [Store(tmp_path / f"{number}.sqlite") for number in (1, 2)]
    for number, part in enumerate(parts, 1):
        request(shard=Shard.parse(f"{number}/2")).execute(part)
    merge(parts, store, examples=0)
    held = store.run("a").info["clean"]
    found = dict(zip(held["index"], held["classifier"], strict=True))
    assert found == dict(enumerate([0, 1, 1, 0, 0, 0]))
    assert held["denoised"] is None
    for part in parts:
        part.close()


def test_runs_that_lack_them_show_a_dash(store: Store) -> None:
    request().execute(store)
    results = load_results(store, "a")
    del results.run.info["clean"]
    assert results.clean_share("classifier") is None
    assert comparison([results], (0.0,))[0].texts()[3:5] == ["–", "–"]
