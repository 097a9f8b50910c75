"""Certified robustness for image classifiers that already exist.

The public names; those that need torch are imported when they are first used. ``__init__.pyi``
has the same table for type checkers.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "AlteredCertificateError": "errors",
    "AnswerMissingError": "errors",
    "Anytime": "certificates.plans",
    "BudgetReachedError": "errors",
    "Certificate": "certificates.certificate",
    "CertificateError": "errors",
    "CertificationRun": "runs.run",
    "ClassifierError": "errors",
    "ContractError": "errors",
    "CountsError": "errors",
    "DatasetError": "errors",
    "DenoisedSmoothingError": "errors",
    "Finding": "certificates.verdicts",
    "FixedBudget": "certificates.plans",
    "Groups": "certificates.groups",
    "Identity": "certificates.identity",
    "ImageClassifier": "models.classifiers.base",
    "ImageDataset": "datasets",
    "ImageError": "errors",
    "InputError": "errors",
    "LabelCounts": "certificates.counts",
    "MalformedCertificateError": "errors",
    "MemoryLackError": "errors",
    "MissingExtraError": "errors",
    "ModelChangedError": "errors",
    "Noise": "certificates.parameters",
    "PGD": "attacks.pgd",
    "Prediction": "certificates.prediction",
    "PredictionSet": "certificates.prediction_sets",
    "PredictionSets": "runs.prediction_sets",
    "Preparation": "training.data",
    "Questions": "reporting.further_claims",
    "RadiusTarget": "certificates.plans",
    "RefusedImagesError": "errors",
    "RemoteError": "errors",
    "RunBusyError": "errors",
    "RunMismatchError": "errors",
    "RunNotFoundError": "errors",
    "SamplingPlan": "certificates.certificate",
    "SchemaTooNewError": "errors",
    "SettingError": "errors",
    "SmoothedClassifier": "smoothing",
    "Source": "models.specs",
    "Spec": "models.specs",
    "SpecError": "errors",
    "Stage": "certificates.counts",
    "Store": "store",
    "StoreError": "errors",
    "StoreUnreachableError": "errors",
    "TrainingConfig": "training.config",
    "TrainingError": "errors",
    "TrainingInterruptedError": "errors",
    "TrainingJob": "training.fit",
    "Verdict": "certificates.verdicts",
    "WeightsError": "errors",
    "WorkerError": "errors",
    "attack": "attacks.pgd",
    "compare_runs": "reporting.pairs",
    "finest_group": "certificates.groups",
    "group_certificates": "certificates.groups",
    "hold_together": "reporting.results",
    "load_classifier": "models.catalogue",
    "load_dataset": "datasets",
    "load_denoiser": "models.catalogue",
    "load_image": "images",
    "load_results": "reporting.results",
    "merge": "runs.shards",
    "population_bound": "certificates.population",
    "read_groups": "models.label_groups",
    "set_certificates": "certificates.sets",
    "together": "certificates.family",
    "top_k_certificates": "certificates.top_k",
    "train_denoiser": "training.fit",
    "verify": "runs.verify",
    "write_report": "reporting.html",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
