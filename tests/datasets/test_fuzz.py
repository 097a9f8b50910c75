"""Damaged and odd data: every adapter reads them or raises an error of ours.

A damaged image is refused alone: all others keep their values and labels.
"""

from __future__ import annotations

import datetime
import io
import json
import os
import random
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from denoised_smoothing import SmoothedClassifier
from denoised_smoothing.datasets import ImageDataset, from_sequence, load_dataset
from denoised_smoothing.errors import DatasetError, ImageError, SpecError
from denoised_smoothing.images import to_png
from denoised_smoothing.runs.labels import as_setting, matched
from denoised_smoothing.runs.loading import common_shape, load_at, usable

from ..fuzz import INPUTS, ODD, damaged, files_in, one_damaged, survives, with_odd_value
from ..fuzz import quiet as quiet

pytestmark = pytest.mark.usefixtures("quiet")

LEVELS = np.random.default_rng(0).integers(0, 256, (4, 3, 5, 4), dtype=np.uint8)
IMAGES = LEVELS / np.float32(255)
PNGS = [to_png(image) for image in IMAGES]
FILE = io.BytesIO()
PIL.Image.fromarray(LEVELS[0].transpose(1, 2, 0)).save(FILE, "BMP")
BMP = FILE.getvalue()
LABELS = [0, 1, 2, 1]
NAMES = ["cat", "dog", "fox"]
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
ROWS = [{"bytes": png, "path": None} for png in PNGS]
SMOOTHED = SmoothedClassifier(torch.nn.Flatten(), 0.25)


def read(dataset: ImageDataset) -> list[int]:
    """Read all labels and images as a run does; return the images that are refused."""
    match, indices = matched(dataset, SMOOTHED.classifier), range(len(dataset))
    json.dumps([as_setting(match, dataset, None), list(dataset.label_names or ())])
    for text in (*dataset.image_ids, *(dataset.label_names or ())):
        text.encode()
    for label in match.labels(dataset.labels):
        assert label is None or (type(label) is int and 0 <= label < 2**31)
    shape = common_shape(SMOOTHED, dataset, indices, None)
    load = partial(load_at, shape, SMOOTHED, dataset, resolution=None)
    refused = list[ImageError]()
    loaded = [example.index for example, _ in usable(load, indices, refused)]
    assert len(loaded) + len(refused) == len(dataset)
    return sorted({*indices} - {*loaded})


def check_others(dataset: ImageDataset, odd: set[int], place: Sequence[int] = range(4)) -> int:
    """Check that images without damage are as they were; return the number of refused images.

    Args:
        place: of each image in the data set.
    """
    refused = read(dataset)
    assert {*refused} <= {place[index] for index in odd}
    for index in {*range(4)} - odd:
        example = dataset[place[index]]
        assert np.array_equal(example.image, IMAGES[index])
        assert example.label == LABELS[index]
    return len(refused)


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
        with pytest.raises(ImageError, match=r"row 1 of .* holds no bytes"):
            _ = dataset[1]


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

    def test_a_name_that_is_no_text_is_refused(self, tmp_path: Path) -> None:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")).write_bytes(PNGS[0])
        with pytest.raises(
            DatasetError, match=r"the name '.udcff\.png', which is no text in UTF-8"
        ):
            load_dataset(f"folder:{tmp_path}")


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


@pytest.mark.parametrize("spec", ["~nobody-of-that-name/a.png", "x" * 5000])
def test_a_path_that_the_system_refuses(spec: str) -> None:
    with pytest.raises(SpecError, match="cannot look for the data set"):
        load_dataset(spec)


def truncated() -> PIL.Image.Image:
    """An image of Pillow that is decoded later, and then fails."""
    return PIL.Image.open(io.BytesIO(PNGS[0][:70]))


def closed() -> PIL.Image.Image:
    image = PIL.Image.new("RGB", (4, 4))
    image.close()
    return image


