"""The smoothed classifier: predictions and certificates from an existing classifier."""

from __future__ import annotations

import secrets
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from denoised_smoothing import images as image_forms
from denoised_smoothing.certificates.certificate import Certificate, SamplingPlan
from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.certificates.plans import FixedBudget
from denoised_smoothing.certificates.prediction import Prediction, PredictionBudget
from denoised_smoothing.certificates.radii import check_sigma
from denoised_smoothing.certificates.setting import (
    EngineName,
    Noise,
    Precision,
    Setting,
    choose_by_name,
)
from denoised_smoothing.denoisers import DenoiserNetwork, as_denoiser, check_size
from denoised_smoothing.engines import (
    Choice,
    Engine,
    Pipeline,
    Request,
    choose_device,
    choose_engine,
    limit_threads,
)
from denoised_smoothing.errors import ClassifierError, ImageError, SettingError
from denoised_smoothing.interfaces import Classifier
from denoised_smoothing.noise import chunk_size, noisy_copies
from denoised_smoothing.scheduling import ImageTask, Part, Targets, spend
from denoised_smoothing.voting import Drafting, MajorityVote

CALIBRATION_SEED = 0
"""Of the copies on which engines are checked, measured and calibrated. Their image id is their
own, so that no certificate counts them whatever its seed."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a count is: images finished and in all, copies counted, seconds since its start."""

    images_done: int
    images: int
    calls: int
    seconds: float


