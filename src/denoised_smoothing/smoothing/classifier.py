"""The smoothed classifier: predictions and certificates from an existing classifier."""

from __future__ import annotations

import secrets
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from denoised_smoothing import images as image_forms
from denoised_smoothing.certificates.bounds import check_alpha
from denoised_smoothing.certificates.certificate import Certificate, SamplingPlan
from denoised_smoothing.certificates.counts import Stage
from denoised_smoothing.certificates.identity import Identity
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
from denoised_smoothing.engines.choice import EngineChoice
from denoised_smoothing.engines.pipeline import PassThrough
from denoised_smoothing.engines.prepared import PreparedPipeline, check_shape, stated_channels
from denoised_smoothing.errors import SettingError
from denoised_smoothing.models.denoisers.trained_range import range_notes
from denoised_smoothing.models.protocols import Classifier
from denoised_smoothing.models.specs import spec_of
from denoised_smoothing.noise import chunk_size, stream_of
from denoised_smoothing.remote.protocol import CopyClassifier
from denoised_smoothing.smoothing.bundle import open_bundle, save_bundle, shape_of
from denoised_smoothing.smoothing.cluster import RayBackend, RayCluster
from denoised_smoothing.smoothing.devices import Devices, check_alone, choose_devices
from denoised_smoothing.smoothing.model_identity import ModelIdentity
from denoised_smoothing.smoothing.query_scheduler import count_by_queries
from denoised_smoothing.smoothing.scheduler import ImageTask, Progress, Targets, schedule_batches
from denoised_smoothing.smoothing.votes import Seed, VoteCounter

Image = Float[np.ndarray, "c h w"]


