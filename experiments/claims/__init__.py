"""Claims of the sources, measured."""
