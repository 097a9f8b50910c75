"""Verification with the model: what a redraw and an audit find, with the shipped digits models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
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
from denoised_smoothing.errors import (
    AlteredCertificateError,
    ClassifierError,
    MalformedCertificateError,
    MissingExtraError,
    SettingError,
)
from denoised_smoothing.images import digest, resize
from denoised_smoothing.runs.certified_images import FoundImage, ImagesByPixels, Stated
from denoised_smoothing.runs.verify import CopyCheck, verify
from denoised_smoothing.smoothing.scheduler import ImageTask

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
        ({"stochastic": True}, "contract is checked in the certificate and stochastic here"),
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


def test_counts_are_compared_exactly_where_all_that_they_depend_on_is_the_same(
    smoothed: SmoothedClassifier,
) -> None:
    made = smoothed.certify(IMAGE, n0=50, n=500, seed=3)
    wrong = replace(made, parameters=replace(made.parameters, seed=4))  # consistent counts
    assert verify(made, smoothed, IMAGE) == Finding(Verdict.EQUAL)
    assert verify(wrong, smoothed, IMAGE).verdict is Verdict.CONTRADICTED
    for change in ({"noise_stream": "cuda"}, {"noise_stream": None}, {"machine": None}):
        found = verify(other(wrong, **change), smoothed, IMAGE)
        assert found.verdict is Verdict.CONSISTENT, change
    elsewhere = other(made, noise_stream="cuda")
    found = verify(elsewhere, smoothed, IMAGE, exact=True)
    expected = "the noise_stream is cuda in the certificate and cpu here"
    assert found == Finding(Verdict.DIFFERENT, expected)


def test_the_engine_is_compared_before_copies_are_drawn(
    certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    smoothed = digits()
    monkeypatch.setattr(smoothed, "count_labels", lambda *_: pytest.fail("copies were drawn"))
    parameters = replace(certificate.parameters, engine=EngineName.OPENVINO)
    found = verify(replace(certificate, parameters=parameters), smoothed, IMAGE, exact=True)
    assert found.verdict is Verdict.DIFFERENT


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
    check = CopyCheck(lambda _: smoothed, lambda *_: FoundImage(IMAGE), alpha=0.9)
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
    assert np.array_equal(found.pixels, IMAGE)
    assert (found.index, found.true_label) == (None, 0)
    missing = ImagesByPixels(from_sequence([(torch.tensor(images[0]), 0)]))
    assert missing(smoothed, certificate) is None


def other(certificate: Certificate, dimension: int | None = None, **identity: Any) -> Certificate:
    """The certificate with another dimension, and the radii that it gives, or identity."""
    assert certificate.identity is not None
    parameters = replace(
        certificate.parameters, dimension=dimension or certificate.parameters.dimension
    )
    stages = {held.stage: held for held in certificate.stages}
    made = certificate.plan.certificate(stages, parameters)
    return replace(made, identity=replace(certificate.identity, **identity))


@pytest.mark.parametrize("fresh", [False, True])
def test_a_forged_size_of_the_image_is_found(
    smoothed: SmoothedClassifier, certificate: Certificate, *, fresh: bool
) -> None:
    """A smaller dimension gives a larger Linf radius: 8 times that of 64 values."""
    forgery = other(certificate, 1, image_shape=None)
    assert forgery.radius_linf == pytest.approx(8 * certificate.radius_linf)
    assert verify(forgery) == Finding(Verdict.HOLDS)
    found = verify(forgery, smoothed, IMAGE, fresh=fresh)
    expected = "dimension is 1 in the file and 64 of the image at hand"
    assert found == Finding(Verdict.DIFFERENT, expected)
    for change in ({"image_shape": (4, 4, 4)}, {"image_shape": None, "resolution": 4}):
        found = verify(other(certificate, **change), smoothed, IMAGE, fresh=fresh)
        assert found.verdict is Verdict.DIFFERENT, change
        assert next(iter(change)) in found.reason or "resolution" in found.reason


def test_a_resolution_that_fits_no_image_is_refused_or_not_tried(
    smoothed: SmoothedClassifier, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgery = other(certificate, image_shape=None, resolution=200_000, image_sha256="0" * 64)
    with pytest.raises(MalformedCertificateError, match="resolution 200000"):
        Certificate.from_dict(forgery.to_dict())
    forgery = replace(forgery, parameters=replace(forgery.parameters, dimension=200_000**2))
    monkeypatch.setattr(SmoothedClassifier, "prepare", lambda *_: pytest.fail("it was resized"))
    images = ImagesByPixels(load_dataset("digits"))
    assert images(smoothed, forgery) is None


def test_a_label_name_is_that_of_the_classifier(
    smoothed: SmoothedClassifier, certificate: Certificate
) -> None:
    named = [str(n) for n in range(10)]
    classifier = smoothed.classifier
    before = getattr(classifier, "label_names", None)
    classifier.label_names = named
    try:
        right = other(certificate, label_name=str(certificate.label))
        assert verify(right, smoothed, IMAGE, exact=True).verdict is Verdict.EQUAL
        found = verify(other(certificate, label_name="dog"), smoothed, IMAGE, exact=True)
    finally:
        classifier.label_names = before
    expected = f"label_name is 'dog' in the file and '{certificate.label}' here"
    assert found == Finding(Verdict.DIFFERENT, expected)


def test_an_index_is_compared_only_where_the_image_has_its_id(
    smoothed: SmoothedClassifier, certificate: Certificate
) -> None:
    """Other data may have the image at another place, but not with another label."""
    check = CopyCheck(
        lambda _: smoothed, ImagesByPixels(load_dataset("digits")), lambda key: key, exact=True
    )
    keys = [Stated(0, 0), Stated(5, 0), Stated(None, None), Stated(0, 1)]
    found = dict(check.run([(key, certificate) for key in keys], len(keys)))
    assert [found[key].verdict for key in keys[:3]] == [Verdict.EQUAL] * 3
    expected = "true_label is 1 in the file and 0 of the image at hand"
    assert found[keys[3]] == Finding(Verdict.DIFFERENT, expected)


def test_a_converted_bundle_does_not_vouch_for_itself(
    smoothed: SmoothedClassifier, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = SimpleNamespace(converted=True, engine=EngineName.OPENVINO)
    monkeypatch.setattr(smoothed.models, "bundle", bundle)
    with pytest.raises(SettingError, match="only its own record says"):
        verify(certificate, smoothed, IMAGE)


def test_errors_of_a_model_leave_its_certificates_unchecked(
    smoothed: SmoothedClassifier, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one whose model cannot be made, and of one whose classifier fails while it counts."""

    def fails(*_: object, **__: object) -> Iterator[ImageTask]:
        raise ClassifierError("The classifier is broken.")
        yield

    def smoothed_for(held: Certificate) -> SmoothedClassifier:
        if held.seed == 1:
            raise MissingExtraError("openvino", "openvino", "the engine openvino")
        return broken if held.seed == 2 else smoothed

    def seeded(seed: int) -> Certificate:
        return replace(certificate, parameters=replace(certificate.parameters, seed=seed))

    broken = digits()
    monkeypatch.setattr(broken, "count_labels", fails)
    check = CopyCheck(smoothed_for, lambda *_: FoundImage(IMAGE))
    keyed = [(1, seeded(1)), (2, seeded(2)), (3, certificate)]
    found = dict(check.run(keyed, 3))
    assert [found[key].verdict for key in (1, 2, 3)] == [
        Verdict.UNCHECKED, Verdict.UNCHECKED, Verdict.EQUAL,
    ]  # fmt: skip
    assert "openvino" in found[1].reason
    assert "broken" in found[2].reason


