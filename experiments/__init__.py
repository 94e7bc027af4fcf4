"""Measurements: one script a table, ``python -m experiments.FOLDER.NAME``.

``claims`` measures what the sources claim, ``field`` sets the recipes beside other libraries,
``benchmarks`` measures seconds and memory, ``reliability`` kills processes and damages files.
``shared`` holds what the scripts share. ``all`` runs every table, ``compare`` compares two runs.
"""
