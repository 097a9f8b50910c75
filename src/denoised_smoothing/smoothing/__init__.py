"""The smoothed classifier, and how its noisy copies are scheduled and counted."""

from denoised_smoothing.smoothing.classifier import SmoothedClassifier

__all__ = ["SmoothedClassifier"]
