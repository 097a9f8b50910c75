"""Pure numbers: counts, bounds, radii, plans, certificates. No deep-learning stack."""
