"""Attacks on the smoothed classifier: upper bounds on robustness, tests of certificates."""

from denoised_smoothing.attacks.campaign import Attacked, Campaign
from denoised_smoothing.attacks.pgd import PGD, attack, check_differentiable, to_grid_within
from denoised_smoothing.attacks.record import AttackRecord

__all__ = [
    "PGD",
    "AttackRecord",
    "Attacked",
    "Campaign",
    "attack",
    "check_differentiable",
    "to_grid_within",
]
