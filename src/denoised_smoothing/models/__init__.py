"""Classifiers and denoisers: the spec grammar, the catalogue, adapters and weights."""
