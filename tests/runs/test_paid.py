"""Runs whose answers are bought: resumed, limited, recomputed without queries."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from denoised_smoothing import Anytime, CertificationRun, FixedBudget, SmoothedClassifier, Store
from denoised_smoothing.certificates.certificate import Certificate, SamplingPlan
from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.datasets import load_dataset
from denoised_smoothing.errors import (
    BudgetReachedError,
    RunMismatchError,
    SettingError,
    StoreError,
)
from denoised_smoothing.remote.classifier import RemoteClassifier
from denoised_smoothing.remote.labels import numbers_of
from denoised_smoothing.remote.limits import Budget, ClientSettings
from denoised_smoothing.remote.log import StoreLog
from denoised_smoothing.remote.records import Attempt, CopyKey, Outcome, Spending
from denoised_smoothing.remote.vendors.http import HttpEndpoint
from denoised_smoothing.remote.vendors.simulated import Simulated
from denoised_smoothing.reporting.export import ExportFormat, export
from denoised_smoothing.reporting.proven import conditions
from denoised_smoothing.reporting.results import load_results
from denoised_smoothing.runs.examples import EXAMPLES
from denoised_smoothing.runs.paid import QueryEstimate
from denoised_smoothing.runs.shards import Shard, merge

FAKE = Path(__file__).parents[1] / "remote" / "fake.py"
QUICK = ClientSettings(in_flight=8, rate=None, timeout=5.0, first_wait=0.005, longest_wait=0.05)
ANYTIME = Anytime(radii=(0.25,), max_n=300, n0=20, every=10)


def load_fake() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fake", FAKE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault("fake", module)
    spec.loader.exec_module(module)
    return module


fake_module = load_fake()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def fake() -> Iterator[Any]:
    with fake_module.FakeVendor(fake_module.by_chance({"cat": 0.97, "dog": 0.03})) as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images of 8x8 pixels in folders cat and dog."""
    for name, number in (("cat/a", 0), ("cat/b", 1), ("dog/c", 2)):
        path = tmp_path / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        levels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        PIL.Image.fromarray(levels).save(path)
    return tmp_path / "images"


def request_of(
    fake: Any,
    folder: Path,
    plan: SamplingPlan = ANYTIME,
    settings: ClientSettings = QUICK,
    **more: Any,
) -> CertificationRun:
    vendor = HttpEndpoint(f"{fake.url}/classify", "predictions")
    sigma = more.pop("sigma", 0.25)
    smoothed = SmoothedClassifier(RemoteClassifier(vendor, settings=settings), sigma)
    options = {"alpha": 0.001, "name": "run", "seed": 7, **more}
    return CertificationRun(
        smoothed, load_dataset(f"folder:{folder}"), plan, classifier="http:x", denoiser="none",
        **options,
    )  # fmt: skip


def counts_of(store: Store, name: str = "run") -> dict[str, Any]:
    """Counts by image and stage, labels by their names."""
    labels = store.run(name).label_names
    return {
        image.image_id: {
            stage: ({labels[i]: n for i, n in counts.votes.items()}, counts.failed)
            for stage, counts in image.counts.items()
        }
        for image in store.images(name)
    }


def test_every_answer_is_a_row_and_every_row_was_counted(
    fake: Any, folder: Path, tmp_path: Path
) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        request_of(fake, folder).execute(store)
        images = store.images("run")
        assert all(image.finished for image in images)
        log = StoreLog(store, "run")
        attempts = list(log.history())
        counted = sum(counts.n for image in images for counts in image.counts.values())
        assert counted == len(attempts) == fake.attempts
        votes = Counter((a.key.image_id, a.key.stage, a.label) for a in attempts)
        for image_id, stages in counts_of(store).items():
            for stage, (labels, _) in stages.items():
                assert {n: votes[image_id, stage, n] for n in labels} == labels
        first = attempts[0]
        assert (first.vendor, first.model) == ("http", f"{fake.url}/classify")
        answer = log.answer(first.key)
        assert answer is not None
        assert json.loads(answer)["predictions"][0]["label"] == first.label
        assert log.spending().charged == counted


def test_noise_takes_no_core_from_the_wire(fake: Any, folder: Path, tmp_path: Path) -> None:
    threads, seen = torch.get_num_threads(), set[int]()
    torch.set_num_threads(threads + 1)
    request = request_of(fake, folder, FixedBudget(n0=5, n=20))
    with Store(tmp_path / "s.sqlite") as store:
        request.execute(store, lambda progress: seen.add(torch.get_num_threads()))
    assert 1 in seen
    assert torch.get_num_threads() == threads + 1
    torch.set_num_threads(threads)


