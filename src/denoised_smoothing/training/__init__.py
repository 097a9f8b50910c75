"""Training of denoisers and small classifiers with Lightning."""