ODD_VALUES: list[Any] = [
    *ODD, *(PIL.Image.new(mode, (4, 5)) for mode in ("1", "L", "P", "RGBA", "CMYK", "I;16", "F",
    "LA")),
    PIL.Image.new("RGB", (1, 1)), b"abc", PNGS[0], 1j, Path("x"), object(), int, range(3), {1, 2},
    *(torch.zeros(3, 5, 4, dtype=kind) for kind in (torch.bool, torch.int64, torch.complex64)),
    torch.zeros(3, 5, 4, device="meta"), torch.zeros(3, 5, 4).to_sparse(), torch.zeros(()),
    torch.zeros(3, 5, 4, dtype=torch.uint8, device="meta"), torch.zeros(0),
    torch.tensor(float("inf")),
    torch.zeros(3, 5, 4, dtype=torch.uint8).to_sparse(), torch.zeros(3, 5, 4, requires_grad=True),
    torch.zeros(2, 3, 5, 4),
    torch.zeros(3, 5, 4, dtype=torch.bfloat16), torch.tensor(3, device="meta"), torch.tensor(2),
    np.zeros((3, 5, 4), object), np.zeros((3, 5, 4), "U3"), np.zeros((3, 5, 4), "M8[s]"),
    np.float32(2),
    np.zeros((5, 4), np.uint8), np.zeros((5, 4, 3), np.uint16), np.ma.masked_all((3, 5, 4)),
    np.array("x"),
    np.zeros((3, 5, 4), [("a", "f4")]), np.datetime64("2020"), np.str_("a"), np.float64(1.5),
    np.bool_(1),
    np.array(None), [[0.5] * 4] * 5, [[1, 2], [3]], "\udcff", "a\0", 2**31, 2**70, 1e300,
    float("-inf"),
    np.full((3, 5, 4), np.nan, np.float32), np.zeros((3, 0, 4), np.float32), np.zeros((3, 5, 4),
    ">f4"),
    np.zeros((3, 5, 4), np.longdouble), np.zeros((3, 5, 4), np.float16),
]  # fmt: skip


class Odd:
    """A data set whose length, items or names are odd."""

    def __init__(self, items: list[Any], length: Any, classes: Any) -> None:
        self.items, self.length, self.named = items, length, classes

    def __len__(self) -> int:
        return self.length() if callable(self.length) else self.length

    def __getitem__(self, index: int) -> Any:
        return self.items[index]

    @property
    def classes(self) -> Any:
        if isinstance(self.named, Exception):
            raise self.named
        return self.named


def failing() -> int:
    raise RuntimeError("no length")


class TestSequences:
    def test_odd_items(self) -> None:
        values = [*ODD_VALUES, truncated(), closed()]

        def make(dice: random.Random, number: int) -> None:
            items: list[Any] = list(zip(IMAGES, LABELS, strict=True))
            index, value = dice.randrange(4), values[number % len(values)]
            image, label = items[index]
            odd = (
                (value, label),
                (image, value),
                value,
                (value,),
                (image, label, value),
                [value, label],
            )
            items[index] = odd[
                number // len(values) % 2 if number < 2 * len(values) else dice.randrange(6)
            ]
            read(from_sequence(items))

        survives(make, 400)

    def test_odd_images_are_refused_alone(self) -> None:
        dice, values, refused = random.Random(0), [*ODD_VALUES, truncated(), closed()], 0
        for _ in range(INPUTS):
            items: list[Any] = list(zip(IMAGES, LABELS, strict=True))
            odd = set(dice.sample(range(4), 1))
            for index in odd:
                items[index] = dice.choice(values), LABELS[index]
            refused += check_others(from_sequence(items), odd)
        assert 0 < refused < INPUTS

    def test_odd_data_sets(self) -> None:
        lengths = (4, 4, 4, 4, 0, -1, 5, 2**70, "4", None, failing, 2.0)
        names = (
            None,
            NAMES,
            ["a"],
            AttributeError("x"),
            RuntimeError("x"),
            [1, 2, 3],
            [None, ["a", "b"], []],
        )

        def make(dice: random.Random, number: int) -> None:
            labels = dice.choice(
                (LABELS, ["a", "b", None, "a"], [*NAMES, "cat"], [None] * 4, ["a", 1, 2, 1])
            )
            items = list(zip(IMAGES, labels, strict=True))
            classes = dice.choice((*names, *ODD))
            read(from_sequence(Odd(items, lengths[number % len(lengths)], classes)))

        survives(make)
