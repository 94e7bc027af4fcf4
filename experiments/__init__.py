"""Measurements: one module a table, each run with ``python -m experiments.NAME``."""
