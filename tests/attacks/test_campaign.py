from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from denoised_smoothing.attacks import PGD, Attacked, Campaign
from denoised_smoothing.attacks.report import Verdict
from denoised_smoothing.errors import ImageError, SettingError
from denoised_smoothing.images import is_on_grid
from denoised_smoothing.reporting.results import ImageResult
from denoised_smoothing.smoothing.classifier import SmoothedClassifier

from .samples import Labels, Linear, certified, exact_radius, picture, smoothed

PICTURES = [picture(distance, seed) for seed, distance in enumerate((0.2, 0.3, 0.4))]
QUICK = PGD(steps=12, copies=16)


@pytest.fixture(scope="module")
def images() -> list[ImageResult]:
    return [certified(image, index) for index, image in enumerate(PICTURES)]


def campaign(images: list[ImageResult], **changes: Any) -> Campaign:
    settings: dict[str, Any] = {
        "smoothed": smoothed(), "images": images, "read": lambda image: PICTURES[image.index],
        "seed": 0, "pgd": QUICK, **changes,
    }  # fmt: skip
    return Campaign(**settings)


def forged(image: ImageResult, radius: float) -> ImageResult:
    """With a certificate that claims more than was proven."""
    return replace(image, certificate=replace(image.certificate, radius=radius))


def verdicts(found: list[list[Attacked]]) -> list[list[Verdict]]:
    return [[attacked.outcome.verdict for attacked in attacks] for attacks in found]


def test_certificates_hold_and_images_change_beyond(images: list[ImageResult]) -> None:
    found = list(campaign(images, shares=(2.0, 0.99)).run())
    for within, beyond in verdicts(found):  # to abstain is no contradiction
        assert within is not Verdict.CHANGED
        assert beyond is Verdict.CHANGED
    for image, attacks in zip(images, found, strict=True):
        assert 0.8 * exact_radius(PICTURES[image.index]) < image.radius
        for attacked, share in zip(attacks, (0.99, 2.0), strict=True):
            outcome = attacked.outcome
            assert not outcome.alarm
            assert is_on_grid(attacked.after)
            assert np.array_equal(attacked.before, PICTURES[image.index])
            assert 0.95 * outcome.epsilon < outcome.norm < outcome.epsilon
            assert outcome.epsilon == share * image.radius == share * outcome.certified_radius
            moved = (attacked.after - attacked.before).astype(np.float64)
            assert outcome.norm == pytest.approx(np.linalg.norm(moved), abs=1e-6)


def test_larger_lengths_are_skipped_once_an_image_changed(images: list[ImageResult]) -> None:
    found = list(campaign(images[:1], radii=(5.0, 0.1, 1.0)).run())
    assert [[attacked.outcome.epsilon for attacked in attacks] for attacks in found] == [[0.1, 1.0]]
    assert verdicts(found) == [[Verdict.HELD, Verdict.CHANGED]]


def test_a_forged_certificate_raises_an_alarm(images: list[ImageResult]) -> None:
    liar = forged(images[0], 1.0)
    [[attacked]] = campaign([liar], shares=(0.99,)).run()
    assert attacked.outcome.verdict is Verdict.CHANGED
    assert attacked.outcome.norm < 1.0
    assert attacked.outcome.alarm


def test_an_abstention_raises_none_even_within_the_radius(images: list[ImageResult]) -> None:
    """At the boundary both labels get half of the votes."""
    liar = forged(images[0], 1.0)
    [[attacked]] = campaign([liar], radii=(1.02 * exact_radius(PICTURES[0]),)).run()
    assert attacked.outcome.verdict is Verdict.ABSTAINED
    assert attacked.outcome.norm < attacked.outcome.certified_radius
    assert not attacked.outcome.alarm


