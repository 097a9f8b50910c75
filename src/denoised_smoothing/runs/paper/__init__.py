"""The tables of Salman et al. 2020, computed again: denoisers, rows, files."""
