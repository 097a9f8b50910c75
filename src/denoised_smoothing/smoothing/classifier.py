"""The smoothed classifier: predictions and certificates from an existing classifier."""

from __future__ import annotations

import secrets
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from denoised_smoothing import images as image_forms
from denoised_smoothing.certificates.certificate import Certificate, SamplingPlan
from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.certificates.parameters import (
    EngineName,
    Noise,
    Precision,
    SmoothingParameters,
    choose_by_name,
)
from denoised_smoothing.certificates.plans import plan_or_budget
from denoised_smoothing.certificates.prediction import Prediction, PredictionBudget
from denoised_smoothing.certificates.radii import check_sigma
from denoised_smoothing.engines import EngineChoice, PassThrough
from denoised_smoothing.engines.prepared import stated_channels
from denoised_smoothing.errors import SettingError
from denoised_smoothing.models.denoisers import check_size
from denoised_smoothing.models.fingerprints import fingerprint
from denoised_smoothing.models.protocols import Classifier
from denoised_smoothing.noise import chunk_size, noisy_copies
from denoised_smoothing.remote.protocol import CopyClassifier
from denoised_smoothing.smoothing.bundle import open_bundle, save_bundle, shape_of
from denoised_smoothing.smoothing.bundle_file import Bundle
from denoised_smoothing.smoothing.cluster import RayBackend, RayCluster, worker_device
from denoised_smoothing.smoothing.devices import Devices, choose_devices
from denoised_smoothing.smoothing.query_scheduler import count_by_queries
from denoised_smoothing.smoothing.scheduler import (
    CopyRange,
    ImageTask,
    Targets,
    same_shape,
    schedule_batches,
)
from denoised_smoothing.smoothing.votes import VoteCounter


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
        device: ``auto``, a name that torch knows, or several of one kind (``cuda:0,cuda:1``).
        engine: what executes denoiser and classifier: ``torch``, ``torch-compile``,
            ``openvino``, ``onnxruntime``, or ``auto`` for the fastest of those installed. Weights
            that change afterwards are seen before the next image, not during one.
        precision: ``float32``, ``bfloat16``, ``float16`` (on a GPU) or ``int8`` (openvino). The
            certificate is about the classifier as it runs, in this precision.
        calibration: images [N, C, H, W] in [0, 1], from whose noisy copies int8 takes its ranges.
        batch_size: the most noisy copies on their way at once, but at least one forward pass;
            results do not depend on it.
        cluster: whose workers count, each on ``device``; None for threads of this process.

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
        device: str | torch.device | Sequence[str | torch.device] = "auto",
        engine: EngineName | str = EngineName.TORCH,
        precision: Precision | str = Precision.FLOAT32,
        calibration: Any = None,
        batch_size: int | None = None,
        cluster: RayCluster | None = None,
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
        self.channels = stated_channels(classifier, denoiser)
        self.resolution: int | None = getattr(classifier, "resolution", None)
        # Of a classifier behind a wire, the engine executes all that is on this side of it.
        remote = isinstance(classifier, CopyClassifier)
        what = (
            PassThrough() if remote else classifier,
            denoiser,
            self.sigma,
            self.noise,
            choose_by_name(EngineName, engine, "the engine"),
            choose_by_name(Precision, precision, "the precision"),
        )
        self.execution: Devices | RayBackend
        if cluster is None:
            self.execution = Devices(*what, choose_devices(device))
        else:
            self.execution = RayBackend(*what, cluster, worker_device(device, cluster))
        if remote and (cluster is not None or len(self.execution.devices) > 1):
            raise SettingError(
                "answers of a classifier behind a wire are bought by threads of this process, in "
                "order and within one budget; leave --ray and further --devices out"
            )
        self.device = self.execution.device
        if calibration is not None:
            self.execution.calibrate(calibration)
        self.bundle: Bundle | None = None
        self._batch_size = batch_size

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
        return self._certify(batch, plan_or_budget(plan, n0, n), alpha, seed, progress)[0]

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
        return self._certify(batch, plan_or_budget(plan, n0, n), alpha, seed, progress)

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
        parameters = self._parameters(batch, alpha, seed)
        targets = partial(budget.targets, parameters=parameters)
        (task,) = self._count(batch, targets, parameters.seed, progress)
        return budget.prediction(task.counts[Stage.PREDICTION], parameters)

    def save(
        self,
        folder: str | Path,
        *,
        shape: tuple[int, int, int] | None = None,
        classifier: str | None = None,
        denoiser: str | None = None,
    ) -> None:
        """Write all that answers as a folder with checksums, a bundle: see :mod:`.bundles`.

        Args:
            folder: a new one.
            shape: of the images [C, H, W] that it is to answer; None for that of the calibration
                images, or what the classifier says of itself.
            classifier, denoiser: the specs that make them. Needed where they are callables of
                one's own and the engine is torch.

        Raises:
            SettingError: the folder exists, or a shape or spec is needed.
            ImageError: the denoiser was trained on images of another size.
        """
        shape = shape or shape_of(self.execution, self.channels, self.resolution)
        check_size(self.denoiser, *shape[1:])
        save_bundle(
            folder,
            self.execution,
            shape,
            (self.classifier, classifier),
            (self.denoiser, denoiser),
        )

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        classifier: Classifier | None = None,
        denoiser: Callable[..., Tensor] | None = None,
        device: str | torch.device = "auto",
        batch_size: int | None = None,
    ) -> SmoothedClassifier:
        """Load a bundle that :meth:`save` or the command ``bundle`` wrote, with equal counts.

        A converted bundle runs no code of its own. A torch bundle may name a factory
        (``python:MODULE:FACTORY``), which is imported and called as if its spec had been typed.

        Args:
            folder: of the bundle.
            classifier, denoiser: filled with the weights of the bundle if its files do not define
                them; omit them to make them by their specs.
            device: of torch; a converted model runs on a CPU.
            batch_size: as of the constructor.

        Raises:
            WeightsError: a file is altered or missing, of a newer format, or of other code.
            SettingError: another version of the engine is installed.
            SpecError: the spec of the classifier or the denoiser is unknown here.
        """
        opened = open_bundle(folder, classifier, denoiser)
        bundle = opened.bundle
        loaded = cls(
            opened.classifier, bundle.sigma, opened.denoiser, noise=bundle.noise,
            device="cpu" if bundle.converted else device, precision=bundle.precision,
            batch_size=batch_size,
        )  # fmt: skip
        loaded.execution.adopt(bundle.engine, bundle.forward)
        loaded.execution.fixed, loaded.bundle = opened.fixed, bundle
        loaded.resolution, loaded.channels = bundle.resolution, bundle.shape[0]
        return loaded

    def fingerprints(self) -> tuple[str, str]:
        """Of classifier and denoiser; of a bundle those of what was bundled."""
        if self.bundle is not None:
            return self.bundle.classifier_fingerprint, self.bundle.denoiser_fingerprint
        return fingerprint(self.classifier), fingerprint(self.denoiser)

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
        if isinstance(self.classifier, CopyClassifier):
            counter = VoteCounter(self.sigma, self.noise, self.device)
            with self.classifier.session() as session:
                yield from count_by_queries(
                    same_shape(first, tasks), targets, counter, self.choice(first.image), seed,
                    session, chunk=chunk_size(first.image.shape), plain=self.denoiser is None,
                    on_batch=on_batch,
                )  # fmt: skip
            return
        with self.execution.executor(first.image, seed, self._batch_size) as executor:
            yield from schedule_batches(
                same_shape(first, tasks), targets, executor,
                chunk=chunk_size(first.image.shape), on_batch=on_batch,
            )  # fmt: skip

    def count_as_they_come(
        self,
        tasks: Iterator[ImageTask | None],
        targets: Targets,
        seed: Callable[[ImageTask], int],
        *,
        on_batch: Callable[[Sequence[ImageTask]], None] | None = None,
    ) -> Iterator[ImageTask]:
        """As :meth:`count_labels`, of images that join while others are counted, all in turn.

        Args:
            tasks: the first is waited for; then None where there is none now (see
                :func:`~denoised_smoothing.smoothing.scheduler.schedule_batches`).
            targets: as of :meth:`count_labels`.
            seed: of the noise of a task.
            on_batch: as of :meth:`count_labels`.

        Raises:
            SettingError: they would be counted by a cluster.
        """
        first = next(tasks, None)
        if first is None:
            return
        if not isinstance(self.execution, Devices):
            raise SettingError("images that join are counted in this process; leave out ray")
        with self.execution.executor(first.image, seed, self._batch_size) as executor:
            yield from schedule_batches(
                same_shape(first, tasks), targets, executor,
                chunk=chunk_size(first.image.shape), in_turn=True, on_batch=on_batch,
            )  # fmt: skip

    def choice(self, image: Float[np.ndarray, "c h w"]) -> EngineChoice:
        """The engine for images of this size, and the copies of a forward pass.

        Chosen once, and again where weights have changed since.

        Raises:
            SettingError, MissingExtraError, ClassifierError: the engine is not to be had.
        """
        return self.execution.choice(image)

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
        return noisy.cpu().numpy(), self.execution.denoise(noisy).cpu().numpy()

    def labels(
        self, image: Float[np.ndarray, "c h w"], image_id: str, seed: int, count: int
    ) -> list[int | None]:
        """The labels of the copies that :meth:`copies` shows, None for no label."""
        task = ImageTask("shown", image_id, image)
        parts = [CopyRange(task, Stage.ESTIMATION, number, number + 1) for number in range(count)]
        voting = VoteCounter(self.sigma, self.noise, self.device)
        votes = voting.votes(parts, self.choice(image), seed)
        return [None if failed else counts.index(1) for counts, failed in votes]

    def _certify(
        self,
        batch: Float[np.ndarray, "b c h w"],
        plan: SamplingPlan,
        alpha: float,
        seed: int | None,
        progress: Callable[[Progress], None] | None,
    ) -> list[Certificate]:
        parameters = self._parameters(batch, alpha, seed)
        tasks = self._count(
            batch, partial(plan.targets, parameters=parameters), parameters.seed, progress
        )
        return [plan.certificate(task.counts, parameters) for task in tasks]

    def _parameters(
        self, batch: Float[np.ndarray, "b c h w"], alpha: float, seed: int | None
    ) -> SmoothingParameters:
        if self.channels is not None:
            image_forms.match_channels(batch[0], self.channels)
        check_size(self.denoiser, *batch.shape[2:])
        seed = secrets.randbits(128) if seed is None else seed
        return self.parameters(batch[0], alpha, seed)

    def parameters(
        self, image: Float[np.ndarray, "c h w"], alpha: float, seed: int
    ) -> SmoothingParameters:
        """What certificates of images of this size rest on beside the counts."""
        engine = self.choice(image).engine
        return SmoothingParameters(
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
