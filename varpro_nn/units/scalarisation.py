r"""Scalarisations: how the weights of a unit make a linear form of an image or of a window.

A tensor ``X`` with axes of lengths ``d_1, ..., d_q`` becomes the number

    z = sum_r  X ×_1 a_r1 ×_2 a_r2 ... ×_q a_rq  +  b,

each axis contracted with a vector. Which vectors are tied makes the kinds:

=========== ==================== ======================================= ====================
kind        formula (rank 1)     vectors                                 weights of a unit
=========== ==================== ======================================= ====================
quadratic   w'Xw + b             one for rows and columns                d + 1
bilinear    u'Xv + b             one for rows, one for columns           rows + columns + 1
tensor      X ×_1 a ×_2 b ... +b one for each different length           sum of them + 1
dense       w'vec(X) + b         the image flattened to one axis         pixels + 1
=========== ==================== ======================================= ====================

A colour image has its channels as first axis, with a vector of its own that mixes them: the
quadratic unit of a 3 x 32 x 32 image has 3 + 32 + 1 = 36 weights.

``z`` is linear in ``X``, so ``z = <F, X> + b`` with the *effective filter* ``F`` (the outer
product of the vectors). A row of weights holds, for each term of the sum, the vectors one after
the other; the bias ``b`` is its last entry.

References
----------
V. Pereyra, Neural networks for image classification using quadratic scalarization and variable
projections for fast training (2019), sections 1, 6.2 and 7.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from varpro_nn._typing import RealArray

KINDS = ("quadratic", "bilinear", "tensor", "dense")
"""The kinds of scalarisation."""


@dataclass(frozen=True, slots=True)
class Scalarisation:
    """A kind, the shape of what it takes, and the number of terms.

    Attributes
    ----------
    kind : {"quadratic", "bilinear", "tensor", "dense"}
    shape : tuple of int
        (rows, columns) or (channels, rows, columns), or any other number of axes.
    rank : int
        Terms of the sum.
    """

    kind: str
    shape: tuple[int, ...]
    rank: int = 1

    @property
    def axes(self) -> tuple[int, ...]:
        """Lengths of the axes that are contracted; a dense unit sees one long axis."""
        return (prod(self.shape),) if self.kind == "dense" else self.shape

    @property
    def tied(self) -> tuple[int, ...]:
        """For each axis, the number of the vector that contracts it."""
        q = len(self.axes)
        if self.kind == "quadratic":
            return (*range(q - 1), q - 2)
        if self.kind == "tensor":
            lengths = list(dict.fromkeys(self.axes))
            return tuple(lengths.index(length) for length in self.axes)
        return tuple(range(q))

    @property
    def lengths(self) -> tuple[int, ...]:
        """Lengths of the distinct vectors."""
        return tuple(dict(zip(self.tied, self.axes, strict=True)).values())

    @property
    def n_weights(self) -> int:
        """Weights of one unit, the bias included."""
        return self.rank * sum(self.lengths) + 1

    def vectors(self, W: RealArray) -> list[RealArray]:
        """Vector of each axis, (h * rank, length)."""
        terms = W[:, :-1].reshape(len(W) * self.rank, -1)
        parts = np.split(terms, np.cumsum(self.lengths)[:-1], axis=1)
        return [parts[number] for number in self.tied]

    def filters(self, W: RealArray) -> RealArray:
        """Effective filters, (h, pixels)."""
        if self.kind == "dense":
            return W[:, :-1]
        terms = outer(self.vectors(W), len(W) * self.rank, W.dtype)
        return terms.reshape(len(W), self.rank, -1).sum(axis=1)

    def pull_back(self, W: RealArray, G: RealArray) -> RealArray:
        """Turn derivatives by the effective filter into derivatives by the weights.

        Parameters
        ----------
        W : ndarray, shape (h, p)
        G : ndarray, shape (b, h, pixels)
            Derivative of something by each entry of the filter of each unit.

        Returns
        -------
        ndarray, shape (b, h, p - 1)
            Derivative by the weights but the bias.
        """
        if self.kind == "dense":
            return G
        b, h, R = len(G), len(W), self.rank
        vectors = self.vectors(W)
        T = G.reshape(b, h, *self.axes)
        terms = np.zeros((b, h, R, sum(self.lengths)), dtype=G.dtype)
        ends = np.cumsum(self.lengths)
        for axis, number in enumerate(self.tied):
            others = [v for a, v in enumerate(vectors) if a != axis]
            rest = outer(others, h * R, W.dtype).reshape(h, R, -1, 1)
            Y = np.moveaxis(T, 2 + axis, 2).reshape(b, h, 1, self.axes[axis], -1)
            start = ends[number] - self.lengths[number]
            terms[..., start : ends[number]] += (Y @ rest)[..., 0]
        return terms.reshape(b, h, -1)


def outer(vectors: Sequence[RealArray], n_terms: int, dtype: Any) -> RealArray:
    """Row by row, the flattened outer product of vectors (n_terms, length)."""
    product: RealArray = np.ones((n_terms, 1), dtype=dtype)
    for vector in vectors:
        product = (product[:, :, None] * vector[:, None, :]).reshape(n_terms, -1)
    return product
