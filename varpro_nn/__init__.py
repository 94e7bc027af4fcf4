"""Compact image classifiers trained by variable projection."""

__version__ = "0.1.0"
