"""Killed processes and damaged files."""
