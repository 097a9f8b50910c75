"""A run: what is stored already, what is left to do, doing it, and recording it."""