def test_labels_of_the_data_come_first_so_that_accuracy_has_a_meaning(
    fake: Any, folder: Path, tmp_path: Path
) -> None:
    fake.scores = fake_module.by_chance({"zebra": 0.05, " CAT ": 0.95})
    with Store(tmp_path / "s.sqlite") as store:
        request_of(fake, folder).execute(store)
        zebra = next(numbers_of("zebra"))
        assert store.run("run").label_names == {0: "cat", 1: "dog", zebra: "zebra"}
        results = load_results(store, "run").images
        assert [image.predicted for image in results] == [0, 0, 0]
        assert [image.correct for image in results] == [True, True, False]


def test_answers_are_matched_with_folders_by_name(fake: Any, folder: Path, tmp_path: Path) -> None:
    for name, new in (("cat", "Egyptian_cat"), ("dog", "n02504458_African_elephant")):
        (folder / name).rename(folder / new)
    fake.scores = fake_module.by_chance({"african elephant": 0.5, "egyptian cat": 0.5})
    with Store(tmp_path / "s.sqlite") as store:
        run = request_of(fake, folder)
        for _ in range(2):  # and resumed
            run.execute(store)
            names = store.run("run").info["label_names"]
            assert names == ["egyptian_cat", "n02504458_african_elephant"]
        votes = [image.counts[Stage.ESTIMATION] for image in store.images("run")]
        assert all(set(counts.votes) <= {0, 1} and counts.n for counts in votes)


def test_no_copy_beyond_a_decision_is_bought(fake: Any, folder: Path, tmp_path: Path) -> None:
    """However many are in flight, an image takes what it takes alone with one in flight."""
    with Store(tmp_path / "s.sqlite") as store:
        request_of(fake, folder, name="many", settings=ClientSettings(in_flight=64)).execute(store)
        request_of(fake, folder, name="one", settings=ClientSettings(in_flight=1)).execute(store)
        assert counts_of(store, "many") == counts_of(store, "one")
        assert StoreLog(store, "many").spending() == StoreLog(store, "one").spending()


@pytest.mark.parametrize("after", [1, 30, 60])
def test_a_budget_stops_and_a_larger_one_resumes_to_the_same_result(
    fake: Any, folder: Path, tmp_path: Path, after: int
) -> None:
    with Store(tmp_path / "whole.sqlite") as store:
        request_of(fake, folder).execute(store)
        whole = counts_of(store)
    calls = fake.attempts
    fake.requests.clear()
    fake.script = fake_module.at_random({fake_module.Trouble.THROTTLED: 0.2})
    with Store(tmp_path / "s.sqlite") as store:
        limited = ClientSettings(
            in_flight=8, rate=None, first_wait=0.005, budget=Budget(queries=after), price=0.5
        )
        with pytest.raises(BudgetReachedError, match=f"budget of {after} queries is used up"):
            request_of(fake, folder, settings=limited).execute(store)
        assert fake.counts()["answered"] == after
        assert StoreLog(store, "run").spending().cost == after * 0.5
        so_far = load_results(store, "run", so_far=True)
        assert sum(image.finished for image in store.stream_images("run")) < 3
        assert sum(i.certificate.calls for i in so_far.images) <= after
        request_of(fake, folder).execute(store)
        assert counts_of(store) == whole
    assert fake.counts()["answered"] == calls
    assert fake.answered_twice() == []


def test_what_is_provable_so_far_is_a_certificate(fake: Any, folder: Path, tmp_path: Path) -> None:
    plan = Anytime(radii=(0.25, 0.5), max_n=2_000, n0=20, every=10)
    fake.scores = fake_module.by_chance({"cat": 0.93, "dog": 0.07})
    limited = ClientSettings(in_flight=8, rate=None, budget=Budget(queries=200))
    with Store(tmp_path / "s.sqlite") as store:
        with pytest.raises(BudgetReachedError):
            request_of(fake, folder, plan, limited, limit=1).execute(store)
        assert load_results(store, "run").images == ()
        (image,) = load_results(store, "run", so_far=True).images
        assert not image.finished
        assert image.predicted == 0
        assert 0.1 < image.radius < 0.5


