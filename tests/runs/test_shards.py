"""runs/shards.py: parts of a run that are joined to what one run would have been."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from denoised_smoothing import SmoothedClassifier
from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.certificates.plans import Anytime, FixedBudget
from denoised_smoothing.cli import main
from denoised_smoothing.datasets import ImageDataset
from denoised_smoothing.errors import RunMismatchError, SettingError
from denoised_smoothing.remote.log import StoreLog
from denoised_smoothing.remote.records import Attempt, CopyKey, Outcome
from denoised_smoothing.reporting.export import ExportFormat, export
from denoised_smoothing.reporting.results import load_results
from denoised_smoothing.runs.examples import EXAMPLES
from denoised_smoothing.runs.run import CertificationRun
from denoised_smoothing.runs.shards import Shard, merge
from denoised_smoothing.store import Store

IMAGES, SHARDS = 37, 16
VALUES = np.random.default_rng(0).integers(0, 256, (IMAGES, 1, 8, 8)).astype(np.float32) / 255


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(5, 64, generator=torch.Generator().manual_seed(0)))

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weights.T


def certify(folder: Path, shard: str | None = None, **changes: Any) -> Path:
    """Certify a shard, or all, into a store of its own."""
    path = folder / f"{(shard or 'whole').replace('/', '-of-')}.sqlite"
    data = ImageDataset(
        name="folder:made",
        fingerprint="f",
        image_ids=[f"image-{index:02}" for index in range(IMAGES)],
        read=lambda index: VALUES[index],
        labels=[index % 5 for index in range(IMAGES)],
        label_names=tuple("abcde"),
    )
    options = {
        "smoothed": SmoothedClassifier(Linear(), 0.5, device="cpu"),
        "dataset": data,
        "plan": Anytime((0.1, 0.25), max_n=400, n0=20),
        "alpha": 0.001,
        "classifier": "toy",
        "denoiser": "none",
        "seed": 7,
        "shard": None if shard is None else Shard.parse(shard),
        **changes,
    }
    with Store(path) as store:
        CertificationRun(**options).execute(store)
    return path


def merged(paths: list[Path], target: Path, *, partial: bool = False) -> Store:
    sources = [Store(path, read_only=True) for path in paths]
    store = Store(target)
    try:
        merge(sources, store, examples=EXAMPLES, partial=partial)
    finally:
        for source in sources:
            source.close()
    return store


def exported(store: Store, folder: Path) -> list[list[dict[str, str]]]:
    """The exports of the only run, but for the time."""
    [run] = store.runs()
    tables = []
    for form, delimiter in ((ExportFormat.TSV, "\t"), (ExportFormat.CSV, ",")):
        export(load_results(store, run.name), form, folder / form)
        with (folder / form).open(newline="") as file:
            rows = list(csv.DictReader(file, delimiter=delimiter))
        tables.append([{key: row[key] for key in row if key != "time"} for row in rows])
    return tables


def test_sixteen_shards_are_one_run(tmp_path: Path) -> None:
    paths = [certify(tmp_path, f"{number}/{SHARDS}") for number in range(1, SHARDS + 1)]
    with Store(certify(tmp_path)) as whole, merged(paths[::-1], tmp_path / "all.sqlite") as joined:
        assert exported(joined, tmp_path) == exported(whole, tmp_path)
        [run], [expected] = joined.runs(), whole.runs()
        assert (run.name, run.settings, run.seed) == (expected.name, expected.settings, 7)
        assert joined.examples(run.name) == whole.examples(run.name)
        assert [(i.image_id, i.counts) for i in joined.images(run.name)] == [
            (i.image_id, i.counts) for i in whole.images(run.name)
        ]


def test_a_merged_run_resumes_as_a_whole(tmp_path: Path) -> None:
    paths = [certify(tmp_path, f"{number}/2", name="r", limit=20) for number in (1, 2)]
    merged(paths, tmp_path / "whole.sqlite").close()
    with Store(certify(tmp_path, name="r")) as store:
        assert len(store.images("r")) == IMAGES
        assert all(image.finished for image in store.images("r"))


@pytest.mark.parametrize(
    ("second", "changes", "message"),
    [
        ("2/2", {"alpha": 0.01}, "alpha: 0.001 in one, 0.01 in another"),
        ("2/2", {"limit": 6}, "images: 4 in one, 6 in another"),
        ("2/2", {"seed": 8}, "seed: 7 in one, 8 in another"),
        ("2/3", {}, "shard: 'of 2' in one, 'of 3' in another"),
        ("2/2", {"plan": FixedBudget(20, 40)}, "plan.kind: 'anytime' in one, 'fixed' in another"),
        (None, {}, "Several stores hold the run 'r', and not as shards"),
    ],
)
def test_what_does_not_belong_together_is_refused(
    tmp_path: Path, second: str | None, changes: dict[str, Any], message: str
) -> None:
    first = certify(tmp_path, "1/2", name="r", limit=4)
    other = certify(tmp_path, second, name="r", **{"limit": 4, **changes})
    with pytest.raises(RunMismatchError, match=message):
        merged([first, other], tmp_path / "all.sqlite")
    with Store(tmp_path / "all.sqlite") as store:
        assert store.runs() == []


def test_shards_that_are_missing_or_occur_twice_are_named(tmp_path: Path) -> None:
    paths = [certify(tmp_path, f"{number}/4", name="r", limit=8) for number in (1, 4)]
    with pytest.raises(RunMismatchError, match=r"4 shards of run 'r', 2, 3 are missing\. Name"):
        merged(paths, tmp_path / "all.sqlite")
    with pytest.raises(RunMismatchError, match=r"4 shards of run 'r', 4 occur twice\. Name"):
        merged([*paths, paths[1]], tmp_path / "all.sqlite")


def test_shards_that_are_not_finished_are_named(tmp_path: Path) -> None:
    paths = [certify(tmp_path, f"{number}/3", name="r", limit=8) for number in (1, 2, 3)]
    for path in paths[1:]:
        with Store(path) as store:
            last = store.images("r")[-1]
            store.save_images("r", [replace(last, finished=False)])
    said = r"'r' are not finished: 2/3 \(2 of 3 images\), 3/3 \(1 of 2 images\)\..* --partial"
    with pytest.raises(RunMismatchError, match=said):
        merged(paths[::-1], tmp_path / "refused.sqlite")
    with merged(paths, tmp_path / "whole.sqlite", partial=True) as store:
        assert sum(image.finished for image in store.images("r")) == 6
    with Store(certify(tmp_path, name="r", limit=8)) as store:
        assert [image.finished for image in store.images("r")] == [True] * 8


def test_a_shard_resumes_with_the_images_that_it_began_with(tmp_path: Path) -> None:
    certify(tmp_path, "1/2", name="r", limit=4)
    with pytest.raises(RunMismatchError, match=r"images: 4 .*, 6 "):
        certify(tmp_path, "1/2", name="r", limit=6)


def test_an_image_in_two_shards_is_refused(tmp_path: Path) -> None:
    first = certify(tmp_path, "1/2", name="r", limit=4)
    second = certify(tmp_path, "2/2", name="r", limit=4)
    with Store(second) as store:
        store.save_images("r", [replace(store.images("r")[0], image_id="image-00", counts={})])
    with pytest.raises(
        RunMismatchError, match="An image of run 'r' is in two of its shards, so one was altered"
    ):
        merged([first, second], tmp_path / "all.sqlite")


def test_other_runs_and_their_queries_are_copied(tmp_path: Path) -> None:
    first = certify(tmp_path, name="a", limit=2).rename(tmp_path / "a.sqlite")
    second = certify(tmp_path, name="b", limit=3)
    attempt = Attempt(
        CopyKey("image-00", Stage.SELECTION, 0), 1, "vendor", "model", "0" * 64, 0.001,
        "2026-01-01T00:00:00+00:00", Outcome.ANSWERED, label="cat", final=True,
    )  # fmt: skip
    with Store(first) as store:
        StoreLog(store, "a").write([attempt], [])
    with merged([first, second], tmp_path / "all.sqlite") as store:
        assert [run.name for run in store.runs()] == ["a", "b"]
        assert [len(store.images(name)) for name in "ab"] == [2, 3]
        assert list(StoreLog(store, "a").history()) == [attempt]
        with pytest.raises(RunMismatchError, match="The target holds the run 'a' already"):
            merged([first], tmp_path / "all.sqlite")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3", "A shard is written as 3/16, got '3'"),
        ("a/b", "A shard is written as 3/16, got 'a/b'"),
        ("0/4", "The shards of 4 are 1/4 to 4/4, got '0/4'"),
        ("5/4", "The shards of 4 are 1/4 to 4/4, got '5/4'"),
    ],
)
def test_shards_that_cannot_be_are_refused(text: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Shard.parse(text)


def test_shards_need_a_seed_and_images(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"Shard 1/2 has no seed\. Give the same --seed"):
        certify(tmp_path, "1/2", seed=None)
    with pytest.raises(
        SettingError, match=r"Shard 9/9 has none of 8 images\. Use at most that many"
    ):
        certify(tmp_path, "9/9", limit=8)


def test_the_command_merges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    specs = ("--classifier", "digits", "--sigma", "0.5", "--n0", "20", "--n", "20", "--seed", "1")
    for number in (1, 2):
        with pytest.raises(SystemExit):
            main([
                "certify", "digits", *specs, "--limit", "4", "--run", "r",
                "--shard", f"{number}/2", "--store", f"{number}.sqlite",
            ])  # fmt: skip
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(["merge", "1.sqlite", "2.sqlite", "--store", "all.sqlite", "--json"])
    assert not end.value.code
    assert json.loads(capsys.readouterr().out) == [{"run": "r", "stores": 2}]
    with Store("all.sqlite", read_only=True) as store:
        assert [image.index for image in store.images("r")] == [0, 1, 2, 3]
