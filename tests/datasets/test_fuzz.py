"""Damaged and odd data: every adapter reads them or raises an error of ours.

A damaged image is refused alone: all others keep their values and labels.
"""

from __future__ import annotations

import datetime
import json
import os
import random
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from denoised_smoothing.datasets import ImageDataset, load_dataset
from denoised_smoothing.errors import DatasetError, ImageError, SpecError

from ..fuzz import INPUTS, ODD, damaged, files_in, one_damaged, survives, with_odd_value
from ..fuzz import quiet as quiet
from .samples import BMP, IMAGES, LABELS, LEVELS, NAMES, PNGS, check_others, read

pytestmark = pytest.mark.usefixtures("quiet")

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
ROWS = [{"bytes": png, "path": None} for png in PNGS]


def refused_alone(
    load: Callable[[list[Any]], ImageDataset], place: Sequence[int] = range(4)
) -> None:
    """Load rows of which some are damaged, :data:`INPUTS` times."""
    dice, refused, damages = random.Random(0), 0, 0
    for _ in range(INPUTS):
        rows, odd = odd_rows(dice)
        refused += check_others(load(rows), odd, place)
        damages += len(odd)
    assert 0 < refused < damages


def about(names: Any = NAMES) -> dict[str, Any]:
    """The metadata of Hugging Face."""
    label = {"names": names, "_type": "ClassLabel"}
    return {"info": {"features": {"image": {"_type": "Image"}, "label": label}}}


def table(images: Any, labels: Any, metadata: Any = None) -> pa.Table:
    """A table of images and labels; both are Arrow arrays, or rows and numbers."""
    images = images if isinstance(images, pa.Array) else pa.array(images, STRUCT)
    labels = labels if isinstance(labels, pa.Array) else pa.array(labels)
    if metadata is not None and not isinstance(metadata, bytes):
        metadata = json.dumps(metadata).encode()
    fields = [pa.field("image", images.type), pa.field("label", labels.type)]
    held = {} if metadata is None else {"huggingface": metadata}
    return pa.table([images, labels], schema=pa.schema(fields, held))


def odd_rows(dice: random.Random) -> tuple[list[Any], set[int]]:
    """The rows of which up to two are null, empty or damaged, and which these are."""
    rows, odd = list[Any](ROWS), set(dice.sample(range(4), dice.randrange(1, 3)))
    for index in odd:
        bad = (None, b"", b"no image", damaged(PNGS[index], dice), damaged(BMP, dice))
        rows[index] = dice.choice((None, {"bytes": dice.choice(bad), "path": "x"}))
    return rows, odd


ODD_LABELS = [
    pa.array([0.0, 1.0, 2.0, float("nan")]), pa.array([0.5, 1, 2, 3]),
    pa.array(["a", None, "", "b"]),
    pa.array([True, False, None, True]), pa.array([[0], [1], [2], [3]]), pa.array([{"a": 1}] * 4),
    pa.array([b"a", b"\xff", b"", None]), pa.array([None] * 4), pa.array([2**62, 1, 2, 3]),
    pa.array([-5, 1, 2, -1]), pa.array([2**63 + 5, 1, 2, 3], pa.uint64()),
    pa.array([float("inf"), 1, 2, 3]), pa.array([1e300, 0, 1, 2]), pa.array([2**31, 0, 1, 2]),
    pa.array([datetime.date(2020, 1, 1)] * 4), pa.array([Decimal("1.5")] * 4),
    pa.array(["a", "b", None, "a"]).dictionary_encode(), pa.array([1, 2, 3, 1]).dictionary_encode(),
    pa.array([1.5, 2, 3, 1]).dictionary_encode(), pa.array(["a\0b", "c", "d", "d"]),
    pa.array(["x", "y", None, None], pa.string_view()), pa.array([1, 2, 3, 0], pa.float16()),
    pa.array([datetime.timedelta(1)] * 4), pa.array([3, 1, 2, 0], pa.uint8()),
]  # fmt: skip
ODD_IMAGES = [
    pa.array(PNGS), pa.array(PNGS, pa.large_binary()), pa.array(PNGS, pa.binary_view()),
    pa.array(["a", "b", "c", "d"]), pa.array([{"bytes": 3}] * 4), pa.array([{"bytes": [1]}] * 4),
    pa.array([{"bytes": "/dev/null"}] * 4), pa.array([{"bytes": {"bytes": b"a"}}] * 4),
    pa.array([{"bytes": png} for png in PNGS], pa.struct([("bytes", pa.large_binary())])),
    pa.array([b"abcd"] * 4, pa.binary(4)), pa.array([[PNGS[0]]] * 4), pa.array([None] * 4),
    pa.array([None] * 4, pa.binary()), pa.array([{"bytes": None}] * 4),
    pa.array([{"path": "x"}] * 4),
    pa.array(PNGS).dictionary_encode(), pa.array([0] * 4), pa.array([{"bytes": PNGS[0]}, None] * 2),
]  # fmt: skip
OPTIONS = ("", "", "?image=image", "?label=label", "?label=none", "?image=label", "?label=image")


