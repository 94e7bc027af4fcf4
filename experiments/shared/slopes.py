"""Slopes on log-log axes."""

from collections.abc import Sequence

import numpy as np
from scipy import stats


def slope(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Slope of the last half of the points, three at least, and its standard error."""
    last = min(len(x) // 2, max(len(x) - 3, 0))
    fitted = stats.linregress(np.log(x[last:]), np.log(y[last:]))
    return float(fitted.slope), float(fitted.stderr)
