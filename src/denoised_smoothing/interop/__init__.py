"""The smoothed classifier in the forms that other tools take."""

from __future__ import annotations

from denoised_smoothing.interop.soft_votes import SoftVotes

__all__ = ["SoftVotes"]
