"""Array aliases, and the letters that stand for the same thing everywhere.

======== ==================================================================== ==================
letter   meaning                                                              shape
======== ==================================================================== ==================
n, k     images, classes
h, p     units; weights of one unit
m        cells of a unit: columns that share its weights (1: whole image)
f        fixed columns of ``Phi``, which are not trained
q        all columns of ``Phi``: ``h * m + f + 1``
Phi      design matrix: unit columns, fixed columns, the constant column      (n, q)
dPhi     compact derivative: a unit's weights move its own columns alone      (n, m, h, p)
tau      targets, one-hot for a classifier                                    (n, k)
W, w     unit weights; ``w`` is ``W`` raveled                                 (h, p), (h * p,)
A        linear weights                                                       (q, k)
lam      ridge on ``A`` (never on the row of the constant column)
nu       ridge on ``w``
======== ==================================================================== ==================

The unit columns are cell-major: column ``c * h + i`` is cell ``c`` of unit ``i``.
"""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float64]
"""Double precision: projection, sums and solves."""

RealArray: TypeAlias = NDArray[np.floating[Any]]
"""Single or double precision: large products."""

ImageArray: TypeAlias = NDArray[np.uint8] | NDArray[np.floating[Any]]
"""Images (n, rows, columns) or (n, channels, rows, columns)."""

LabelArray: TypeAlias = NDArray[np.int64]
"""Class numbers 0 to k - 1, shape (n,)."""

IndexArray: TypeAlias = NDArray[np.int64]
"""Positions of images, rows or columns."""

TargetArray = LabelArray | FloatArray
"""Class numbers (n,), or real targets (n, k)."""
