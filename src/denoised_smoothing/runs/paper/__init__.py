"""The tables of Salman et al. 2020, rerun: which denoisers, which rows, what is written."""
