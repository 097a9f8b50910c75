"""Stored runs: resume, execute and record them; the demo, the sweep and the paper's tables."""
