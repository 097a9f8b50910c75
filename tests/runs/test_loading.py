"""The one shape of a run, and what happens to images that do not have it."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor, nn

from denoised_smoothing.certificates.plans import Anytime, FixedBudget
from denoised_smoothing.datasets import ImageDataset, load_dataset
from denoised_smoothing.errors import ImageError, RefusedImagesError, RunMismatchError
from denoised_smoothing.models.classifiers.base import ImageClassifier
from denoised_smoothing.reporting.export import ExportFormat, export
from denoised_smoothing.reporting.html import write_report
from denoised_smoothing.reporting.results import load_results
from denoised_smoothing.reporting.tables import comparison, to_markdown
from denoised_smoothing.runs.calibration import calibrate
from denoised_smoothing.runs.examples import EXAMPLES
from denoised_smoothing.runs.loading import common_shape
from denoised_smoothing.runs.run import CertificationRun
from denoised_smoothing.runs.shards import Shard, merge
from denoised_smoothing.smoothing.classifier import SmoothedClassifier
from denoised_smoothing.store import Store

PLAN = FixedBudget(n0=10, n=40)


class Colours(nn.Module):
    """Logits are the means of the channels, three of them: it fails on grey images."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(20 * torch.eye(3))

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)) @ self.weights


def smoothed(classifier: nn.Module | None = None, **options: Any) -> SmoothedClassifier:
    options = {"sigma": 0.25, "device": "cpu", **options}
    return SmoothedClassifier(classifier or Colours(), **options)


def data(*shapes: Sequence[int] | None) -> ImageDataset:
    """Images of these shapes, of which only headers may be read; None is unreadable."""

    def shape(index: int) -> tuple[int, int, int]:
        if (found := shapes[index]) is None:
            raise ImageError(f"image {index} is broken")
        channels, height, width = found
        return channels, height, width

    def read(index: int) -> np.ndarray:
        raise AssertionError(f"image {index} was decoded")

    ids = [str(index) for index in range(len(shapes))]
    return ImageDataset("folder:made", "f", ids, read, [None] * len(shapes), read_shape=shape)


RGB, TALL, GREY = (3, 6, 8), (3, 8, 6), (1, 6, 8)


class TestCommonShape:
    @pytest.mark.parametrize(
        ("shapes", "shape"),
        [
            ((TALL, RGB, RGB), RGB),
            ((None, RGB), RGB),
            ((GREY, RGB, RGB), RGB),
            ((GREY, TALL, RGB, RGB), RGB),
            ((RGB, GREY, GREY), GREY),
        ],
    )
    def test_the_most_frequent_shape_wherever_it_stands(
        self, shapes: Sequence[Any], shape: tuple[int, ...]
    ) -> None:
        for order in (shapes, shapes[::-1]):
            found = common_shape(smoothed(), data(*order), range(len(order)), None)
            assert found == shape

    def test_images_of_other_channels_than_the_classifiers_have_no_vote(self) -> None:
        coloured = smoothed(ImageClassifier(Colours(), (0.0,) * 3, (1.0,) * 3))
        assert common_shape(coloured, data(GREY, GREY, RGB), range(3), None) == RGB

    def test_images_of_another_size_than_the_denoisers_have_no_vote(self) -> None:
        denoiser = nn.Identity()
        denoiser.size = 8
        shapes = data(RGB, RGB, (3, 8, 8))
        assert common_shape(smoothed(denoiser=denoiser), shapes, range(3), None) == (3, 8, 8)

    def test_the_resolution_comes_first_and_then_the_classifiers(self) -> None:
        sized = smoothed(ImageClassifier(Colours(), (0.0,) * 3, (1.0,) * 3, resolution=4))
        unread = replace(data(RGB), read_shape=None)
        assert common_shape(sized, unread, range(1), 2) == (3, 2, 2)
        assert common_shape(sized, unread, range(1), None) == (3, 4, 4)
        assert common_shape(smoothed(), data(GREY, RGB, TALL), range(3), 5) == (3, 5, 5)

    def test_a_tie_stops_and_names_the_resolution(self) -> None:
        said = (
            "The images have several shapes, and 6x8 RGB and 8x6 RGB are equally frequent, 2 of 5 "
            r"images each. Set a resolution \(--resolution\) for all images."
        )
        with pytest.raises(ImageError, match=said):
            common_shape(smoothed(), data(TALL, RGB, TALL, RGB, GREY), range(5), None)
        with pytest.raises(ImageError, match=r"grey and 6x8 RGB .* Convert all images to RGB, or"):
            common_shape(smoothed(), data(GREY, RGB), range(2), None)

    def test_if_none_can_be_certified_the_reasons_are_listed(self) -> None:
        with pytest.raises(ImageError) as caught:
            common_shape(smoothed(), data(*[None] * 12), range(12), None)
        lines = str(caught.value).splitlines()
        assert lines[0] == "None of 12 images can be certified:"
        assert lines[1:] == [*(f"image {i} is broken" for i in range(10)), "... and 2 more"]
        with pytest.raises(ImageError, match=r"^image 0 is broken$"):
            common_shape(smoothed(), data(None), range(1), None)


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def grey(path: Path) -> None:
    PIL.Image.open(path).convert("L").save(path)


