"""Verification with the model: what a redraw and an audit find, with the shipped digits models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from denoised_smoothing import SmoothedClassifier, load_classifier, load_dataset, load_denoiser
from denoised_smoothing.certificates.certificate import Certificate
from denoised_smoothing.certificates.counts import LabelCounts
from denoised_smoothing.certificates.identity import Identity
from denoised_smoothing.certificates.parameters import Contract, EngineName
from denoised_smoothing.certificates.plans import Anytime
from denoised_smoothing.certificates.verdicts import Finding, Verdict
from denoised_smoothing.datasets import ImageDataset, from_sequence
from denoised_smoothing.errors import AlteredCertificateError, SettingError
from denoised_smoothing.images import digest, resize
from denoised_smoothing.runs.verify import CopyCheck, ImagesByPixels, verify

SIGMA = 0.5
DENOISER = "digits-stability"
IMAGE = load_dataset("digits")[0].image


def digits(denoiser: str = DENOISER, **options: Any) -> SmoothedClassifier:
    return SmoothedClassifier(
        load_classifier("digits"), SIGMA, load_denoiser(denoiser), device="cpu", **options
    )


@pytest.fixture(scope="module")
def smoothed() -> SmoothedClassifier:
    return digits()


def identified(
    smoothed: SmoothedClassifier, certificate: Certificate, image: np.ndarray
) -> Certificate:
    classifier, denoiser = smoothed.fingerprints()
    identity = Identity("digits", classifier, DENOISER, denoiser, digest(image))
    return replace(certificate, identity=identity)


@pytest.fixture(scope="module")
def certificate(smoothed: SmoothedClassifier) -> Certificate:
    return identified(smoothed, smoothed.certify(IMAGE, n0=50, n=500, seed=3), IMAGE)


def forged(certificate: Certificate, votes: int) -> Certificate:
    """The certificate that these votes of 500 for its label would give: consistent in itself."""
    label = certificate.selection.top()
    assert label is not None
    other = {label: votes, (label + 1) % 10: 500 - votes}
    counts = replace(certificate.counts, votes=other, failed=0)
    stages = {held.stage: held for held in (certificate.selection, counts)}
    made = certificate.plan.certificate(stages, certificate.parameters)
    return replace(made, identity=certificate.identity)


def test_a_certificate_holds_at_every_depth(
    smoothed: SmoothedClassifier, certificate: Certificate, tmp_path: Path
) -> None:
    assert certificate.label is not None
    assert verify(certificate) == Finding(Verdict.HOLDS)
    assert verify(certificate, smoothed, IMAGE, exact=True) == Finding(Verdict.EQUAL)
    assert verify(certificate, smoothed, IMAGE, fresh=True, seed=5) == Finding(Verdict.CONFIRMED)
    path = tmp_path / "certificate.json"
    certificate.save(path)
    for given in (path, str(path), certificate.to_dict()):
        assert verify(given, smoothed, torch.tensor(IMAGE), exact=True).verdict is Verdict.EQUAL


def test_fresh_copies_are_not_those_of_the_certificate_with_an_equal_seed(
    smoothed: SmoothedClassifier, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judged(_: Certificate, fresh: LabelCounts, alpha: float) -> Finding:
        assert fresh.n == certificate.counts.n
        assert alpha == 0.001
        return Finding(Verdict.WEAKER, str(dict(fresh.votes)))

    monkeypatch.setattr("denoised_smoothing.runs.verify.judge_audit", judged)
    n, seed = certificate.counts.n, certificate.seed
    found = verify(certificate, smoothed, IMAGE, fresh=True, seed=seed, n=n)
    assert found.reason != str(dict(certificate.counts.votes))
    assert verify(certificate, smoothed, IMAGE, fresh=True, seed=seed, n=n) == found


@pytest.mark.parametrize("n0", [50, 0])
def test_an_anytime_certificate_is_redrawn_to_the_same_number(
    smoothed: SmoothedClassifier, n0: int
) -> None:
    plan = Anytime(radii=(0.25,), max_n=1_000, n0=n0)
    made = smoothed.certify(IMAGE, plan=plan, seed=3)
    assert made.calls < 1_000
    assert verify(identified(smoothed, made, IMAGE), smoothed, IMAGE, exact=True) == Finding(
        Verdict.EQUAL
    )


def test_an_edited_radius_is_altered(certificate: Certificate) -> None:
    with pytest.raises(AlteredCertificateError, match="radius"):
        verify(certificate.to_dict() | {"radius": 0.9})
    with pytest.raises(AlteredCertificateError, match="radius"):
        verify(replace(certificate, radius=0.9))


def test_a_consistent_forgery_passes_the_arithmetic_alone(
    smoothed: SmoothedClassifier, certificate: Certificate
) -> None:
    forgery = forged(certificate, 500)
    assert forgery.radius > certificate.radius
    assert verify(forgery).verdict is Verdict.HOLDS
    found = verify(forgery, smoothed, IMAGE, exact=True)
    assert found.verdict is Verdict.CONTRADICTED
    assert "at least" in found.reason
    assert verify(forgery, smoothed, IMAGE).verdict is Verdict.CONTRADICTED
    assert verify(forgery, smoothed, IMAGE, fresh=True, seed=1).verdict is Verdict.CONTRADICTED


def test_another_seed_is_found_where_the_noise_is_the_same(
    smoothed: SmoothedClassifier, certificate: Certificate
) -> None:
    other = replace(certificate, parameters=replace(certificate.parameters, seed=4))
    assert verify(other, smoothed, IMAGE, exact=True).verdict is Verdict.CONTRADICTED
    found = verify(other, smoothed, IMAGE)  # as another noise stream: these are correct counts
    assert found.verdict is Verdict.CONSISTENT
    assert "as recorded" in found.reason


def changed_weight(smoothed: SmoothedClassifier) -> None:
    with torch.no_grad():
        next(smoothed.classifier.parameters()).view(-1)[0] += 1e-6


def changed_preprocessing(smoothed: SmoothedClassifier) -> None:
    smoothed.classifier.mean += 0.01


@pytest.mark.parametrize("change", [changed_weight, changed_preprocessing])
@pytest.mark.parametrize("fresh", [False, True])
def test_a_changed_classifier_is_found_by_its_fingerprint(
    change: Callable[[Any], None], certificate: Certificate, *, fresh: bool
) -> None:
    other = digits()
    change(other)
    found = verify(certificate, other, IMAGE, fresh=fresh)
    assert found.verdict is Verdict.DIFFERENT
    assert "the classifier is another one, or its weights, code or preprocessing" in found.reason
    assert "denoiser" not in found.reason


@pytest.mark.parametrize("name", ["none", "digits-mse"])
def test_another_denoiser_is_found_and_named(certificate: Certificate, name: str) -> None:
    found = verify(certificate, digits(name), IMAGE)
    assert found.verdict is Verdict.DIFFERENT
    assert f"'{DENOISER}'" in found.reason
    assert f"'{name}'" in found.reason
    assert "classifier" not in found.reason


def test_another_precision_sigma_or_noise_is_another_classifier(certificate: Certificate) -> None:
    for option, text in (
        ({"precision": "bfloat16"}, "precision is float32 in the certificate and bfloat16 here"),
        ({"noise": "float"}, "noise is grid in the certificate and float here"),
    ):
        found = verify(certificate, digits(**option), IMAGE)
        assert (found.verdict, found.reason) == (Verdict.DIFFERENT, text)


def test_another_engine_cannot_be_compared_exactly(
    smoothed: SmoothedClassifier, certificate: Certificate
) -> None:
    parameters = replace(certificate.parameters, engine=EngineName.OPENVINO)
    other = replace(certificate, parameters=parameters)
    found = verify(other, smoothed, IMAGE, exact=True)
    assert found.reason == "the engine is openvino in the certificate and torch here"
    assert verify(other, smoothed, IMAGE).verdict is Verdict.EQUAL


def test_what_is_not_checked_says_why(
    smoothed: SmoothedClassifier, certificate: Certificate
) -> None:
    def reason(certificate: Certificate, image: np.ndarray = IMAGE) -> str:
        found = verify(certificate, smoothed, image)
        assert found.verdict is Verdict.UNCHECKED
        return found.reason

    assert "which model" in reason(replace(certificate, identity=None))
    assert "no image at hand" in reason(certificate, load_dataset("digits")[1].image)
    parameters = replace(certificate.parameters, contract=Contract.STOCHASTIC)
    assert "audit it with fresh copies" in reason(replace(certificate, parameters=parameters))


def test_an_abstention_has_nothing_to_audit(
    smoothed: SmoothedClassifier, certificate: Certificate
) -> None:
    abstains = forged(certificate, 250)
    assert abstains.label is None
    assert verify(abstains).verdict is Verdict.NO_CLAIM
    assert verify(abstains, smoothed, IMAGE, fresh=True).verdict is Verdict.NO_CLAIM
    assert verify(abstains, smoothed, IMAGE, exact=True).verdict is Verdict.CONTRADICTED


def test_a_check_by_copies_needs_an_image_and_a_local_classifier(
    smoothed: SmoothedClassifier, certificate: Certificate
) -> None:
    with pytest.raises(SettingError, match="Give the certified image"):
        verify(certificate, smoothed)
    remote = SmoothedClassifier(load_classifier("simulated"), SIGMA)
    with pytest.raises(SettingError, match="paid query"):
        verify(certificate, remote, IMAGE)
    for wrong in ({"alpha": 0.0}, {"n": 0}):
        with pytest.raises(SettingError, match=next(iter(wrong))):
            verify(certificate, smoothed, IMAGE, **wrong)


def test_alpha_is_split_over_the_certificates(
    smoothed: SmoothedClassifier, certificate: Certificate
) -> None:
    """Counts that alpha = 0.5 contradicts on another stream, and a billionth of it does not."""
    claim = forged(certificate, certificate.counts.of(certificate.selection.top() or 0) + 15)
    check = CopyCheck(lambda _: smoothed, lambda *_: IMAGE, alpha=0.9)
    ((key, alone),) = check.run([("row", claim)], 1)
    ((_, among),) = check.run([("row", claim)], 10**9)
    assert key == "row"
    assert (alone.verdict, among.verdict) == (Verdict.CONTRADICTED, Verdict.CONSISTENT)


def test_images_are_found_by_their_pixels(
    smoothed: SmoothedClassifier, certificate: Certificate
) -> None:
    images = [load_dataset("digits")[index].image for index in (2, 1, 0)]
    dataset = from_sequence([(torch.tensor(image), 0) for image in images])
    assert isinstance(dataset, ImageDataset)
    found = ImagesByPixels(dataset)(smoothed, certificate)
    assert found is not None
    assert np.array_equal(found, IMAGE)
    missing = ImagesByPixels(from_sequence([(torch.tensor(images[0]), 0)]))
    assert missing(smoothed, certificate) is None


def test_images_are_resized_as_recorded(smoothed: SmoothedClassifier) -> None:
    large = np.kron(IMAGE, np.ones((1, 3, 3), np.float32))
    small = resize(large, 8)
    made = identified(smoothed, smoothed.certify(small, n0=10, n=50, seed=1), small)
    assert made.identity is not None
    made = replace(made, identity=replace(made.identity, resolution=8))
    assert verify(made, smoothed, large, exact=True).verdict is Verdict.EQUAL
