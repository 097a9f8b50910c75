"""Training of denoisers and of small classifiers, on Lightning."""
