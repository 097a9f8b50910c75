"""datasets: specs, ids, labels, splits, fingerprints, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from denoised_smoothing import images
from denoised_smoothing.datasets import ImageDataset, load_dataset, select
from denoised_smoothing.errors import (
    DatasetError,
    ImageError,
    MissingExtraError,
    SettingError,
    SpecError,
)

SHARED = Path(
    os.environ.get("DENOISED_SMOOTHING_SHARED", Path(__file__).resolve().parents[3] / "shared")
)


def png(seed: int, size: tuple[int, int] = (4, 4)) -> bytes:
    values = np.random.default_rng(seed).integers(0, 256, (3, *size))
    return images.to_png((values / 255).astype(np.float32))


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def write_parquet(
    path: Path,
    encoded: list[bytes | None],
    labels: list[int | None] | None = None,
    *,
    columns: tuple[str, str] = ("img", "label"),
    names: Any = None,
) -> str:
    """A file in the layout that Hugging Face datasets write; returns its spec."""
    image_column, label_column = columns
    table = {image_column: [None if e is None else {"bytes": e, "path": None} for e in encoded]}
    fields = [
        pa.field(image_column, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
    ]
    features: dict[str, object] = {image_column: {"_type": "Image"}}
    if labels is not None:
        table[label_column] = labels
        fields.append(pa.field(label_column, pa.int64()))
    if names is not None:
        features[label_column] = {"names": names, "_type": "ClassLabel"}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(pa.table(table, pa.schema(fields, metadata)), path, row_group_size=2)
    return f"parquet:{path}"


class TestDigits:
    def test_default_is_the_test_split(self) -> None:
        digits, spelled = load_dataset("digits"), load_dataset("digits:test")
        assert len(digits) == 450
        assert digits.fingerprint == spelled.fingerprint
        assert digits.label_names == tuple("0123456789")

    def test_splits_are_disjoint_and_complete(self) -> None:
        ids = {split: load_dataset(f"digits:{split}").image_ids for split in ("train", "test")}
        everything = load_dataset("digits:all")
        assert len(everything) == 1797
        assert sorted(ids["train"] + ids["test"], key=int) == everything.image_ids

    def test_splits_are_balanced(self) -> None:
        votes = Counter(load_dataset("digits:test").labels)
        assert len(votes) == 10
        assert min(votes.values()) >= 35

    def test_values_are_those_of_scikit_learn_on_the_grid(self) -> None:
        from sklearn.datasets import load_digits

        example = load_dataset("digits:test")[3]
        assert (example.index, example.image_id) == (3, "12")
        assert example.label == load_digits().target[12]
        assert example.image.shape == (1, 8, 8)
        assert images.is_on_grid(example.image)
        assert np.abs(example.image[0] - load_digits().images[12] / 16).max() <= 0.5 / 255 + 1e-7

    def test_fingerprints_differ_between_splits(self) -> None:
        splits = ("train", "test", "all")
        assert len({load_dataset(f"digits:{split}").fingerprint for split in splits}) == 3

    def test_refuses_an_unknown_split(self) -> None:
        with pytest.raises(DatasetError, match=r"no split 'tset'. Use one of train, test, all"):
            load_dataset("digits:tset")

    def test_names_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("sklearn", "sklearn.datasets"):
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(
            MissingExtraError, match=r"digits.* needs .*'sklearn'.*denoised-smoothing\[digits\]"
        ):
            load_dataset("digits")


class TestFolder:
    @pytest.fixture
    def classes(self, tmp_path: Path) -> Path:
        for number, name in enumerate(["dog/b.PNG", "dog/a.png", "cat/deep/c.png"]):
            write(tmp_path / name, png(number))
        write(tmp_path / "README.txt", b"no image")
        write(tmp_path / ".hidden" / "x.png", png(9))
        write(tmp_path / "dog" / "._a.png", b"what a Mac leaves")
        (tmp_path / "bird").mkdir()
        return tmp_path

    def test_one_sub_folder_a_class(self, classes: Path) -> None:
        dataset = load_dataset(f"folder:{classes}")
        assert dataset.image_ids == ["cat/deep/c.png", "dog/a.png", "dog/b.PNG"]
        assert dataset.label_names == ("cat", "dog")
        assert [example.label for example in dataset] == [0, 1, 1]
        assert np.array_equal(dataset[1].image, images.load_image(png(1)))

    @pytest.mark.parametrize(
        "added",
        [
            "ant",
            ".a",
            "__pycache__/a.pyc",
            "ant/notes.txt",
            "__MACOSX/dog/a.png",
            "dog/@eaDir/a.png",
        ],
    )
    def test_a_folder_without_images_moves_no_label(self, classes: Path, added: str) -> None:
        before = load_dataset(f"folder:{classes}")
        if "/" in added:  # an image in a folder of a system, or another file
            write(classes / added, b"no image")
        else:
            (classes / added).mkdir()
        after = load_dataset(f"folder:{classes}")
        assert (after.label_names, after.labels) == (before.label_names, before.labels)
        assert after.fingerprint == before.fingerprint

    @pytest.mark.parametrize("splits", [["train", "val"], ["Train", "Validation", "doc"], ["test"]])
    def test_refuses_splits_above_the_classes(self, tmp_path: Path, splits: list[str]) -> None:
        for split in splits:
            write(tmp_path / split / "cat" / "a.png", png(0))
        with pytest.raises(DatasetError) as caught:
            load_dataset(f"folder:{tmp_path}/")
        assert f"Name one of them: folder:{tmp_path}/{splits[0]}" in str(caught.value)
        assert load_dataset(f"folder:{tmp_path}/{splits[0]}").label_names == ("cat",)

    def test_a_class_may_be_a_train(self, tmp_path: Path) -> None:
        for name in ("train", "plane"):
            write(tmp_path / name / "a.png", png(0))
        assert load_dataset(f"folder:{tmp_path}").label_names == ("plane", "train")

    @pytest.mark.parametrize(
        ("above", "classes"), [("dataset", "cat"), ("dataset", "cat, dog"), ("a/b", "cat, dog")]
    )
    def test_refuses_one_folder_above_the_classes(
        self, tmp_path: Path, above: str, classes: str
    ) -> None:
        for name in classes.split(", "):
            write(tmp_path / above / name / "a.png", png(0))
        write(tmp_path / "__MACOSX" / above / "cat" / "._a.png", b"what a Mac leaves")
        with pytest.raises(DatasetError) as caught:
            load_dataset(f"folder:{tmp_path}/")
        said = f"If the classes are {classes}, use folder:{tmp_path}/{above}. If '{above[:1]}"
        assert said in str(caught.value)
        assert str(caught.value).endswith(f"move its images directly into '{above.split('/')[0]}'.")
        assert load_dataset(f"folder:{tmp_path}/{above}").label_names == tuple(classes.split(", "))

    def test_one_class_is_enough(self, tmp_path: Path) -> None:
        write(tmp_path / "cat" / "a.png", png(0))
        write(tmp_path / "cat" / "deep" / "b.png", png(1))
        assert load_dataset(f"folder:{tmp_path}").label_names == ("cat",)

    def test_flat_folder_has_no_labels(self, tmp_path: Path) -> None:
        for suffix in ("jpg", "JPEG", "webp", "bmp"):
            PIL.Image.new("RGB", (3, 3)).save(tmp_path / f"{suffix}.{suffix}")
        dataset = load_dataset(f"folder:{tmp_path}")
        assert dataset.image_ids == ["JPEG.JPEG", "bmp.bmp", "jpg.jpg", "webp.webp"]
        assert [example.label for example in dataset] == [None] * 4
        assert dataset.label_names is None

    def test_fingerprint_is_of_names_and_sizes(self, classes: Path) -> None:
        before = load_dataset(f"folder:{classes}").fingerprint
        moved = classes.rename(classes.with_name("moved"))
        assert load_dataset(f"folder:{moved}").fingerprint == before
        write(moved / "dog" / "a.png", png(1, size=(9, 9)))
        assert load_dataset(f"folder:{moved}").fingerprint != before

    def test_expands_the_home_folder(self, classes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(classes))
        monkeypatch.setenv("USERPROFILE", str(classes))
        assert len(load_dataset("folder:~/dog")) == 2

    def test_refuses_a_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match=r"no folder '.*away'\. Check the path"):
            load_dataset(f"folder:{tmp_path / 'away'}")
        with pytest.raises(SpecError, match=r"'folder:' is not complete. Write folder:PATH$"):
            load_dataset("folder:")

    def test_refuses_an_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match=r"holds no images. Use files of the type bmp"):
            load_dataset(f"folder:{tmp_path}")

    def test_refuses_images_next_to_class_folders(self, classes: Path) -> None:
        write(classes / "stray.png", png(5))
        with pytest.raises(DatasetError, match=r"mixes images \('stray.png'\) and class folders"):
            load_dataset(f"folder:{classes}")

    def test_names_the_broken_file(self, classes: Path) -> None:
        write(classes / "dog" / "a.png", png(1)[:60])
        dataset = load_dataset(f"folder:{classes}")
        assert dataset[2].label == 1
        with pytest.raises(ImageError, match=r"dog.a\.png' cannot be decoded"):
            dataset[1]


class TestImageFile:
    def test_is_one_example_without_label(self, tmp_path: Path) -> None:
        path = write(tmp_path / "cat.png", png(0))
        dataset = load_dataset(str(path))
        (example,) = dataset
        assert (example.index, example.image_id, example.label) == (0, "cat.png", None)
        assert np.array_equal(example.image, images.load_image(path))
        assert dataset.fingerprint == hashlib.sha256(png(0)).hexdigest()

    def test_refuses_a_missing_file(self) -> None:
        with pytest.raises(DatasetError, match=r"no image file 'away\.JPG'\. Check the path"):
            load_dataset("away.JPG")


class TestParquet:
    def test_layout_of_hugging_face(self, tmp_path: Path) -> None:
        encoded = [png(seed) for seed in range(5)]
        path = tmp_path / "test.parquet"
        spec = write_parquet(path, [*encoded], [1, 0, 1, -1, None], names=["cat", "dog"])
        dataset = load_dataset(spec)
        assert dataset.name == spec
        assert dataset.label_names == ("cat", "dog")
        assert [example.image_id for example in dataset] == ["0", "1", "2", "3", "4"]
        assert [example.label for example in dataset] == [1, 0, 1, None, None]
        assert np.array_equal(dataset[4].image, images.load_image(encoded[4]))
        assert dataset.fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()

    def test_without_labels(self, tmp_path: Path) -> None:
        dataset = load_dataset(write_parquet(tmp_path / "a.parquet", [png(0)]))
        assert dataset[0].label is None
        assert dataset.label_names is None

    @pytest.mark.parametrize("columns", [("image", "labels"), ("photo", "label")])
    def test_other_column_names(self, tmp_path: Path, columns: tuple[str, str]) -> None:
        spec = write_parquet(tmp_path / "a.parquet", [png(0)], [3], columns=columns)
        assert load_dataset(spec)[0].label == 3

    def test_label_column_by_its_feature(self, tmp_path: Path) -> None:
        path, names = tmp_path / "a.parquet", ["cat", "dog"]
        spec = write_parquet(path, [png(0)], [1], columns=("img", "species"), names=names)
        dataset = load_dataset(spec)
        assert (dataset[0].label, dataset.label_names) == (1, ("cat", "dog"))

    def test_several_files_by_a_pattern(self, tmp_path: Path) -> None:
        for shard in range(3):
            encoded = [png(10 * shard + row) for row in range(2)]
            write_parquet(tmp_path / f"test-{shard}.parquet", [*encoded], [shard, shard])
        dataset = load_dataset(f"parquet:{tmp_path}/test-*.parquet")
        assert dataset.image_ids == ["0", "1", "2", "3", "4", "5"]
        assert dataset.labels == [0, 0, 1, 1, 2, 2]
        assert np.array_equal(dataset[3].image, images.load_image(png(11)))

    def test_refuses_files_of_different_label_names(self, tmp_path: Path) -> None:
        write_parquet(tmp_path / "a.parquet", [png(0)], [0], names=["cat", "dog"])
        write_parquet(tmp_path / "b.parquet", [png(1)], [0], names=["dog", "cat"])
        with pytest.raises(DatasetError, match=r"different label names. Load them one by one"):
            load_dataset(f"parquet:{tmp_path}/*.parquet")

    def test_refuses_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match=r"no file '.*away\.parquet'\. Check the path"):
            load_dataset(f"parquet:{tmp_path}/away.parquet")

    def test_refuses_another_format(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.parquet", b"idx label predict")
        with pytest.raises(DatasetError, match=r"a\.parquet cannot be read as parquet"):
            load_dataset(f"parquet:{path}")

    def test_names_the_columns_that_exist(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"text": ["a"], "label": [0]}), tmp_path / "a.parquet")
        with pytest.raises(DatasetError, match=r"no image column.*text: string, label: int64"):
            load_dataset(f"parquet:{tmp_path}/a.parquet")

    def plain(self, path: Path, *, columns: dict[str, Any], metadata: str | None = None) -> str:
        """A file without the metadata of Hugging Face, or with these; returns its spec."""
        table = pa.table({"img": [{"bytes": png(n)} for n in range(3)], **columns})
        if metadata is not None:
            table = table.replace_schema_metadata({"huggingface": metadata})
        pq.write_table(table, path / "a.parquet")
        return f"parquet:{path}/a.parquet"

    def test_names_by_number(self, tmp_path: Path) -> None:
        names = {str(n): f"class {n}" for n in (10, *range(10))}
        spec = write_parquet(tmp_path / "a.parquet", [png(0)], [10], names=names)
        assert load_dataset(spec).label_names == tuple(f"class {n}" for n in range(11))

    @pytest.mark.parametrize("names", [5, "cat", {"1": "cat"}, {"a": "b"}])
    def test_refuses_names_that_are_none(self, tmp_path: Path, names: Any) -> None:
        spec = write_parquet(tmp_path / "a.parquet", [png(0)], [0], names=names)
        with pytest.raises(DatasetError, match=r"column 'label' of .* label names .* list"):
            load_dataset(spec)

    @pytest.mark.parametrize("kind", [pa.string(), pa.dictionary(pa.int8(), pa.string())])
    def test_labels_in_words(self, tmp_path: Path, kind: Any) -> None:
        labels = pa.array(["fox", None, "cat"]).cast(kind)
        dataset = load_dataset(self.plain(tmp_path, columns={"label": labels}))
        assert (dataset.labels, dataset.label_names) == ([1, None, 0], ("cat", "fox"))

    def test_labels_as_floats(self, tmp_path: Path) -> None:
        spec = self.plain(tmp_path, columns={"label": [1.0, float("nan"), 0.0]})
        assert load_dataset(spec).labels == [1, None, 0]
        spec = self.plain(tmp_path, columns={"label": [1.0, 0.5, 0.0]})
        with pytest.raises(DatasetError, match=r"'label' of .* whole numbers or names, got double"):
            load_dataset(spec)

    def test_encoded_bytes_without_a_struct(self, tmp_path: Path) -> None:
        table = pa.table({"picture": pa.array([png(0)], pa.large_binary()), "label": [2]})
        pq.write_table(table, tmp_path / "a.parquet")
        dataset = load_dataset(f"parquet:{tmp_path}/a.parquet")
        assert np.array_equal(dataset[0].image, images.load_image(png(0)))

    @pytest.mark.parametrize("column", ["target", "Class", "category"])
    def test_usual_names_of_labels(self, tmp_path: Path, column: str) -> None:
        spec = self.plain(tmp_path, columns={"id": [7, 8, 9], column: [2, 1, 0]})
        assert load_dataset(spec).labels == [2, 1, 0]

    @pytest.mark.parametrize(
        ("columns", "asked"),
        [
            (("species",), "species"),
            (("target", "class"), "target, class"),
            (("labels", "y", "label"), "label, labels"),
        ],
    )
    def test_asks_for_the_label_column(
        self, tmp_path: Path, columns: tuple[str, ...], asked: str
    ) -> None:
        spec = self.plain(tmp_path, columns={name: [2, 1, 0] for name in columns})
        with pytest.raises(DatasetError, match=rf"{asked} may hold the labels\. Choose one: \?la"):
            load_dataset(spec)
        assert load_dataset(f"{spec}?label={columns[-1]}").labels == [2, 1, 0]
        assert load_dataset(f"{spec}?label=none").labels == [None] * 3
        with pytest.raises(DatasetError, match="no column 'x', only img, "):
            load_dataset(f"{spec}?label=x")

    def test_asks_for_the_image_column(self, tmp_path: Path) -> None:
        masks = [{"bytes": png(n + 5)} for n in range(3)]
        spec = self.plain(tmp_path, columns={"mask": masks, "label": [0, 1, 2]})
        with pytest.raises(DatasetError, match=r"image columns img, mask\. Choose one: \?image"):
            load_dataset(spec)
        image = load_dataset(f"{spec}?image=mask")[0].image
        assert np.array_equal(image, images.load_image(png(5)))
        with pytest.raises(DatasetError, match="no image column 'label'"):
            load_dataset(f"{spec}?image=label")

    @pytest.mark.parametrize(
        "metadata", ["null", "7", "{", '{"info": null}', '{"info": {"features": [1]}}']
    )
    def test_metadata_that_says_nothing(self, tmp_path: Path, metadata: str) -> None:
        spec = self.plain(tmp_path, columns={"label": [0, 1, 2]}, metadata=metadata)
        assert load_dataset(spec).labels == [0, 1, 2]

    def test_refuses_a_label_without_a_name(self, tmp_path: Path) -> None:
        spec = write_parquet(tmp_path / "a.parquet", [png(0)], [2], names=["cat", "dog"])
        with pytest.raises(DatasetError, match="has the label 2, expected 0 to 1, as it has that"):
            load_dataset(spec)

    def test_refuses_no_rows(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match="has no rows"):
            load_dataset(write_parquet(tmp_path / "a.parquet", [], []))

    def test_names_the_broken_row(self, tmp_path: Path) -> None:
        encoded = [png(0), b"broken", None]
        dataset = load_dataset(write_parquet(tmp_path / "a.parquet", encoded, [0, 1, 2]))
        assert dataset[0].label == 0
        with pytest.raises(ImageError, match=r"row 1 of 'parquet:.*' cannot be decoded"):
            dataset[1]
        with pytest.raises(ImageError, match=r"row 2 of .* holds no bytes.*embedded"):
            dataset[2]

    def test_names_the_extra(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        spec = write_parquet(tmp_path / "a.parquet", [png(0)])
        for name in ("pyarrow", "pyarrow.parquet"):
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(MissingExtraError, match=r"'pyarrow'.*denoised-smoothing\[parquet\]"):
            load_dataset(spec)

    def test_cifar10(self) -> None:
        path = SHARED / "data" / "cifar10" / "test.parquet"
        if not path.is_file():
            pytest.skip(f"{path} is missing")
        dataset = load_dataset(f"parquet:{path}")
        assert len(dataset) == 10_000
        assert dataset.label_names is not None
        assert (dataset.label_names[0], dataset.label_names[9]) == ("airplane", "truck")
        assert Counter(dataset.labels[:500]) == dict.fromkeys(range(10), 50)
        example = dataset[9_999]
        assert example.image.shape == (3, 32, 32)
        assert images.is_on_grid(example.image)


class TestCifar10:
    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Three training and two test images in the files of CIFAR-10, with their MD5 sums."""
        cifar = pytest.importorskip("torchvision.datasets").CIFAR10

        def publish(name: str, content: dict[str, object]) -> str:
            path = write(tmp_path / cifar.base_folder / name, pickle.dumps(content))
            return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()

        def batch(name: str, labels: list[int]) -> list[list[str]]:
            data = np.random.default_rng(len(labels)).integers(0, 256, (len(labels), 3072))
            return [[name, publish(name, {"data": data.astype(np.uint8), "labels": labels})]]

        monkeypatch.setattr(cifar, "train_list", batch("data_batch_1", [2, 0, 1]))
        monkeypatch.setattr(cifar, "test_list", batch("test_batch", [1, 0]))
        md5 = publish("batches.meta", {"label_names": ["airplane", "bird", "cat"]})
        monkeypatch.setattr(cifar, "meta", {**cifar.meta, "md5": md5})
        return tmp_path

    @pytest.mark.parametrize(
        ("spec", "labels"),
        [("cifar10:{}", [1, 0]), ("cifar10:test:{}", [1, 0]), ("cifar10:train:{}", [2, 0, 1])],
    )
    def test_reads_a_folder(self, folder: Path, spec: str, labels: list[int]) -> None:
        dataset = load_dataset(spec.format(folder))
        assert [example.label for example in dataset] == labels
        assert [example.image_id for example in dataset] == [str(i) for i in range(len(labels))]
        assert dataset.label_names == ("airplane", "bird", "cat")

    def test_channels_come_first(self, folder: Path) -> None:
        stored = np.random.default_rng(2).integers(0, 256, (2, 3072))[1].reshape(3, 32, 32)
        image = load_dataset(f"cifar10:{folder}")[1].image
        assert np.array_equal(image, (stored / 255).astype(np.float32))

    def test_fingerprints_differ_between_splits(self, folder: Path) -> None:
        splits = [load_dataset(f"cifar10:{split}:{folder}") for split in ("train", "test")]
        assert splits[0].fingerprint != splits[1].fingerprint

    def test_uses_the_data_folder(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DENOISED_SMOOTHING_DATA", str(folder))
        assert len(load_dataset("cifar10:train")) == 3

    def test_downloads_only_what_is_not_there(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from torchvision.datasets import CIFAR10

        def no_network(self: object) -> None:
            raise OSError("no network")

        monkeypatch.setattr(CIFAR10, "download", no_network)
        assert len(load_dataset(f"cifar10:{folder}")) == 2
        monkeypatch.setenv("DENOISED_SMOOTHING_DATA", str(folder / "new"))
        with pytest.raises(
            DatasetError, match=r"Cannot load CIFAR-10 from .*: no network.*parquet:FILE"
        ):
            load_dataset("cifar10")

    def test_refuses_altered_files(self, folder: Path) -> None:
        write(folder / "cifar-10-batches-py" / "test_batch", pickle.dumps("altered"))
        with pytest.raises(DatasetError, match=r"Cannot load.*corrupted.*download it again"):
            load_dataset(f"cifar10:{folder}")

    def test_refuses_a_folder_without_it(self, tmp_path: Path) -> None:
        pytest.importorskip("torchvision")
        with pytest.raises(DatasetError, match=r"holds no folder cifar-10-batches-py. Use"):
            load_dataset(f"cifar10:train:{tmp_path}")

    def test_names_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("torchvision", "torchvision.datasets"):
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(MissingExtraError, match=r"denoised-smoothing\[torchvision\]"):
            load_dataset("cifar10")


class TestSpec:
    @pytest.mark.parametrize(
        ("spec", "said"),
        [
            ("digit", "no data set 'digit'. Did you mean 'digits'?"),
            ("cifar:test", "Did you mean 'cifar10'?"),
            ("parket:x", "Did you mean 'parquet'?"),
            ("x.parquet", "Did you mean 'parquet:x.parquet'"),
            ("imagenet", "Known are cifar10, digits, folder, "),
        ],
    )
    def test_suggests_the_nearest(self, spec: str, said: str) -> None:
        with pytest.raises(SpecError) as caught:
            load_dataset(spec)
        assert said in str(caught.value)

    def test_suggests_folder(self, tmp_path: Path) -> None:
        with pytest.raises(SpecError, match=f"Did you mean 'folder:{tmp_path}'"):
            load_dataset(str(tmp_path))


class TestSelect:
    @pytest.fixture
    def digits(self) -> ImageDataset:
        return load_dataset("digits")

    @pytest.mark.parametrize(
        ("limit", "stride", "indices"),
        [(3, 1, [0, 1, 2]), (None, 200, [0, 200, 400]), (2, 200, [0, 200]), (9, 449, [0, 449])],
    )
    def test_indices(
        self, digits: ImageDataset, limit: int | None, stride: int, indices: list[int]
    ) -> None:
        assert select(digits, limit=limit, stride=stride) == indices

    def test_all_by_default(self, digits: ImageDataset) -> None:
        assert select(digits) == list(range(450))

    @pytest.mark.parametrize("options", [{"limit": 0}, {"stride": 0}, {"stride": -2}])
    def test_refuses(self, digits: ImageDataset, options: dict[str, int]) -> None:
        ((name, value),) = options.items()
        with pytest.raises(SettingError, match=f"{name} must be at least 1, got {value}"):
            select(digits, **options)


class TestImageDataset:
    @pytest.mark.parametrize("label", [-1, 10])
    def test_refuses_a_label_without_a_name(self, label: int) -> None:
        digits = load_dataset("digits")
        with pytest.raises(DatasetError, match=rf"has the label {label}, expected 0 to 9, as"):
            replace(digits, labels=[*digits.labels[1:], label])

    def test_indexes_like_a_sequence(self) -> None:
        digits = load_dataset("digits")
        assert digits[-1].index == 449
        with pytest.raises(IndexError):
            digits[450]

    def test_survives_pickling(self, tmp_path: Path) -> None:
        for spec in ("digits", write_parquet(tmp_path / "a.parquet", [png(0)], [1])):
            dataset = load_dataset(spec)
            copy = pickle.loads(pickle.dumps(dataset))
            assert np.array_equal(copy[0].image, dataset[0].image)


def test_imports_no_torch(tmp_path: Path) -> None:
    spec = write_parquet(tmp_path / "a.parquet", [png(0)])
    code = (
        "import sys; from denoised_smoothing.datasets import load_dataset; "
        "load_dataset(sys.argv[1])[0]; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, spec], check=False).returncode == 0
