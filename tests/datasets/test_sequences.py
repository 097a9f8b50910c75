"""datasets/sequences.py: sequences of (image, label) from Python."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch.utils.data import Dataset, Subset, TensorDataset

from denoised_smoothing.datasets import from_sequence
from denoised_smoothing.errors import DatasetError, ImageError
from denoised_smoothing.images import to_png

LEVELS = np.random.default_rng(0).integers(0, 256, (3, 6, 5, 3), dtype=np.uint8)
EXPECTED = LEVELS.transpose(0, 3, 1, 2) / np.float32(255)


class Pets(Dataset):  # type: ignore[type-arg]
    """As torchvision's data sets."""

    classes = ("cat", "dog")

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return PIL.Image.fromarray(LEVELS[index]), index % 2


@pytest.mark.parametrize(
    "items",
    [
        Pets(),
        [(PIL.Image.fromarray(levels), n % 2) for n, levels in enumerate(LEVELS)],
        [[levels, np.int64(n % 2)] for n, levels in enumerate(LEVELS)],
        [(levels.transpose(2, 0, 1), n % 2) for n, levels in enumerate(LEVELS)],
        TensorDataset(torch.from_numpy(EXPECTED.copy()), torch.tensor([0, 1, 0])),
        Subset(Pets(), range(3)),
    ],
)
def test_images_and_labels(items: Any) -> None:
    dataset = from_sequence(items)
    assert dataset.labels == [0, 1, 0]
    assert np.array_equal(dataset[1].image, EXPECTED[1])
    assert dataset.image_ids == ["0", "1", "2"]
    named = isinstance(items, Pets | Subset)
    assert dataset.label_names == (("cat", "dog") if named else None)
    same = from_sequence([(image, n % 2) for n, image in enumerate(EXPECTED)])
    assert named or dataset.fingerprint == same.fingerprint


def test_labels_may_be_names_or_unknown() -> None:
    labels = ("fox", None, "cat")
    dataset = from_sequence(list(zip(EXPECTED, labels, strict=True)))
    assert (dataset.labels, dataset.label_names) == ([1, None, 0], ("cat", "fox"))
    assert from_sequence([(EXPECTED[0], -1)]).labels == [None]


def test_the_fingerprint_is_of_images_labels_and_names() -> None:
    items = [(EXPECTED[0], 0), (EXPECTED[1], 1)]
    others = [items[::-1], [(EXPECTED[0], 1), items[1]], [(1 - EXPECTED[0], 0), items[1]]]
    assert len({from_sequence(each).fingerprint for each in [items, *others]}) == 4


def test_one_image_that_cannot_be_used_does_not_refuse_the_others() -> None:
    dataset = from_sequence([(EXPECTED[0] - 0.5, 0), (EXPECTED[1], 1)], name="mine")
    assert dataset[1].label == 1
    with pytest.raises(ImageError, match=r"item 0 of mine has values .* Undo the normalisation"):
        dataset[0]


class Damaged(Pets):
    """Raises at some items, as torchvision's ``ImageFolder`` does for files that are no images."""

    def __init__(self, *damaged: int) -> None:
        self.damaged = damaged

    def __getitem__(self, index: int) -> tuple[Any, int]:
        if index in self.damaged:
            raise PIL.UnidentifiedImageError("no image file")
        return super().__getitem__(index)


def test_one_item_that_cannot_be_read_does_not_refuse_the_others() -> None:
    dataset = from_sequence(Damaged(1))
    assert dataset.labels == [0, None, 0]
    assert np.array_equal(dataset[2].image, EXPECTED[2])
    with pytest.raises(ImageError, match=r"item 1 of Damaged cannot be read \(Unid.* no image"):
        dataset[1]
    with pytest.raises(DatasetError, match="No item of Damaged can be read: item 0 of Damaged"):
        from_sequence(Damaged(0, 1, 2))


class Lazy(Pets):
    """A data set that does not know its length."""

    def __len__(self) -> int:
        raise TypeError("unknown length")


class Negative(Pets):
    def __len__(self) -> int:
        return -1


class Named(Pets):
    def __init__(self, names: Any) -> None:
        self.names = names

    @property
    def classes(self) -> Any:  # type: ignore[override]
        if self.names is property:
            raise RuntimeError("no names")
        return self.names


@pytest.mark.parametrize(
    "image",
    [
        PIL.Image.open(io.BytesIO(to_png(EXPECTED[0])[:70])),
        torch.zeros(3, 6, 5).to_sparse(),
        torch.zeros(3, 6, 5, device="meta"),
        torch.zeros(3, 6, 5, dtype=torch.uint8, device="meta"),
    ],
)
def test_an_image_that_is_no_array_is_refused_alone(image: Any) -> None:
    dataset = from_sequence([(image, 0), (EXPECTED[1], 1)], name="mine")
    assert dataset[1].label == 1
    with pytest.raises(ImageError, match=r"item 0 of mine cannot be (read as an array|decoded) "):
        dataset[0]


def test_a_label_is_shown_only_where_it_is_refused() -> None:
    class Silent(np.ndarray):  # type: ignore[type-arg]
        def __repr__(self) -> str:
            raise AssertionError("shown")

    label = np.array(1).view(Silent)
    assert from_sequence([(EXPECTED[0], label)]).labels == [1]


def test_a_label_that_is_no_text_is_escaped() -> None:
    dataset = from_sequence([(EXPECTED[0], "\udcff"), (EXPECTED[0], "cat\0")])
    assert dataset.label_names == (r"cat\u{0}", r"\u{dcff}")
    assert dataset.labels == [1, 0]


@pytest.mark.parametrize(
    ("items", "said"),
    [
        (iter([]), "must have a length and give .image, label.*Put the items into a list"),
        (Lazy(), "must have a length and give .* got Lazy"),
        ({1, 2}, "must have a length and give .* got set"),
        ([], "list has no items"),
        ([EXPECTED[0]], r"Item 0 of list must be .image, label., .* got ndarray\. Wrap it"),
        ([{"image": EXPECTED[0], "label": 1}], "got dict with the keys image, label. Wrap it"),
        ([(EXPECTED[0], 0.5)], r"Item 0 of list has the label 0\.5, expected a whole number"),
        ([(EXPECTED[0], [1, 0])], r"has the label \[1, 0\]"),
        ([(EXPECTED[0], 2**31)], r"has the label 2147483648, expected 0 to 2147483647"),
        ([(EXPECTED[0], torch.tensor(1, device="meta"))], "has the label tensor.* Convert it to"),
        (Negative(), "must have a length and give .* got Negative .*Put the items into a list"),
        (Named([1, 2]), "the names in classes of Named cannot be read .* Use a list of strings"),
        (Named(property), "cannot be read .*no names.* Use a list of strings"),
    ],
)
def test_refuses(items: Any, said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        from_sequence(items)
