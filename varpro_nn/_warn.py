"""Warnings that point to the line of the caller."""

import inspect
import warnings

_INSIDE = ("varpro_nn", "sklearn")
"""Packages whose lines a warning does not name."""


def warn_user(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line that called the package, however deep inside it this is."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in _INSIDE:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
