"""Measurements: modules of one table each, run by ``python -m experiments.NAME``; their parts."""
