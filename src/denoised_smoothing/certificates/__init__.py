"""Pure numbers: counts, bounds, radii, plans, certificates. No deep-learning stack."""

from denoised_smoothing.certificates import plans  # every plan registers its kind

__all__ = ["plans"]
