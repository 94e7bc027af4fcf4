"""Features of patch units, and products with the transpose of their derivative.

The derivative (n, m, h, p) of :meth:`PatchUnits.features_and_derivative` has a number for each
image, cell and weight. Where only products with it are asked for, the windows (n, places, p) are
enough: for ``z = P W'`` and a gradient ``G`` by the features,

    dz = sum over sides and cells of  G_c slope / places of c,      gradient by W = sum of dz' P.
"""

from dataclasses import dataclass

import numpy as np

from varpro_nn._typing import ImageArray, RealArray
from varpro_nn.units.activations import sides
from varpro_nn.units.patches import PatchUnits


@dataclass(frozen=True, eq=False)
class Linearised:
    """Features of some images at some weights, and their derivative.

    Attributes
    ----------
    Phi : ndarray, shape (b, h * m)
    P : ndarray, shape (b, places, p)
        What the weights are multiplied with: the windows cell by cell, prepared and whitened, with
        a last entry of 1.
    """

    Phi: RealArray
    P: RealArray
    _units: PatchUnits
    _slopes: list[RealArray]

    def pull_back(self, G: RealArray) -> RealArray:
        """Turn a gradient with respect to the features into one with respect to pre-activations.

        Parameters
        ----------
        G : ndarray, shape (c, h * m)
            Of the first ``c <= b`` images.

        Returns
        -------
        ndarray, shape (c, places, h)
        """
        cells = self._units.windows.cells
        by_column = G.reshape(len(G), len(self._slopes), len(cells), -1)
        dz = np.empty_like(self._slopes[0][: len(G)])
        for c, cell in enumerate(cells):
            first, *others = (slope[: len(G), cell] for slope in self._slopes)
            parts = by_column[:, :, c, None] / (cell.stop - cell.start)
            np.multiply(first, parts[:, 0], out=dz[:, cell])
            for side, slope in enumerate(others, 1):
                dz[:, cell] += slope * parts[:, side]
        return dz


def linearised(units: PatchUnits, W: RealArray, inputs: ImageArray) -> Linearised:
    """Compute features of dense units, ready for products with the transposed derivative.

    Parameters
    ----------
    units : PatchUnits
        With ``kind="dense"``.
    W : ndarray, shape (h, p)
    inputs : ndarray, shape (b, ...)

    Returns
    -------
    Linearised

    Raises
    ------
    TypeError
        Units of another kind.
    """
    if not isinstance(units, PatchUnits) or units.kind != "dense":
        msg = f"units must be dense patch units, got {type(units).__name__} of kind {units.kind!r}."
        raise TypeError(msg)
    P = units.prepared_windows(inputs, W.dtype)
    b, n_places, p = P.shape
    z = (P.reshape(-1, p) @ W.T).reshape(b, n_places, len(W))
    functions, cells = sides(units.activation, units.threshold), units.windows.cells
    Phi = np.empty((b, len(functions), len(cells), len(W)), dtype=W.dtype)
    slopes = []
    for number, side in enumerate(functions):
        value = side.apply(z, z if side is functions[-1] else np.empty_like(z))
        for c, cell in enumerate(cells):
            np.add.reduce(value[:, cell], axis=1, out=Phi[:, number, c])
        slopes.append(side.derivative(value))
    sizes = np.array([cell.stop - cell.start for cell in cells], dtype=W.dtype)
    Phi /= sizes[:, None]
    return Linearised(Phi.reshape(b, -1), P, units, slopes)
