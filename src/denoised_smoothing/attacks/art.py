"""The smoothed classifier as an estimator of the Adversarial Robustness Toolbox."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from denoised_smoothing.attacks.soft_votes import SoftVotes
from denoised_smoothing.certificates.plans import FixedBudget
from denoised_smoothing.errors import MissingExtraError, SettingError
from denoised_smoothing.smoothing.classifier import SmoothedClassifier

try:
    from art.estimators.classification import PyTorchClassifier
except ImportError as error:
    raise MissingExtraError("art", "art", "its estimator") from error

Images = npt.NDArray[np.floating[Any]]


class SmoothedEstimator(PyTorchClassifier):  # type: ignore[misc]
    """An estimator for ART's attacks and metrics, with ``predict`` and ``certify`` of ours.

    The signatures are those of ART's own ``PyTorchRandomizedSmoothing``. Counting, noise and
    bounds are those of this package. Images are converted to float32, as ART does, and clipped
    to [0, 1]: answers are about these, on the 8-bit grid or not. Gradients (``loss_gradient``,
    ``class_gradient``) are those of :class:`SoftVotes`.

    Args:
        input_shape: [C, H, W] of an image in [0, 1].
        classes: number of labels K.
        sample_size: noisy copies that choose a label: n of ``predict``, n0 of ``certify``.
        alpha: probability that an answer is wrong.
        gradient_copies: noisy copies over which gradients are taken.
        seed: of all noise; None for fresh entropy.
        loss: of attacks; None for cross entropy.

    Raises:
        SettingError: the classifier is not a torch module, so ART cannot take gradients.
    """

    def __init__(
        self,
        smoothed: SmoothedClassifier,
        input_shape: tuple[int, int, int],
        classes: int,
        *,
        sample_size: int = 100,
        alpha: float = 0.001,
        gradient_copies: int = 16,
        seed: int | None = None,
        loss: torch.nn.Module | None = None,
    ) -> None:
        if not isinstance(smoothed.classifier, torch.nn.Module):
            raise SettingError(
                "ART needs a torch module to take gradients, got a classifier of type "
                f"{type(smoothed.classifier).__name__}. Use a surrogate."
            )
        super().__init__(
            model=SoftVotes(smoothed, copies=gradient_copies, seed=seed or 0),
            loss=loss or torch.nn.CrossEntropyLoss(),
            input_shape=input_shape,
            nb_classes=classes,
            clip_values=(0.0, 1.0),
            device_type="gpu" if smoothed.device.type == "cuda" else "cpu",
        )
        self.smoothed, self.sample_size = smoothed, sample_size
        self.alpha, self.seed, self.scale = alpha, seed, smoothed.sigma

    def predict(
        self, x: Images, batch_size: int = 128, verbose: bool = False, **kwargs: Any
    ) -> npt.NDArray[np.float32]:
        """Return a row [K] per image of ``x`` [B, C, H, W]: 1 at the label, zeros to abstain.

        Args:
            x: images in [0, 1].
            batch_size, verbose: for the signature; results do not depend on them.
            kwargs: ``is_abstain=False`` returns the most frequent label without a test.

        Raises:
            SettingError: a label is not below ``classes``.
        """
        rows = np.zeros((len(x), self.nb_classes), dtype=np.float32)
        for row, image in zip(rows, self._images(x), strict=True):
            prediction = self.smoothed.predict(
                image, n=self.sample_size, alpha=self.alpha, seed=self.seed
            )
            label = prediction.label
            if label is None and not kwargs.get("is_abstain", True):
                label = prediction.counts.top()
            if label is None:
                continue
            if label >= self.nb_classes:
                raise SettingError(
                    f"classes must be above every label, got classes={self.nb_classes} and label "
                    f"{label}. Give the number of the classifier's classes."
                )
            row[label] = 1
        return rows

    def certify(
        self, x: Images, n: int, batch_size: int = 32
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Return labels [B], -1 for an abstention, and radii in L2 [B] of images [B, C, H, W].

        Args:
            x: images in [0, 1].
            n: noisy copies that bound the probability.
            batch_size: for the signature; results do not depend on it.
        """
        certificates = self.smoothed.certify_batch(
            self._images(x),
            plan=FixedBudget(n0=self.sample_size, n=n),
            alpha=self.alpha,
            seed=self.seed,
        )
        labels = [-1 if c.label is None else c.label for c in certificates]
        radii = np.array([c.radius for c in certificates], dtype=np.float64)
        return np.array(labels, dtype=np.int64), radii

    def _images(self, x: Images) -> npt.NDArray[np.float32]:
        """Return the images as they are counted."""
        return np.asarray(x, dtype=np.float32).clip(0, 1)