def test_images_of_several_sizes_are_checked_together(smoothed: SmoothedClassifier) -> None:
    plain = SmoothedClassifier(lambda x: x.flatten(1)[:, :2], SIGMA, device="cpu")
    images = [np.zeros((1, side, side), np.float32) for side in (4, 6)]
    made = [plain.certify(image, n0=10, n=50, seed=1) for image in images]
    held = {digest(image): image for image in images}
    check = CopyCheck(
        lambda _: plain, lambda _, c: FoundImage(held[c.identity.image_sha256]), exact=True
    )
    found = list(check.run(enumerate(made), 2))
    assert [finding.verdict for _, finding in found] == [Verdict.EQUAL] * 2


def test_no_more_copies_are_drawn_than_the_limit(
    smoothed: SmoothedClassifier, certificate: Certificate
) -> None:
    check = CopyCheck(lambda _: smoothed, lambda *_: FoundImage(IMAGE), max_calls=1_200)
    found = [finding for _, finding in check.run(((n, certificate) for n in range(3)), 3)]
    assert {finding.verdict for finding in found} == {Verdict.EQUAL, Verdict.UNCHECKED}
    (left,) = (finding.reason for finding in found if finding.reason)
    assert "needs 550 copies, and 100 are left of the limit of 1,200" in left


def test_images_are_resized_as_recorded(smoothed: SmoothedClassifier) -> None:
    large = np.kron(IMAGE, np.ones((1, 3, 3), np.float32))
    small = resize(large, 8)
    made = identified(smoothed, smoothed.certify(small, n0=10, n=50, seed=1), small)
    assert made.identity is not None
    made = replace(made, identity=replace(made.identity, resolution=8))
    assert verify(made, smoothed, large, exact=True).verdict is Verdict.EQUAL
