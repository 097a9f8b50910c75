"""Certified robustness for image classifiers that already exist.

The public names; those that need torch are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from denoised_smoothing.certificates.certificate import Certificate, SamplingPlan
    from denoised_smoothing.certificates.counts import LabelCounts, Stage
    from denoised_smoothing.certificates.parameters import Noise
    from denoised_smoothing.certificates.plans import Anytime, FixedBudget, RadiusTarget
    from denoised_smoothing.certificates.prediction import Prediction
    from denoised_smoothing.datasets import load_dataset
    from denoised_smoothing.errors import DenoisedSmoothingError
    from denoised_smoothing.images import load_image
    from denoised_smoothing.models.catalogue import load_classifier, load_denoiser
    from denoised_smoothing.models.classifiers.base import ImageClassifier
    from denoised_smoothing.reporting import load_results, write_report
    from denoised_smoothing.runs.run import CertificationRun
    from denoised_smoothing.smoothing import SmoothedClassifier
    from denoised_smoothing.store import Store

_HOMES = {
    "Anytime": "certificates.plans",
    "Certificate": "certificates.certificate",
    "CertificationRun": "runs.run",
    "DenoisedSmoothingError": "errors",
    "FixedBudget": "certificates.plans",
    "ImageClassifier": "models.classifiers.base",
    "LabelCounts": "certificates.counts",
    "Noise": "certificates.parameters",
    "Prediction": "certificates.prediction",
    "RadiusTarget": "certificates.plans",
    "SamplingPlan": "certificates.certificate",
    "SmoothedClassifier": "smoothing",
    "Stage": "certificates.counts",
    "Store": "store",
    "load_classifier": "models.catalogue",
    "load_dataset": "datasets",
    "load_denoiser": "models.catalogue",
    "load_image": "images",
    "load_results": "reporting",
    "write_report": "reporting",
}

__all__ = [
    "Anytime",
    "Certificate",
    "CertificationRun",
    "DenoisedSmoothingError",
    "FixedBudget",
    "ImageClassifier",
    "LabelCounts",
    "Noise",
    "Prediction",
    "RadiusTarget",
    "SamplingPlan",
    "SmoothedClassifier",
    "Stage",
    "Store",
    "load_classifier",
    "load_dataset",
    "load_denoiser",
    "load_image",
    "load_results",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
