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

from varpro_nn._typing import ImageArray
from varpro_nn.units.patches import PatchUnits

N_WINDOWS = 100_000
"""Windows that the covariance is taken over."""


def learn_whitening(
    units: PatchUnits,
    images: ImageArray,
    rng: np.random.Generator,
    *,
    epsilon: float,
    n_components: int | None = None,
    n_windows: int | None = None,
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
    n_windows : int, optional
        Windows that are looked at; by default ``N_WINDOWS``.

    Returns
    -------
    PatchUnits

    Raises
    ------
    ValueError
        ``n_components`` out of range or with units that need rows and columns.
    """
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
    P = units.sample_windows(images, rng, N_WINDOWS if n_windows is None else n_windows)
    # Normalised windows have no unit; others have that of the intensities.
    square = float(np.mean(P**2)) if units.contrast is None else 1.0
    centre = P.mean(axis=0)
    P = P - centre
    variances, V = np.linalg.eigh(P.T @ P / len(P))
    variances, V = np.maximum(variances[::-1], 0.0), V[:, ::-1]  # largest first
    # Windows that are all alike but for rounding are not blown up to fill single precision.
    typical = variances.mean() if variances.mean() > 1e-12 * square else square or 1.0
    scale = 1 / np.sqrt(variances + epsilon * typical)
    if n_components is None:
        whitening = (V * scale) @ V.T
    else:
        # The sign of an eigenvector is a matter of the library: make the largest entry positive.
        V = V[:, :n_components] * np.sign(V[np.abs(V).argmax(axis=0), np.arange(d)])[:n_components]
        whitening = scale[:n_components, None] * V.T
    return replace(units, centre=centre, whitening=np.ascontiguousarray(whitening))
