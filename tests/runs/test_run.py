"""Runs: what is stored, resumed and refused, and what survives a failure."""

from __future__ import annotations

import csv
import io
import math
import platform
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import sqlalchemy as sa
import torch
from torch import Tensor, nn

from denoised_smoothing.certificates.certificate import Certificate, SamplingPlan
from denoised_smoothing.certificates.parameters import Noise, SmoothingParameters
from denoised_smoothing.certificates.plans import Anytime, FixedBudget, RadiusTarget
from denoised_smoothing.datasets import ImageDataset, load_dataset
from denoised_smoothing.engines import torch_engine
from denoised_smoothing.engines.canaries import Canaries
from denoised_smoothing.engines.contract import PROBED
from denoised_smoothing.engines.engine import cores, processor
from denoised_smoothing.errors import (
    ContractError,
    DatasetError,
    ImageError,
    RunMismatchError,
    SettingError,
    StoreError,
    StoreUnreachableError,
)
from denoised_smoothing.models.catalogue import load_classifier, load_denoiser
from denoised_smoothing.models.classifiers.base import ImageClassifier
from denoised_smoothing.noise import noisy_copies
from denoised_smoothing.reporting.export import ExportFormat, export
from denoised_smoothing.reporting.html import write_report
from denoised_smoothing.reporting.results import load_results
from denoised_smoothing.runs import writer
from denoised_smoothing.runs.run import CertificationRun
from denoised_smoothing.runs.shards import Shard
from denoised_smoothing.runs.writer import RunProgress
from denoised_smoothing.smoothing import scheduler as scheduling
from denoised_smoothing.smoothing.classifier import SmoothedClassifier, Stage
from denoised_smoothing.store import Store, StoredImage

IMAGES = 12
PLAN = FixedBudget(n0=100, n=50)
"""As n is one chunk, no image ends early."""
ANYTIME = Anytime((0.1, 0.5), max_n=400, n0=20)
PLANS = (PLAN, FixedBudget(20, 500), ANYTIME, RadiusTarget(400, n0=50))
CALLS = IMAGES * (PLAN.n0 + PLAN.n)
FEW = 4
"""Images of a run that is interrupted at every report."""
FORWARD = 200
"""Copies of a forward pass of 8x8 images; CALLS are 9 of them."""
VALUES = np.random.default_rng(0).integers(0, 256, (IMAGES, 1, 8, 8)).astype(np.float32) / 255
NAMES = tuple("abcde")


def made(**changes: Any) -> ImageDataset:
    """Random grey images of 8x8 pixels with labels."""
    data = ImageDataset(
        name="folder:made",
        fingerprint="f",
        image_ids=[f"image-{index}" for index in range(IMAGES)],
        read=lambda index: VALUES[index],
        labels=[index % 5 for index in range(IMAGES)],
        label_names=NAMES,
    )
    return replace(data, **changes)


class Event:
    """Something that happens; not part of what a classifier is, so its fingerprint is one."""

    def __init__(self, happens: Callable[[], None]) -> None:
        self.happens = happens

    def fingerprint_parts(self) -> tuple[()]:
        return ()


