"""The design matrix of a separable problem, block by block of its inputs."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from varpro_nn._arrays import plain_array, row_weights
from varpro_nn._typing import FloatArray, RealArray
from varpro_nn.errors import NonFiniteError
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
        ``s Phi``: unit columns, fixed columns, the constant column.
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

    Attributes
    ----------
    tau : ndarray, shape (n, k)
    root : ndarray, shape (n,)
        Square roots ``s`` of the sample weights.
    ridge_of_columns : ndarray, shape (q,)
        ``lam``, 0 for the constant column.
    n_unit_columns : int
        h * m.

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
    ) -> None:
        check_members(units)
        n = len(inputs)
        targets = plain_array(tau, "tau").astype(np.float64, copy=False)
        self.units = units
        # Of other inputs, units know what they mean.
        masked = isinstance(inputs, np.ma.MaskedArray)
        self.inputs = plain_array(inputs, "inputs") if masked else inputs
        self.tau = targets[:, None] if targets.ndim == 1 else targets
        self._fixed = (
            np.zeros((n, 0))
            if fixed is None
            else plain_array(fixed, "fixed").astype(np.float64, copy=False)
        )
        _check_rows("tau", self.tau, 2, n)
        _check_rows("fixed", self._fixed, 2, n)
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
        q = self.n_unit_columns + self._fixed.shape[1] + self._constant.shape[1]
        self.ridge_of_columns = np.full(q, ridge)
        if constant:
            self.ridge_of_columns[-1] = 0.0

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

    def _slices(self, size: int | None) -> Iterator[slice]:
        n = len(self.tau)
        step = n if size is None else size
        return (slice(start, min(start + step, n)) for start in range(0, n, step))

    def _unit_weights(self, w: FloatArray) -> RealArray:
        return w.reshape(self.units.n_units, self.units.n_weights).astype(self.dtype)

    def _block(self, rows: slice, features: RealArray) -> Block:
        root = self.root[rows]
        Phi = np.concatenate(
            [features, self._fixed[rows], self._constant[rows]], axis=1, dtype=np.float64
        )
        Phi *= root[:, None]
        if not np.isfinite(Phi.sum()):
            msg = "the features are NaN or infinite at these weights."
            raise NonFiniteError(msg)
        return Block(Phi, root[:, None] * self.tau[rows], root)


def _check_rows(name: str, array: FloatArray, ndim: int, n: int) -> None:
    if array.ndim != ndim or len(array) != n:
        msg = f"{name} must have one row for each of {n} inputs, got shape {array.shape}."
        raise ValueError(msg)
    if not np.isfinite(array).all():
        msg = f"{name} must be finite, got NaN or infinity."
        raise ValueError(msg)
