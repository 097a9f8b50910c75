"""A run: what is stored already, what is left to do, doing it, and recording it."""

from denoised_smoothing.runs.recorder import RunProgress
from denoised_smoothing.runs.run import CertificationRun, calibrate

__all__ = ["CertificationRun", "RunProgress", "calibrate"]
