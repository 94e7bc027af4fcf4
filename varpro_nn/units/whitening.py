"""Whitening of windows: a linear map learnt on training images; then all directions weigh alike.

With mean ``mu`` and covariance ``V diag(e) V'`` of the windows of training images,

    PCA:  diag(e + epsilon)^-1/2 V' (P - mu)      the first ``n_components``,
    ZCA:  V diag(e + epsilon)^-1/2 V' (P - mu)    all of them, back in the place of the pixels.

References
----------
A. Coates, A. Ng and H. Lee, An analysis of single-layer networks in unsupervised feature
learning, AISTATS (2011), section 3.
"""

from dataclasses import replace

import numpy as np
import scipy

from varpro_nn._typing import FloatArray, ImageArray
from varpro_nn.units.patches import PatchUnits

N_WINDOWS = 100_000
"""Windows that the covariance is taken over."""
_LARGE = 256
"""Pixels of a window from which on only the directions that are kept are computed."""


def learn_whitening(
    units: PatchUnits,
    images: ImageArray,
    rng: np.random.Generator,
    *,
    epsilon: float,
    n_components: int | None = None,
) -> PatchUnits:
    """Units like ``units`` that whiten their windows as those of ``images`` ask for.

    Parameters
    ----------
    units : PatchUnits
    images : ndarray, shape (n, ...)
        Training images.
    rng : numpy.random.Generator
        Draws the windows that are looked at.
    epsilon : float
        Added to the variances, relative to their mean: what hardly varies is not blown up.
    n_components : int, optional
        Keep the directions of largest variance (PCA; dense units). By default all (ZCA).

    Returns
    -------
    PatchUnits

    Raises
    ------
    ValueError
        ``n_components`` out of range or with units that need rows and columns.
    """
    check_whitening(units, epsilon, n_components)
    P = units.sample_windows(images, rng, N_WINDOWS)
    # Normalised windows have no unit; others have that of the intensities.
    square = float(np.mean(P**2)) if units.contrast is None else 1.0
    centre = P.mean(axis=0)
    P = P - centre
    whitening = whitening_of(P.T @ P / len(P), square, epsilon, n_components)
    return replace(units, centre=centre, whitening=whitening)


def check_whitening(units: PatchUnits, epsilon: float, n_components: int | None) -> None:
    """Raise ValueError for ``epsilon`` or ``n_components`` that the windows do not allow."""
    d = units.windows.n_pixels
    if n_components is not None and not (1 <= n_components <= d and units.kind == "dense"):
        msg = (
            f"n_components must be 1 to {d}, for dense units, got {n_components} for "
            f"{units.kind} units."
        )
        raise ValueError(msg)
    if not (np.isfinite(epsilon) and epsilon > 0):
        msg = f"epsilon must be positive and finite, got {epsilon}."
        raise ValueError(msg)


def whitening_of(
    covariance: FloatArray, square: float, epsilon: float, n_components: int | None
) -> FloatArray:
    """Whiten windows of a covariance (d, d), whose numbers have the mean square ``square``."""
    d = len(covariance)
    # The other directions of large windows would take most of the time.
    if n_components is not None and n_components <= d // 4 and d >= _LARGE:
        first = d - n_components
        variances, V = scipy.linalg.eigh(covariance, subset_by_index=(first, d - 1))
        mean = float(np.trace(covariance)) / d
    else:
        variances, V = np.linalg.eigh(covariance)
        mean = float(np.maximum(variances[::-1], 0.0).mean())
    variances, V = np.maximum(variances[::-1], 0.0), V[:, ::-1]  # largest first
    # Windows that are all alike but for rounding are not blown up to fill single precision.
    typical = mean if mean > 1e-12 * square else square or 1.0
    scale = 1 / np.sqrt(variances + epsilon * typical)
    if n_components is None:
        return np.ascontiguousarray((V * scale) @ V.T)
    # The sign of an eigenvector is a matter of the library: make the largest entry positive.
    signs = np.sign(V[np.abs(V).argmax(axis=0), np.arange(V.shape[1])])
    return np.ascontiguousarray((scale * signs)[:n_components, None] * V.T[:n_components])
