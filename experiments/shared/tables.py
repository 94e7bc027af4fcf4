"""Markdown tables, and how their cells are written."""

from collections.abc import Mapping, Sequence

import numpy as np


def print_table(rows: Sequence[Mapping[str, str]], title: str = "", note: str = "") -> None:
    """Print a Markdown table; its columns are the keys of the first row.

    ``note``, between title and table, says what the columns are, where they do not themselves.
    """
    print(f"\n**{title}**\n" if title else "")
    if note:
        print(f"{note}\n")
    for cells in (rows[0], ["---"] * len(rows[0]), *(row.values() for row in rows)):
        print(f"| {' | '.join(cells)} |", flush=True)


def rounded_seconds(value: float) -> str:
    """Write seconds with two digits at least."""
    return f"{value:,.0f}" if value >= 9.5 else f"{value:.2g}"


def spread(values: Sequence[float], form: str) -> str:
    """Write the mean of values and, if there are several, their range."""
    mean, low, high = (form.format(f(values)) for f in (np.mean, np.min, np.max))
    return mean if low == high else f"{mean} ({low}-{high})"