class Classes(nn.Module):
    """A random linear classifier that calls ``happens`` before each pass that is counted."""

    def __init__(self, seed: int = 0, happens: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weights = nn.Parameter(torch.randn(5, 64, generator=generator))
        self.event = Event(happens)

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > PROBED:
            self.event.happens()
        pixels = images.flatten(1)[:, :64]
        return pixels @ self.weights[:, : pixels.shape[1]].T


class Sure(Classes):
    """Gives one label to all, so that all copies of a fixed budget are drawn."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * 0


@pytest.fixture(autouse=True)
def without_canaries(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes are counted in these tests."""
    if "canaries" not in request.node.name:
        monkeypatch.setattr(Canaries, "is_due", lambda canaries, engine: False)


def smoothed(classifier: nn.Module | None = None, **options: Any) -> SmoothedClassifier:
    options = {"sigma": 0.5, "device": "cpu", **options}
    return SmoothedClassifier(classifier or Classes(), **options)


def request(**changes: Any) -> CertificationRun:
    settings = {
        "smoothed": smoothed(),
        "dataset": made(),
        "plan": PLAN,
        "alpha": 0.001,
        "classifier": "toy",
        "denoiser": "none",
        "name": "run",
        "seed": 7,
    }
    return CertificationRun(**{**settings, **changes})


def at_pass(number: int, error: BaseException, **changes: Any) -> CertificationRun:
    """A run in which the classifier raises at one forward pass."""
    passes = iter(range(1, 1000))

    def happens() -> None:
        if next(passes) == number:
            raise error

    return request(smoothed=smoothed(Classes(happens=happens)), **changes)


def counts(store: Store, name: str = "run") -> list[tuple[object, ...]]:
    """All that a run says of its images, but for the time."""
    return [
        (i.index, i.image_id, i.label, i.digest, i.counts, i.finished) for i in store.images(name)
    ]


def exported(store: Store, folder: Path) -> dict[str, object]:
    """The exports of the run, but for the time."""
    results, rows = load_results(store, "run"), {}
    for form, delimiter in ((ExportFormat.TSV, "\t"), (ExportFormat.CSV, ",")):
        export(results, form, folder / form)
        with (folder / form).open(newline="") as file:
            rows[form.value] = list(csv.DictReader(file, delimiter=delimiter))
    return {
        name: [{key: row[key] for key in row if key != "time"} for row in table]
        for name, table in rows.items()
    }


def copies(images: Sequence[StoredImage]) -> int:
    return sum(counts.n for image in images for counts in image.counts.values())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs.sqlite")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("uninterrupted") / "runs.sqlite")
    request().execute(store)
    assert copies(store.images("run")) == CALLS
    assert all(image.finished for image in store.images("run"))
    return store


@pytest.fixture(scope="module", params=PLANS, ids=["fixed", "ends early", "anytime", "radius"])
def plan(request: pytest.FixtureRequest) -> SamplingPlan:
    plan: SamplingPlan = request.param
    return plan


@pytest.fixture(scope="module")
def reference(plan: SamplingPlan, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A run of each plan that went to its end directly."""
    store = Store(tmp_path_factory.mktemp("reference") / "runs.sqlite")
    request(plan=plan).execute(store)
    assert all(image.finished for image in store.images("run"))
    sizes = {copies([image]) for image in store.images("run")}
    assert (len(sizes) == 1) == (plan == PLAN)
    return store


class TestSameCounts:
    """However a run came to its end, it has the counts of one that went there directly."""

    @staticmethod
    def check(store: Store, reference: Store, folder: Path) -> None:
        assert counts(store) == counts(reference)
        assert exported(store, folder) == exported(reference, folder)
        assert store.examples("run") == reference.examples("run")

    @pytest.mark.parametrize("batch_size", [1, 450, 100_000])
    def test_other_batch_sizes(
        self, store: Store, reference: Store, plan: SamplingPlan, tmp_path: Path, batch_size: int
    ) -> None:
        request(plan=plan, smoothed=smoothed(batch_size=batch_size)).execute(store)
        self.check(store, reference, tmp_path)

    def test_another_order(
        self, store: Store, reference: Store, plan: SamplingPlan, tmp_path: Path
    ) -> None:
        backwards = request(plan=plan)
        backwards.indices.reverse()
        backwards.execute(store)
        assert counts(store) == counts(reference)
        assert exported(store, tmp_path) == exported(reference, tmp_path)

    @pytest.mark.parametrize("number", [1, 2, 5, 9])
    def test_interrupted_and_resumed(
        self, store: Store, reference: Store, plan: SamplingPlan, tmp_path: Path, number: int
    ) -> None:
        with pytest.raises(KeyboardInterrupt):
            at_pass(number, KeyboardInterrupt(), plan=plan).execute(store)
        assert copies(store.images("run")) < copies(reference.images("run"))
        request(plan=plan, smoothed=smoothed(batch_size=300)).execute(store)
        self.check(store, reference, tmp_path)

    def test_interrupted_at_every_report(
        self, store: Store, plan: SamplingPlan, tmp_path: Path
    ) -> None:
        """Also between the last batch of an image and its being called finished."""
        whole = Store(tmp_path / "whole.sqlite")
        request(plan=plan, limit=FEW).execute(whole)
        classifier = smoothed(batch_size=FORWARD)
        reports = 0

        def interrupt(progress: RunProgress) -> None:
            nonlocal reports
            reports += 1
            if progress.calls or progress.images_done > done:
                raise KeyboardInterrupt

        for _ in range(100):
            done = sum(image.finished for image in counted(store))
            try:
                request(plan=plan, limit=FEW, smoothed=classifier).execute(store, interrupt)
            except KeyboardInterrupt:
                continue
            break
        assert len(whole.images("run")) == FEW
        assert reports > copies(whole.images("run")) // FORWARD
        self.check(store, whole, tmp_path)

    def test_first_some_images_then_all(
        self, store: Store, reference: Store, plan: SamplingPlan, tmp_path: Path
    ) -> None:
        request(plan=plan, limit=7).execute(store)
        assert len(store.images("run")) == 7
        request(plan=plan).execute(store)
        self.check(store, reference, tmp_path)
        request(plan=plan, limit=2).execute(store)
        self.check(store, reference, tmp_path)

    def test_nothing_is_done_twice(self, store: Store, plan: SamplingPlan) -> None:
        request(plan=plan).execute(store)
        before = counts(store)
        at_pass(1, RuntimeError("called again"), plan=plan).execute(store)
        assert counts(store) == before


def counted(store: Store) -> list[StoredImage]:
    """The images of the run, none where it has not begun."""
    return store.images("run") if store.runs() else []


class TestIdentity:
    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"smoothed": smoothed(sigma=0.25)}, "sigma: 0.5 in the run, 0.25 requested"),
            ({"plan": FixedBudget(100, 51)}, "plan.n: 50 in the run, 51 requested"),
            ({"plan": FixedBudget(101, 50)}, "plan.n0: 100 in the run, 101 requested"),
            ({"plan": replace(PLAN, two_sided=True)}, "plan.two_sided: None in the run, True"),
            ({"plan": Anytime()}, "plan.kind: 'fixed' in the run, 'anytime' requested"),
            ({"plan": RadiusTarget()}, "plan.kind: 'fixed' in the run, 'radius' requested"),
            ({"smoothed": smoothed(noise="float")}, "noise: 'grid' in the run, 'float' requested"),
            ({"alpha": 0.01}, "alpha: 0.001 in the run, 0.01 requested"),
            ({"seed": 8}, "seed: 7 in the run, 8 requested"),
            ({"stride": 2}, "stride: 1 in the run, 2 requested"),
            ({"resolution": 4}, "dimension: 64 in the run, 16 requested; forward_shape: "),
            ({"classifier": "other"}, "classifier: 'toy' in the run, 'other' requested"),
            ({"smoothed": smoothed(Classes(seed=1))}, "classifier_fingerprint: '"),
            ({"denoiser": "unet:x"}, "denoiser: 'none' in the run, 'unet:x' requested"),
            ({"smoothed": smoothed(denoiser=nn.Identity())}, "denoiser_fingerprint: '"),
            (
                {"dataset": made(name="digits")},
                "data: 'folder:made' in the run, 'digits' requested",
            ),
            ({"dataset": made(fingerprint="g")}, "data_fingerprint: 'f' in the run, 'g' requested"),
            (
                {"dataset": made(label_names=tuple("abxde"))},
                "(data_labels.2: 'c' in the run, 'x' requested)",
            ),
            (
                {"dataset": made(label_names=("new", *NAMES))},
                "(data_labels.0: 'a' in the run, 'new' requested)",
            ),
            (
                {"dataset": made(label_names=None)},
                "(data_labels: ['a', 'b', 'c', 'd', 'e'] in the run, [] requested)",
            ),
        ],
        ids=lambda value: value.partition(":")[0] if isinstance(value, str) else "",
    )
    def test_other_settings_under_the_same_name_are_refused(
        self, uninterrupted: Store, changes: dict[str, Any], said: str
    ) -> None:
        before = counts(uninterrupted)
        with pytest.raises(RunMismatchError) as caught:
            request(**changes).execute(uninterrupted)
        assert str(caught.value).startswith("The run 'run' exists with other settings (")
        assert said in str(caught.value)
        assert str(caught.value).endswith(
            "Use another name with --run, or resume it with the settings it has."
        )
        assert counts(uninterrupted) == before

    def test_weights_that_ship_under_another_name_now_are_named_and_resume_the_run(
        self, store: Store
    ) -> None:
        """A run of an earlier version, whose weights were called digits-stability then."""

        def behind(spec: str, **changes: Any) -> CertificationRun:
            denoised = smoothed(denoiser=load_denoiser(spec))
            return request(smoothed=denoised, denoiser=spec, **changes)

        behind("digits-mse", limit=2).execute(store)
        settings = {**store.run("run").settings, "denoiser": "digits-stability"}
        store._update("run", settings=settings)
        said = r"now called digits-mse: use --denoiser digits-mse to resume it\.$"
        with pytest.raises(RunMismatchError, match=said):
            behind("digits-stability").execute(store)
        behind("digits-mse").execute(store)
        assert len(store.images("run")) == IMAGES

    def test_a_run_of_an_earlier_version_is_resumed_where_no_label_moved(
        self, uninterrupted: Store, store: Store
    ) -> None:
        """Which recorded no label names; the labels of its images are compared all the same."""
        request(limit=4).execute(store)
        added = ("data_labels", "contract")
        settings = {k: v for k, v in store.run("run").settings.items() if k not in added}
        store._update("run", settings=settings)
        moved = made(labels=[(index + 1) % 5 for index in range(IMAGES)])
        said = r"Image 'image-0' has label 0 in run 'run' and label 1 in the data: the classes of"
        with pytest.raises(RunMismatchError, match=said):
            request(dataset=moved).execute(store)
        assert len(store.images("run")) == 4
        request().execute(store)
        assert counts(store) == counts(uninterrupted)

    def test_all_that_differs_is_named(self, uninterrupted: Store) -> None:
        other = request(smoothed=smoothed(sigma=0.25), alpha=0.01)
        with pytest.raises(RunMismatchError, match=r"\(alpha: 0.001 .*; sigma: 0.5 in the run, 0."):
            other.execute(uninterrupted)

    def test_the_enlargement_of_the_classifier_counts(self, store: Store) -> None:
        def enlarged(size: int) -> CertificationRun:
            network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), Two())
            classifier = ImageClassifier(network, (0.5,), (0.5,), input_size=size)
            return request(smoothed=smoothed(classifier), limit=1)

        enlarged(8).execute(store)
        with pytest.raises(RunMismatchError, match="classifier_fingerprint"):
            enlarged(16).execute(store)

    def test_a_changed_file_is_another_data_set(self, store: Store, tmp_path: Path) -> None:
        folder = tmp_path / "images"
        folder.mkdir()
        for index in range(3):
            PIL.Image.fromarray(np.full((8, 8), 90 * index, np.uint8)).save(folder / f"{index}.bmp")
        data = f"folder:{folder}"
        request(dataset=load_dataset(data)).execute(store)
        PIL.Image.fromarray(np.full((8, 9), 7, np.uint8)).save(folder / "0.bmp")
        with pytest.raises(RunMismatchError, match="data_fingerprint"):
            request(dataset=load_dataset(data)).execute(store)

    def test_an_image_that_changed_under_the_run_is_refused(
        self, store: Store, uninterrupted: Store, tmp_path: Path
    ) -> None:
        """The fingerprint of a folder is of names and sizes, so the image itself is compared."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch_engine, "cores", lambda: 1)  # so that one thread counts, in order
            with pytest.raises(KeyboardInterrupt):
                at_pass(3, KeyboardInterrupt()).execute(store)
        before = counts(store)
        [begun] = [image for image in store.images("run") if not image.finished]
        changed = made(read=lambda index: 1 - VALUES[index])
        said = f"Image '{begun.image_id}' differs from the one that run 'run' began with: the data"
        with pytest.raises(StoreError, match=said):
            request(dataset=changed).execute(store)
        assert counts(store) == before
        request().execute(store)
        assert counts(store) == counts(uninterrupted)


class TestMore:
    """An anytime run can be extended, and stays valid; others cannot."""

    @pytest.fixture
    def begun(self, store: Store) -> Store:
        request(plan=ANYTIME, command="certify made").execute(store)
        return store

    @staticmethod
    def certificates(store: Store) -> list[Certificate]:
        run = store.run("run")
        plan = SamplingPlan.from_dict(run.settings["plan"])
        parameters = SmoothingParameters(0.5, 0.001, run.settings["dimension"], run.seed)
        return [plan.certificate(image.counts, parameters) for image in store.images("run")]

    @staticmethod
    def undecided(store: Store, plan: Anytime) -> list[bool]:
        """Whether the plan wants more copies of each image."""
        parameters = SmoothingParameters(0.5, 0.001, 64, 7)
        wanted = [sum(plan.targets(i.counts, parameters).values()) for i in store.images("run")]
        return [n > copies([i]) for n, i in zip(wanted, store.images("run"), strict=True)]

    def test_only_undecided_images_get_more_copies(self, begun: Store) -> None:
        before, undecided = begun.images("run"), self.undecided(begun, ANYTIME.extended(300))
        assert {True, False} == set(undecided)
        request(plan=ANYTIME, more=300, command="certify made --more 300").execute(begun)
        run, after = begun.run("run"), begun.images("run")
        assert run.settings["plan"]["more"] == 300
        assert run.settings["plan"]["max_n"] == ANYTIME.max_n
        assert run.info["command"] == "certify made"
        assert run.info["continued"] == ["certify made --more 300"]
        for old, new, grows in zip(before, after, undecided, strict=True):
            assert (copies([new]) > copies([old])) == grows
            assert copies([new]) <= 20 + 400 + 300
            assert new.finished
            assert grows or new == old
            selection = Stage.SELECTION
            assert new.counts[selection] == old.counts[selection]
            if old.counts[Stage.ESTIMATION].n == ANYTIME.max_n:
                assert new.counts[Stage.ESTIMATION] == old.counts[Stage.ESTIMATION]
        assert any(Stage.CONTINUATION in image.counts for image in after)
        assert not any(self.undecided(begun, ANYTIME.extended(300)))
        assert load_results(begun, "run").unfinished == 0
        for image, certificate in zip(after, self.certificates(begun), strict=True):
            assert certificate.calls == copies([image])

    def test_what_was_certified_at_the_cap_stays_certified(self, begun: Store) -> None:
        at_cap = [i.counts[Stage.ESTIMATION].n == ANYTIME.max_n for i in begun.images("run")]
        before = self.certificates(begun)
        request(plan=ANYTIME, more=300).execute(begun)
        for old, new, there in zip(before, self.certificates(begun), at_cap, strict=True):
            assert not there or new.radius >= old.radius

    def test_a_larger_cap_is_the_same_and_a_smaller_one_loses_nothing(
        self, begun: Store, tmp_path: Path
    ) -> None:
        other = Store(tmp_path / "other.sqlite")
        request(plan=ANYTIME).execute(other)
        request(plan=replace(ANYTIME, max_n=700)).execute(other)
        request(plan=ANYTIME, more=300).execute(begun)
        assert counts(other) == counts(begun)
        plan = other.run("run").settings["plan"]
        assert plan == begun.run("run").settings["plan"]
        for asked in (ANYTIME, replace(ANYTIME, max_n=700), ANYTIME.extended(100)):
            at_pass(1, RuntimeError("called again"), plan=asked).execute(other)
            assert other.run("run").settings["plan"] == plan
            assert counts(other) == counts(begun)

    def test_without_a_name_a_larger_cap_finds_the_run(self, store: Store) -> None:
        first = request(name=None, plan=ANYTIME).execute(store)
        again = request(name=None, plan=replace(ANYTIME, max_n=700)).execute(store)
        third = request(name=None, plan=ANYTIME, more=50).execute(store)
        assert first.name == again.name == third.name
        assert third.settings["plan"]["more"] == 350
        assert len(third.info["continued"]) == 2

    @pytest.mark.parametrize("number", [1, 2, 4])
    @pytest.mark.parametrize("named", ["", " --run run"])
    def test_interrupted_and_resumed_by_the_same_command(
        self, store: Store, begun: Store, tmp_path: Path, number: int, named: str
    ) -> None:
        """It does not add the copies twice, also if it names the run as the advice does."""
        other = Store(tmp_path / "other.sqlite")
        request(plan=ANYTIME).execute(other)
        request(plan=ANYTIME, more=300, command="c --more 300").execute(other)
        again = {"plan": ANYTIME, "more": 300}
        with pytest.raises(KeyboardInterrupt):
            at_pass(number, KeyboardInterrupt(), command="c --more 300", **again).execute(begun)
        assert counts(begun) != counts(other)
        request(command=f"c --more 300{named}", **again).execute(begun)
        assert counts(begun) == counts(other)
        assert begun.run("run").settings["plan"]["more"] == 300

    def test_interrupted_before_images_that_were_never_begun(self, store: Store) -> None:
        """The run had some of the images; its continuation is not done without the others."""
        request(plan=ANYTIME, limit=2).execute(store)
        again = {"plan": ANYTIME, "more": 300, "command": "c --more 300"}
        stops = iter(range(1, 1000))

        def interrupt(progress: RunProgress) -> None:
            if progress.images_done == 2 and next(stops) > 1:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            request(**again).execute(store, interrupt)
        request(**again).execute(store)
        assert store.run("run").settings["plan"]["more"] == 300
        assert [image.finished for image in store.images("run")] == [True] * IMAGES

    def test_twice_adds_twice(self, begun: Store) -> None:
        for _ in range(2):
            request(plan=ANYTIME, more=100, command="c --more 100").execute(begun)
        assert begun.run("run").settings["plan"]["more"] == 200
        assert begun.run("run").info["continued"] == ["c --more 100"] * 2

    @pytest.mark.parametrize("plan", [PLAN, RadiusTarget(400, n0=50)])
    def test_other_plans_refuse_with_the_reason(self, store: Store, plan: SamplingPlan) -> None:
        request(plan=plan).execute(store)
        before, run = counts(store), store.run("run")
        said = (
            rf"A run of the plan '{plan.kind}' cannot be extended by 300 copies: its bound holds "
            r"for a number of copies that was fixed before .* Start a new run; .* anytime can"
        )
        with pytest.raises(SettingError, match=said):
            request(plan=plan, more=300).execute(store)
        assert counts(store) == before
        assert store.run("run") == run

    @pytest.mark.parametrize("cap", [300, 700])
    def test_together_with_another_cap_is_refused(self, begun: Store, cap: int) -> None:
        before, run = counts(begun), begun.run("run")
        said = (
            rf"Got both --max-n {cap} and --more 50, but the run 'run' has a cap of 400 copies. "
            "Omit --plan and --max-n to add copies, or omit --more to set a larger cap"
        )
        with pytest.raises(SettingError, match=said):
            request(plan=replace(ANYTIME, max_n=cap), more=50).execute(begun)
        assert (counts(begun), begun.run("run")) == (before, run)
        request(plan=ANYTIME, more=300).execute(begun)
        with pytest.raises(
            SettingError, match=r"--max-n 700 .* a cap of 400 and 300 more copies\. Omit"
        ):
            request(plan=replace(ANYTIME, max_n=700), more=50).execute(begun)

    def test_without_a_run_is_refused(self, store: Store) -> None:
        said = r"There is no run 'run' to extend by 300 copies\. Name one with --run, or omit"
        with pytest.raises(SettingError, match=said):
            request(plan=ANYTIME, more=300).execute(store)
        assert store.runs() == []

    @pytest.mark.parametrize("more", [0, -5])
    def test_a_number_that_adds_nothing_is_refused(self, begun: Store, more: int) -> None:
        with pytest.raises(SettingError, match=f"more must be .* at least 1, got {more}"):
            request(plan=ANYTIME, more=more).execute(begun)
        assert begun.run("run").settings["plan"]["more"] == 0

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"smoothed": smoothed(noise="float"), "more": 9}, "noise: 'grid' in the run, 'float'"),
            ({"alpha": 0.01, "more": 9}, "alpha: 0.001 in the run, 0.01 requested"),
            ({"plan": replace(ANYTIME, max_n=700), "alpha": 0.01}, "alpha: 0.001 in the run"),
            ({"plan": replace(ANYTIME, n0=0)}, "plan.n0: 20 in the run, 0 requested"),
            ({"plan": replace(ANYTIME, radii=(0.1,), max_n=700)}, "plan.radii"),
        ],
    )
    def test_with_other_settings_nothing_is_changed(
        self, begun: Store, changes: dict[str, Any], said: str
    ) -> None:
        before, run = counts(begun), begun.run("run")
        with pytest.raises(RunMismatchError) as caught:
            request(**{"plan": ANYTIME, **changes}).execute(begun)
        assert said in str(caught.value)
        assert (counts(begun), begun.run("run")) == (before, run)


