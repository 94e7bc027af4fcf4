"""Seconds and memory of the parts, and of a whole run."""
