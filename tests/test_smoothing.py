"""smoothing.py: counts, certificates and predictions of an existing classifier."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor, nn

from denoised_smoothing import images as image_forms
from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.certificates.plans import FixedBudget
from denoised_smoothing.classifiers import ImageClassifier
from denoised_smoothing.denoisers import UNet
from denoised_smoothing.errors import ClassifierError, ImageError, SettingError
from denoised_smoothing.noise import CHUNK, derive_key, noisy_copies
from denoised_smoothing.scheduling import ImageTask
from denoised_smoothing.smoothing import Progress, SmoothedClassifier

SEED = 0
GREY = np.full((1, 4, 4), 0.5, np.float32)


def random_images(count: int, channels: int = 3, side: int = 8) -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 256, (count, channels, side, side))
    return (values / 255).astype(np.float32)


def network(channels: int = 3) -> nn.Sequential:
    """Random weights, logits scaled such that the labels of noisy copies are well mixed."""
    torch.manual_seed(1)
    layers = nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1),
        nn.BatchNorm2d(8, momentum=None),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 5),
        nn.BatchNorm1d(5, affine=False, momentum=None),
    )
    with torch.no_grad():
        layers(torch.rand(200, channels, 8, 8) + 0.5 * torch.randn(200, channels, 8, 8))
    return layers


def quarters(images: Tensor) -> Tensor:
    """Labels 0 to 3 by the mean of each image, around 0.5."""
    return ((images.mean(dim=(1, 2, 3)) - 0.5) * 40 + 2).long().clamp(0, 3)


def smoothed(classifier: Any = quarters, sigma: float = 0.25, **options: Any) -> SmoothedClassifier:
    return SmoothedClassifier(classifier, sigma, device="cpu", **options)


def votes(counts: LabelCounts) -> tuple[tuple[int, ...], int]:
    """Counts without the zeros at their end, and failures."""
    return tuple(np.trim_zeros(counts.counts, "b")), counts.failed


class NeverCalled:
    """A classifier for input that is to be refused before any work."""

    def __init__(self, **attributes: object) -> None:
        vars(self).update(attributes)

    def __call__(self, images: Tensor) -> Tensor:
        raise AssertionError("the classifier was called")


class TestLinearClassifier:
    """The exact radius of sign(w.x + b) is |w.x + b| / ||w||."""

    @staticmethod
    def radius(distance: float, sigma: float, n: int, seed: int) -> float:
        weights = torch.tensor([0.1, -0.7, 0.5, 0.5])  # of norm 1
        bias = distance - float(weights.sum()) / 2

        def linear(images: Tensor) -> Tensor:
            score = images.flatten(1) @ weights + bias
            return torch.stack([score, torch.zeros_like(score)], dim=1)

        image = np.full((1, 2, 2), 0.5, np.float32)
        certificate = smoothed(linear, sigma).certify(image, n0=100, n=n, seed=seed)
        assert certificate.label in (0, None)
        return certificate.radius

    @pytest.mark.parametrize("sigma", [0.25, 1.0])
    @pytest.mark.parametrize("sigmas", [0.3, 1.0, 3.0])
    def test_the_radius_is_nearly_exact_at_100_000_copies(
        self, sigmas: float, sigma: float
    ) -> None:
        """Never above; within 5 % below.

        A perfect program exceeds with probability alpha = 0.001 at most. At 0.3 sigma the bound
        costs 4.2 % and its standard error is 1.3 %, so that one seed in four misses 5 %.
        """
        exact = sigmas * sigma
        radius = self.radius(exact, sigma, n=100_000, seed=SEED)
        assert 0.95 * exact <= radius <= exact

    def test_the_radius_never_exceeds_the_exact_one(self) -> None:
        """Each of the 60 does with probability alpha = 0.001 at most: together 6 %."""
        radii = {
            (exact, seed): self.radius(exact, 0.5, n=500, seed=seed)
            for exact in (0.02, 0.2, 1.0)
            for seed in range(20)
        }
        assert all(radius <= exact for (exact, _), radius in radii.items())
        assert sum(radius > 0 for radius in radii.values()) > 30


class TestCounts:
    def test_equal_those_of_a_loop_as_in_cohen_et_al(self) -> None:
        classifier, images = network(), random_images(2)
        certificates = smoothed(classifier, 0.5).certify_batch(images, n0=60, n=230, seed=SEED)

        def count(image: np.ndarray, stage: str, copies: int) -> tuple[int, ...]:
            counts, chunk = np.zeros(5, int), 0
            while copies > 0:
                key = derive_key(SEED, image_forms.digest(image), stage, chunk)
                source = np.random.Generator(np.random.Philox(key=key))
                noise = source.standard_normal((CHUNK, *image.shape), dtype=np.float32)
                batch = torch.from_numpy(image + noise[:copies] * np.float32(0.5))
                with torch.no_grad():
                    labels = classifier(batch).argmax(1).numpy()
                counts += np.bincount(labels, minlength=5)
                chunk, copies = chunk + 1, copies - CHUNK
            return tuple(counts.tolist())

        for image, certificate in zip(images, certificates, strict=True):
            assert certificate.selection.counts == count(image, "selection", 60)
            assert certificate.counts.counts == count(image, "estimation", 230)
            assert len([votes for votes in certificate.counts.counts if votes]) > 1

    @pytest.mark.parametrize("batch_size", [1, 7, 200, 1000, None])
    def test_do_not_depend_on_batch_size_or_on_the_order_of_images(
        self, batch_size: int | None
    ) -> None:
        classifier, images = network(), random_images(4)
        options = {"n0": 30, "n": 170, "seed": SEED}
        alone = [smoothed(classifier, 0.5).certify(image, **options) for image in images]
        order = [2, 0, 3, 1]
        pipeline = smoothed(classifier, 0.5, batch_size=batch_size)
        assert pipeline.certify_batch(images[order], **options) == [alone[i] for i in order]
        assert len({certificate.counts.counts for certificate in alone}) == 4

    def test_go_on_where_they_stopped(self) -> None:
        pipeline, image = smoothed(network(), 0.5), random_images(1)[0]
        plan = FixedBudget(30, 170)

        def count(n: int, counts: dict[Stage, LabelCounts]) -> ImageTask:
            [task] = pipeline.count_labels(
                [ImageTask("run", "7", image, counts)], FixedBudget(30, n).targets, SEED
            )
            return task

        stopped = count(77, {})
        assert count(170, dict(stopped.counts)).counts == count(170, {}).counts
        assert stopped.calls == 107
        assert plan.targets({}) == {Stage.SELECTION: 30, Stage.ESTIMATION: 170}

    @pytest.mark.parametrize("n", [1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 7])
    def test_are_n_whether_or_not_it_fills_chunks(self, n: int) -> None:
        certificate = smoothed().certify(GREY, n0=3, n=n, seed=SEED)
        assert (certificate.selection.n, certificate.counts.n) == (3, n)
        assert certificate.calls == 3 + n

    def test_of_labels_are_those_of_the_logits(self) -> None:
        classifier = network().eval()
        by_logits = smoothed(classifier, 0.5).certify(random_images(1)[0], n=300, seed=SEED)
        for dtype in (torch.int64, torch.int32, torch.uint8):
            by_label = smoothed(
                lambda images, dtype=dtype: classifier(images).argmax(1).to(dtype), 0.5
            ).certify(random_images(1)[0], n=300, seed=SEED)
            assert votes(by_label.counts) == votes(by_logits.counts)
            assert by_label.label == by_logits.label
            assert by_label.radius == by_logits.radius

    def test_a_label_of_minus_one_stays_in_n_as_a_vote_for_no_class(self) -> None:
        def unsure(images: Tensor) -> Tensor:
            labels = quarters(images)
            return torch.where(labels == 0, -1, labels)

        whole = smoothed().certify(GREY, n0=50, n=400, seed=SEED)
        partly = smoothed(unsure).certify(GREY, n0=50, n=400, seed=SEED)
        assert partly.counts.n == 400
        assert partly.counts.failed == whole.counts.of(0) > 0
        assert [partly.counts.of(k) for k in (1, 2, 3)] == [whole.counts.of(k) for k in (1, 2, 3)]

    def test_of_a_classifier_without_any_label_prove_nothing(self) -> None:
        none = smoothed(lambda images: torch.full((len(images),), -1))
        certificate = none.certify(GREY, n0=10, n=60)
        assert certificate.label is None
        assert votes(certificate.counts) == ((), 60)
        assert none.predict(GREY, n=60).label is None

    def test_pass_through_the_denoiser(self) -> None:
        def denoiser(noisy: Tensor, sigma: float) -> Tensor:
            assert sigma == 0.25
            return torch.full_like(noisy, 0.5)

        certificate = smoothed(denoiser=denoiser).certify(GREY, n0=10, n=60)
        assert votes(certificate.counts) == ((0, 0, 60), 0)
        assert smoothed(denoiser=torch.nn.Identity()).certify(
            GREY, n0=10, n=60, seed=SEED
        ) == smoothed().certify(GREY, n0=10, n=60, seed=SEED)

    def test_of_a_classifier_that_overwrites_its_input_are_the_same(self) -> None:
        def in_place(images: Tensor) -> Tensor:
            labels = quarters(images)
            images.fill_(0)
            return labels

        for image in (GREY, random_images(1)[0]):
            expected = smoothed().certify(image, n0=10, n=300, seed=SEED)
            assert smoothed(in_place).certify(image, n0=10, n=300, seed=SEED) == expected

    def test_every_forward_pass_has_the_same_shape(self) -> None:
        """Else the last bit of logits, and with it a label, could depend on the batch."""
        shapes = []

        def classifier(images: Tensor) -> Tensor:
            shapes.append(images.shape)
            return quarters(images)

        pipeline = smoothed(classifier)
        pipeline.certify(GREY, n0=3, n=450)
        assert set(shapes) == {(pipeline.forward_size(GREY), 1, 4, 4)}

    def test_a_module_is_put_into_evaluation_mode(self) -> None:
        """Dropout and batch statistics would make labels depend on chance and on the batch."""
        classifier, denoiser = network().train(), nn.BatchNorm2d(3).train()
        before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
        pipeline = smoothed(classifier, 0.5, denoiser=denoiser)
        image = random_images(1)[0]
        first = pipeline.certify(image, n0=10, n=200, seed=SEED)
        assert not classifier.training
        assert not denoiser.training
        assert pipeline.certify(image, n0=10, n=200, seed=SEED) == first
        assert all(
            torch.equal(before[key], value) for key, value in classifier.state_dict().items()
        )


class TestInput:
    def test_may_be_a_tensor_an_array_or_a_picture(self) -> None:
        array = random_images(1, side=6)[0]
        picture = PIL.Image.fromarray((array.transpose(1, 2, 0) * 255).round().astype(np.uint8))
        pipeline = smoothed(network(), 0.5)
        forms = (array, array.astype(np.float64), torch.from_numpy(array), picture)
        first, *others = [pipeline.certify(form, n0=10, n=100, seed=SEED) for form in forms]
        assert others == [first] * 3
        batches = [array[None], torch.from_numpy(array)[None].requires_grad_()]
        for batch in batches:
            assert pipeline.certify_batch(batch, n0=10, n=100, seed=SEED) == [first]

    def test_may_be_read_only_and_is_not_changed(self) -> None:
        array = random_images(2)
        before = array.copy()
        array.setflags(write=False)
        assert len(smoothed().certify_batch(array, n0=10, n=60)) == 2
        assert np.array_equal(array, before)

    def test_may_be_grey_for_a_classifier_of_one_channel(self) -> None:
        classifier = network(channels=1)
        classifier.channels = 1
        assert smoothed(classifier).certify(GREY, n0=10, n=60).calls == 70

    def test_a_network_may_have_an_attribute_channels_of_its_own(self) -> None:
        classifier = network()
        classifier.channels = 64
        assert smoothed(classifier).certify(random_images(1)[0], n0=10, n=60).calls == 70


class TestSeed:
    def test_is_fresh_by_default_and_recorded(self) -> None:
        pipeline = smoothed()
        first, second = (pipeline.certify(GREY, n0=50, n=300) for _ in range(2))
        assert first.seed != second.seed
        assert max(first.seed, second.seed) > 2**64
        assert pipeline.certify(GREY, n0=50, n=300, seed=first.seed) == first

    def test_decides_the_counts(self) -> None:
        pipeline = smoothed(network(), 0.5)
        image = random_images(1)[0]
        counts = {pipeline.certify(image, n=500, seed=seed).counts.counts for seed in range(4)}
        assert len(counts) == 4

    def test_of_a_prediction_is_recorded(self) -> None:
        prediction = smoothed().predict(GREY, n=300)
        again = smoothed().predict(GREY, n=300, seed=prediction.setting.seed)
        assert again == prediction

    def test_the_stages_have_noise_of_their_own(self) -> None:
        image = random_images(1)[0]
        pipeline = smoothed(network(), 0.5)
        certificate = pipeline.certify(image, n0=400, n=400, seed=SEED)
        prediction = pipeline.predict(image, n=400, seed=SEED)
        stages = (certificate.selection, certificate.counts, prediction.counts)
        assert len({counts.counts for counts in stages}) == 3


class TestPredict:
    def test_gives_the_label_of_a_clear_majority(self) -> None:
        bright = np.full((1, 4, 4), 0.75, np.float32)
        prediction = smoothed().predict(bright, n=100, alpha=0.01)
        assert prediction.label == 3
        assert prediction.p_value < 0.01
        assert (prediction.calls, prediction.alpha) == (100, 0.01)

    def test_abstains_between_two_classes(self) -> None:
        prediction = smoothed(lambda x: (x[:, 0, 0, 0] > 0.5).long()).predict(GREY, n=500, seed=1)
        assert prediction.label is None
        assert prediction.p_value > 0.001


class TestCopies:
    def test_are_those_of_the_estimation_and_what_the_classifier_sees(self) -> None:
        pipeline = smoothed(denoiser=lambda noisy: noisy.clamp(0, 1))
        noisy, seen = pipeline.copies(GREY, "7", SEED, 3)
        expected = noisy_copies(
            torch.from_numpy(GREY),
            0.25,
            seed=SEED,
            image_id="7",
            stage=Stage.ESTIMATION,
            start=0,
            stop=3,
        )
        assert np.array_equal(noisy, expected.numpy())
        assert np.array_equal(seen, noisy.clip(0, 1))


class TestProgress:
    def test_counts_images_and_calls_up_to_the_end(self) -> None:
        told: list[Progress] = []
        certificates = smoothed(batch_size=1).certify_batch(
            random_images(3), n0=50, n=300, progress=told.append
        )
        calls = [progress.calls for progress in told]
        assert calls[-1] == sum(certificate.calls for certificate in certificates) == 3 * 350
        assert calls == sorted(calls)
        assert calls[0] == 200, "told after the first batch"
        assert [progress.images_done for progress in told] == sorted(
            progress.images_done for progress in told
        )
        assert (told[-1].images_done, {progress.images for progress in told}) == (3, {3})
        assert all(a.seconds <= b.seconds for a, b in pairwise(told))

    def test_of_a_prediction(self) -> None:
        told: list[Progress] = []
        smoothed().predict(GREY, n=70, progress=told.append)
        assert (told[-1].calls, told[-1].images_done, told[-1].images) == (70, 1, 1)

    def test_an_interruption_in_it_reaches_the_caller(self) -> None:
        def stop(_: Progress) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            smoothed().certify(GREY, n=100, progress=stop)


class TestRefusedBeforeAnyWork:
    @pytest.mark.parametrize("sigma", [0.0, -0.25, math.nan, math.inf])
    def test_sigma(self, sigma: float) -> None:
        with pytest.raises(SettingError, match=f"sigma .* above 0 and finite, got {sigma}; 0.12"):
            smoothed(NeverCalled(), sigma)

    @pytest.mark.parametrize("batch_size", [0, -5])
    def test_batch_size(self, batch_size: int) -> None:
        with pytest.raises(SettingError, match=f"batch_size must be at least 1, got {batch_size}"):
            smoothed(NeverCalled(), batch_size=batch_size)

    def test_device(self) -> None:
        with pytest.raises(SettingError, match=r"device 'cuda:99' cannot be used here .*use auto"):
            SmoothedClassifier(NeverCalled(), 0.25, device="cuda:99")

    @pytest.mark.parametrize("name", ["n0", "n"])
    @pytest.mark.parametrize("value", [0, -1])
    def test_number_of_copies(self, name: str, value: int) -> None:
        pipeline = smoothed(NeverCalled())
        for certify, image in ((pipeline.certify, GREY), (pipeline.certify_batch, GREY[None])):
            with pytest.raises(SettingError, match=f"{name} is a number .*at least 1, got {value}"):
                certify(image, **{name: value})

    def test_number_of_copies_of_a_prediction(self) -> None:
        with pytest.raises(SettingError, match=r"n is a number .* at least 1, got 0"):
            smoothed(NeverCalled()).predict(GREY, n=0)

    @pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, 1.5, math.nan])
    def test_alpha(self, alpha: float) -> None:
        pipeline = smoothed(NeverCalled())
        for call in (pipeline.certify, pipeline.predict):
            with pytest.raises(SettingError, match=f"alpha .*got {alpha}"):
                call(GREY, alpha=alpha)

    @pytest.mark.parametrize(
        ("image", "message"),
        [
            (np.where(GREY == 0.5, np.nan, GREY).astype(np.float32), "holds NaN or infinite"),
            (GREY * 255, r"values from 127\.5 to 127\.5, expected \[0, 1\]; divide 8-bit"),
            (GREY - 1, r"values from -0\.5 to -0\.5, expected \[0, 1\]; undo the normalisation"),
            (np.zeros((4, 8, 8), np.float32), r"has 4 channels .* drop an alpha channel"),
            (np.zeros((3, 1, 1), np.float32), "is 1x1 pixels, expected at least 2x2"),
            (np.zeros((8, 8), np.float32), r"shape \[8, 8\], expected \[C, H, W\]"),
            (np.zeros((1, 3, 8, 8), np.float32), r"\[1, 3, 8, 8\], expected \[C, H, W\]"),
            (np.zeros((3, 8, 8), np.uint8), "type uint8, expected floats .* divide 8-bit values"),
            (PIL.Image.new("RGBA", (4, 4)), "has the mode RGBA .* expected RGB or one grey"),
        ],
    )
    def test_image(self, image: Any, message: str) -> None:
        pipeline = smoothed(NeverCalled())
        for call in (pipeline.certify, pipeline.predict):
            with pytest.raises(ImageError, match=message):
                call(image)

    def test_batch(self) -> None:
        pipeline = smoothed(NeverCalled())
        with pytest.raises(ImageError, match=r"batch has the shape .*expected \[B, C, H, W\]"):
            pipeline.certify_batch(GREY)
        with pytest.raises(ImageError, match="at least one value"):
            pipeline.certify_batch(np.zeros((0, 3, 8, 8), np.float32))

    @pytest.mark.parametrize(
        ("channels", "image", "message"),
        [
            (3, GREY, "is grey, but the classifier takes RGB images; convert the images to RGB"),
            (1, random_images(1)[0], "is RGB, but the classifier takes grey images; convert"),
        ],
    )
    def test_channels_that_the_classifier_does_not_take(
        self, channels: int, image: np.ndarray, message: str
    ) -> None:
        pipeline = smoothed(NeverCalled(channels=channels))
        for call in (pipeline.certify, pipeline.predict):
            with pytest.raises(ImageError, match=message):
                call(image)

    def test_images_of_different_sizes(self) -> None:
        tasks = [
            ImageTask("run", str(side), np.zeros((3, side, side), np.float32)) for side in (8, 9)
        ]
        counting = smoothed(lambda x: x.flatten(1)).count_labels(
            tasks, FixedBudget(1, 1).targets, SEED
        )
        with pytest.raises(
            ImageError,
            match=r"image 9 has shape \[3, 9, 9\], the first one \[3, 8, 8\]; .* resolution",
        ):
            list(counting)

    def test_no_images_are_no_work(self) -> None:
        pipeline = smoothed(NeverCalled())
        assert list(pipeline.count_labels([], FixedBudget().targets, SEED)) == []


class Answers:
    """A classifier whose answers to successive forward passes are given."""

    def __init__(self, *answers: Callable[[int], Tensor]) -> None:
        self.answers = list(answers)

    def __call__(self, images: Tensor) -> Tensor:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return answer(len(images))


def logits(classes: int) -> Callable[[int], Tensor]:
    return lambda count: torch.ones(count, classes)


def labels(label: int) -> Callable[[int], Tensor]:
    return lambda count: torch.full((count,), label)


class TestUnusableAnswers:
    @pytest.mark.parametrize(
        ("answers", "message"),
        [
            ([lambda b: torch.ones(b, 3, 4)], r"tensor of shape \[200, 3, 4\]; expected logits"),
            ([lambda b: torch.ones(b + 1, 3)], r"tensor of shape \[201, 3\]; .* \[200, K\]"),
            (
                [lambda b: torch.ones(b)],
                r"one torch.float32 an image; expected logits \[B, K\], or",
            ),
            ([lambda b: [0] * b], "answered with list; expected a torch.Tensor"),
            ([logits(1)], "with logits of 1 classes; expected at least 2 classes"),
            ([logits(0)], "with logits of 0 classes; expected at least 2 classes"),
            (
                [logits(3), logits(4)],
                "logits of 4 classes; expected logits of 3 classes, as before",
            ),
            ([logits(3), labels(7)], "with labels; expected logits of 3 classes, as before"),
            ([labels(7), logits(3)], "with logits of 3 classes; expected labels, as before"),
            ([lambda b: torch.full((b, 3), math.nan)], r"NaN logits, .* for 50 of 50 noisy copies"),
            ([labels(-7)], r"a label below -1, for 50 of 50 noisy copies of image \w+; find out"),
        ],
    )
    def test_are_refused(self, answers: Sequence[Any], message: str) -> None:
        pipeline = smoothed(Answers(*answers))
        with pytest.raises(ClassifierError, match=message):
            pipeline.certify(GREY, n0=50, n=1000)

    def test_a_single_copy_with_nan_logits_is_found(self) -> None:
        def nearly(images: Tensor) -> Tensor:
            answer = images.flatten(1).clone()
            answer[9, 3] = math.nan
            return answer

        with pytest.raises(ClassifierError, match=r"NaN logits, .* for 1 of 50 noisy copies"):
            smoothed(nearly).certify(GREY, n0=50, n=100)

    def test_what_is_answered_to_the_padding_does_not_matter(self) -> None:
        def picky(images: Tensor) -> Tensor:
            empty = (images == 0).all(dim=(1, 2, 3))
            return torch.where(empty, -2, quarters(images))

        certificate = smoothed(picky).certify(GREY, n0=3, n=4, seed=SEED)
        assert certificate == smoothed().certify(GREY, n0=3, n=4, seed=SEED)

    def test_infinite_logits_are_an_answer(self) -> None:
        def certain(images: Tensor) -> Tensor:
            return torch.tensor([-math.inf, math.inf, 0.0]).expand(len(images), 3)

        assert smoothed(certain).certify(GREY, n0=5, n=100).label == 1

    def test_the_error_of_a_classifier_is_kept_as_the_cause(self) -> None:
        with pytest.raises(ClassifierError, match=r"on images of shape \[200, 1, 4, 4\]") as caught:
            smoothed(network(channels=3)).certify(GREY, n=100)
        assert isinstance(caught.value.__cause__, RuntimeError)

    def test_a_denoiser_that_changes_the_shape_is_named(self) -> None:
        halving = smoothed(denoiser=nn.MaxPool2d(2))
        with pytest.raises(ClassifierError, match=r"denoiser turned .* into \[200, 1, 2, 2\]; it"):
            halving.certify(GREY, n=100)

    def test_the_pipeline_goes_on_after_one(self) -> None:
        answers = Answers(lambda b: torch.full((b, 3), math.nan), logits(3))
        pipeline = smoothed(answers)
        with pytest.raises(ClassifierError):
            pipeline.certify(GREY, n=100)
        certificate = pipeline.certify(GREY, n=100)
        assert Counter(certificate.counts.counts) == Counter((100, 0, 0))


class TestPlanAndChannels:
    def test_a_plan_beside_n_is_refused(self) -> None:
        smoothed = SmoothedClassifier(nn.Flatten(), 0.5, device="cpu")
        with pytest.raises(SettingError, match=r"a plan or n0 and n, not both; got .*'n': 5"):
            smoothed.certify(np.zeros((1, 2, 2), np.float32), n=5, plan=FixedBudget(1, 2))

    def test_a_denoiser_for_other_channels_is_refused(self) -> None:
        grey = ImageClassifier(nn.Flatten(), mean=[0.5], std=[0.5])
        with pytest.raises(SettingError, match="of 1 channels, the denoiser of 3; take"):
            SmoothedClassifier(grey, 0.5, UNet(image_channels=3, width=4), device="cpu")
        smoothed = SmoothedClassifier(nn.Flatten(), 0.5, UNet(3, width=4), device="cpu")
        with pytest.raises(ImageError, match="is grey, but the classifier takes RGB"):
            smoothed.certify(np.zeros((1, 8, 8), np.float32), n=5)