def test_all_verdicts_share_alpha_and_get_noise_of_their_own(
    images: list[ImageResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    predict = SmoothedClassifier.predict

    def spy(self: SmoothedClassifier, image: Any, **settings: Any) -> Any:
        asked.append(settings)
        return predict(self, image, **settings)

    monkeypatch.setattr(SmoothedClassifier, "predict", spy)
    plan = campaign(images, radii=(0.05, 0.1), shares=(0.5,), n=300, alpha=0.009)
    list(plan.run())
    assert plan.attacks == len(asked) == 9
    assert {(call["n"], call["alpha"]) for call in asked} == {(300, 0.001)}
    assert len({call["seed"] for call in asked}) == 9


def test_a_seed_repeats_everything(images: list[ImageResult]) -> None:
    one, same, other = (
        [attacked.outcome for attacks in campaign(images[:2], shares=(0.9,), seed=seed).run()
         for attacked in attacks]
        for seed in (1, 1, 2)
    )  # fmt: skip
    assert one == same
    assert one != other


def test_a_black_box_is_attacked_through_a_surrogate(images: list[ImageResult]) -> None:
    box = smoothed(Labels())
    with pytest.raises(SettingError, match="Name a surrogate"):
        campaign(images, smoothed=box, shares=(0.99,)).check()
    helped = campaign(images, smoothed=box, surrogate=smoothed(), shares=(0.7, 2.0))
    helped.check()
    assert verdicts(list(helped.run())) == [[Verdict.HELD, Verdict.CHANGED]] * 3


class Named(Linear):
    """Its labels have names."""

    label_names: tuple[str, ...] | None = ("cat", "dog")


class Reversed(Named):
    """The same classes in the other order."""

    label_names = ("dog", "cat")

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).flip(1)


def test_labels_of_a_surrogate_are_matched_by_name(images: list[ImageResult]) -> None:
    """Else the gradients would lead back to the certified label."""
    base = smoothed(Named())
    helped = campaign(images, smoothed=base, surrogate=smoothed(Reversed()), shares=(0.7, 2.0))
    helped.check()
    assert helped.note is None
    assert verdicts(list(helped.run())) == [[Verdict.HELD, Verdict.CHANGED]] * 3


def test_numbers_are_compared_where_names_are_missing(images: list[ImageResult]) -> None:
    for pair in ((Named(), Linear()), (Linear(), Named())):
        classifier, surrogate = map(smoothed, pair)
        noted = campaign(images, smoothed=classifier, surrogate=surrogate, shares=(2.0,))
        assert noted.note is not None
        assert "one has no label names or numbers for names, so their labels are" in noted.note
        assert verdicts(list(noted.run())) == [[Verdict.CHANGED]] * 3
    assert campaign(images, surrogate=smoothed(), shares=(2.0,)).note is None
    assert campaign(images, smoothed=smoothed(Named()), shares=(2.0,)).note is None


def test_a_surrogate_without_the_certified_label_is_refused(images: list[ImageResult]) -> None:
    other = Named()
    other.label_names = ("fox", "dog")
    wrong = campaign(images, smoothed=smoothed(Named()), surrogate=smoothed(other), radii=(0.5,))
    with pytest.raises(SettingError, match=r"one by one, got 'cat'\. Name a surrogate"):
        wrong.check()


def test_all_labels_are_compared_where_they_are_numbers(images: list[ImageResult]) -> None:
    """All images have label 0; which number it has is seen from the others."""
    shifted, other, more = Named(), Named(), Linear()
    shifted.label_names, other.label_names = ("1", "2"), ("one", "two")
    third = replace(images[0], certificate=replace(images[0].certificate, label=2))
    for classifier, surrogate, attacked, said in (
        (shifted, other, images, "'1', '2'"),
        (more, shifted, images, "0"),
        (more, other, [*images, third], "0, 1, 2"),
    ):
        pair = {"smoothed": smoothed(classifier), "surrogate": smoothed(surrogate)}
        with pytest.raises(SettingError, match=rf"one by one, got {said}\. Name a surrogate"):
            campaign(attacked, **pair, radii=(0.5,)).check()


def test_certified_labels_from_1_are_no_shift(images: list[ImageResult]) -> None:
    """Unlike the classes of data, all labels of a classifier are known."""
    ones = [replace(i, certificate=replace(i.certificate, label=n))
            for n, i in enumerate(images[:2], 1)]  # fmt: skip
    digits, words = Linear(), Linear()
    digits.label_names, words.label_names = ("0", "1", "2"), ("zero", "one", "two")  # type: ignore[assignment]
    for classifier in (Linear(), digits):
        noted = campaign(
            ones, smoothed=smoothed(classifier), surrogate=smoothed(words), radii=(0.5,)
        )
        noted.check()
        assert noted.note is not None


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({}, r"got 3 images, radii \(\) and shares \(\)"),
            ({"images": [], "radii": (0.5,)}, "got 0 images"),
            ({"radii": (0.0,)}, "radius must be above 0 and finite, got 0.0"),
            ({"shares": (-1.0,)}, "share must be above 0 and finite, got -1.0"),
            ({"radii": (0.5,), "n": 0}, "n must be a whole number"),
            ({"radii": (0.5,), "alpha": 1.0}, "alpha must lie strictly"),
        ],
    )
    def test_settings(
        self, images: list[ImageResult], changes: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(SettingError, match=message):
            campaign(changes.pop("images", images), **changes)

    def test_an_abstention_has_nothing_to_attack(self, images: list[ImageResult]) -> None:
        abstained = replace(images[0], certificate=replace(images[0].certificate, label=None))
        with pytest.raises(
            SettingError, match="abstains on image 'image-0', so there is no certificate"
        ):
            campaign([abstained], radii=(0.5,))

    def test_an_image_off_the_grid(self, images: list[ImageResult]) -> None:
        off = PICTURES[0] + np.float32(0.001)
        with pytest.raises(ImageError, match="'image-0' has values off the 8-bit grid"):
            campaign(images, read=lambda image: off, radii=(0.5,)).check()