def test_offline_recomputes_without_a_query(fake: Any, folder: Path, tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        request_of(fake, folder, FixedBudget(n0=20, n=100)).execute(store)
        bought = fake.attempts
        run = request_of(
            fake, folder, FixedBudget(n0=20, n=50), name=None, seed=None, alpha=0.05,
            answers_of="run",
        ).execute(store)  # fmt: skip
        assert run.name.startswith("run-offline-")
        assert run.info["answers_of"] == "run"
        assert run.info["seed_given"] is True, "that of the run with the answers"
        seed = conditions(load_results(store, run.name))[2]
        assert (seed.met, seed.known) == (False, "the settings were chosen after the answers")
        images = store.images(run.name)
        assert all(image.finished for image in images)
        assert [image.counts[Stage.ESTIMATION].n for image in images] == [50, 50, 50]
        # A plan that needs more than there is leaves its images unfinished, and buys nothing.
        more = request_of(
            fake, folder, FixedBudget(n0=20, n=150), name=None, answers_of="run"
        ).execute(store)
        assert not any(image.finished for image in store.images(more.name))
        assert load_results(store, more.name).images == ()
        assert fake.attempts == bought
        assert list(StoreLog(store, run.name).history()) == []


def test_offline_takes_nothing_from_other_copies(fake: Any, folder: Path, tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        request_of(fake, folder, FixedBudget(n0=5, n=20)).execute(store)
        plan = FixedBudget(n0=5, n=20)
        other = request_of(fake, folder, plan, name=None, answers_of="run", sigma=0.3)
        with pytest.raises(RunMismatchError, match=r"sigma: 0\.25 in the run, 0\.3 requested"):
            other.execute(store)
        local = SmoothedClassifier(lambda images: images.mean(dim=(2, 3)), sigma=0.25)
        with pytest.raises(SettingError, match=r"is a local one\. Remove --offline"):
            CertificationRun(
                local, load_dataset(f"folder:{folder}"), ANYTIME, 0.001, "python:a:b", "none",
                answers_of="run",
            ).execute(store)  # fmt: skip


class TestNoEngine:
    """Without a denoiser, no engine computes anything, and the run depends on none."""

    @pytest.fixture(autouse=True)
    def _no_engine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*arguments: Any, **options: Any) -> None:
            raise AssertionError("an engine was chosen")

        monkeypatch.setattr("denoised_smoothing.engines.prepared.choose_engine", refuse)

    @pytest.mark.parametrize(
        "options",
        [
            {"engine": "auto"},
            {"engine": "openvino", "precision": "int8"},
            {"engine": "onnxruntime"},
        ],
        ids=str,
    )
    def test_it_is_resumed_and_certified_again_with_any(
        self, fake: Any, folder: Path, tmp_path: Path, options: dict[str, str]
    ) -> None:
        plan = FixedBudget(n0=20, n=100)
        with Store(tmp_path / "s.sqlite") as store:
            run = request_of(fake, folder, plan, limit=2).execute(store)
            assert (run.settings["engine"], run.settings["precision"]) == (None, None)
            assert run.info["engine"] is None
            machine = {"engine_version", "forward_shape", "processor", "model_digest"}
            assert machine.isdisjoint(run.settings)
            bought = fake.attempts
            other = request_of(fake, folder, plan, alpha=0.05, answers_of="run", limit=2)
            offline = replace(other, name=None, smoothed=with_options(other.smoothed, options))
            again = load_results(store, offline.execute(store).name)
            assert [image.certificate.calls for image in again.images] == [120, 120]
            assert fake.attempts == bought
            resumed = request_of(fake, folder, plan)
            replace(resumed, smoothed=with_options(resumed.smoothed, options)).execute(store)
            assert len(store.images("run")) == 3

    def test_the_certificate_says_so(self, fake: Any, folder: Path, tmp_path: Path) -> None:
        with Store(tmp_path / "s.sqlite") as store:
            request_of(fake, folder, FixedBudget(n0=20, n=100), limit=1).execute(store)
            [image] = load_results(store, "run").images
            assert load_results(store, "run").executed is None
        certificate = image.certificate
        assert "grid noise, no engine" in str(certificate)
        assert "<th>engine</th><td>no engine</td>" in certificate._repr_html_()
        plain = certificate.to_dict()
        assert (plain["engine"], plain["precision"]) == (None, None)
        assert Certificate.from_json(certificate.to_json()) == certificate

    def test_an_answer_in_python_needs_none(self) -> None:
        classifier = RemoteClassifier(Simulated({"cat": 1.0}), settings=QUICK)
        smoothed = SmoothedClassifier(classifier, 0.25, engine="openvino", precision="int8")
        image = np.zeros((3, 8, 8), dtype=np.float32)
        prediction = smoothed.predict(image, n=100, seed=1)
        label = classifier.number("cat")
        assert (prediction.label, prediction.to_dict()["engine"]) == (label, None)
        assert smoothed.certify(image, n0=10, n=50, seed=1).parameters.executed == "no engine"

    def test_a_requested_engine_is_noted(self, fake: Any, folder: Path) -> None:
        request = request_of(fake, folder)
        assert request.notes == ()
        typed = with_options(request.smoothed, {"engine": "openvino"})
        [note] = replace(request, smoothed=typed).notes
        assert note.startswith("--engine and --precision have no effect: without a denoiser")

    def test_answers_of_a_run_that_recorded_an_engine_are_used(
        self, fake: Any, folder: Path, tmp_path: Path
    ) -> None:
        """As an earlier version stored it, on a machine with OpenVINO."""
        recorded = {
            "engine": "openvino", "engine_version": "2025.4", "precision": "int8",
            "processor": "x86_64 AVX512", "forward_shape": [50, 3, 8, 8], "model_digest": "d",
            "calibration": "c",
        }  # fmt: skip
        plan = FixedBudget(n0=20, n=100)
        with Store(tmp_path / "s.sqlite") as store:
            settings = request_of(fake, folder, plan, limit=2).execute(store).settings
            store._update("run", settings=settings | recorded)
            request_of(fake, folder, plan, name=None, alpha=0.05, answers_of="run").execute(store)
            assert fake.attempts == 240
            request_of(fake, folder, plan).execute(store)
            assert fake.attempts == 360
            assert fake.answered_twice() == []

    def test_the_name_of_an_unnamed_run_is_that_of_earlier_versions(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Which recorded the engine and precision that the command requests by default."""
        monkeypatch.chdir(folder.parent)
        request = CertificationRun(
            SmoothedClassifier(RemoteClassifier(Simulated({"cat": 1.0})), 0.25, engine="openvino"),
            load_dataset("folder:images"), ANYTIME, 0.001, "simulated", "none", seed=7,
        )  # fmt: skip
        plan = {k: v for k, v in ANYTIME.to_dict().items() if k not in ("max_n", "more")}
        recorded = {**request.settings, "engine": "auto", "precision": "float32", "plan": plan}
        del recorded["data_labels"], recorded["contract"], recorded["image_shape"]
        identity = json.dumps([recorded, 7], sort_keys=True)
        code = hashlib.sha256(identity.encode()).hexdigest()[:6]
        assert request.run_name == f"folder-images-simulated-none-0.25-{code}"


def with_options(smoothed: SmoothedClassifier, options: dict[str, str]) -> SmoothedClassifier:
    return SmoothedClassifier(smoothed.classifier, smoothed.sigma, **options)  # type: ignore[arg-type]


def test_with_a_denoiser_the_engine_counts(fake: Any, folder: Path, tmp_path: Path) -> None:
    plan, denoiser = FixedBudget(n0=20, n=100), torch.nn.Identity()
    with Store(tmp_path / "s.sqlite") as store:
        request = request_of(fake, folder, plan, limit=1)
        classifier = request.smoothed.classifier
        denoised = replace(request, smoothed=SmoothedClassifier(classifier, 0.25, denoiser))
        run = denoised.execute(store)
        assert (run.settings["engine"], run.settings["precision"]) == ("torch", "float32")
        reduced = SmoothedClassifier(classifier, 0.25, denoiser, precision="bfloat16")
        with pytest.raises(RunMismatchError, match="precision: 'float32' in the run, 'bfloat16'"):
            replace(denoised, smoothed=reduced).execute(store)


def test_a_retry_with_another_copy_is_refused(fake: Any, folder: Path, tmp_path: Path) -> None:
    request = request_of(fake, folder)
    with Store(tmp_path / "s.sqlite") as store:
        request._begin(store)
        image_id = request.dataset.image_ids[0]
        sent = Attempt(
            CopyKey(image_id, Stage.SELECTION, 0), 1, "http", "x", "0" * 64, 0.0, "2026-01-01"
        )
        StoreLog(store, "run").write([sent], [])
        with pytest.raises(StoreError, match="Only the same copy may be sent again"):
            request.execute(store)
        assert StoreLog(store, "run").spending().doubtful >= 1


def test_classifiers_in_python_buy_per_call_and_keep_their_budget() -> None:
    """Without a store nothing is reused: other seeds are other copies."""
    image = np.zeros((3, 8, 8), dtype=np.float32)
    settings = ClientSettings(in_flight=4, rate=None, price=1.0, budget=Budget(queries=150))
    classifier = RemoteClassifier(Simulated({"cat": 1.0}), settings=settings)
    smoothed = SmoothedClassifier(classifier, sigma=0.25)
    certificate = smoothed.certify(image, n0=10, n=50, seed=1)
    assert certificate.label == next(numbers_of("cat"))
    assert classifier.label_names == {certificate.label: "cat"}
    assert classifier.spent.queries == 60
    smoothed.certify(image, n0=10, n=50, seed=2)
    assert classifier.spent.queries == 120
    with pytest.raises(BudgetReachedError):
        smoothed.certify(image, n0=10, n=50, seed=3)
    assert classifier.spent.queries == 150


def test_a_failed_copy_stays_in_n(fake: Any, folder: Path, tmp_path: Path) -> None:
    """Images that vote otherwise are refused: dropping them would give a false certificate."""
    truthful = fake_module.by_chance({"cat": 0.4, "dog": 0.6})

    def fails_where_it_is_a_dog(number: int, image: str) -> Any:
        uniform = int(image[:14], 16) / 2**56
        return fake_module.Trouble.REJECTED if uniform >= 0.4 and number else None

    fake.scores, fake.script = truthful, fails_where_it_is_a_dog
    with Store(tmp_path / "s.sqlite") as store:
        request_of(fake, folder, FixedBudget(n0=20, n=200)).execute(store)
        for image in store.images("run"):
            votes = image.counts[Stage.ESTIMATION]
            assert votes.n in range(20, 201)
            assert 0.4 < votes.failed / votes.n < 0.8
        assert [image.predicted for image in load_results(store, "run").images] == [None] * 3


def test_an_estimate_counts_repetitions_within_the_budget() -> None:
    unlimited = QueryEstimate(10, ClientSettings(attempts=7), Spending(charged=5), None)
    assert (unlimited.most_copies, unlimited.most_queries) == (10, 70)
    settings = ClientSettings(attempts=7, budget=Budget(queries=40))
    assert QueryEstimate(10, settings, Spending(charged=5, free=9), None).most_queries == 35


class TestEstimate:
    """It is never below what the run then asks for."""

    @pytest.fixture(autouse=True)
    def _undecided(self, fake: Any) -> None:
        fake.scores = fake_module.by_chance({"cat": 0.84, "dog": 0.16})

    def most(self, store: Store, request: CertificationRun) -> int:
        estimate = request.estimate(store)
        assert estimate is not None
        return estimate.most_copies

    def settled(self, store: Store) -> int:
        return sum(attempt.final for attempt in StoreLog(store, "run").history())

    def stopped(self, store: Store, after: int, *arguments: Any, **more: Any) -> None:
        """A run that a budget of further queries interrupts."""
        budget = Budget(queries=self.settled(store) + after if store.find("run") else after)
        with pytest.raises(BudgetReachedError):
            request_of(*arguments, settings=replace(QUICK, budget=budget), **more).execute(store)

    def test_with_more_copies(self, fake: Any, folder: Path, tmp_path: Path) -> None:
        with Store(tmp_path / "s.sqlite") as store:
            request_of(fake, folder).execute(store)
            before = self.settled(store)
            more = request_of(fake, folder, FixedBudget(), more=20_000)
            assert self.most(store, more) == 3 * (320 + 20_000) - before

    def test_after_an_interrupted_extension(self, fake: Any, folder: Path, tmp_path: Path) -> None:
        with Store(tmp_path / "s.sqlite") as store:
            request_of(fake, folder).execute(store)
            extended = {"plan": FixedBudget(), "more": 900, "command": "c --more 900"}
            self.stopped(store, 50, fake, folder, **extended)
            left = 3 * (320 + 900) - self.settled(store)
            for again in (request_of(fake, folder), request_of(fake, folder, **extended)):
                assert self.most(store, again) == left
            twice = request_of(fake, folder, ANYTIME, more=900, command="another command")
            assert self.most(store, twice) == left + 3 * 900

    def test_of_fewer_images_than_were_begun(self, fake: Any, folder: Path, tmp_path: Path) -> None:
        with Store(tmp_path / "s.sqlite") as store:
            request_of(fake, folder, limit=2).execute(store)
            by_image = Counter(a.key.image_id for a in StoreLog(store, "run").history() if a.final)
            alone = request_of(fake, folder, limit=1)
            (first, _) = by_image.values()
            assert self.most(store, alone) == 320 - first

    def test_there_is_no_run_to_extend(self, fake: Any, folder: Path, tmp_path: Path) -> None:
        said = "There is no run 'run' to extend by 5 copies"
        with Store(tmp_path / "s.sqlite") as store, pytest.raises(SettingError, match=said):
            request_of(fake, folder, more=5).estimate(store)


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[4])
import test_paid as tests
from denoised_smoothing import Store
class Fake: url = sys.argv[1]
with Store(sys.argv[2]) as store:
    tests.request_of(Fake, Path(sys.argv[3]), tests.KILL_PLAN, tests.KILL_SETTINGS).execute(store)
"""
KILL_PLAN = FixedBudget(n0=100, n=int(os.environ.get("KILL_COPIES", "400")))
KILL_SETTINGS = ClientSettings(
    in_flight=64, rate=None, timeout=10.0, first_wait=0.02, longest_wait=0.5
)


def test_killed_in_the_middle_nothing_is_bought_twice(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(FAKE), "--latency", "0.05", "--throttle", "0.1"]
    command += ["--drop", "0.02", "--labels", "cat=0.9,dog=0.1"]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdin is not None
    assert server.stdout is not None

    def counted() -> dict[str, Any]:
        server.stdin.write("\n")  # type: ignore[union-attr]
        server.stdin.flush()  # type: ignore[union-attr]
        answer: dict[str, Any] = json.loads(server.stdout.readline())  # type: ignore[union-attr]
        return answer

    url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
    path = tmp_path / "s.sqlite"
    arguments = [url, str(path), str(folder), str(Path(__file__).parent)]
    try:
        run = subprocess.Popen([sys.executable, "-c", KILLED, *arguments])
        while counted()["attempts"] < KILL_PLAN.most_calls():
            assert run.poll() is None
            signal.sigtimedwait([], 0.02)
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
        killed_at = settled(counted)
        with Store(path, read_only=True) as store:
            before = list(StoreLog(store, "run").history())
        cut_off = [a for a in before if a.outcome is Outcome.SENT]
        assert cut_off
        # Those that were noted and not sent yet are the only difference.
        assert 0 <= len(before) - killed_at["attempts"] <= len(cut_off)
        subprocess.run([sys.executable, "-c", KILLED, *arguments], check=True)
        ended = settled(counted)
    finally:
        server.kill()
        server.communicate()
    with Store(path, read_only=True) as store:
        after = list(StoreLog(store, "run").history())
        counts = counts_of(store)
    ends = Counter(a.outcome for a in after)
    print(f"\nat the kill: {len(before)} attempts noted, {killed_at['attempts']} at the server,")
    print(f"in the end {len(after)} and {ended['attempts']}: {dict(ends)}")
    stored = {a.key for a in before if a.final}
    assert not [a for a in after[:] if a.key in stored and (a.key, a.number) not in numbers(before)]
    # From the kill on, the log and the server agree to the request.
    assert len(after) - len(before) == ended["attempts"] - killed_at["attempts"]
    assert ends[Outcome.THROTTLED] == ended["counts"]["throttled"] - lost(
        killed_at, before, "throttled"
    )
    twice = Counter(a.key for a in after if a.outcome is Outcome.ANSWERED)
    assert set(twice.values()) == {1}
    assert ended["twice"] <= len(cut_off)
    undisturbed(folder, tmp_path, counts)


def settled(counted: Any) -> dict[str, Any]:
    """The server's counts once nothing arrives any more."""
    last: dict[str, Any] = counted()
    for _ in range(100):
        signal.sigtimedwait([], 0.2)
        now = counted()
        if now["attempts"] == last["attempts"]:
            break
        last = now
    return last


def numbers(attempts: list[Attempt]) -> set[tuple[CopyKey, int]]:
    return {(attempt.key, attempt.number) for attempt in attempts}


def lost(killed_at: dict[str, Any], before: list[Attempt], end: str) -> int:
    """Ends of requests that the killed process never learnt."""
    known = sum(attempt.outcome.value == end for attempt in before)
    return int(killed_at["counts"][end]) - known


def undisturbed(folder: Path, tmp_path: Path, counts: dict[str, Any]) -> None:
    """A run that meets no trouble has the same counts."""
    with (
        fake_module.FakeVendor(fake_module.by_chance({"cat": 0.9, "dog": 0.1})) as server,
        Store(tmp_path / "calm.sqlite") as store,
    ):
        request_of(server, folder, KILL_PLAN, KILL_SETTINGS).execute(store)
        assert counts_of(store) == counts


def test_odd_labels_are_paid_for_once(fake: Any, folder: Path, tmp_path: Path) -> None:
    """A lone surrogate is no label, NUL is a character; both are in valid JSON."""
    fake.scores = fake_module.by_chance({"cat": 0.8, "half \ud83d": 0.1, "k\0": 0.1})
    with Store(tmp_path / "s.sqlite") as store:
        request_of(fake, folder, FixedBudget(n0=20, n=60)).execute(store)
        paid = fake.attempts
        request_of(fake, folder, FixedBudget(n0=20, n=60)).execute(store)  # resumed
        assert paid == fake.attempts == len(list(StoreLog(store, "run").history()))
        assert all(image.finished for image in store.images("run"))
        assert fake.answered_twice() == []
        labels = {attempt.label for attempt in StoreLog(store, "run").history()}
        assert labels <= {None, "cat", "k\0"}
        assert "k\0" in store.run("run").label_names.values()


def exported(store: Store, path: Path) -> list[dict[str, str]]:
    """The rows of an export, but for the time."""
    export(load_results(store, "run"), ExportFormat.CSV, path)
    with path.open(newline="") as file:
        return [{key: row[key] for key in row if key != "time"} for row in csv.DictReader(file)]


def test_exports_do_not_depend_on_the_order_of_answers(
    fake: Any, folder: Path, tmp_path: Path
) -> None:
    fake.scores = fake_module.by_chance(dict.fromkeys("abcdefgh", 0.02) | {"tiger": 0.84})
    tables = []
    for name, settings in (("one", ClientSettings(in_flight=1, rate=None)), ("many", QUICK)):
        with Store(tmp_path / f"{name}.sqlite") as store:
            request_of(fake, folder, FixedBudget(20, 60), settings).execute(store)
            tables.append(exported(store, tmp_path / name))
    assert tables[0] == tables[1]
    assert len(json.loads(tables[0][0]["counts"])["estimation"]) > 3


def test_shards_with_other_labels_are_one_run(fake: Any, folder: Path, tmp_path: Path) -> None:
    fake.scores = fake_module.by_chance(dict.fromkeys("abcdefgh", 0.05) | {"cat": 0.6})
    paths = [tmp_path / f"{name}.sqlite" for name in ("whole", "1", "2", "joined")]
    for path, shard in zip(paths, (None, Shard(1, 2), Shard(2, 2)), strict=False):
        with Store(path) as store:
            request_of(fake, folder, FixedBudget(20, 60), shard=shard).execute(store)
    with Store(paths[0]) as whole, Store(paths[3]) as joined, ExitStack() as stack:
        merge([stack.enter_context(Store(p)) for p in paths[1:3]], joined, examples=EXAMPLES)
        assert exported(joined, tmp_path / "a") == exported(whole, tmp_path / "b")
        assert counts_of(joined) == counts_of(whole)


def test_shards_that_number_labels_by_arrival_are_refused(
    fake: Any, folder: Path, tmp_path: Path
) -> None:
    """As earlier versions did."""
    paths = [tmp_path / f"{number}.sqlite" for number in (1, 2)]
    for number, path in enumerate(paths, 1):
        with Store(path) as store:
            request_of(fake, folder, FixedBudget(5, 5), shard=Shard(number, 2)).execute(store)
            store.note("run", label_names=["cat", "dog", f"other {number}"])
    with Store(tmp_path / "all.sqlite") as target, ExitStack() as stack:
        sources = [stack.enter_context(Store(path)) for path in paths]
        said = "label_names.2: 'other 1' in one, 'other 2' in another. Certify the shards again"
        with pytest.raises(RunMismatchError, match=said):
            merge(sources, target, examples=EXAMPLES)
