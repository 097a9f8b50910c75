"""The served models by name: classifiers, denoisers, noise levels and example images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np

from denoised_smoothing.certificates.parameters import EngineName
from denoised_smoothing.certificates.radii import check_sigma
from denoised_smoothing.datasets import Example, ImageDataset, load_dataset
from denoised_smoothing.errors import (
    DatasetError,
    DenoisedSmoothingError,
    ImageError,
    SettingError,
)
from denoised_smoothing.models.catalogue import load_classifier, load_denoiser
from denoised_smoothing.models.labels import LabelMatch
from denoised_smoothing.runs.labels import matched
from denoised_smoothing.smoothing.classifier import SmoothedClassifier
from denoised_smoothing.smoothing.votes import shown_labels

NO_DENOISER = "none"
EXAMPLES = 24
"""Number of images of the data set that are served."""
_ROUNDS = 4

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Model:
    """A classifier with the denoisers and noise levels that fit it.

    Images are converted to its ``shape`` [C, H, W]; its examples have that shape. Of
    combinations that cannot be executed there is no smoothed classifier.
    """

    name: str
    denoisers: tuple[str, ...]
    sigmas: tuple[float, ...]
    shape: tuple[int, int, int]
    label_names: tuple[str, ...] | None
    examples: tuple[Example, ...]
    by_noise: dict[tuple[str, float], SmoothedClassifier]

    @property
    def default_denoiser(self) -> str:
        """The first denoiser, if there is one."""
        return next((name for name in self.denoisers if name != NO_DENOISER), NO_DENOISER)

    def smoothed(self, denoiser: str, sigma: float) -> SmoothedClassifier:
        """Return the smoothed classifier; raises SettingError if it is not served."""
        _check_served("denoiser", denoiser, self.denoisers)
        _check_served("sigma", sigma, self.sigmas)
        if (denoiser, sigma) not in self.by_noise:
            raise SettingError(
                f"{self.name} with denoiser {denoiser} at sigma {sigma:g} failed when the service "
                "started. Its log names the reason; choose another denoiser or sigma."
            )
        return self.by_noise[denoiser, sigma]

    def example(self, name: str) -> Example:
        """Return the example of that name; raises SettingError if it is not served."""
        examples = {str(example.index): example for example in self.examples}
        _check_served("example", name, examples)
        return examples[name]


@dataclass(frozen=True)
class ServedNames:
    """The names that the operator gives to specs and bundles.

    Args:
        classifiers, denoisers: specs by name; the denoiser ``none`` is always served.
        bundles: folders by name.
        sigmas: noise levels.
        examples: the data set whose first images are examples; None for none.
        resolution: side of the images, for classifiers that do not state it.
        engine, device: as of :class:`SmoothedClassifier`.
    """

    classifiers: Mapping[str, str] = field(default_factory=lambda: {"digits": "digits"})
    denoisers: Mapping[str, str] = field(
        default_factory=lambda: {
            "white box (stability)": "digits-stability",
            "black box (mse)": "digits-mse",
        }
    )
    bundles: Mapping[str, str] = field(default_factory=dict)
    sigmas: Sequence[float] = (0.25, 0.5)
    examples: str | None = "digits"
    resolution: int | None = None
    engine: EngineName = EngineName.AUTO
    device: str = "auto"


class ServedModels:
    """The models by name, and the smoothed classifiers made of them.

    All models are loaded when the service starts. A request names models and never loads one.

    Raises:
        SettingError: no model is named, a classifier does not state its resolution, or is remote.
    """

    def __init__(self, names: ServedNames) -> None:
        self._names = names
        self._sigmas = tuple(sorted(map(check_sigma, names.sigmas)))
        specs = {NO_DENOISER: NO_DENOISER, **names.denoisers}
        self._denoisers = {name: load_denoiser(spec) for name, spec in specs.items()}
        self._denoisers[NO_DENOISER] = None
        self._examples: tuple[Example, ...] = ()
        self._dataset: ImageDataset | None = None
        if names.examples is not None:
            dataset = load_dataset(names.examples)
            shown = range(min(EXAMPLES, len(dataset)))
            self._dataset = dataset
            self._examples = tuple(dataset[index] for index in shown)
        models = [self._load(name, spec) for name, spec in names.classifiers.items()]
        models += [self._load_bundle(name, folder) for name, folder in names.bundles.items()]
        if not models:
            raise SettingError("No model is named. Name one with --classifier or --bundle.")
        self.models = {model.name: model for model in models}

    def model(self, name: str | None) -> Model:
        """Return the model of that name or the first; raises SettingError if it is not served."""
        name = name or next(iter(self.models))
        _check_served("classifier", name, self.models)
        return self.models[name]

    def prepare(self, stopped: Callable[[], bool]) -> None:
        """Convert and compile all models; withdraw those that fail.

        This comes before anything is counted: tracing a model changes how modules are called in
        the whole process. Converting a pipeline may touch weights that another one shares, which
        is then converted again, so this takes rounds until nothing changes.
        """
        earlier: list[object] = []
        for _ in range(_ROUNDS):
            engines = [
                None if stopped() else _engine(model, denoiser, sigma)
                for model in self.models.values()
                for sigma in model.sigmas
                for denoiser in model.denoisers
            ]
            if engines == earlier or stopped():
                return
            earlier = engines

    def _load(self, name: str, spec: str) -> Model:
        classifier = load_classifier(spec)

        def smooth(denoiser: str, sigma: float) -> SmoothedClassifier:
            return SmoothedClassifier(
                classifier, sigma, self._denoisers[denoiser],
                engine=self._names.engine, device=self._names.device,
            )  # fmt: skip

        plain = smooth(NO_DENOISER, self._sigmas[0])
        if plain.is_remote:
            raise SettingError(
                f"The classifier {spec!r} is remote, and every client would spend its budget. "
                "Serve a classifier that runs on this machine."
            )
        side = plain.resolution or self._names.resolution
        if side is None:
            raise SettingError(
                f"The classifier {name!r} does not state the size of its images. Set it with "
                "--resolution PIXELS; images are resized and cropped to it before the noise."
            )
        shape, by_noise = (plain.channels or 3, side, side), {}
        for denoiser, sigma in product(self._denoisers, self._sigmas):
            with suppress(SettingError, ImageError):  # of a denoiser for other images
                smoothed = smooth(denoiser, sigma)
                smoothed.prepare(np.zeros(shape, np.float32))
                by_noise[denoiser, sigma] = smoothed
        return self._model(name, classifier, shape, by_noise)

    def _load_bundle(self, name: str, folder: str) -> Model:
        smoothed = SmoothedClassifier.load(folder, device=self._names.device)
        bundle = smoothed.models.bundle
        assert bundle is not None
        whole = bundle.denoiser.startswith("mean:")
        denoiser = bundle.denoiser if whole else bundle.denoiser.rpartition("/")[2]
        by_noise = {(denoiser, smoothed.sigma): smoothed}
        return self._model(name, smoothed.classifier, bundle.shape, by_noise)

    def _model(
        self,
        name: str,
        classifier: object,
        shape: tuple[int, int, int],
        by_noise: dict[tuple[str, float], SmoothedClassifier],
    ) -> Model:
        examples = tuple(e for e in self._examples if e.image.shape == shape)
        labels = getattr(classifier, "label_names", None)
        if examples and self._dataset is not None:
            try:
                match = matched(self._dataset, classifier)
            except DatasetError as error:
                _log.warning("The examples are shown to %s without their labels. %s", name, error)
                match = LabelMatch({}, labels)
            if match.note:
                _log.warning("The examples shown to %s: %s", name, match.note)
            labels = match.names
            numbers = [None if e.label is None else match.numbers.get(e.label) for e in examples]
            examples = tuple(replace(e, label=n) for e, n in zip(examples, numbers, strict=True))
        denoisers, sigmas = (tuple(dict.fromkeys(keys)) for keys in zip(*by_noise, strict=True))
        return Model(name, denoisers, sigmas, shape, labels, examples, by_noise)


def _engine(model: Model, denoiser: str, sigma: float) -> object:
    """Return the engine of a combination, after a forward pass; withdraw it if that fails."""
    smoothed = model.by_noise.get((denoiser, sigma))
    if smoothed is None:
        return None
    image = np.full(model.shape, 128 / 255, np.float32)
    smoothed.models.prepare()
    try:
        shown_labels(smoothed.prepared, image, "prepared", 0, 1)
        return smoothed.prepared.engine_for(image).engine
    except DenoisedSmoothingError as error:
        _log.error("%s, %s, sigma %g: %s", model.name, denoiser, sigma, error)
        del model.by_noise[denoiser, sigma]
        return None


def _check_served(kind: str, name: str | float, known: Iterable[str | float]) -> None:
    if name not in known:
        names = ", ".join(f"{each:g}" if isinstance(each, float) else each for each in known)
        shown = f"{name:g}" if isinstance(name, float) else repr(name)
        raise SettingError(
            f"The {kind} {shown} is not served; expected one of {names}. Choose one."
        )