class TestParquet:
    def spec(self, folder: Path, content: pa.Table, options: str = "") -> str:
        pq.write_table(content, folder / "a.parquet")
        return f"parquet:{folder}/a.parquet{options}"

    def test_damaged_files(self, tmp_path: Path) -> None:
        spec, file = self.spec(tmp_path, table(ROWS, LABELS, about())), tmp_path / "a.parquet"
        content = file.read_bytes()

        def make(dice: random.Random, _: int) -> None:
            file.write_bytes(damaged(content, dice))
            read(load_dataset(spec))

        survives(make)

    def test_odd_columns_and_metadata(self, tmp_path: Path) -> None:
        junk = (None, b"", b"\xff\xfe", b"[" * 100_000, *(json.dumps(odd).encode() for odd in ODD))

        def make(dice: random.Random, number: int) -> None:
            names = dice.choice((NAMES, {"0": "cat", "1": "dog", "2": "fox"}))
            metadata = with_odd_value(about(names), dice)
            images, labels = dice.choice(ODD_IMAGES), dice.choice(ODD_LABELS)
            held = (
                table(ROWS, LABELS, metadata), table(ROWS, labels, dice.choice((None, about()))),
                table(images, LABELS, about()), table(ROWS, LABELS, dice.choice(junk)),
            )[number % 4]  # fmt: skip
            read(load_dataset(self.spec(tmp_path, held, dice.choice(OPTIONS))))

        survives(make, 400)

    def test_damaged_images_are_refused_alone(self, tmp_path: Path) -> None:
        refused_alone(lambda rows: load_dataset(self.spec(tmp_path, table(rows, LABELS, about()))))

    def test_text_is_no_path_of_an_image(self, tmp_path: Path) -> None:
        (tmp_path / "b.png").write_bytes(PNGS[0])
        images = pa.array([{"bytes": str(tmp_path / "b.png")}] * 4)
        with pytest.raises(DatasetError, match="no image column, expected encoded images"):
            load_dataset(self.spec(tmp_path, table(images, LABELS)))

    def test_deep_metadata_are_left_out_as_other_junk(self, tmp_path: Path) -> None:
        spec = self.spec(tmp_path, table(ROWS, LABELS, b"[" * 100_000))
        assert load_dataset(spec).labels == LABELS


