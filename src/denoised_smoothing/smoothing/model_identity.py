"""What a smoothed classifier states about itself in the identity of its certificates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from denoised_smoothing.certificates.identity import Identity
from denoised_smoothing.engines.prepared import PreparedPipeline
from denoised_smoothing.images import digest
from denoised_smoothing.models.fingerprints import fingerprint
from denoised_smoothing.models.specs import spec_of
from denoised_smoothing.smoothing.bundle_record import Bundle
from denoised_smoothing.text import shown


class ModelIdentity:
    """Specs and fingerprints of a classifier and a denoiser, with the names of the labels.

    Fingerprints are computed once for each state of the weights, and before the engine runs, as a
    model may keep what it computes. Where other things change, such as the numbers that a function
    holds, the check of the contract refuses the answers.
    """

    def __init__(
        self, classifier: object, denoiser: Callable[..., object] | None, prepared: PreparedPipeline
    ) -> None:
        self._parts, self._prepared = (classifier, denoiser), prepared
        self._held: tuple[tuple[object, ...], tuple[str, str]] | None = None
        self.bundle: Bundle | None = None
        """The bundle that the parts come from, which records their specs and fingerprints."""
        self.noise_stream: str | None = None
        """What draws the noise; None if workers do."""

    @property
    def specs(self) -> tuple[str, str]:
        """The specs of classifier and denoiser; without a spec, the name of the type."""
        if self.bundle is not None:
            return self.bundle.classifier, self.bundle.denoiser
        classifier, denoiser = (
            "none" if part is None else spec_of(part) or type(part).__name__ for part in self._parts
        )
        return classifier, denoiser

    @property
    def label_names(self) -> Sequence[str] | Mapping[int, str] | None:
        """The names of the labels in order or by number, where the classifier states them."""
        names = getattr(self._parts[0], "label_names", None)
        return names if isinstance(names, list | tuple | Mapping) else None

    def prepare(self) -> tuple[object, ...]:
        """Compute the fingerprints before the engine runs; return the state of the weights."""
        state = self._prepared.pipeline.state()
        self._of_state(state)
        return state

    def fingerprints(self) -> tuple[str, str]:
        """Return those of classifier and denoiser as they are now."""
        return self._of_state(self._prepared.pipeline.state())

    def _of_state(self, state: tuple[object, ...]) -> tuple[str, str]:
        """Return the fingerprints for a state of the weights: those held, if it is theirs."""
        if self.bundle is not None:
            return self.bundle.classifier_fingerprint, self.bundle.denoiser_fingerprint
        if self._held is None or self._held[0] != state:
            classifier, denoiser = map(fingerprint, self._parts)
            self._held = state, (classifier, denoiser)
        return self._held[1]

    def of(
        self, image: Float[np.ndarray, "c h w"], resolution: int | None, sha256: str | None
    ) -> Identity:
        """Return the identity of certificates of an image, without the name of a label.

        Args:
            resolution: of the classifier; it counts for images of this size.
            sha256: of the image, if known.
        """
        classifier, denoiser = map(shown, self.specs)
        # Without an engine that was asked for, such as of a remote classifier, there is no state.
        fingerprints = self._of_state(self._prepared.state or self._prepared.pipeline.state())
        side = resolution if image.shape[1:] == (resolution, resolution) else None
        return Identity(
            classifier, fingerprints[0], denoiser, fingerprints[1],
            sha256 or digest(image), resolution=side, image_shape=image.shape,
            noise_stream=self.noise_stream, machine=self._prepared.machine(image.shape),
        )  # fmt: skip
