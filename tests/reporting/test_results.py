from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from denoised_smoothing.certificates.bounds import clopper_pearson_upper
from denoised_smoothing.certificates.certificate import Certificate
from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.certificates.identity import Identity
from denoised_smoothing.certificates.plans import FixedBudget
from denoised_smoothing.certificates.radii import gaussian_radius
from denoised_smoothing.errors import CountsError, SettingError
from denoised_smoothing.reporting.results import (
    label_name,
    load_results,
    planned_places,
    top_votes,
)
from denoised_smoothing.store import RefusedImage

from .samples import FakeImage, FakeStore, N, fake_run, image, results, votes


def test_certificates_are_derived_from_the_stored_counts() -> None:
    images = [
        FakeImage(2, "image-2", 1, votes(2, (100, 900)), seconds=0.25),
        FakeImage(0, "image-0", 0, votes(0, (450, 440), failed=110)),
        FakeImage(1, "image-1", 0, votes(1, (3, 4)), finished=False),
    ]
    loaded = load_results(FakeStore({"a": (fake_run(), images, [])}), "a")
    assert [image.index for image in loaded.images] == [0, 2]
    assert loaded.unfinished == 1
    abstained, certified = loaded.images
    assert (abstained.predicted, abstained.radius, abstained.correct) == (None, 0.0, False)
    expected = gaussian_radius(0.5, clopper_pearson_upper(100, N, 0.001))
    assert (certified.predicted, certified.correct, certified.seconds) == (1, True, 0.25)
    assert certified.radius == pytest.approx(expected, abs=1e-12)
    assert certified.certificate.seed == 7


def test_images_that_were_never_begun_are_attempted() -> None:
    """Of 5 images, at 0, 3, ... 12, one is finished, one begun and one refused."""
    images = [
        FakeImage(0, "image-0", 0, votes(0, (0, 1000))),
        FakeImage(3, "image-3", 1, votes(3, (3, 4)), finished=False),
    ]
    refused = (RefusedImage(6, "image-6", "damaged"),)
    run = replace(fake_run(stride=3), info={"planned": [2, 5]}, refused=refused)
    loaded = load_results(FakeStore({"a": (run, images, [])}), "a")
    assert loaded.places == {0, 3, 6, 9, 12}
    assert (loaded.attempted, loaded.missing, loaded.unfinished) == (5, 3, 1)
    earlier = replace(run, info={})  # a run that does not record their number
    loaded = load_results(FakeStore({"a": (earlier, images, [])}), "a")
    assert (loaded.places, loaded.attempted, loaded.missing) == ({0, 3, 6}, 3, 1)


def test_places_of_a_shard() -> None:
    run = replace(fake_run(stride=2, shard="2/3"), info={"planned": [3]})
    assert list(planned_places(run)) == list(range(0, 100, 2))[1::3][:3]


def test_chosen_images_are_those_attempted() -> None:
    images = [FakeImage(i, f"image-{i}", 0, votes(i, (0, 1000))) for i in range(4)]
    run = replace(fake_run(), info={"planned": [9]})
    loaded = load_results(FakeStore({"a": (run, images, [])}), "a", indices=[1, 2, 5])
    assert (loaded.attempted, loaded.missing, len(loaded.images)) == (3, 1, 2)


def test_certificates_say_what_they_are_about() -> None:
    images = [
        FakeImage(0, "image-0", 0, votes(0, (0, 1000))),
        FakeImage(1, "image-1", 0, votes(1, (500, 500))),
    ]
    run = fake_run(label_names=["cat", "dog"], resolution=8, image_shape=[1, 8, 8])
    run.info["versions"]["denoised-smoothing"] = "0.0.9"
    run.info["noise_stream"] = "cuda"
    run.settings.update(
        engine_version="2.5.1", processor="x86_64 AVX2", forward_shape=[50, 1, 8, 8]
    )
    certified, abstained = load_results(FakeStore({"a": (run, images, [])}), "a").images
    expected = Identity(
        classifier="python:mine:build",
        classifier_fingerprint="c" * 64,
        denoiser="none",
        denoiser_fingerprint="d" * 64,
        image_sha256="e" * 64,
        label_name="dog",
        resolution=8,
        image_shape=(1, 8, 8),
        version="0.0.9",
        noise_stream="cuda",
        machine="engine_version 2.5.1; processor x86_64 AVX2; forward_shape [50, 1, 8, 8]",
    )
    assert certified.certificate.identity == expected
    assert abstained.certificate.identity == replace(expected, label_name=None)
    earlier = load_results(FakeStore({"a": (fake_run(), images, [])}), "a").images[0].certificate
    assert earlier.identity == replace(
        expected,
        label_name=None,
        resolution=None,
        image_shape=None,
        version="unknown",
        noise_stream=None,
        machine=None,
    )
    assert Certificate.from_json(earlier.to_json()) == earlier
    run = fake_run()
    del run.settings["classifier_fingerprint"]
    oldest = load_results(FakeStore({"a": (run, images, [])}), "a").images[0].certificate
    assert oldest.identity is None


def test_finished_counts_that_do_not_fit_the_plan_are_refused() -> None:
    run = fake_run(plan=FixedBudget(10, 999).to_dict())
    images = [FakeImage(0, "image-0", 0, votes(0, (N,)))]
    with pytest.raises(CountsError, match="fixed budget needs 999 copies"):
        load_results(FakeStore({"a": (run, images, [])}), "a")


def test_a_plan_of_a_newer_version_is_refused() -> None:
    store = FakeStore({"a": (fake_run(plan={"kind": "later"}), [], [])})
    with pytest.raises(SettingError, match="Unknown sampling plan 'later'"):
        load_results(store, "a")


@pytest.mark.parametrize(
    ("true_label", "label", "correct"), [(1, 1, True), (0, 1, False), (None, 1, False)]
)
def test_correct_needs_the_true_label(true_label: int | None, label: int, correct: bool) -> None:
    assert image(0, true_label, label, 0.3).correct is correct


def test_two_missing_labels_are_not_a_match() -> None:
    assert not image(0, None, None, 0.0).correct


def test_method_is_the_given_one_or_names_denoiser_and_classifier() -> None:
    assert results(method="white box").method == "white box"
    assert results(classifier="cifar-resnet56:../w/r56.safetensors").method == (
        "no denoiser + r56.safetensors"
    )
    assert results(denoiser="unet-digits").method == "unet-digits + python:mine:build"


def test_labels_without_a_name_are_numbers() -> None:
    names = ("cat", "dog")
    assert [label_name(label, names) for label in (1, 2, None)] == ["dog", "2", None]
    assert label_name(1, None) == "1"


def test_top_votes_are_sorted_by_count_then_label_and_leave_out_zeros() -> None:
    counts = votes(0, (5, 0, 7, 5))[Stage.ESTIMATION]
    shown = [(v["label"], v["name"], v["count"]) for v in top_votes(counts, ["cat"], 3)]
    assert shown == [(2, "2", 7), (0, "cat", 5), (3, "3", 5)]
    assert len(top_votes(counts, None, 2)) == 2


def test_reading_results_imports_no_torch() -> None:
    code = "import denoised_smoothing.reporting, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
