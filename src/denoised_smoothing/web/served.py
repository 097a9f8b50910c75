"""What the operator offers by name: classifiers, denoisers, noise levels, example images."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from jaxtyping import Float

from denoised_smoothing.certificates.parameters import EngineName
from denoised_smoothing.certificates.radii import check_sigma
from denoised_smoothing.datasets import load_dataset
from denoised_smoothing.errors import DenoisedSmoothingError, ImageError, SettingError
from denoised_smoothing.models.catalogue import load_bundle, load_classifier, load_denoiser
from denoised_smoothing.models.protocols import Classifier, Denoiser
from denoised_smoothing.remote.protocol import CopyClassifier
from denoised_smoothing.smoothing.classifier import SmoothedClassifier

NO_DENOISER = "none"
_ROUNDS = 4
EXAMPLES = 24
"""Images of the data set that are offered."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ExampleImage:
    """An image [C, H, W] that a request can name, and its true label."""

    name: str
    image: Float[np.ndarray, "c h w"]
    label: int | None


@dataclass(frozen=True)
class Model:
    """A classifier with the denoisers and noise levels that go with it."""

    name: str
    spec: str
    denoisers: Mapping[str, str]
    """Specs by name."""
    sigmas: tuple[float, ...]
    shape: tuple[int, int, int]
    """[C, H, W] of the images, to which others are brought."""
    label_names: tuple[str, ...] | None
    examples: tuple[ExampleImage, ...]