class SmoothedClassifier:
    """A base classifier, wrapped in Gaussian noise and a denoiser, with certified answers.

    Cohen et al. 2019 with the denoiser of Salman et al. 2020: g(x) is the label that the base
    classifier, behind the denoiser, most probably gives to x plus Gaussian noise, rounded to
    steps of 1/255. Images are rounded only after the noise, so x is any image.

    Args:
        classifier: any callable from images [B, C, H, W], around [0, 1], to logits [B, K] or
            labels [B] (-1 for no label). A module is put into evaluation mode.
        sigma: standard deviation of the noise in pixel values in [0, 1], above 0.
        denoiser: (noisy [B, C, H, W], sigma) or (noisy) to denoised images, or None.
        noise: the sampler of the noisy copies. ``grid`` rounds copies to 8 bits, and its proof
            holds in floating point. ``float`` does not, and its proof is for real numbers only.
        device: ``auto``, a name that torch knows, or several of one kind (``cuda:0,cuda:1``).
        engine: executes denoiser and classifier: ``torch``, ``torch-compile``, ``openvino``,
            ``onnxruntime``, or ``auto`` for the fastest of those installed. Weights that change
            later count from the next image on.
        precision: ``float32``, ``bfloat16``, ``float16`` (on a GPU) or ``int8`` (openvino). The
            certificate is about the classifier as it runs, in this precision.
        calibration: images [N, C, H, W] in [0, 1], from whose noisy copies int8 takes its ranges.
        batch_size: maximum number of noisy copies in flight, but at least one forward pass.
            Does not change the results.
        cluster: whose workers count, each on ``device``; None for threads of this process.
        stochastic: allow answers that are random by intention. Counts then do not repeat.

    Raises:
        SettingError: sigma, noise or batch_size is out of range, the device is not available,
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
        stochastic: bool = False,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise SettingError(f"batch_size must be at least 1, got {batch_size}")
        if not callable(classifier):
            raise SettingError(
                f"The classifier must be callable, got {type(classifier).__name__}. "
                "Use a function or module from images to logits or labels."
            )
        self.sigma, self.noise = check_sigma(sigma), choose_by_name(Noise, noise, "noise")
        self.classifier, self.denoiser = classifier, denoiser
        self.notes = range_notes(denoiser, self.sigma)
        """Sentences for the readers of its certificates."""
        for text in self.notes:
            warnings.warn(text, stacklevel=2)
        self.channels = stated_channels(classifier, denoiser)
        self.resolution: int | None = getattr(classifier, "resolution", None)
        self.is_remote = isinstance(classifier, CopyClassifier)
        devices = choose_devices(device if cluster is None else "cpu")
        check_alone(cluster is not None or len(devices) > 1, self.is_remote, stochastic)
        if self.is_remote and denoiser is None:  # so that any machine draws the same copies
            devices = [torch.device("cpu")]
        self.device = devices[0]
        # Queries of a remote classifier take the output of the engine as their images.
        self.prepared = PreparedPipeline(
            PassThrough() if self.is_remote else classifier, denoiser, self.sigma, self.noise,
            choose_by_name(EngineName, engine, "the engine"),
            choose_by_name(Precision, precision, "the precision"), self.device,
            stochastic=stochastic,
        )  # fmt: skip
        self.backend = (
            Devices(self.prepared, devices)
            if cluster is None
            else RayBackend(self.prepared, cluster, device)
        )
        if calibration is not None:
            self.prepared.calibrate(calibration)
        self._batch_size = batch_size
        self.models = ModelIdentity(classifier, denoiser, self.prepared)
        self.models.noise_stream = stream_of(self.device, self.noise) if cluster is None else None
        """Its specs and fingerprints, and the bundle from which it was loaded, if any."""

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
        """Return the label of an image and the radius within which it provably does not change.

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
            ClassifierError: an answer is unusable, or depends on more than its noisy copy.
        """
        plan = plan_or_budget(plan, n0, n)
        batch = image_forms.as_image(image)[None]
        (task,), parameters = self._count(batch, plan.targets, alpha, seed, progress)
        return self._certificate(plan, task, parameters)

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
        """Return one certificate for each of the images [B, C, H, W]; see :meth:`certify`.

        Each holds with probability 1 - alpha by itself, not all of them together.
        """
        plan = plan_or_budget(plan, n0, n)
        batch = image_forms.as_images(images)
        tasks, parameters = self._count(batch, plan.targets, alpha, seed, progress)
        return [self._certificate(plan, task, parameters) for task in tasks]

    def predict(
        self,
        image: Any,
        *,
        n: int = 1_000,
        alpha: float = 0.001,
        seed: int | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> Prediction:
        """Return the label of an image without a radius, from fewer copies.

        PREDICT of Cohen et al. 2019, section 3.2.1; arguments and errors as :meth:`certify`.
        """
        budget = PredictionBudget(n)
        batch = image_forms.as_image(image)[None]
        (task,), parameters = self._count(batch, budget.targets, alpha, seed, progress)
        return budget.prediction(task.counts[Stage.PREDICTION], parameters)

    def save(
        self,
        folder: str | Path,
        *,
        shape: tuple[int, int, int] | None = None,
        classifier: str | None = None,
        denoiser: str | None = None,
    ) -> None:
        """Export a bundle: a folder with the whole pipeline and checksums; see :mod:`.bundle`.

        Args:
            folder: a new one.
            shape: of the images [C, H, W]; None for that of the calibration images, or what the
                classifier states.
            classifier, denoiser: the specs that make them, if no spec loaded them. Needed for
                your own code in torch.

        Raises:
            SettingError: the folder exists, or a shape or spec is needed.
            ImageError: the denoiser was trained on images of another size.
        """
        shape = shape or shape_of(self.prepared, self.channels, self.resolution)
        check_shape(shape, self.channels, self.denoiser)
        self.models.prepare()
        made = (self.classifier, classifier or spec_of(self.classifier))
        front = (self.denoiser, denoiser or spec_of(self.denoiser))
        save_bundle(folder, self.prepared, shape, made, front)

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

        A bundle runs no code. A torch bundle whose spec does, such as ``python:MODULE:FACTORY``,
        needs the object that you make.

        Args:
            classifier, denoiser: filled with the bundle's weights if its files do not define them;
                omit them to make them by specs that choose no code.
            device, batch_size: as of the constructor; a converted model runs on a CPU.

        Raises:
            WeightsError: a file or a value is not as expected, or the format or code differs.
            SettingError: another version of the engine is installed.
            SpecError: the spec of a part is unknown here, or runs code or sends queries.
        """
        bundle, classifier, denoiser, engine = open_bundle(folder, classifier, denoiser)
        loaded = cls(
            classifier, bundle.sigma, denoiser, noise=bundle.noise,
            device="cpu" if bundle.converted else device, precision=bundle.precision,
            batch_size=batch_size, stochastic=bundle.stochastic,
        )  # fmt: skip
        choice = None if engine is None else EngineChoice(engine, bundle.forward)
        loaded.prepared.use_engine(bundle.engine, bundle.forward)
        loaded.prepared.use_bundle(bundle.shape, bundle.calibration, choice)
        loaded.models.bundle, loaded.channels, loaded.notes = bundle, bundle.shape[0], bundle.notes
        loaded.resolution = bundle.resolution
        return loaded

    def fingerprints(self) -> tuple[str, str]:
        """Return those of classifier and denoiser, or those recorded in the bundle."""
        return self.models.fingerprints()

    def identity(self, image: Image, sha256: str | None = None) -> Identity:
        """Return what certificates of an image are about; ``sha256`` is its digest, if known."""
        return self.models.of(image, self.resolution, sha256)

    def count_labels(
        self,
        tasks: Iterable[ImageTask | None],
        targets: Targets,
        seed: Seed,
        *,
        in_turn: bool = False,
        on_batch: Callable[[Sequence[ImageTask]], None] | None = None,
        choice: EngineChoice | None = None,
    ) -> Iterator[ImageTask]:
        """Count noisy copies until each task has its targets; yield tasks as they finish.

        Votes of a copy depend on seed, image id, stage and the copy's number, not on batches.

        Args:
            tasks: images of one shape, with their counts so far; taken when needed.
            targets: those of a plan.
            seed: of the noise, or from a task to its seed.
            in_turn: all tasks get copies in turn, and more may join: None says that there is none
                now (see :func:`~denoised_smoothing.smoothing.scheduler.schedule_batches`).
            on_batch: called after each batch with the tasks that it served.
            choice: the engine for these images; None to ask for it, if one is used.

        Raises:
            SettingError: a cluster cannot count images of several seeds.
        """
        tasks = iter(tasks)
        first = next(tasks, None)
        if first is None:
            return
        tasks, chunk = chain([first], tasks), chunk_size(first.image.shape)
        choice = choice or self.prepared.engine_if_used(first.image)
        if not isinstance(self.classifier, CopyClassifier):
            with self.backend.runner(first.image, seed, self._batch_size, choice) as runner:
                yield from schedule_batches(
                    tasks, targets, runner, chunk=chunk, in_turn=in_turn, on_batch=on_batch
                )
            return
        with self.classifier.session() as session:
            yield from count_by_queries(
                filter(None, tasks), targets, VoteCounter(self.prepared), choice, seed, session,
                chunk=chunk, on_batch=on_batch,
            )  # fmt: skip

    def prepare(
        self, image: Image, resolution: int | None = None, *, name: str = "the image"
    ) -> Float[np.ndarray, "c i j"]:
        """Return the image as it is certified: at ``resolution`` pixels, on the 8-bit grid.

        Without ``resolution`` at that of the classifier, or as it is. Radii are in these pixels.

        Raises:
            ImageError: it has other channels than the classifier takes, or another size than
                the denoiser was trained on.
            SettingError: the resolution is below 2.
        """
        shape = self.prepared_shape(image.shape, resolution, name=name)
        image = image if image.shape == shape else image_forms.resize(image, shape[1])
        return image_forms.to_grid(image)

    def prepared_shape(
        self, shape: tuple[int, ...], resolution: int | None = None, *, name: str = "the image"
    ) -> tuple[int, int, int]:
        """Return the shape [C, H, W] that :meth:`prepare` gives an image; same errors."""
        side = self.resolution if resolution is None else resolution
        shape = shape if side is None else (shape[0], side, side)
        return check_shape(shape, self.channels, self.denoiser, name=name)

    def parameters(
        self, image: Image, alpha: float, seed: int, choice: EngineChoice | None = None
    ) -> SmoothingParameters:
        """Return what certificates of images of this size rest on besides the counts."""
        choice = choice or self.prepared.engine_if_used(image)
        name, precision = (choice.engine.name, choice.engine.precision) if choice else (None, None)
        return SmoothingParameters(
            self.sigma, alpha, image.size, seed, self.noise, name, precision,
            self.prepared.contract, self.notes,
        )  # fmt: skip

    def _certificate(
        self, plan: SamplingPlan, task: ImageTask, parameters: SmoothingParameters
    ) -> Certificate:
        """Return the certificate of an image whose id is its digest."""
        identity = self.identity(task.image, task.image_id)
        return plan.certificate(task.counts, parameters).about(identity, self.models.label_names)

    def _count(
        self,
        images: Float[np.ndarray, "b c h w"],
        targets: Callable[..., Mapping[Stage, int]],
        alpha: float,
        seed: int | None,
        progress: Callable[[Progress], None] | None,
    ) -> tuple[list[ImageTask], SmoothingParameters]:
        """Count all images. The noise is keyed by the pixels of an image, so it moves with them."""
        check_alpha(alpha)
        check_shape(images.shape[1:], self.channels, self.denoiser)
        seed = secrets.randbits(128) if seed is None else seed
        choice = self.prepared.engine_if_used(images[0], self.models.prepare())
        parameters = self.parameters(images[0], alpha, seed, choice)
        tasks = [ImageTask(f"seed {seed}", image_forms.digest(image), image) for image in images]
        began, done = time.perf_counter(), 0

        def report(_: Sequence[ImageTask] = ()) -> None:
            if progress is not None:
                calls = sum(task.calls for task in tasks)
                progress(Progress(done, len(tasks), calls, time.perf_counter() - began))

        wanted = partial(targets, parameters=parameters)
        for _ in self.count_labels(tasks, wanted, seed, on_batch=report, choice=choice):
            done += 1
        report()
        return tasks, parameters