class Two(nn.Module):
    """Two logits from one feature."""

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([features, -features], dim=1)


class TestName:
    def test_without_a_name_the_same_settings_resume(self, store: Store) -> None:
        first = request(name=None, seed=None, limit=3).execute(store)
        again = request(name=None, seed=None).execute(store)
        assert (again.name, again.seed) == (first.name, first.seed)
        assert len(store.images(first.name)) == IMAGES
        assert len(store.runs()) == 1

    def test_other_settings_have_another_name(self) -> None:
        changes: list[dict[str, Any]] = [
            {}, {"seed": 8}, {"seed": None}, {"alpha": 0.01}, {"stride": 2},
            {"plan": FixedBudget(20, 131)}, {"smoothed": smoothed(Classes(1))},
            {"plan": ANYTIME}, {"plan": replace(ANYTIME, n0=0)}, {"plan": RadiusTarget()},
            {"smoothed": smoothed(noise="float")}, {"smoothed": smoothed(stochastic=True)},
            {"smoothed": smoothed(sigma=0.25)}, {"dataset": made(fingerprint="g")},
        ]  # fmt: skip
        names = {request(name=None, **change).run_name for change in changes}
        assert len(names) == len(changes)

    @pytest.mark.parametrize(
        ("data", "classifier", "denoiser", "start"),
        [
            ("digits:test", "digits", "digits-mse", "digits-test-digits-digits-mse-0.5-"),
            ("folder:a/photos/", "torchvision:resnet50", "none", "photos-torchvision-resnet50-n"),
            ("parquet:../data/test.parquet", "cifar-resnet56:/w/resnet56.safetensors",
             "unet:unet.safetensors", "test-resnet56-unet-unet-0.5-"),
            ("cat.png", "python:my.models:make", "none", "cat-python-my.models-make-none-0.5-"),
        ],
    )  # fmt: skip
    def test_says_what_the_run_is(
        self, data: str, classifier: str, denoiser: str, start: str
    ) -> None:
        run = request(
            name=None, dataset=made(name=data), classifier=classifier, denoiser=denoiser
        )  # fmt: skip
        assert run.run_name.startswith(start)
        assert run.run_name == run.run_name.strip("-")

    def test_a_fresh_seed_is_entropy_and_recorded(self, store: Store) -> None:
        seeds = {request(name=name, seed=None, limit=1).execute(store).seed for name in "abc"}
        assert len(seeds) == 3
        assert max(seeds) > 2**100
        assert request(name="a", seed=None, limit=2).execute(store).seed in seeds


