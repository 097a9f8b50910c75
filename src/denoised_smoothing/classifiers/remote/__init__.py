"""Classifiers behind a wire: one client, and a small module for each vendor."""

from __future__ import annotations

from denoised_smoothing.classifiers.remote.answers import AnswerRule
from denoised_smoothing.classifiers.remote.budget import Budget
from denoised_smoothing.classifiers.remote.classifier import RemoteClassifier
from denoised_smoothing.classifiers.remote.conduct import Conduct
from denoised_smoothing.classifiers.remote.encoding import Encoding
from denoised_smoothing.classifiers.remote.prices import Price
from denoised_smoothing.classifiers.remote.vendor import Vendor

__all__ = [
    "AnswerRule",
    "Budget",
    "Conduct",
    "Encoding",
    "Price",
    "RemoteClassifier",
    "Vendor",
]