class TestHuggingFace:
    @pytest.fixture
    def saved(self, tmp_path: Path) -> Path:
        package: Any = pytest.importorskip("datasets")
        features = package.Features(
            {"image": package.Image(), "label": package.ClassLabel(names=NAMES)}
        )
        images = [PIL.Image.fromarray(levels.transpose(1, 2, 0)) for levels in LEVELS]
        made = package.Dataset.from_dict({"image": images, "label": LABELS}, features=features)
        package.disable_progress_bars()
        made.save_to_disk(tmp_path / "one")
        package.DatasetDict({"train": made}).save_to_disk(tmp_path / "two")
        package.enable_progress_bars()
        return tmp_path

    def write_rows(self, folder: Path, rows: list[Any]) -> str:
        """Replace the images of a saved data set; return its spec."""
        (file,) = folder.rglob("*.arrow")
        schema = pa.ipc.open_stream(file.read_bytes()).schema
        file.unlink()
        content = table(rows, LABELS).cast(schema)
        with pa.ipc.new_stream(file, schema) as stream:
            stream.write_table(content)
        return f"hf:{folder}"

    @pytest.mark.parametrize("folder", ["one", "two"])
    def test_damaged_files(self, saved: Path, folder: str) -> None:
        files = files_in(saved / folder)

        def make(dice: random.Random, _: int) -> None:
            with one_damaged(files, dice):
                read(load_dataset(f"hf:{saved / folder}"))

        survives(make)

    def test_damaged_images_are_refused_alone(self, saved: Path) -> None:
        refused_alone(lambda rows: load_dataset(self.write_rows(saved / "one", rows)))

    def test_an_offset_outside_of_the_file_is_refused(self, saved: Path) -> None:
        """Arrow trusts offsets: the process would end by a segmentation fault."""
        (file,) = (saved / "one").rglob("*.arrow")
        content = file.read_bytes()
        lengths = np.cumsum([0, *map(len, self.stored(content))], dtype=np.int32)
        place = content.index(lengths.tobytes())
        far = lengths[:-1].tobytes() + np.int32(2**30).tobytes()
        file.unlink()
        file.write_bytes(content[:place] + far + content[place + len(far) :])
        with pytest.raises(DatasetError, match=r"no data set .* that it can open"):
            load_dataset(f"hf:{saved / 'one'}")

    def stored(self, content: bytes) -> list[bytes]:
        rows = pa.ipc.open_stream(content).read_all()["image"].to_pylist()
        return [row["bytes"] for row in rows]

    def test_a_row_whose_file_is_gone_is_refused_alone(self, saved: Path) -> None:
        (saved / "a.png").write_bytes(PNGS[0])
        paths = (saved / "a.png", saved / "gone.png")
        rows = [{"bytes": None, "path": str(path)} for path in paths]
        dataset = load_dataset(self.write_rows(saved / "one", [*rows, *ROWS[2:]]))
        check_others(dataset, {1})
        with pytest.raises(ImageError, match=r"row 1 .* no bytes \(the first: .*gone\.png.*\)\. W"):
            _ = dataset[1]

    def test_rows_are_read_together_but_for_one(
        self, saved: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Else a file that is gone would cost a chunk of the table for every row."""
        from datasets import table as library

        sizes, embed = list[int](), library.embed_table_storage

        def noted(table: pa.Table) -> pa.Table:
            sizes.append(len(table))
            return embed(table)

        monkeypatch.setattr(library, "embed_table_storage", noted)
        gone = {"bytes": None, "path": str(saved / "gone.png")}
        check_others(load_dataset(self.write_rows(saved / "one", [*ROWS[:3], gone])), {3})
        assert sizes == [4, 2, 2, 1, 1]


class TestFolder:
    def test_damaged_images_and_odd_names(self, tmp_path: Path) -> None:
        def make(dice: random.Random, number: int) -> None:
            folder = tmp_path / str(number)
            files = [folder / "abba"[index] / f"{index}.png" for index in range(4)]
            for file, png in zip(files, PNGS, strict=True):
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(png)
            for _ in range(dice.randrange(1, 3)):
                self.change(folder, dice.choice(files), dice)
            read(load_dataset(f"folder:{folder}"))

        survives(make)

    def change(self, folder: Path, file: Path, dice: random.Random) -> None:
        """Damage an image, or put another one or something odd next to it."""
        kind, parent = dice.randrange(8), file.parent
        names = (
            "\N{SNOWMAN}.png",
            "a b\n.png",
            ".png",
            "x.PNG",
            "x" * 251 + ".png",
            "x.txt",
            "?.png",
        )
        if kind < 2:
            file.write_bytes(dice.choice((b"", b"no image", damaged(PNGS[0], dice))))
        elif kind == 2:
            (parent / dice.choice(names)).write_bytes(PNGS[1])
        elif kind == 3:
            (parent / f"link{dice.randrange(9)}.png").symlink_to(dice.choice(("gone", "link1.png")))
        elif kind == 4:
            (parent / "folder.png").mkdir(exist_ok=True)
        elif kind == 5:
            Path(os.fsdecode(os.fsencode(parent) + b"/\xff.png")).write_bytes(PNGS[1])
        elif kind == 6:
            other = folder / dice.choice(("train", "val", "c d", ".c", "__MACOSX", "\N{SNOWMAN}"))
            other.mkdir(exist_ok=True)
            (other / "z.png").write_bytes(PNGS[2])
        else:
            (folder / dice.choice(("z.png", "labels.csv", "labels.txt"))).write_bytes(PNGS[2])

    def test_damaged_images_are_refused_alone(self, tmp_path: Path) -> None:
        files = [tmp_path / NAMES[label] / f"{n}.png" for n, label in enumerate(LABELS)]
        for file in files:
            file.parent.mkdir(exist_ok=True)

        def load(rows: list[Any]) -> ImageDataset:
            for file, row in zip(files, rows, strict=True):
                file.write_bytes((row or {}).get("bytes") or b"")
            return load_dataset(f"folder:{tmp_path}")

        refused_alone(load, (0, 1, 3, 2))  # sorted by class

    def test_a_link_to_nothing_is_refused_alone(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(PNGS[0])
        (tmp_path / "b.png").symlink_to("gone.png")
        dataset = load_dataset(f"folder:{tmp_path}")
        assert read(dataset) == [1]
        assert np.array_equal(dataset[0].image, IMAGES[0])

    def test_names_that_are_not_utf8_are_escaped(self, tmp_path: Path) -> None:
        for number, name in enumerate((b"a.png", b"\xff.png", rb"\u{dcff}.png")):
            (tmp_path / os.fsdecode(name)).write_bytes(PNGS[number])
        dataset = load_dataset(f"folder:{tmp_path}")
        assert dataset.image_ids == [r"\u{5c}u{dcff}.png", "a.png", r"\u{dcff}.png"]
        assert read(dataset) == []
        assert np.array_equal(dataset[2].image, IMAGES[1])

    def test_classes_that_are_not_utf8_are_escaped(self, tmp_path: Path) -> None:
        for name in ("cat", os.fsdecode(b"caf\xe9")):
            (tmp_path / name).mkdir()
            (tmp_path / name / "a.png").write_bytes(PNGS[0])
        dataset = load_dataset(f"folder:{tmp_path}")
        assert dataset.label_names == (r"caf\u{dce9}", "cat")
        assert dataset.image_ids == [r"caf\u{dce9}/a.png", "cat/a.png"]
        assert read(dataset) == []

    def test_one_file_whose_name_is_not_utf8(self, tmp_path: Path) -> None:
        path = tmp_path / os.fsdecode(b"\xff.png")
        path.write_bytes(PNGS[0])
        dataset = load_dataset(str(path))
        assert dataset.image_ids == [r"\u{dcff}.png"]
        assert read(dataset) == []


def test_odd_specs(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNGS[0])
    heads = ("", "folder:", "parquet:", "hf:", "folder", "x:")
    tails = (
        "", str(tmp_path), f"{tmp_path}/a.png", f"{tmp_path}/a.png/b.png", "~nobody-of-that-name/x",
        "~nobody-of-that-name/x.png", "x" * 5000, f"{'x' * 5000}.png", "a\0b", "a\0b.png", "\udcff",
        "[", "**", "?image=", "?x=1", "/dev/null", ":", "\N{SNOWMAN}.parquet", "x?label=none",
    )  # fmt: skip
    specs = [head + tail for head in heads for tail in tails]

    survives(lambda _, number: read(load_dataset(specs[number])), len(specs))


def test_a_path_that_the_system_refuses() -> None:
    with pytest.raises(SpecError, match="cannot look for the data set"):
        load_dataset("x" * 5000)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("~nobody-of-that-name/a.png", "There is no image file '~nobody"),
        ("folder:~nobody-of-that-name", "There is no folder '~nobody"),
        ("parquet:~nobody-of-that-name/a", "There is no file '~nobody"),
        ("cifar10:~nobody-of-that-name", "'~nobody-of-that-name' holds no folder"),
        ("hf:~nobody-of-that-name/a", "datasets has no data set '~nobody"),
    ],
)
def test_the_home_of_an_unknown_user_is_missing(spec: str, said: str) -> None:
    for package in ("torchvision", "datasets"):
        pytest.importorskip(package)
    with pytest.raises(DatasetError, match=said):
        load_dataset(spec)
