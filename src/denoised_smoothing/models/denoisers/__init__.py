"""Denoisers: DnCNN, MemNet, UNet, diffusion models and ensembles, from files and by name."""
