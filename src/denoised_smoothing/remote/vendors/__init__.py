"""Vendors of remote classifiers: how each takes an image and names labels."""