class SmoothedClassifier:
    """A base classifier, wrapped in Gaussian noise and a denoiser, that proves its answers.

    Cohen et al. 2019 with the denoiser of Salman et al. 2020: g(x) is the label that the base
    classifier, behind the denoiser, gives most often to x plus noise.

    Args:
        classifier: any callable from images [B, C, H, W], around [0, 1], to logits [B, K] or
            labels [B] (-1 for no label). A module is put into evaluation mode.
        sigma: standard deviation of the noise in pixel values in [0, 1], above 0.
        denoiser: (noisy [B, C, H, W], sigma) or (noisy) to denoised images, or None.
        noise: the sampler of the noisy copies. ``grid`` certifies images on the 8-bit grid k/255,
            to which others are rounded first, with a warning; its proof holds in floating
            point. ``float`` takes any image, and its proof is for real numbers only.
        device: ``auto``, or a name that torch knows.
        engine: what executes denoiser and classifier: ``torch``, ``torch-compile``,
            ``openvino``, ``onnxruntime``, or ``auto`` for the fastest of those installed. Weights
            that change afterwards are seen before the next image, not during one.
        precision: ``float32``, ``bfloat16``, ``float16`` (on a GPU) or ``int8`` (openvino). The
            certificate is about the classifier as it runs, in this precision.
        calibration: images [N, C, H, W] in [0, 1], from whose noisy copies int8 takes its ranges.
        batch_size: the most noisy copies on their way at once, but at least one forward pass;
            results do not depend on it.

    Raises:
        SettingError: sigma, noise or batch_size is out of range, the device is not there,
            or classifier and denoiser are for images of different channels.
    """

    def __init__(
        self,
        classifier: Classifier,
        sigma: float,
        denoiser: Callable[..., Tensor] | None = None,
        *,
        noise: Noise | str = Noise.GRID,
        device: str | torch.device = "auto",
        engine: EngineName | str = EngineName.TORCH,
        precision: Precision | str = Precision.FLOAT32,
        calibration: Any = None,
        batch_size: int | None = None,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise SettingError(f"batch_size must be at least 1, got {batch_size}")
        if not callable(classifier):
            raise SettingError(
                f"the classifier must be callable, images to logits or labels, "
                f"got {type(classifier).__name__}"
            )
        self.sigma, self.noise = check_sigma(sigma), choose_by_name(Noise, noise, "noise")
        self.classifier = classifier
        self.denoiser = denoiser
        self.channels = _channels(classifier, denoiser)
        self.resolution: int | None = getattr(classifier, "resolution", None)
        self.device = choose_device(device)
        self.engine = choose_by_name(EngineName, engine, "the engine")
        self.precision = choose_by_name(Precision, precision, "the precision")
        self.calibration = None if calibration is None else image_forms.as_images(calibration)
        front = None if denoiser is None else as_denoiser(denoiser)
        self._pipeline = self._shown = Pipeline(classifier, front, sigma, self.device)
        if isinstance(denoiser, Drafting) and denoiser.votes > 1:
            vote = MajorityVote(classifier, denoiser, sigma)
            self._pipeline = Pipeline(vote, None, sigma, self.device)
        self._batch_size = batch_size
        self._forward: int | None = None
        self._choices: dict[tuple[int, ...], tuple[object, Choice]] = {}
        self._alone = threading.Lock()
        self._form: str | None = None
        self._classes = 0

    def certify(
        self,
        image: Any,
        *,
        n0: int | None = None,
        n: int | None = None,
        alpha: float = 0.001,
        plan: SamplingPlan | None = None,
        seed: int | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> Certificate:
        """The label of an image and the radius within which it provably does not change.

        CERTIFY of Cohen et al. 2019, section 3.2.2.

        Args:
            image: tensor or array [C, H, W] in [0, 1], or a PIL image.
            n0: noisy copies that choose the candidate class, 100 by default.
            n: noisy copies that bound its probability, 10,000 by default.
            alpha: probability, over the noise, that the certificate is wrong.
            plan: how many copies to draw, instead of n0 and n.
            seed: of the noise; None for fresh entropy of the operating system, recorded.
            progress: called after each batch.

        Returns:
            The certificate; its label is None where nothing can be proven.

        Raises:
            ImageError, SettingError: bad input, before any work is done.
            ClassifierError: the classifier or denoiser gave an unusable answer.
        """
        batch = self._on_grid(image_forms.as_image(image)[None])
        return self._certify(batch, _plan(plan, n0, n), alpha, seed, progress)[0]

    def certify_batch(
        self,
        images: Any,
        *,
        n0: int | None = None,
        n: int | None = None,
        alpha: float = 0.001,
        plan: SamplingPlan | None = None,
        seed: int | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> list[Certificate]:
        """One certificate for each of the images [B, C, H, W]; see :meth:`certify`.

        Copies of several images share a batch. Each certificate holds with probability
        1 - alpha by itself, not all of them together.
        """
        batch = self._on_grid(image_forms.as_images(images))
        return self._certify(batch, _plan(plan, n0, n), alpha, seed, progress)

    def predict(
        self,
        image: Any,
        *,
        n: int = 1_000,
        alpha: float = 0.001,
        seed: int | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> Prediction:
        """The label of an image without a radius, from fewer copies.

        PREDICT of Cohen et al. 2019, section 3.2.1; arguments and errors as :meth:`certify`.
        """
        budget = PredictionBudget(n)
        batch = self._on_grid(image_forms.as_image(image)[None])
        setting = self._setting(batch, alpha, seed)
        targets = partial(budget.targets, setting=setting)
        (task,) = self._count(batch, targets, setting.seed, progress)
        return budget.prediction(task.counts[Stage.PREDICTION], setting)

    def count_labels(
        self,
        tasks: Iterable[ImageTask],
        targets: Targets,
        seed: int,
        *,
        on_batch: Callable[[Sequence[ImageTask]], None] | None = None,
    ) -> Iterator[ImageTask]:
        """Draw, classify and count noisy copies until each task has its targets.

        Votes of a copy depend on seed, image id, stage and the copy's number, not on batches.

        Args:
            tasks: images of one shape, with the counts they have already; taken when needed.
            targets: copies wanted in each stage, given the counts so far (a plan's ``targets``).
            seed: of the noise.
            on_batch: called after each batch with the tasks that it served.

        Yields:
            The tasks in the order in which they finish.
        """
        tasks = iter(tasks)
        first = next(tasks, None)
        if first is None:
            return
        choice = self.choice(first.image)
        engine, chunk = choice.engine, chunk_size(first.image.shape)
        batch = choice.forward * -(-chunk // choice.forward)  # whole chunks and whole passes
        depth = 2 * engine.workers
        if self._batch_size is not None:
            depth = max(1, self._batch_size // batch)
        threads, draw = torch.get_num_threads(), partial(self._draw, choice=choice, seed=seed)
        pool = ThreadPoolExecutor(engine.workers, initializer=partial(limit_threads, engine))
        try:
            yield from spend(
                _same_shape(first, tasks),
                targets,
                lambda parts: pool.submit(draw, list(parts)),
                chunk=chunk,
                batch=batch,
                busy=min(depth, engine.workers),
                depth=depth,
                on_batch=on_batch,
            )
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)

    def choice(self, image: Float[np.ndarray, "c h w"]) -> Choice:
        """The engine for images of this size, and the copies of a forward pass.

        Chosen once, and again where weights have changed since.

        Raises:
            SettingError, MissingExtraError, ClassifierError: the engine is not to be had.
        """
        state, held = self._pipeline.state(), self._choices.get(image.shape)
        if self.precision is Precision.INT8 and self.calibration is None:
            raise SettingError(
                "int8 takes its ranges from noisy copies of images like those to be certified: "
                "give some as calibration=images [N, C, H, W], on the command line --calibration"
            )
        if held is None or held[0] != state:
            request = Request(self.engine, self.precision, self.device, self._forward)
            choice = choose_engine(self._pipeline, request, partial(self._sample, image))
            held = self._choices[image.shape] = (state, choice)
        return held[1]

    def adopt(self, engine: EngineName, forward: int) -> None:
        """Execute as counts were executed that others shall be added to."""
        self.engine, self._forward = engine, forward
        self._choices.clear()

    def execution(self, image: Float[np.ndarray, "c h w"]) -> dict[str, Any]:
        """What executes images of this size, as far as counts depend on it: plain values."""
        choice = self.choice(image)
        held = {"forward_shape": [choice.forward, *image.shape], **choice.engine.identity()}
        if self.calibration is not None and self.precision is Precision.INT8:
            held["calibration"] = image_forms.digest(self.calibration)
        return held

    def prepare(
        self,
        image: Float[np.ndarray, "c h w"],
        resolution: int | None = None,
        *,
        name: str = "the image",
    ) -> Float[np.ndarray, "c i j"]:
        """The image as it is certified: at ``resolution`` pixels, on the 8-bit grid.

        Without ``resolution`` at the classifier's own, or as it is. Radii are in these pixels.

        Raises:
            ImageError: it has other channels than the classifier takes, or another size than
                the denoiser was trained on.
            SettingError: the resolution is below 2.
        """
        if self.channels is not None:
            image = image_forms.match_channels(image, self.channels, name=name)
        side = self.resolution if resolution is None else resolution
        image = image if side is None else image_forms.resize(image, side)
        check_size(self.denoiser, *image.shape[1:])
        return image_forms.to_grid(image)

    def forward_size(self, image: Float[np.ndarray, "c h w"]) -> int:
        """Copies in a forward pass for images of this size."""
        return self.choice(image).forward

    def copies(
        self, image: Float[np.ndarray, "c h w"], image_id: str, seed: int, count: int
    ) -> tuple[Float[np.ndarray, "n c h w"], Float[np.ndarray, "n c h w"]]:
        """The first noisy copies of the estimation stage and what the classifier sees of them."""
        source = torch.tensor(image, device=self.device)
        noisy = noisy_copies(
            source, self.sigma, noise=self.noise, seed=seed, image_id=image_id,
            stage=Stage.ESTIMATION, start=0, stop=count,
        )  # fmt: skip
        with torch.inference_mode():
            denoised = self._shown.denoise(noisy)
        return noisy.cpu().numpy(), denoised.cpu().numpy()

    def _certify(
        self,
        batch: Float[np.ndarray, "b c h w"],
        plan: SamplingPlan,
        alpha: float,
        seed: int | None,
        progress: Callable[[Progress], None] | None,
    ) -> list[Certificate]:
        setting = self._setting(batch, alpha, seed)
        tasks = self._count(batch, partial(plan.targets, setting=setting), setting.seed, progress)
        return [plan.certificate(task.counts, setting) for task in tasks]

    def _setting(
        self, batch: Float[np.ndarray, "b c h w"], alpha: float, seed: int | None
    ) -> Setting:
        if self.channels is not None:
            image_forms.match_channels(batch[0], self.channels)
        check_size(self.denoiser, *batch.shape[2:])
        seed = secrets.randbits(128) if seed is None else seed
        return self.setting(batch[0], alpha, seed)

    def setting(self, image: Float[np.ndarray, "c h w"], alpha: float, seed: int) -> Setting:
        """What certificates of images of this size rest on beside the counts."""
        engine = self.choice(image).engine
        return Setting(
            self.sigma, alpha, image.size, seed, self.noise,
            engine.name, engine.precision,
        )  # fmt: skip

    def _on_grid(self, batch: Float[np.ndarray, "b c h w"]) -> Float[np.ndarray, "b c h w"]:
        """The batch as grid noise takes it."""
        if self.noise is Noise.FLOAT or image_forms.is_on_grid(batch):
            return batch
        warnings.warn(
            "the image is not on the 8-bit grid k/255 and was rounded to it first: what is "
            "certified is the rounded image, against changes to other images on the grid; "
            "give 8-bit images, or noise='float', whose proof is for real numbers only",
            stacklevel=3,
        )
        return image_forms.to_grid(batch)

    def _count(
        self,
        batch: Float[np.ndarray, "b c h w"],
        targets: Targets,
        seed: int,
        progress: Callable[[Progress], None] | None,
    ) -> list[ImageTask]:
        """Count all images; noise is keyed by what the image shows, so it moves with it."""
        tasks = [ImageTask(f"seed {seed}", image_forms.digest(image), image) for image in batch]
        began, done = time.perf_counter(), 0

        def report(_: Sequence[ImageTask] = ()) -> None:
            if progress is not None:
                calls = sum(task.calls for task in tasks)
                progress(Progress(done, len(tasks), calls, time.perf_counter() - began))

        for _task in self.count_labels(tasks, targets, seed, on_batch=report):
            done += 1
        report()
        return tasks

    def _sample(self, image: Float[np.ndarray, "c h w"], count: int) -> Float[Tensor, "n c h w"]:
        """Noisy copies to prepare an engine with, of the calibration images or else of this one."""
        images = image[None] if self.calibration is None else self.calibration
        if images.shape[1:] != image.shape:
            raise SettingError(
                f"the calibration images have shape {list(images.shape[1:])}, those to certify "
                f"{list(image.shape)}; bring them to one size"
            )
        each = -(-count // len(images))
        drawn = [
            noisy_copies(
                torch.tensor(pixels, device=self.device), self.sigma, noise=self.noise,
                seed=CALIBRATION_SEED, image_id=f"calibration {number}",
                stage=Stage.SELECTION, start=0, stop=each,
            )
            for number, pixels in enumerate(images)
        ]  # fmt: skip
        return torch.stack(drawn, dim=1).flatten(0, 1)[:count]  # some of each image

    def _draw(
        self, parts: Sequence[Part], choice: Choice, seed: int
    ) -> list[tuple[list[int], int]]:
        """The votes of each part; they leave the device once, as one small table."""
        copies = torch.cat([self._noisy(part, seed) for part in parts])
        padding = copies.new_zeros(-len(copies) % choice.forward, *copies.shape[1:])
        pieces = torch.split(torch.cat([copies, padding]), choice.forward)
        labels = torch.cat([self._labels(self._answer(choice.engine, piece)) for piece in pieces])
        labels = labels[: len(copies)]
        columns = 2 + (self._classes or max(int(labels.max()) + 1, 1))
        sizes = torch.tensor([part.size for part in parts], device=labels.device)
        rows = torch.repeat_interleave(torch.arange(len(parts), device=labels.device), sizes)
        cells = rows * columns + labels + 2
        table = torch.bincount(cells, minlength=len(parts) * columns).reshape(-1, columns).tolist()
        for part, (invalid, *_) in zip(parts, table, strict=True):
            if invalid:
                raise ClassifierError(
                    f"the classifier gave NaN logits, or a label below -1, for {invalid} of "
                    f"{part.size} noisy copies of image {part.task.image_id}; find out why "
                    "before certifying (reduced precision, a division by zero?)"
                )
        return [(votes, failed) for _, failed, *votes in table]

    def _answer(self, engine: Engine, copies: Float[Tensor, "n c h w"]) -> Num[Tensor, "n ..."]:
        """The engine's answer; where memory does not hold all threads' copies, one at a time."""
        try:
            return engine.answer(copies)
        except torch.OutOfMemoryError:
            pass
        with self._alone:
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            try:
                return engine.answer(copies)
            except torch.OutOfMemoryError as error:
                raise ClassifierError(
                    f"the memory of {self.device} does not hold {len(copies)} images of shape "
                    f"{list(copies.shape[1:])} any more: {error}; what was counted is kept: free "
                    "memory, or take a device with more of it, and go on"
                ) from error

    def _noisy(self, part: Part, seed: int) -> Float[Tensor, "n c h w"]:
        image = torch.tensor(part.task.image, device=self.device)  # may be a read-only array
        return noisy_copies(
            image, self.sigma, noise=self.noise, seed=seed, image_id=part.task.image_id,
            stage=part.stage, start=part.start, stop=part.stop,
        )  # fmt: skip

    def _labels(self, answer: Num[Tensor, "n ..."]) -> Int[Tensor, " n"]:
        """One label a copy: -1 for no class, -2 for an answer that is none."""
        labels = answer.ndim == 1
        if labels and answer.is_floating_point():
            raise ClassifierError(
                f"the classifier answered one {answer.dtype} an image; expected logits "
                "[B, K], or labels [B] of an integer type"
            )
        classes = 0 if labels else answer.shape[1]
        form = "labels" if labels else f"logits of {classes} classes"
        if form != (self._form or form) or not (labels or classes > 1):
            expected = f"{self._form}, as before" if self._form else "at least 2 classes"
            raise ClassifierError(f"the classifier answered with {form}; expected {expected}")
        self._form, self._classes = form, classes
        if labels:
            return answer.long().clamp_min(-2)
        return torch.where(answer.isnan().any(dim=1), -2, answer.argmax(dim=1))


def _plan(plan: SamplingPlan | None, n0: int | None, n: int | None) -> SamplingPlan:
    given: dict[str, Any] = {
        name: value for name, value in (("n0", n0), ("n", n)) if value is not None
    }
    if plan is not None and given:
        raise SettingError(f"give a plan or n0 and n, not both; got {plan} and {given}")
    return plan or FixedBudget(**given)


def _channels(classifier: object, denoiser: object) -> int | None:
    """The channels of the images, where classifier or denoiser say so."""
    stated = {
        "classifier": getattr(classifier, "channels", None),
        "denoiser": isinstance(denoiser, DenoiserNetwork) and denoiser.config["image_channels"],
    }
    # A network's own attribute of that name may be something else.
    known = {role: channels for role, channels in stated.items() if channels in (1, 3)}
    if len(set(known.values())) > 1:
        raise SettingError(
            f"the classifier takes images of {known['classifier']} channels, the denoiser of "
            f"{known['denoiser']}; take a denoiser that was trained on such images"
        )
    return next(iter(known.values()), None)


def _same_shape(first: ImageTask, rest: Iterable[ImageTask]) -> Iterator[ImageTask]:
    """All tasks, refusing one that would not fit into a batch with the first."""
    for task in chain([first], rest):
        if task.image.shape != first.image.shape:
            raise ImageError(
                f"image {task.image_id} has shape {list(task.image.shape)}, the first one "
                f"{list(first.image.shape)}; bring them to one size (a resolution)"
            )
        yield task
