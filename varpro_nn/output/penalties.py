"""Grids of penalties, and their extension where the best penalty is at an end."""

import logging
from collections.abc import Sequence

import numpy as np

_ALL_RIDGES = tuple(float(10.0**e) for e in np.arange(-20.0, 20.01, 0.5))
_ALL_PENALTIES = tuple(float(f"{m}e{e}") for e in range(-20, 21) for m in (1, 3))
RIDGES = tuple(ridge for ridge in _ALL_RIDGES if 1e-2 <= ridge <= 1e5)
"""Ridges to try first, ascending."""
PENALTIES = tuple(penalty for penalty in _ALL_PENALTIES if 0.3 <= penalty <= 300)[::-1]
"""Penalties of the convex layers to try first, for columns of variance 1, descending."""

_logger = logging.getLogger(__name__)


def beyond(tried: Sequence[float], best: float, bounds: tuple[float, float]) -> tuple[float, ...]:
    """Continue a grid past its end, if the best penalty lies there.

    Parameters
    ----------
    tried : sequence of float
        Penalties of one of the grids, with a constant step.
    best : float
        The best of them.
    bounds : tuple of float
        Smaller penalties are lost in the rounding errors of the fit. With larger ones, all linear
        weights are nearly zero.

    Returns
    -------
    tuple of float
        Further penalties within the bounds, the nearest first; none if the best lies inside.
    """
    ascending = sorted(tried)
    grid = _ALL_PENALTIES if set(ascending) <= set(_ALL_PENALTIES) else _ALL_RIDGES
    least, most = bounds
    # Columns that are all zero have no best penalty.
    if len(ascending) < 2 or best not in (ascending[0], ascending[-1]) or not 0 < least < most:
        return ()
    positions = [grid.index(penalty) for penalty in ascending]
    if best == ascending[0]:
        step = positions[0] - positions[1]
        further = grid[positions[0] + step :: step] if positions[0] + step >= 0 else ()
        inside = tuple(penalty for penalty in further if penalty >= least)
    else:
        step = positions[-1] - positions[-2]
        inside = tuple(penalty for penalty in grid[positions[-1] + step :: step] if penalty <= most)
    if not inside:
        _logger.warning(
            "the best penalty, %.3g, is at the end of the usable range, %.3g to %.3g, beyond which "
            "fits differ by rounding alone",
            best, least, most,
        )  # fmt: skip
    return inside
