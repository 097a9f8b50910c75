"""A run: what is stored already, what is left to do, doing it, and recording it."""

from denoised_smoothing.runs.run import EXAMPLES, CertificationRun, calibrate
from denoised_smoothing.runs.shards import Shard, merge
from denoised_smoothing.runs.writer import RunProgress

__all__ = ["EXAMPLES", "CertificationRun", "RunProgress", "Shard", "calibrate", "merge"]
