"""``python -m denoised_smoothing``: the command line."""

from denoised_smoothing.cli import main

main()