class TestRecord:
    def test_settings(self, uninterrupted: Store) -> None:
        recorded = uninterrupted.run("run").settings
        fingerprints = [recorded.pop(f"{name}_fingerprint") for name in ("classifier", "denoiser")]
        assert all(len(fingerprint) == 64 for fingerprint in fingerprints)
        assert recorded == {
            "data": "folder:made",
            "data_fingerprint": "f",
            "data_labels": list(NAMES),
            "resolution": None,
            "stride": 1,
            "image_shape": [1, 8, 8],
            "dimension": 64,
            "classifier": "toy",
            "denoiser": "none",
            "sigma": 0.5,
            "alpha": 0.001,
            "plan": {"kind": "fixed", "n0": 100, "n": 50},
            "noise": "grid",
            "contract": "checked",
            "forward_shape": [FORWARD, 1, 8, 8],
            "engine": "torch",
            "engine_version": torch.__version__,
            "precision": "float32",
            "processor": processor(),
        }

    def test_canaries_are_recorded_and_added_up(self, store: Store) -> None:
        """Two of 5 passes at first and 2 of 4 later: every other copy, and 8 known ones."""
        request(limit=6).execute(store)
        copies = FORWARD + 2 * PROBED // 2
        assert store.run("run").info["compared"] == {"passes": 2, "copies": copies}
        request().execute(store)
        assert store.run("run").info["compared"] == {"passes": 4, "copies": 2 * copies}

    def test_a_run_that_canaries_stopped_says_so_and_does_not_resume(self, store: Store) -> None:
        class Sum(Classes):
            def forward(self, images: Tensor) -> Tensor:
                many = len(images) > PROBED
                return super().forward(images) + many * images.mean() * torch.arange(5)

        def wrong() -> CertificationRun:
            return request(smoothed=smoothed(Sum()))

        with pytest.raises(ContractError, match="among copies of other images"):
            wrong().execute(store)
        run = store.run("run")
        assert run.info["stopped"] in run.info["notes"][-1]
        with pytest.raises(RunMismatchError, match=r"was stopped, .*Name another run"):
            wrong().execute(store)

    def test_info(self, store: Store) -> None:
        run = request(command="certify made", method="plain", limit=1).execute(store)
        packages = ("denoised-smoothing", "torch", "numpy", "scipy")
        assert run.info == {
            "command": "certify made",
            "engine": {"workers": cores(), "notes": []},
            "method": "plain",
            "seed_given": True,
            "noise_stream": "cpu",
            "notes": [request().label_match.note],
            "label_names": list(NAMES),
            "versions": {
                "python": platform.python_version(),
                **{package: metadata.version(package) for package in packages},
            },
        }
        assert load_results(store, "run").method == "plain"

    def test_an_untrained_sigma_is_noted_in_run_certificates_and_report(
        self, store: Store, tmp_path: Path
    ) -> None:
        class Restoring(nn.Module):
            sigma_range = (0.1, 0.4)

            def forward(self, noisy: Tensor, sigma: float) -> Tensor:
                return noisy.clamp(0, 1)

        with pytest.warns(UserWarning, match=r"sigma 0.5 is outside the range .*\(0.1 to 0.4\)"):
            untrained = smoothed(denoiser=Restoring())
        data = made(label_names=None)
        run = request(smoothed=untrained, dataset=data, denoiser="restoring", limit=1).execute(
            store
        )
        [note] = run.info["notes"]
        assert note.startswith("sigma 0.5 is outside the range for which the denoiser was trained")
        [image] = load_results(store, "run").images
        assert image.certificate.notes == (note,)
        assert image.certificate.to_dict()["notes"] == [note]
        write_report(store, ["run"], tmp_path / "report.html")
        assert f'<p class="wrong">{note}</p>' in (tmp_path / "report.html").read_text()

    def test_the_names_of_the_classifier_come_first(self, store: Store) -> None:
        classifier = Classes()
        classifier.label_names = ("v", "w", "x", "y", "z")
        given = dict(zip(NAMES, "vwxyz", strict=True))
        run = request(smoothed=smoothed(classifier), limit=1, labels=given).execute(store)
        assert run.info["label_names"] == list("vwxyz")

    def test_images(self, uninterrupted: Store) -> None:
        for index, image in enumerate(uninterrupted.images("run")):
            assert (image.index, image.image_id, image.label) == (
                index,
                f"image-{index}",
                index % 5,
            )
            assert {stage: counts.n for stage, counts in image.counts.items()} == {
                Stage.SELECTION: PLAN.n0,
                Stage.ESTIMATION: PLAN.n,
            }

    def test_resolution_and_grid_come_before_the_noise(self, store: Store) -> None:
        shapes = set()

        class Four(nn.Module):
            resolution = 4

            def forward(self, images: Tensor) -> Tensor:
                shapes.add(tuple(images.shape))
                return images.mean(dim=(1, 2, 3)).round().long().clamp(0, 4)

        run = request(smoothed=smoothed(Four()), limit=1).execute(store)
        assert (run.settings["resolution"], run.settings["dimension"]) == (4, 16)
        assert shapes == {(FORWARD, 1, 4, 4), (PROBED, 1, 4, 4), (1, 1, 4, 4)}
        _, image = request(resolution=3).image(0)
        assert image.shape == (1, 3, 3)
        off_grid = request(dataset=made(read=lambda index: VALUES[index] * np.float32(0.999)))
        scaled = off_grid.image(0)[1] * 255
        np.testing.assert_allclose(scaled, scaled.round(), rtol=0, atol=1e-4)

    def test_time_is_attributed_to_the_images(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each forward pass takes one second of a clock that nothing else moves."""
        clock = Clock(monkeypatch)
        passes = 0

        def second() -> None:
            nonlocal passes
            clock.now += 1.0
            passes += 1
            if passes == 4:
                raise KeyboardInterrupt

        classifier = Classes(happens=second)
        with pytest.raises(KeyboardInterrupt):
            request(smoothed=smoothed(classifier, batch_size=1)).execute(store)
        assert sum(image.seconds for image in store.images("run")) == pytest.approx(3.0)
        request(smoothed=smoothed(classifier, batch_size=1)).execute(store)
        seconds = [image.seconds for image in store.images("run")]
        assert sum(seconds) == pytest.approx(passes - 1)
        assert min(seconds) > 0


class Clock:
    """The time that runs and scheduling believe it to be."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(scheduling.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(writer.time, "monotonic", lambda: self.now)


class TestExamples:
    def test_pictures_of_the_first_six_images(self, uninterrupted: Store) -> None:
        examples = uninterrupted.examples("run")
        kinds = [("clean", 0), *(("noisy", i) for i in range(3))]  # there is no denoiser
        assert [(e.image_id, e.kind, e.position) for e in examples] == [
            (f"image-{index}", kind, position) for index in range(6) for kind, position in kinds
        ]

    def test_they_are_what_the_classifier_got(self, store: Store) -> None:
        def halve(noisy: Tensor) -> Tensor:
            return noisy / 2

        request(smoothed=smoothed(denoiser=halve), limit=1).execute(store)
        pictures = {
            (example.kind, example.position): np.asarray(PIL.Image.open(io.BytesIO(example.png)))
            for example in store.examples("run")
        }
        noisy = noisy_copies(
            torch.from_numpy(VALUES[0]), 0.5, noise=Noise.GRID, seed=7, image_id="image-0",
            stage=Stage.ESTIMATION, start=0, stop=3,
        )[:, 0].numpy()  # fmt: skip
        np.testing.assert_array_equal(pictures["clean", 0], np.rint(VALUES[0, 0] * 255))
        for position, copy in enumerate(noisy):
            for kind, picture in (("noisy", copy), ("denoised", copy / 2)):
                expected = np.rint(picture.clip(0, 1) * 255)
                np.testing.assert_array_equal(pictures[kind, position], expected)

    def test_stored_once(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        request(limit=1).execute(store)
        before = store.examples("run")
        monkeypatch.setattr(Store, "save_examples", None)
        request(limit=2).execute(store)
        assert store.examples("run") == before != []


class TestProgress:
    def test_is_monotone_and_adds_up(self, store: Store) -> None:
        seen: list[RunProgress] = []
        request(smoothed=smoothed(batch_size=FORWARD)).execute(store, seen.append)
        for field in ("images_done", "certified", "calls", "seconds"):
            values = [getattr(progress, field) for progress in seen]
            assert values == sorted(values)
        first, last = seen[0], seen[-1]
        assert (first.images_done, first.certified, first.calls) == (0, 0, 0)
        assert first.seconds_left is None
        certified = sum(i.predicted is not None for i in load_results(store, "run").images)
        assert 0 < certified < IMAGES
        assert (last.images_done, last.certified, last.calls) == (IMAGES, certified, CALLS)
        assert last.seconds_left == 0
        assert {progress.images for progress in seen} == {IMAGES}
        assert {progress.run for progress in seen} == {"run"}
        assert len({progress.calls for progress in seen}) == math.ceil(CALLS / FORWARD) + 1

    def test_resumes_from_what_is_stored(self, store: Store) -> None:
        with pytest.raises(KeyboardInterrupt):
            at_pass(6, KeyboardInterrupt()).execute(store)
        stored = store.images("run")
        seen: list[RunProgress] = []
        request().execute(store, seen.append)
        assert seen[0].images_done == sum(image.finished for image in stored) > 0
        assert (seen[-1].images_done, seen[-1].calls) == (IMAGES, CALLS - copies(stored))

    def test_counts_only_the_images_asked_for(self, store: Store) -> None:
        request().execute(store)
        seen: list[RunProgress] = []
        request(limit=4).execute(store, seen.append)
        certified = sum(i.predicted is not None for i in load_results(store, "run").images[:4])
        assert [(p.images_done, p.images, p.certified) for p in seen] == [(4, 4, certified)]

    def test_time_left(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        """4 images of 150 copies in 3 passes of 10 seconds; 3 + 8 * 0.75 passes are left."""
        clock = Clock(monkeypatch)

        def ten_seconds() -> None:
            clock.now += 10.0

        seen: list[RunProgress] = []
        slow = smoothed(Classes(happens=ten_seconds), batch_size=FORWARD)
        request(smoothed=slow).execute(store, seen.append)
        assert next(p.seconds_left for p in seen if p.images_done == 4) == pytest.approx(60.0)


class TestWork:
    """What is done when, and how often an image is decoded."""

    @staticmethod
    def counted() -> tuple[ImageDataset, Counter[int]]:
        """A data set that counts how often each image is decoded."""
        decoded = Counter[int]()

        def read(index: int) -> np.ndarray:
            decoded[index] += 1
            return VALUES[index]

        return made(read=read, read_shape=lambda index: (1, 8, 8)), decoded

    def test_an_image_is_decoded_once_and_once_more_for_its_pictures(self, store: Store) -> None:
        dataset, decoded = self.counted()
        run = request(dataset=dataset, plan=ANYTIME, name=None)
        assert not decoded
        run.prepare()
        assert (run.run_name, run.settings["dimension"]) == (run.run_name, 64)
        assert decoded == {0: 1}
        run.execute(store)
        clean = dict.fromkeys(range(12), 1)  # once more at the end, for its clean label
        first = {0: 0, **dict.fromkeys(range(1, 6), 2), **dict.fromkeys(range(6, 12), 1)}
        assert decoded == {index: first[index] + clean[index] for index in clean}

    def test_the_notes_decode_each_of_16_images_once(self, store: Store) -> None:
        dataset, decoded = self.counted()
        run = request(dataset=dataset, plan=ANYTIME)
        assert run.notes == (run.label_match.note,)
        assert decoded == dict.fromkeys(range(12), 1)

    def test_a_finished_run_decodes_the_first_image_alone(self, store: Store) -> None:
        request().execute(store)
        dataset, decoded = self.counted()
        request(dataset=dataset).execute(store)
        assert decoded == {0: 1}

    def test_a_run_reads_no_other_run(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        request(name="other", limit=1).execute(store)
        monkeypatch.setattr(Store, "runs", None)
        request(plan=ANYTIME, limit=2).execute(store)
        request(plan=ANYTIME, more=50).execute(store)
        assert [image.finished for image in store.images("run")] == [True] * IMAGES

    def test_a_save_reads_no_image_and_one_run_at_most(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(writer, "SAVE_SECONDS", 0)
        done: list[str] = []

        def record(*arguments: Any) -> None:
            done.append(" ".join(arguments[2].split()))

        sa.event.listen(store._engine, "before_cursor_execute", record)
        request(smoothed=smoothed(batch_size=FORWARD)).execute(store)
        assert sum(text.startswith("INSERT INTO images") for text in done) > 1
        assert sum(text.startswith("SELECT") and "FROM images" in text for text in done) == 1
        assert all("WHERE runs.name = ?" in text for text in done if "FROM runs" in text)

    def test_preparing_says_what_takes_time(self) -> None:
        said: list[str] = []
        run = request()
        run.prepare(said.append)
        assert said == ["choosing the engine for images of shape [1, 8, 8]"]
        assert run.smoothed.fingerprints()[0] == run.settings["classifier_fingerprint"]

    def test_without_specs_those_that_loaded_the_models_are_recorded(self, tmp_path: Path) -> None:
        loaded = SmoothedClassifier(load_classifier("digits"), 0.5, load_denoiser("digits-mse"))
        loaded.save(tmp_path / "b", shape=(1, 8, 8), classifier="digits", denoiser="digits-mse")
        for each in (loaded, SmoothedClassifier.load(tmp_path / "b")):
            settings = request(smoothed=each, classifier=None, denoiser=None).settings
            assert (settings["classifier"], settings["denoiser"]) == ("digits", "digits-mse")

    def test_without_specs_the_types_are_recorded(self) -> None:
        settings = request(classifier=None, denoiser=None).settings
        assert (settings["classifier"], settings["denoiser"]) == ("Classes", "none")
        halved = smoothed(denoiser=nn.Identity())
        assert request(smoothed=halved, denoiser=None).settings["denoiser"] == "Identity"


class TestFailures:
    def test_a_store_that_fails_keeps_what_was_saved(
        self, store: Store, uninterrupted: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(writer, "SAVE_SECONDS", 0)
        save, calls = Store.save_images, []

        def failing(self: Store, name: str, images: Any) -> None:
            calls.append(name)
            if len(calls) > 1:
                raise StoreError("disk is full")
            save(self, name, images)

        monkeypatch.setattr(Store, "save_images", failing)
        slow = smoothed(batch_size=FORWARD)
        with pytest.raises(StoreError, match="disk is full"):
            request(smoothed=slow).execute(store)
        assert 0 < copies(store.images("run")) < CALLS
        monkeypatch.undo()
        request().execute(store)
        assert counts(store) == counts(uninterrupted)

    def test_an_image_that_cannot_be_read_keeps_what_was_counted(
        self, store: Store, uninterrupted: Store
    ) -> None:
        def read(index: int) -> np.ndarray:
            if index == 8:
                raise ImageError("image-8 cannot be decoded")
            return VALUES[index]

        broken = request(dataset=made(read=read), smoothed=smoothed(batch_size=FORWARD))
        with pytest.raises(ImageError, match="image-8 cannot be decoded"):
            broken.execute(store)
        kept = counts(store)
        assert [image.finished for image in store.images("run")][:7] == [True] * 7
        assert kept[:7] == counts(uninterrupted)[:7]
        request().execute(store)
        assert counts(store) == counts(uninterrupted)

    def test_images_of_several_sizes_need_a_resolution(self, store: Store) -> None:
        def read(index: int) -> np.ndarray:
            return np.zeros((1, 8, 8 + index // 7), np.float32)

        said = (
            r"5 of 12 images .*'image-7' has shape \[1, 8, 9\], but this run certifies images of "
            r"shape \[1, 8, 8\]\. Set"
        )
        with pytest.raises(ImageError, match=said):
            request(dataset=made(read=read)).execute(store)
        assert [image.finished for image in store.images("run")] == [True] * 7
        with pytest.raises(ImageError, match="5 of 12 images"):  # also of those that come later
            request(dataset=made(read=read)).execute(store)
        run = request(dataset=made(read=read), resolution=8, name="resized").execute(store)
        assert all(image.finished for image in store.images(run.name))

    @pytest.mark.parametrize(
        ("changes", "error", "said"),
        [
            ({"alpha": 2.0}, SettingError, "alpha"),
            ({"plan": ANYTIME, "alpha": 0.5}, SettingError, "alpha must be at most 0.36"),
            ({"limit": 0}, SettingError, "limit must be at least 1, got 0"),
            ({"stride": -1}, SettingError, "stride must be at least 1, got -1"),
            ({"resolution": 0}, SettingError, "resolution must be at least 2 pixels, got 0"),
            ({"shard": Shard(1, 2), "seed": None}, SettingError, "Shard 1/2 has no seed"),
        ],
        ids=["alpha", "alpha of a plan", "limit", "stride", "resolution", "shard"],
    )
    def test_bad_input_is_refused_before_any_work(
        self, changes: dict[str, Any], error: type[Exception], said: str
    ) -> None:
        with pytest.raises(error, match=said):
            request(**changes)

    def test_an_image_of_other_channels_is_refused_before_the_store_is_touched(
        self, store: Store
    ) -> None:
        coloured = request(
            dataset=made(read=lambda index: np.zeros((3, 8, 8), np.float32)),
            smoothed=smoothed(ImageClassifier(Classes(), (0.5,), (0.5,))),
        )
        said = "image 'image-0' is RGB, but the classifier takes grey images"
        for work in (coloured.prepare, lambda: coloured.execute(store)):
            with pytest.raises(ImageError, match=said):
                work()
        assert store.runs() == []


class AtOnce:
    """An executor without threads, which would take time of their own."""

    def __init__(self, *_: object, **__: object) -> None:
        self.shutdown = lambda: None

    def __enter__(self) -> AtOnce:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, function: Callable[..., Any], *arguments: object) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(*arguments))
        return future


@pytest.mark.parametrize("seconds", [0.001, 0.02, 0.11, 0.45])
def test_what_is_counted_is_stored_within_half_a_second(
    store: Store, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """At the end of any forward pass, by a clock that nothing else moves."""
    clock, behind = Clock(monkeypatch), list[float]()
    monkeypatch.setattr(writer, "ThreadPoolExecutor", AtOnce)

    def record(progress: RunProgress) -> None:
        behind.append((progress.calls - copies(counted(store))) / FORWARD * seconds)

    def work() -> None:
        clock.now += seconds

    plan = FixedBudget(100, 2000)
    request(smoothed=smoothed(Sure(happens=work), batch_size=1), plan=plan).execute(store, record)
    assert max(behind) < 0.4 + seconds + 1e-9
    assert copies(counted(store)) == IMAGES * 2100


@pytest.mark.parametrize(
    ("of_classifier", "of_data", "noted"),
    [(NAMES, NAMES, False), (None, NAMES, True), (NAMES, None, True), (None, None, False)],
)
def test_labels_that_are_compared_by_number_are_noted(
    of_classifier: tuple[str, ...] | None, of_data: tuple[str, ...] | None, noted: bool
) -> None:
    classifier = Classes()
    classifier.label_names = of_classifier
    notes = request(smoothed=smoothed(classifier), dataset=made(label_names=of_data)).notes
    assert len(notes) == noted
    for note in notes:
        assert "so labels are compared by number, in the order of the names (0 = a, 1 = b" in note


def test_the_note_about_labels_is_stored(store: Store) -> None:
    """So that reports and certificates have it."""
    run = request(limit=1)
    assert run.label_match.note is not None
    assert run.execute(store).info["notes"] == [run.label_match.note]


def test_labels_are_matched_by_name(store: Store) -> None:
    """Of a classifier with other numbers; a run with another mapping is another run."""
    classifier = Classes()
    classifier.label_names = ("e", "A", "c", "d", "b")
    run = request(smoothed=smoothed(classifier))
    stored = run.execute(store)
    assert stored.info["label_names"] == list(classifier.label_names)
    assert stored.settings["labels"] == {"a": 1, "b": 4, "c": 2, "d": 3, "e": 0}
    expected = [[1, 4, 2, 3, 0][index % 5] for index in range(IMAGES)]
    assert [image.label for image in store.images(stored.name)] == expected
    assert run.image(1)[0].label == 4
    classifier.label_names = ("e", "a", "d", "c", "b")
    with pytest.raises(RunMismatchError, match=r"labels\.c: 2 in the run, 3 requested"):
        request(smoothed=smoothed(classifier)).execute(store)


def test_a_sequence_of_images_and_labels_is_data(store: Store) -> None:
    """As well as the data set of the same images."""
    items = [(VALUES[index], NAMES[index % 5]) for index in range(IMAGES)]
    run = request(dataset=items)
    assert run.settings["data"] == "list"
    images = store.images(run.execute(store).name)
    assert [image.label for image in images] == [index % 5 for index in range(IMAGES)]
    assert request(dataset=items).run_name == run.run_name


def test_classes_without_a_label_are_refused_before_work() -> None:
    classifier = Classes()
    classifier.label_names = NAMES[:4]
    with pytest.raises(DatasetError, match=r"1 of 5 classes .* no label .*: 'e'\."):
        request(smoothed=smoothed(classifier))
    given = {"e": "a"}
    assert request(smoothed=smoothed(classifier), labels=given).label_match.numbers[4] == 0


def test_ctrl_c_while_the_store_is_unreachable_says_what_is_not_stored(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise StoreUnreachableError("The store failed (connection refused).")

    monkeypatch.setattr(store, "save_images", fail)
    said = r"^The counts of the last [1-9][\d,]+ copies are not stored: The store failed"
    with pytest.raises(KeyboardInterrupt, match=said):
        at_pass(6, KeyboardInterrupt()).execute(store)  # after some that were counted
    assert store.images("run") == []
