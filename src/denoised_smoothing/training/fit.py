"""Training of a denoiser, from its settings to its weights file."""

from __future__ import annotations

import copy
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from denoised_smoothing.errors import DatasetError, DenoisedSmoothingError, SettingError
from denoised_smoothing.models.denoisers.base import DenoiserNetwork
from denoised_smoothing.models.denoisers.files import (
    build_denoiser,
    load_denoiser_file,
    save_denoiser,
)
from denoised_smoothing.models.fingerprints import fingerprint
from denoised_smoothing.models.labels import LabelMatch
from denoised_smoothing.models.weights import weights_digest
from denoised_smoothing.training.config import Objective, Target
from denoised_smoothing.training.job import Training
from denoised_smoothing.training.lightning import DenoiserTraining

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainingJob(Training):
    """The training of a denoiser.

    Args:
        architecture: name of the denoiser's architecture.
        architecture_options: arguments of the architecture, such as ``{"width": 32}``.
        surrogates: classifiers that stability trains through, in turn.
        judges: classifiers whose accuracy validation measures, by name.
        start: a weights file of the same architecture to start from, or None. Options may
            enlarge the network (more blocks, ``levels``) if its output stays equal at first.
        half: whether to write the weights in half precision.
    """

    architecture: str
    architecture_options: Mapping[str, Any] = field(default_factory=dict)
    surrogates: Sequence[nn.Module] = ()
    judges: Mapping[str, nn.Module] = field(default_factory=dict)
    start: Path | None = None
    half: bool = False

    def target_labels(self) -> list[LabelMatch]:
        """Return the labels of the data as those of each surrogate, where stability aims at them.

        Raises:
            DatasetError, SettingError: as :meth:`Training.match`.
        """
        config = self.config
        if config.target is not Target.TRUTH or config.objective is Objective.MSE:
            return []
        return [self.match(self.dataset, surrogate) for surrogate in self.surrogates]

    def identity(self) -> dict[str, Any]:
        others = [
            {n: m for n, m in match.numbers.items() if n != m} for match in self.target_labels()
        ]
        return {
            **super().identity(),
            **({"labels": others} if any(others) else {}),
            "architecture": self.architecture,
            **{f"architecture.{name}": value for name, value in self.architecture_options.items()},
            "surrogates": [fingerprint(surrogate)[:12] for surrogate in self.surrogates],
            "start": str(self.start),
        }


def train_denoiser(
    job: TrainingJob, training: Callable[..., DenoiserTraining] = DenoiserTraining
) -> Path:
    """Train a denoiser, write its averaged weights and card, and return the file.

    Resumes from the last checkpoint in ``job.folder`` if it has the same settings. Labels of the
    data are matched with those of each classifier; a note is logged where they are compared by
    number.

    Args:
        training: the Lightning module's class, such as one with another objective.

    Raises:
        SettingError: stability has no classifier or no labels; labels are given and none are
            compared; the start or a classifier is for other channels; options change the output of
            the start; or as :meth:`Training.fit`.
        DatasetError: a class of the data matches no label, or several, of a classifier whose
            answers are compared with the labels.
        TrainingError: as :meth:`Training.fit`.
    """
    if job.config.objective is not Objective.MSE and not job.surrogates:
        raise SettingError(
            f"objective {job.config.objective} needs at least one classifier, got none. Name the "
            "classifier (white box) or surrogates (black box)."
        )
    if job.config.target is Target.TRUTH and any(x is None or x < 0 for x in job.dataset.labels):
        raise SettingError(
            f"target truth needs a label for every image, got images without in "
            f"{job.dataset.name!r}. Use target soft or label."
        )
    for classifier in (*job.surrogates, *job.judges.values()):
        _check_channels(job, "a classifier", getattr(classifier, "channels", None))
    if job.half and job.architecture == "diffusion":
        raise SettingError(
            "diffusers saves diffusion models in full precision, got half. Omit half (--half)."
        )
    targets = job.target_labels()
    if job.labels and not (targets or job.judges):
        raise SettingError(
            f"labels (--labels) are for classifiers whose answers are compared with the data, got "
            f"{len(job.labels)} and none. Use target truth, name a judge (--judge), or omit the "
            "labels."
        )
    judged = _judged(job)
    for text in dict.fromkeys(match.note for match in (*targets, *judged.values())):
        if text:
            _log.warning("note: %s", text)
    network = _network(job)
    about = _about(job, network.card)
    judges = {name: _at_scale(job, job.judges[name]) for name in judged}
    surrogates = [_at_scale(job, surrogate) for surrogate in job.surrogates]
    module = training(
        network, job.config, surrogates, judges, target_labels=targets, validation_labels=judged
    )
    _check_features(job, module)
    return job.fit(
        module,
        lambda card: save_denoiser(
            job.output,
            module.averaged,
            job.architecture,
            {**about, **card},
            half=job.half,
        ),
    )


