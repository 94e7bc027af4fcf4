"""The finished network."""
