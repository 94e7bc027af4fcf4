r"""Units that scalarise a whole image by vectors along its axes.

An image with axes of lengths ``d_1, ..., d_q`` is a tensor ``X``. A unit of rank R turns it into

    z = sum_r  X ×_1 a_r1 ×_2 a_r2 ... ×_q a_rq  +  b,

each axis contracted with a vector, and then into ``activation(z)``. Which vectors are tied makes
the kinds:

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

``z`` is linear in the image, so ``z = <F, X> + b`` with the *effective filter* ``F`` (the outer
product of the vectors): all features of a block of images are one matrix product. The derivative
with respect to one vector contracts the image with all the others, again one matrix product.

References
----------
V. Pereyra, Neural networks for image classification using quadratic scalarization and variable
projections for fast training (2019), sections 1, 6.2 and 7.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf, prod
from operator import index
from typing import Any

import numpy as np

from varpro_nn._typing import FloatArray, ImageArray, RealArray
from varpro_nn.images import intensities
from varpro_nn.units.activations import ACTIVATIONS

KINDS = ("quadratic", "bilinear", "tensor", "dense")
"""The kinds of whole-image units."""


@dataclass(frozen=True)
class WholeImageUnits:
    """A layer of units of one kind; made by :func:`whole_image_units`.

    Attributes
    ----------
    kind : {"quadratic", "bilinear", "tensor", "dense"}
    image_shape : tuple of int
        (rows, columns) or (channels, rows, columns), or any other number of axes.
    n_units : int
    rank : int
        Terms of the sum.
    activation : {"logistic", "tanh"}
    gain : float
        Standard deviation of the pre-activations that ``init`` draws.

    Notes
    -----
    A row of ``W`` holds, for each term of the sum, the vectors one after the other; the bias ``b``
    is its last entry.
    """

    kind: str
    image_shape: tuple[int, ...]
    n_units: int
    rank: int = 1
    activation: str = "logistic"
    gain: float = 1.0

    @property
    def n_cells(self) -> int:
        """One column a unit."""
        return 1

    @property
    def n_weights(self) -> int:
        """Weights of one unit, the bias included."""
        return self.rank * sum(self._lengths) + 1

    @property
    def axes(self) -> tuple[int, ...]:
        """Lengths of the axes that are contracted; a dense unit sees one long axis."""
        return (prod(self.image_shape),) if self.kind == "dense" else self.image_shape

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
    def _lengths(self) -> tuple[int, ...]:
        """Lengths of the distinct vectors."""
        return tuple(dict(zip(self.tied, self.axes, strict=True)).values())

    def spec(self) -> dict[str, Any]:
        """All choices as plain values, for a model file; see :func:`units_from_spec`."""
        return {**asdict(self), "image_shape": list(self.image_shape)}

    def init(self, inputs: ImageArray, rng: np.random.Generator) -> FloatArray:
        """Draw normal vectors, then scale and shift each unit.

        Over ``inputs`` each pre-activation has mean 0 and standard deviation ``gain``. (At
        ``w = 0`` the derivative of a product of vectors vanishes, and far from standardised
        pre-activations that of the activation does: neither is a place to start from.)
        """
        W = np.zeros((self.n_units, self.n_weights))
        W[:, :-1] = rng.standard_normal((self.n_units, self.n_weights - 1))
        # Single precision: a standardisation needs no more.
        z = self._preactivation(W.astype(np.float32), self._tensors(inputs, np.float32))
        mean, deviation = z.mean(axis=0, dtype=np.float64), z.std(axis=0, dtype=np.float64)
        # A unit to which all inputs look alike (they are constant, say) cannot be scaled.
        factor = self.gain / np.where(deviation > 1e-6 * np.abs(mean), deviation, np.inf)
        factor[factor == 0] = 1.0
        W[:, :-1] *= factor[:, None] ** (1 / len(self.axes))
        W[:, -1] = -mean * factor
        return W

    def features(self, W: RealArray, inputs: ImageArray) -> RealArray:
        """Activations, (n, h)."""
        z = self._preactivation(W, self._tensors(inputs, W.dtype))
        return ACTIVATIONS[self.activation].apply(z)

    def features_and_derivative(
        self, W: RealArray, inputs: ImageArray
    ) -> tuple[RealArray, RealArray]:
        """Activations (n, h) and their derivative (n, 1, h, p)."""
        X = self._tensors(inputs, W.dtype)
        Phi = ACTIVATIONS[self.activation].apply(self._preactivation(W, X))
        slope = np.ascontiguousarray(ACTIVATIONS[self.activation].derivative(Phi).T)  # (h, n)
        h, n, R = len(W), len(X), self.rank
        dPhi = np.empty((h, n, self.n_weights), dtype=W.dtype)
        dPhi[:, :, -1] = slope
        terms = dPhi[:, :, :-1].reshape(h, n, R, -1)
        vectors = self._vectors(W)
        start = 0
        for number, length in enumerate(self._lengths):
            first, *others = (axis for axis, v in enumerate(self.tied) if v == number)
            # Tied axes: contracting another of them is contracting the first one of the image
            # with the two swapped.
            Y = X
            for axis in others:
                Y = Y + X.swapaxes(1 + first, 1 + axis)
            Y = np.moveaxis(Y, 1 + first, 1).reshape(n * length, -1)
            rest = _outer([v for axis, v in enumerate(vectors) if axis != first], h * R, W.dtype)
            contracted = (rest @ Y.T).reshape(h, R, n, length)
            np.multiply(
                contracted.swapaxes(1, 2),
                slope[:, :, None, None],
                out=terms[:, :, :, start : start + length],
            )
            start += length
        return Phi, dPhi.transpose(1, 0, 2)[:, None]

    def _tensors(self, inputs: ImageArray, dtype: Any) -> RealArray:
        if inputs.shape[1:] != self.image_shape:
            msg = (
                f"inputs must be images of shape {self.image_shape}, "
                f"got an array of shape {inputs.shape}."
            )
            raise ValueError(msg)
        return intensities(inputs, dtype).reshape(len(inputs), *self.axes)

    def _vectors(self, W: RealArray) -> list[RealArray]:
        """Vector of each axis, (h * rank, length)."""
        terms = W[:, :-1].reshape(len(W) * self.rank, -1)
        parts = np.split(terms, np.cumsum(self._lengths)[:-1], axis=1)
        return [parts[number] for number in self.tied]

    def _preactivation(self, W: RealArray, X: RealArray) -> RealArray:
        filters = _outer(self._vectors(W), len(W) * self.rank, W.dtype)
        filters = filters.reshape(len(W), self.rank, -1).sum(axis=1)
        z: RealArray = X.reshape(len(X), -1) @ filters.T
        z += W[:, -1]
        return z


def _outer(vectors: Sequence[RealArray], n_terms: int, dtype: Any) -> RealArray:
    """Row by row, the flattened outer product of vectors (n_terms, length)."""
    product: RealArray = np.ones((n_terms, 1), dtype=dtype)
    for vector in vectors:
        product = (product[:, :, None] * vector[:, None, :]).reshape(n_terms, -1)
    return product


def whole_image_units(
    kind: str,
    image_shape: Sequence[int],
    n_units: int,
    *,
    rank: int = 1,
    activation: str = "logistic",
    gain: float = 1.0,
) -> WholeImageUnits:
    """Make a layer of whole-image units, its arguments checked.

    Parameters
    ----------
    kind : {"quadratic", "bilinear", "tensor", "dense"}
    image_shape : sequence of int
        (rows, columns) or (channels, rows, columns).
    n_units : int
    rank : int
        Terms of the sum; 1 for dense units.
    activation : {"logistic", "tanh"}
    gain : float
        Standard deviation of the pre-activations at the start.

    Returns
    -------
    WholeImageUnits

    Raises
    ------
    ValueError
        An unknown name, a number below 1, or quadratic units for images that are not square.
    """
    try:
        shape = tuple(index(length) for length in image_shape)
        n_units, rank = index(n_units), index(rank)
    except TypeError as error:
        msg = (
            "image_shape, n_units and rank must be whole numbers, "
            f"got {image_shape!r}, {n_units!r} and {rank!r}."
        )
        raise ValueError(msg) from error
    if kind not in KINDS:
        msg = f"kind must be one of {', '.join(KINDS)}, got {kind!r}."
        raise ValueError(msg)
    if activation not in ACTIVATIONS:
        msg = f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}."
        raise ValueError(msg)
    if not shape or min(shape) < 1 or (kind in ("quadratic", "bilinear") and len(shape) < 2):
        msg = f"image_shape must have positive lengths, rows and columns at least, got {shape}."
        raise ValueError(msg)
    if kind == "quadratic" and shape[-1] != shape[-2]:
        msg = f"quadratic units need square images, got image_shape={shape}; use bilinear units."
        raise ValueError(msg)
    if n_units < 1 or rank < 1 or not 0 < gain < inf:
        msg = f"n_units, rank and gain must be positive, got {n_units}, {rank} and {gain}."
        raise ValueError(msg)
    if kind == "dense" and rank != 1:
        msg = f"dense units have rank 1, got rank={rank}."
        raise ValueError(msg)
    return WholeImageUnits(kind, shape, n_units, rank, activation, float(gain))


def units_from_spec(spec: Mapping[str, Any]) -> WholeImageUnits:
    """Make the units that :meth:`WholeImageUnits.spec` describes, checked as a user's choice."""
    choices = dict(spec)
    try:
        kind, shape, n_units = (choices.pop(name) for name in ("kind", "image_shape", "n_units"))
        return whole_image_units(kind, shape, n_units, **choices)
    except (KeyError, TypeError, OverflowError) as error:
        msg = f"spec must hold the fields of WholeImageUnits, got {dict(spec)}."
        raise ValueError(msg) from error