def _judged(job: TrainingJob) -> dict[str, LabelMatch]:
    """Return the labels of validation as those of each judge.

    A surrogate that lacks them is no judge, as stability may train through any classifier.
    """
    judged = {}
    for name, judge in job.judges.items():
        try:
            judged[name] = job.match(job.validation_images, judge)
        except (DatasetError, SettingError) as error:
            if judge not in job.surrogates:
                raise
            _log.warning("note: The accuracy of %s is not measured. %s", name, error)
    return judged


def _about(job: TrainingJob, before: Mapping[str, str]) -> dict[str, str]:
    """Return the entries of a denoiser's card; ``before`` is the card of the start."""
    low, high = job.config.sigma_range
    history: list[str] = []
    if job.start is not None:
        history = [*json.loads(before.get("history", "[]")), before.get("command", "")]
    return {
        "sigma_min": str(low),
        "sigma_max": str(high),
        "objective": job.config.objective.value,
        "image_channels": str(job.preparation.channels),
        "start": "" if job.start is None else job.start.name,
        "history": json.dumps(history),
        "surrogates": json.dumps([weights_digest(surrogate) for surrogate in job.surrogates]),
    }


def _at_scale(job: TrainingJob, classifier: nn.Module) -> nn.Module:
    """Return the classifier for parts of images: without its resize, which would enlarge them.

    A denoiser that is trained on enlarged crops serves enlarged images. A network that takes one
    size only is returned unchanged.
    """
    crop = job.preparation.crop
    if crop is None or getattr(classifier, "resize", None) is None:
        return classifier
    if crop >= (job.preparation.resolution or min(job.dataset[0].image.shape[1:])):
        return classifier  # the crops are whole images
    plain = copy.deepcopy(classifier).eval()
    plain.resize = None  # type: ignore[assignment]
    place = next(plain.parameters(), torch.empty(0)).device
    try:
        with torch.no_grad():
            plain(torch.zeros(1, job.preparation.channels, crop, crop, device=place))
    except Exception:  # a network may raise anything
        _log.warning(
            "note: A classifier takes images of one size only, so that crops of %d pixels are "
            "enlarged for it. Train on whole images (--resolution) to serve them.", crop,
        )  # fmt: skip
        return classifier
    return plain


def _check_features(job: TrainingJob, module: DenoiserTraining) -> None:
    """Compute the features of one image, so that layers are chosen and known before the training.

    Raises:
        SettingError: the classifier has no such layers.
    """
    if job.config.objective is Objective.MSE:
        return
    preparation = job.preparation
    size = preparation.crop or preparation.resolution
    sides = (size, size) if size else job.dataset[0].image.shape[1:]
    for features in module.features:
        place = next(features.classifier.parameters(), torch.empty(0)).device
        features(torch.full((1, preparation.channels, *sides), 0.5, device=place))
        if not job.config.layers:
            _log.warning("note: features of the layers %s", ", ".join(features.names))


def _check_channels(job: TrainingJob, what: str, channels: int | None) -> None:
    if channels in (1, 3) and channels != job.preparation.channels:
        raise SettingError(
            f"{what} must be for images of {job.preparation.channels} channels, as in "
            f"{job.dataset.name!r}, got {channels}. Use one for such images."
        )


def _network(job: TrainingJob) -> DenoiserNetwork:
    if job.start is not None:
        denoiser = load_denoiser_file(job.start, job.architecture)
        _check_channels(job, str(job.start), denoiser.config["image_channels"])
        if {**denoiser.config, **job.architecture_options} != denoiser.config:
            denoiser = _enlarged(job, denoiser)
        return denoiser.train()
    return _new(job, image_channels=job.preparation.channels, **job.architecture_options)


def _new(job: TrainingJob, **options: Any) -> DenoiserNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(job.config.seed)
        return build_denoiser(job.architecture, **options)


def _enlarged(job: TrainingJob, start: DenoiserNetwork) -> DenoiserNetwork:
    """Return the larger network of the job's options, with the weights of ``start``.

    Chen et al. 2016 (Net2Net, section 2): new parts add 0 until they are trained.
    """
    larger = _new(job, **{**start.config, **job.architecture_options}).eval()
    shape = (1, start.config["image_channels"], 32, 32)
    probe = torch.linspace(0, 1, math.prod(shape)).reshape(shape)
    try:
        unknown = larger.load_state_dict(start.state_dict(), strict=False).unexpected_keys
        with torch.no_grad():
            same = not unknown and all(
                torch.allclose(larger(probe, sigma), start(probe, sigma), atol=1e-5)
                for sigma in job.config.sigma_range
            )
    except (RuntimeError, DenoisedSmoothingError):  # other sizes of weights or images
        same = False
    if not same:
        raise SettingError(
            f"options must not change the output of {job.start}, a {job.architecture} with "
            f"{start.config}, got {dict(job.architecture_options)}. Omit them, or only add "
            "residual blocks or levels to a unet."
        )
    larger.card = start.card
    return larger
