"""Two-column tables: text for terminals, HTML for notebooks."""

from collections.abc import Sequence
from html import escape

Rows = Sequence[tuple[str, str]]


def as_text(rows: Rows) -> str:
    """Align names and values."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def as_html(rows: Rows, caption: str) -> str:
    """Make the same a table with a caption."""
    cells = "".join(
        f"<tr><th style='text-align: left'>{escape(name)}</th>"
        f"<td style='text-align: left'>{escape(value)}</td></tr>"
        for name, value in rows
    )
    return f"<table><caption>{escape(caption)}</caption>{cells}</table>"
