"""The design matrix of a separable problem, block by block of its inputs."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from varpro_nn._arrays import plain_array, row_weights
from varpro_nn._typing import FloatArray, RealArray
from varpro_nn.errors import NonFiniteError
from varpro_nn.linalg import FixedColumns
from varpro_nn.linalg.qr import RANK_TOLERANCE
from varpro_nn.units import Units
from varpro_nn.units.contract import check_features, check_members, checked_derivative

DERIVATIVE_BYTES = 2**25
"""Bytes that the derivative of one block may take where it is summed up and forgotten."""


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Some inputs of a problem, their rows weighted.

    Attributes
    ----------
    Phi : ndarray, shape (b, q)
        ``s Phi``: unit columns, fixed columns or their orthonormal basis, the constant column.
    tau : ndarray, shape (b, k)
        ``s tau``.
    root : ndarray, shape (b,)
        ``s``.
    """

    Phi: FloatArray
    tau: FloatArray
    root: FloatArray


class Design:
    """Units, inputs, targets and weights, checked, and the blocks of rows they make.

    Parameters
    ----------
    units : Units
    inputs : array_like with ``len`` n and slicing
    tau : array_like, shape (n, k) or (n,)
    fixed : array_like, shape (n, f), optional
    sample_weight : array_like, shape (n,), optional
    constant : bool
    ridge : float
    dtype : {float32, float64}
    block_size : int, optional
        None: one block of all inputs.
    eliminate : bool
        Whether an orthonormal basis takes the place of the fixed columns.

    Attributes
    ----------
    tau : ndarray, shape (n, k)
    root : ndarray, shape (n,)
        Square roots ``s`` of the sample weights.
    eliminated : FixedColumns or None
        The orthonormal basis of the fixed columns, if there are any.
    ridge_of_columns : ndarray, shape (q,)
        ``lam``, 0 for the constant column; for the orthonormal basis its own.
    n_unit_columns : int
        h * m.
    n_columns : int
        With the fixed columns themselves.
    rank_tolerance : float
        See :func:`rank_tolerance_for`.

    Raises
    ------
    TypeError
        Units without the members of the contract.
    ValueError
        Shapes that do not match, negative, non-finite, masked or complex values.
    """

    def __init__(
        self,
        units: Units,
        inputs: Any,
        tau: ArrayLike,
        fixed: ArrayLike | None,
        sample_weight: ArrayLike | None,
        *,
        constant: bool,
        ridge: float,
        dtype: DTypeLike,
        block_size: int | None,
        eliminate: bool = False,
    ) -> None:
        check_members(units)
        n = len(inputs)
        targets = plain_array(tau, "tau").astype(np.float64, copy=False)
        self.units = units
        # Of other inputs, units know what they mean.
        masked = isinstance(inputs, np.ma.MaskedArray)
        self.inputs = plain_array(inputs, "inputs") if masked else inputs
        self.tau = targets[:, None] if targets.ndim == 1 else targets
        columns = (
            np.zeros((n, 0))
            if fixed is None
            else plain_array(fixed, "fixed").astype(np.float64, copy=False)
        )
        _check_rows("tau", self.tau, 2, n)
        _check_rows("fixed", columns, 2, n)
        weights = row_weights(np.ones(n) if sample_weight is None else sample_weight, n)
        if block_size is not None and block_size < 1:
            msg = f"block_size must be at least 1, got {block_size}."
            raise ValueError(msg)
        self.root = np.sqrt(weights)
        self.dtype = np.dtype(dtype)
        if self.dtype not in (np.float32, np.float64):
            msg = f"dtype must be float32 or float64, got {self.dtype}."
            raise ValueError(msg)
        self.block_size = block_size
        self._constant = np.ones((n, 1 if constant else 0))
        self.n_unit_columns = units.n_units * units.n_cells
        self.n_columns = self.n_unit_columns + columns.shape[1] + self._constant.shape[1]
        self.rank_tolerance = rank_tolerance_for(self.n_columns, self.dtype)
        self._fixed = self.root[:, None] * columns if columns.size else columns
        of_fixed = np.full(columns.shape[1], ridge)
        self.eliminated: FixedColumns | None = None
        if eliminate and columns.size:
            self.eliminated = FixedColumns.of(
                self._fixed, ridge, self.rank_tolerance, length=float(np.linalg.norm(self.root))
            )
            self._fixed, of_fixed = self.eliminated.Q, self.eliminated.ridge
        of_units, of_constant = np.full(self.n_unit_columns, ridge), np.zeros(int(constant))
        self.ridge_of_columns = np.concatenate([of_units, of_fixed, of_constant])

    def blocks(self, w: FloatArray) -> Iterator[Block]:
        """Rows of all inputs at ``w`` (h * p,).

        Raises
        ------
        NonFiniteError
            If features are NaN or infinite.
        TypeError, ValueError
            If they break the contract of units.
        """
        W = self._unit_weights(w)
        for rows in self._slices(self.block_size):
            features = self.units.features(W, self.inputs[rows])
            check_features(self.units, features, len(self.root[rows]), len(W))
            yield self._block(rows, features)

    def derivative_slices(self) -> list[slice]:
        """Cut the inputs into blocks whose derivatives keep to ``DERIVATIVE_BYTES`` each."""
        of_one_input = self.n_unit_columns * self.units.n_weights * self.dtype.itemsize
        size = max(1, min(DERIVATIVE_BYTES // of_one_input, self.block_size or len(self.tau)))
        return list(self._slices(size))

    def block_and_derivative(self, w: FloatArray, rows: slice) -> tuple[Block, RealArray]:
        """Rows of some inputs at ``w`` (h * p,) with their ``dPhi`` (b, m, h, p), not weighted.

        Raises
        ------
        NonFiniteError
            If features or derivatives are NaN or infinite.
        TypeError, ValueError
            If they break the contract of units.
        """
        W = self._unit_weights(w)
        pair = self.units.features_and_derivative(W, self.inputs[rows])
        features, dPhi = checked_derivative(self.units, pair, len(self.root[rows]), len(W))
        if not np.isfinite(dPhi.sum()):
            msg = "the derivatives of the features are NaN or infinite at these weights."
            raise NonFiniteError(msg)
        return self._block(rows, features), dPhi

    def linear_weights(self, A: FloatArray) -> FloatArray:
        """Weights of the columns as they were given, from those of the columns of blocks."""
        if self.eliminated is None:
            return A
        u, r = self.n_unit_columns, len(self.eliminated.ridge)
        return np.concatenate([A[:u], self.eliminated.T @ A[u : u + r], A[u + r :]])

    def _slices(self, size: int | None) -> Iterator[slice]:
        n = len(self.tau)
        step = n if size is None else size
        return (slice(start, min(start + step, n)) for start in range(0, n, step))

    def _unit_weights(self, w: FloatArray) -> RealArray:
        return w.reshape(self.units.n_units, self.units.n_weights).astype(self.dtype)

    def _block(self, rows: slice, features: RealArray) -> Block:
        root = self.root[rows]
        column = root[:, None]
        weighted = (column * features, self._fixed[rows], column * self._constant[rows])
        Phi = np.concatenate(weighted, axis=1, dtype=np.float64)
        if not np.isfinite(Phi.sum()):
            msg = "the features are NaN or infinite at these weights."
            raise NonFiniteError(msg)
        return Block(Phi, column * self.tau[rows], root)


def rank_tolerance_for(n_columns: int, dtype: np.dtype[Any]) -> float:
    """Relative singular value below which a direction of ``n_columns`` columns is rounding.

    Columns with large entries are first scaled down to entries of about 1. Below the rounding error
    of their type, a column looks like a repeated one.
    """
    return max(RANK_TOLERANCE, n_columns * float(np.finfo(dtype).eps))


def _check_rows(name: str, array: FloatArray, ndim: int, n: int) -> None:
    if array.ndim != ndim or len(array) != n:
        msg = f"{name} must have one row for each of {n} inputs, got shape {array.shape}."
        raise ValueError(msg)
    if not np.isfinite(array).all():
        msg = f"{name} must be finite, got NaN or infinity."
        raise ValueError(msg)