@dataclass(frozen=True)
class ServedNames:
    """What the operator named: specs by name, folders of bundles by name.

    Args:
        classifiers, denoisers: specs by name; ``none`` is a denoiser without being named.
        bundles: folders by name.
        sigmas: noise levels that may be asked for.
        examples: the data set whose first images are offered where they fit; None for none.
        resolution: side of the images for classifiers that do not say theirs.
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

    Everything is loaded when the service starts; a request names, and never loads.

    Raises:
        SettingError: nothing is offered, or a classifier does not say its resolution or has
            answers that are bought.
    """

    def __init__(self, names: ServedNames) -> None:
        self._names, self._lock = names, threading.Lock()
        self._sigmas = tuple(sorted(map(check_sigma, names.sigmas)))
        self._made: dict[tuple[str, str, float], SmoothedClassifier] = {}
        self._withdrawn: set[tuple[str, str, float]] = set()
        self._denoisers = {name: load_denoiser(spec) for name, spec in names.denoisers.items()}
        self._denoisers.pop(NO_DENOISER, None)
        self._classifiers: dict[str, Classifier] = {}
        self._examples = _examples(names.examples)
        self.label_names = (
            None if names.examples is None else load_dataset(names.examples).label_names
        )
        models = [self._classifier(name, spec) for name, spec in names.classifiers.items()]
        models += [self._bundle(name, folder) for name, folder in names.bundles.items()]
        if not models:
            raise SettingError("nothing to serve; name a --classifier NAME=SPEC or a --bundle")
        self.models = {model.name: model for model in models}

    def smoothed(self, model: str, denoiser: str, sigma: float) -> SmoothedClassifier:
        """The smoothed classifier of these names.

        Raises:
            SettingError: one of them is not offered; names those that are.
        """
        found = _named("classifier", model, self.models)
        _named("denoiser", denoiser, found.denoisers)
        if sigma not in found.sigmas:
            offered = ", ".join(f"{value:g}" for value in found.sigmas)
            raise SettingError(f"sigma {sigma:g} is not offered; expected one of {offered}")
        key = (model, denoiser, sigma)
        if key in self._withdrawn:
            raise SettingError(
                f"{model} with {denoiser} at sigma {sigma:g} does not work here; the log of the "
                "service says why"
            )
        with self._lock:
            if key not in self._made:
                front = self._denoisers[denoiser] if denoiser != NO_DENOISER else None
                self._made[key] = self._smooth(self._classifiers[model], sigma, front)
            return self._made[key]

    def prepare(self, stopped: Callable[[], bool]) -> None:
        """Convert and compile all that is offered; what does not work is offered no longer.

        Before anything is counted: tracing a model changes how modules are called in the whole
        process. Converting one pipeline may touch weights that another shares, which is then
        converted again: so in rounds, until nothing changes.
        """
        held: list[object] = []
        for _ in range(_ROUNDS):
            made = [
                None if stopped() else self._engine(model, denoiser, sigma)
                for model in self.models.values()
                for sigma in model.sigmas
                for denoiser in model.denoisers
            ]
            if made == held or stopped():
                return
            held = made

    def _engine(self, model: Model, denoiser: str, sigma: float) -> object:
        """What executes a combination, after it was executed once; None where it does not work."""
        if (model.name, denoiser, sigma) in self._withdrawn:
            return None
        image = np.full(model.shape, 128 / 255, np.float32)
        try:
            smoothed = self.smoothed(model.name, denoiser, sigma)
            smoothed.labels(image, "prepared", 0, 1)
            return smoothed.choice(image).engine
        except DenoisedSmoothingError as error:
            _log.error("%s, %s, sigma %g: %s", model.name, denoiser, sigma, error)
            self._withdrawn.add((model.name, denoiser, sigma))
            return None

    def example(self, model: str, name: str) -> ExampleImage:
        """The example of that name.

        Raises:
            SettingError: there is none.
        """
        examples = {example.name: example for example in self.models[model].examples}
        return _named("example", name, examples)

    def _smooth(
        self, classifier: Classifier, sigma: float, denoiser: Denoiser | None
    ) -> SmoothedClassifier:
        return SmoothedClassifier(
            classifier, sigma, denoiser, engine=self._names.engine, device=self._names.device
        )

    def _classifier(self, name: str, spec: str) -> Model:
        classifier = self._classifiers[name] = load_classifier(spec)
        if isinstance(classifier, CopyClassifier):
            raise SettingError(
                f"the answers of {spec!r} are bought one by one, and a service would buy them for "
                "whoever asks; serve a classifier that runs here"
            )
        plain = self._smooth(classifier, self._sigmas[0], None)
        side = plain.resolution or self._names.resolution
        if side is None:
            raise SettingError(
                f"the classifier {name!r} does not say the size of its images; name it with "
                "--resolution PIXELS, to which images are brought before the noise"
            )
        shape = (plain.channels or 3, side, side)
        fitting = {NO_DENOISER: NO_DENOISER}
        for key, front in self._denoisers.items():
            try:
                self._smooth(classifier, self._sigmas[0], front).prepare(
                    np.zeros(shape, np.float32)
                )
            except (SettingError, ImageError):  # made for other images
                continue
            fitting[key] = self._names.denoisers[key]
        return self._model(name, spec, fitting, self._sigmas, shape, classifier)

    def _bundle(self, name: str, folder: str) -> Model:
        smoothed = load_bundle(folder, device=self._names.device)
        fixed, bundle = smoothed.execution.fixed, smoothed.bundle
        assert fixed is not None
        assert bundle is not None
        whole = bundle.denoiser.startswith("mean:")
        denoiser = bundle.denoiser if whole else bundle.denoiser.rpartition("/")[2]
        self._made[name, denoiser, smoothed.sigma] = smoothed
        channels, height, width = fixed.shape
        shape, specs = (channels, height, width), {denoiser: bundle.denoiser}
        return self._model(
            name, bundle.classifier, specs, (smoothed.sigma,), shape, smoothed.classifier
        )

    def _model(
        self,
        name: str,
        spec: str,
        denoisers: Mapping[str, str],
        sigmas: tuple[float, ...],
        shape: tuple[int, int, int],
        classifier: object,
    ) -> Model:
        examples = tuple(e for e in self._examples if e.image.shape == shape)
        names = getattr(classifier, "label_names", None) or (self.label_names if examples else None)
        return Model(name, spec, denoisers, sigmas, shape, names, examples)


def _examples(spec: str | None) -> tuple[ExampleImage, ...]:
    if spec is None:
        return ()
    dataset = load_dataset(spec)
    found = (dataset[index] for index in range(min(EXAMPLES, len(dataset))))
    return tuple(ExampleImage(str(e.index), e.image, e.label) for e in found)


_Thing = TypeVar("_Thing")


def _named(kind: str, name: str, known: Mapping[str, _Thing]) -> _Thing:
    if name not in known:
        raise SettingError(f"no {kind} {name!r} is offered; expected one of {', '.join(known)}")
    return known[name]
