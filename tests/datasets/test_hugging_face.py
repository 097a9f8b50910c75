"""datasets/hugging_face.py: what the package ``datasets`` has on this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from denoised_smoothing.datasets import HUGGING_FACE, ImageDataset
from denoised_smoothing.errors import DatasetError, MissingExtraError
from denoised_smoothing.models.specs import Spec

LEVELS = np.random.default_rng(0).integers(0, 256, (3, 6, 5, 3), dtype=np.uint8)


def load(rest: object, **options: str) -> ImageDataset:
    assert callable(HUGGING_FACE.load)
    dataset: ImageDataset = HUGGING_FACE.load(Spec(f"hf:{rest}", "hf", str(rest), options))
    return dataset


@pytest.fixture
def saved(tmp_path: Path) -> Any:
    package: Any = pytest.importorskip("datasets")
    names = package.ClassLabel(names=["cat", "dog"])
    features = package.Features({"image": package.Image(), "label": names, "other": names})
    images = [PIL.Image.fromarray(levels) for levels in LEVELS]
    columns = {"image": images, "label": [0, 1, 0], "other": [1, 1, 1]}
    made = package.Dataset.from_dict(columns, features=features)
    made.select([2, 1]).save_to_disk(tmp_path / "one")
    package.DatasetDict({"train": made, "test": made.select([1])}).save_to_disk(tmp_path / "two")
    return tmp_path


def test_a_saved_folder(saved: Path) -> None:
    dataset = load(saved / "one")
    assert (dataset.labels, dataset.label_names) == ([0, 1], ("cat", "dog"))
    expected = LEVELS[2].transpose(2, 0, 1) / np.float32(255)
    assert np.array_equal(dataset[0].image, expected)
    assert load(saved / "one", label="other").labels == [1, 1]


def test_a_split(saved: Path) -> None:
    assert load(f"{saved}/two:test").labels == [1]
    for rest, said in ((f"{saved}/two", "the splits train, test"), (f"{saved}/two:x", "split 'x'")):
        with pytest.raises(DatasetError, match=rf"{said}. Name one of them: hf:.*two:train or hf"):
            load(rest)


def test_nothing_is_downloaded(saved: Path) -> None:
    with pytest.raises(DatasetError, match=r"no data set 'none/such' on this machine"):
        load("none/such")


def test_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert isinstance(HUGGING_FACE.missing, MissingExtraError)
    assert "denoised-smoothing[datasets]" in str(HUGGING_FACE.missing)