def rotate(path: Path) -> None:
    image = PIL.Image.open(path)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(path, exif=exif)


def enlarge(path: Path) -> None:
    PIL.Image.open(path).resize((64, 64)).save(path)


def transparent(path: Path) -> None:
    PIL.Image.open(path).convert("RGBA").save(path)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four RGB images of 24x32 pixels."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        image = PIL.Image.fromarray(pixels(24, 32, 3, seed=number))
        image.save(folder / f"{number}.png")
    return folder


def request(folder: Path, **changes: Any) -> CertificationRun:
    settings = {
        "smoothed": smoothed(), "dataset": load_dataset(f"folder:{folder}"), "plan": PLAN,
        "alpha": 0.01, "name": "run", "seed": 3,
    }  # fmt: skip
    return CertificationRun(**{**settings, **changes})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs.sqlite")


class TestRefusedImages:
    @pytest.mark.parametrize("place", [0, 2])
    @pytest.mark.parametrize("spoil", [truncate, grey, rotate, enlarge, transparent, empty])
    def test_one_is_named_and_the_others_are_certified(
        self, store: Store, folder: Path, spoil: Callable[[Path], None], place: int
    ) -> None:
        spoil(folder / f"{place}.png")
        with pytest.raises(RefusedImagesError, match=f"1 of 4 images .*{place}.png") as caught:
            request(folder).execute(store)
        assert caught.value.exit_code == 1
        done = {image.image_id for image in store.images("run") if image.finished}
        assert done == {f"{number}.png" for number in range(4)} - {f"{place}.png"}
        [refused] = store.run("run").refused
        assert (refused.index, refused.image_id) == (place, f"{place}.png")
        assert store.run("run").settings["image_shape"] == [3, 24, 32]

    def test_all_are_listed_wherever_results_are(
        self, store: Store, folder: Path, tmp_path: Path
    ) -> None:
        truncate(folder / "0.png")
        grey(folder / "1.png")
        with pytest.raises(RefusedImagesError):
            request(folder).execute(store)
        refused = store.run("run").refused
        assert [image.image_id for image in refused] == ["0.png", "1.png"]
        assert "cannot be decoded" in refused[0].reason
        assert refused[1].reason == (
            "Image '1.png' has shape [1, 24, 32], but this run certifies images of shape "
            "[3, 24, 32]. Convert it to RGB."
        )
        results = load_results(store, "run")
        [row] = comparison([results], (0.0,))
        assert row.texts()[2] == "2 (2 refused)"
        assert f"\n- refused: 1.png: {refused[1].reason}" in to_markdown([row])
        write_report(store, ["run"], tmp_path / "report.html")
        assert "2 images could not be certified" in (tmp_path / "report.html").read_text()
        for form, delimiter in ((ExportFormat.TSV, "\t"), (ExportFormat.CSV, ",")):
            export(results, form, tmp_path / form)
            with (tmp_path / form).open(newline="") as file:
                rows = list(csv.DictReader(file, delimiter=delimiter))
            assert [row["idx"] for row in rows] == ["0", "1", "2", "3"]
            assert [row["refused"] for row in rows] == [*(i.reason for i in refused), "", ""]
            assert [row["predict"] for row in rows[:2]] == ["-1", "-1"]

    def test_the_pictures_are_of_images_that_can_be_certified(
        self, store: Store, folder: Path
    ) -> None:
        enlarge(folder / "0.png")
        with pytest.raises(RefusedImagesError):
            request(folder).execute(store)
        shown = {example.image_id for example in store.examples("run")}
        assert shown == {"1.png", "2.png", "3.png"}

    def test_a_resumed_run_tries_again(self, store: Store, folder: Path) -> None:
        dataset, whole = load_dataset(f"folder:{folder}"), (folder / "1.png").read_bytes()
        truncate(folder / "1.png")
        for _ in range(2):
            with pytest.raises(RefusedImagesError):
                request(folder, dataset=dataset).execute(store)
            assert len(store.run("run").refused) == 1
        request(folder, dataset=dataset, limit=1).execute(store)  # asks for none of them
        assert len(store.run("run").refused) == 1
        (folder / "1.png").write_bytes(whole)
        request(folder, dataset=dataset).execute(store)
        assert store.run("run").refused == ()
        assert sum(image.finished for image in store.images("run")) == 4

    def test_more_copies_can_be_added_twice(self, store: Store, folder: Path) -> None:
        truncate(folder / "0.png")
        plan = Anytime((2.0,), max_n=100, n0=10)
        for more, copies in ((None, 100), (50, 150), (50, 200)):
            with pytest.raises(RefusedImagesError):
                request(folder, plan=plan, more=more, command="same").execute(store)
            held = store.run("run").settings["plan"]
            assert held["max_n"] + held.get("more", 0) == copies

    def test_one_with_a_result_keeps_it_when_more_copies_fail(
        self, store: Store, folder: Path, tmp_path: Path
    ) -> None:
        """It is a result or refused, and never both."""
        for number in range(4):  # more copies prove 0.45
            PIL.Image.new("RGB", (32, 24), (200, number, 0)).save(folder / f"{number}.png")
        plan, dataset = Anytime((0.45,), max_n=100, n0=10), load_dataset(f"folder:{folder}")
        request(folder, plan=plan, dataset=dataset).execute(store)
        [earlier, *_] = store.images("run")
        empty(folder / "0.png")
        for _ in range(2):
            again = request(folder, plan=plan, dataset=dataset, more=2000, command="more")
            with pytest.raises(RefusedImagesError, match=r"1 of 4 images .*0\.png' cannot"):
                again.execute(store)
        assert store.run("run").refused == ()
        assert store.finished() == {"run": 4}
        results = load_results(store, "run")
        assert store.images("run")[0] == earlier
        proven = [image.radius >= 0.45 for image in results.images]
        assert proven == [False, True, True, True]
        export(results, ExportFormat.TSV, tmp_path / "a.tsv")
        rows = (tmp_path / "a.tsv").read_text().splitlines()[1:]
        assert [row.split("\t")[0] for row in rows] == ["0", "1", "2", "3"]

    def test_an_unfinished_one_is_refused_only(self, store: Store, folder: Path) -> None:
        dataset, plan = load_dataset(f"folder:{folder}"), Anytime((2.0,), max_n=100, n0=10)
        request(folder, plan=plan, dataset=dataset).execute(store)
        begun = store.images("run")[0]
        store.save_images("run", [replace(begun, finished=False)])
        truncate(folder / "0.png")
        with pytest.raises(RefusedImagesError):
            request(folder, plan=replace(plan, max_n=150), dataset=dataset).execute(store)
        results = load_results(store, "run", so_far=True)
        assert [image.index for image in results.images] == [1, 2, 3]
        assert (len(results.run.refused), results.unfinished) == (1, 0)

    def test_shards_have_one_shape_and_are_merged_with_what_they_refused(
        self, folder: Path, tmp_path: Path
    ) -> None:
        rotate(folder / "0.png")
        rotate(folder / "2.png")
        image = PIL.Image.fromarray(pixels(24, 32, 3, seed=9))
        image.save(folder / "4.png")
        paths = [tmp_path / f"{number}.sqlite" for number in (1, 2)]
        for number, path in enumerate(paths, 1):  # the first shard has most of the rotated images
            with Store(path) as store:
                run = request(folder, shard=Shard(number, 2))
                if number == 1:
                    with pytest.raises(RefusedImagesError, match="2 of 3 images"):
                        run.execute(store)
                else:
                    run.execute(store)
        with Store(tmp_path / "all.sqlite") as joined:
            [run] = merge([Store(path) for path in paths], joined, examples=EXAMPLES)
            assert [image.image_id for image in run.refused] == ["0.png", "2.png"]
            assert sum(image.finished for image in joined.images("run")) == 3

    def test_a_shard_may_hold_refused_images_only(self, store: Store, folder: Path) -> None:
        truncate(folder / "0.png")
        with pytest.raises(RefusedImagesError, match="1 of 1 images"):
            request(folder, shard=Shard(1, 4)).execute(store)
        assert store.images("run") == []

    def test_if_none_can_be_certified_nothing_begins(self, store: Store, folder: Path) -> None:
        for path in folder.iterdir():
            truncate(path)
        with pytest.raises(ImageError, match=r"^None of 4 images can be certified:\n") as caught:
            request(folder).execute(store)
        assert caught.value.exit_code == 2
        assert store.runs() == []

    def test_another_majority_is_another_run(self, store: Store, folder: Path) -> None:
        for number in (1, 2, 3):
            rotate(folder / f"{number}.png")
        request(folder, limit=1).execute(store)
        with pytest.raises(
            RunMismatchError, match=r"image_shape: \[3, 24, 32\] in the run, \[3, 32, 24\]"
        ):
            request(folder).execute(store)
        with pytest.raises(RefusedImagesError, match="3 of 4 images"):
            request(folder, shape=(3, 24, 32)).execute(store)

    def test_calibration_leaves_them_out(self, folder: Path) -> None:
        truncate(folder / "0.png")
        enlarge(folder / "1.png")
        ready = smoothed()
        calibrate(ready, load_dataset(f"folder:{folder}"), None)
        assert ready.prepared.calibration_shape == (3, 24, 32)
        for path in folder.iterdir():
            path.write_bytes(b"")
        with pytest.raises(ImageError, match="None of 4 images"):
            calibrate(ready, load_dataset(f"folder:{folder}"), None)
