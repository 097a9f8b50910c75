"""Denoisers: DnCNN, MemNet, UNets, diffusion models and ensembles, from files and by name."""
