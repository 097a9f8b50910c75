"""The served models by name: classifiers, denoisers, noise levels and example images."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from denoised_smoothing.certificates.parameters import EngineName
from denoised_smoothing.certificates.radii import check_sigma
from denoised_smoothing.datasets import load_dataset
from denoised_smoothing.errors import DenoisedSmoothingError, ImageError, SettingError
from denoised_smoothing.models.catalogue import load_classifier, load_denoiser
from denoised_smoothing.models.protocols import Classifier, Denoiser
from denoised_smoothing.remote.protocol import CopyClassifier
from denoised_smoothing.smoothing.classifier import SmoothedClassifier

NO_DENOISER = "none"
EXAMPLES = 24
"""Number of images of the data set that are served."""
_ROUNDS = 4

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ExampleImage:
    """An image [C, H, W] that a request can name, and its true label."""

    name: str
    image: Float[np.ndarray, "c h w"]
    label: int | None


@dataclass(frozen=True)
class Model:
    """A classifier with the denoisers and noise levels that fit it.

    Args:
        name: of the classifier.
        denoisers: names.
        sigmas: noise levels.
        shape: [C, H, W] of the images; others are converted to it.
        label_names: by label; None if unknown.
        examples: images of that shape.
    """

    name: str
    denoisers: tuple[str, ...]
    sigmas: tuple[float, ...]
    shape: tuple[int, int, int]
    label_names: tuple[str, ...] | None
    examples: tuple[ExampleImage, ...]

    @property
    def default_denoiser(self) -> str:
        """The first denoiser, if there is one."""
        return next((name for name in self.denoisers if name != NO_DENOISER), NO_DENOISER)

    def example(self, name: str) -> ExampleImage:
        """Return the example of that name.

        Raises:
            SettingError: there is none.
        """
        examples = {example.name: example for example in self.examples}
        _check_served("example", name, examples)
        return examples[name]


@dataclass(frozen=True)
class ServedNames:
    """The names that the operator gives to specs and bundles.

    Args:
        classifiers, denoisers: specs by name; the denoiser ``none`` is always served.
        bundles: folders by name.
        sigmas: noise levels.
        examples: the data set whose first images are served to the models that fit; None for none.
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
    """The models by name, and the smoothed classifiers made of them, each once.

    All models are loaded when the service starts. A request names models and never loads one.

    Raises:
        SettingError: no model is named, a classifier does not state its resolution, or is remote.
    """

    def __init__(self, names: ServedNames) -> None:
        self._names, self._lock = names, threading.Lock()
        self._sigmas = tuple(sorted(map(check_sigma, names.sigmas)))
        self._smoothed: dict[tuple[str, str, float], SmoothedClassifier] = {}
        self._withdrawn: set[tuple[str, str, float]] = set()
        denoisers = {NO_DENOISER: NO_DENOISER, **names.denoisers}
        self._denoisers = {name: load_denoiser(spec) for name, spec in denoisers.items()}
        self._denoisers[NO_DENOISER] = None
        self._classifiers: dict[str, Classifier] = {}
        self._examples: tuple[ExampleImage, ...] = ()
        self._label_names: tuple[str, ...] | None = None
        if names.examples is not None:
            dataset = load_dataset(names.examples)
            first = (dataset[index] for index in range(min(EXAMPLES, len(dataset))))
            self._examples = tuple(ExampleImage(str(e.index), e.image, e.label) for e in first)
            self._label_names = dataset.label_names
        models = [self._load(name, spec) for name, spec in names.classifiers.items()]
        models += [self._load_bundle(name, folder) for name, folder in names.bundles.items()]
        if not models:
            raise SettingError("No model is named. Name one with --classifier or --bundle.")
        self.models = {model.name: model for model in models}

    def model(self, name: str | None) -> Model:
        """Return the model of that name, or the first one.

        Raises:
            SettingError: it is not served.
        """
        name = name or next(iter(self.models))
        _check_served("classifier", name, self.models)
        return self.models[name]

    def smoothed(self, classifier: str, denoiser: str, sigma: float) -> SmoothedClassifier:
        """Return the smoothed classifier of these names.

        Raises:
            SettingError: one of them is not served; the message names those that are.
        """
        model, key = self.model(classifier), (classifier, denoiser, sigma)
        _check_served("denoiser", denoiser, model.denoisers)
        _check_served("sigma", sigma, model.sigmas)
        if key in self._withdrawn:
            raise SettingError(
                f"{classifier} with denoiser {denoiser} at sigma {sigma:g} failed when the service "
                "started. Its log names the reason; choose another denoiser or sigma."
            )
        with self._lock:
            if key not in self._smoothed:
                self._smoothed[key] = self._smooth(
                    self._classifiers[classifier], sigma, self._denoisers[denoiser]
                )
            return self._smoothed[key]

    def prepare(self, stopped: Callable[[], bool]) -> None:
        """Convert and compile all models; withdraw those that fail.

        This comes before anything is counted: tracing a model changes how modules are called in
        the whole process. Converting a pipeline may touch weights that another one shares, which
        is then converted again, so this takes rounds until nothing changes.
        """
        earlier: list[object] = []
        for _ in range(_ROUNDS):
            engines = [
                None if stopped() else self._engine(model, denoiser, sigma)
                for model in self.models.values()
                for sigma in model.sigmas
                for denoiser in model.denoisers
            ]
            if engines == earlier or stopped():
                return
            earlier = engines

    def _engine(self, model: Model, denoiser: str, sigma: float) -> object:
        """Return the engine of a combination, after one forward pass; None if it fails."""
        key = (model.name, denoiser, sigma)
        if key in self._withdrawn:
            return None
        image = np.full(model.shape, 128 / 255, np.float32)
        try:
            smoothed = self.smoothed(*key)
            smoothed.labels(image, "prepared", 0, 1)
            return smoothed.choice(image).engine
        except DenoisedSmoothingError as error:
            _log.error("%s, %s, sigma %g: %s", *key, error)
            self._withdrawn.add(key)
            return None

    def _smooth(
        self, classifier: Classifier, sigma: float, denoiser: Denoiser | None
    ) -> SmoothedClassifier:
        return SmoothedClassifier(
            classifier, sigma, denoiser, engine=self._names.engine, device=self._names.device
        )

    def _load(self, name: str, spec: str) -> Model:
        classifier = self._classifiers[name] = load_classifier(spec)
        if isinstance(classifier, CopyClassifier):
            raise SettingError(
                f"The classifier {spec!r} is remote, and every client would spend its budget. "
                "Serve a classifier that runs on this machine."
            )
        plain = self._smooth(classifier, self._sigmas[0], None)
        side = plain.resolution or self._names.resolution
        if side is None:
            raise SettingError(
                f"The classifier {name!r} does not state the size of its images. Set it with "
                "--resolution PIXELS; images are resized and cropped to it before the noise."
            )
        shape = (plain.channels or 3, side, side)
        fitting = []
        for key, denoiser in self._denoisers.items():
            try:
                self._smooth(classifier, self._sigmas[0], denoiser).prepare(
                    np.zeros(shape, np.float32)
                )
            except (SettingError, ImageError):  # made for other images
                continue
            fitting.append(key)
        return self._model(name, classifier, fitting, self._sigmas, shape)

    def _load_bundle(self, name: str, folder: str) -> Model:
        smoothed = SmoothedClassifier.load(folder, device=self._names.device)
        bundle = smoothed.bundle
        assert bundle is not None
        whole = bundle.denoiser.startswith("mean:")
        denoiser = bundle.denoiser if whole else bundle.denoiser.rpartition("/")[2]
        self._smoothed[name, denoiser, smoothed.sigma] = smoothed
        return self._model(name, smoothed.classifier, [denoiser], (smoothed.sigma,), bundle.shape)

    def _model(
        self,
        name: str,
        classifier: object,
        denoisers: Sequence[str],
        sigmas: tuple[float, ...],
        shape: tuple[int, int, int],
    ) -> Model:
        examples = tuple(e for e in self._examples if e.image.shape == shape)
        names = getattr(classifier, "label_names", None) or (
            self._label_names if examples else None
        )
        return Model(name, tuple(denoisers), sigmas, shape, names, examples)


def _check_served(kind: str, name: str | float, known: Iterable[str | float]) -> None:
    if name not in known:
        names = ", ".join(f"{each:g}" if isinstance(each, float) else each for each in known)
        shown = f"{name:g}" if isinstance(name, float) else repr(name)
        raise SettingError(
            f"The {kind} {shown} is not served; expected one of {names}. Choose one."
        )
