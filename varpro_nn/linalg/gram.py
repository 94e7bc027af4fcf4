"""Sums over rows from which a ridge regression follows; see :mod:`varpro_nn.linalg.ridge`.

Sums can be taken apart again: rows can be taken out, columns dropped or appended, and the sums of
some rows merged with those of others. Each costs what its own rows and columns cost.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy

from varpro_nn._typing import FloatArray, IndexArray, RealArray
from varpro_nn.linalg.ridge import (
    RidgePath,
    add_gram,
    column_tiles,
    eigenvalue_rounding,
    product_over_rows,
    run_tiles,
    spread,
)
from varpro_nn.linalg.threads import Threads


class GramAccumulator:
    """Sums over blocks of rows.

    Parameters
    ----------
    n_columns : int
        Columns of ``Phi``, q, without the constant column.
    n_targets : int
        Columns of ``tau``, k.
    shift : ndarray of float, shape (q,), optional
        What is taken off the rows before their products, to keep them small: about their mean.
        Its type is that of the rows. By default the mean of the first block.
    """

    def __init__(
        self,
        n_columns: int,
        n_targets: int,
        *,
        shift: RealArray | None = None,
    ) -> None:
        self._shift = shift
        self._gram = np.zeros((n_columns, n_columns))  # upper tiles alone are filled
        self._moments = np.zeros((n_columns, n_targets))
        self._sum_Phi = np.zeros(n_columns)
        self._sum_tau = np.zeros(n_targets)
        self._squares_tau = 0.0
        self._sum_weights = 0.0
        # The largest that each diagonal entry ever was: rows that were taken out again have left
        # their rounding errors.
        self._peaks = np.zeros(n_columns)

    @property
    def n_columns(self) -> int:
        """Columns of ``Phi``, without the constant column."""
        return len(self._gram)

    @property
    def n_targets(self) -> int:
        """Columns of ``tau``."""
        return len(self._sum_tau)

    @property
    def sum_weights(self) -> float:
        """Sum of the sample weights: the number of rows, if they have none."""
        return self._sum_weights

    @property
    def sum_tau(self) -> FloatArray:
        """Weighted sum of the rows of ``tau``, (k,)."""
        return self._sum_tau

    @property
    def shift(self) -> Any:
        """What is taken off the rows, (q,); None before the first block."""
        return self._shift

    def add(
        self,
        Phi: RealArray,
        tau: FloatArray,
        sample_weight: FloatArray | None = None,
        threads: Threads | None = None,
    ) -> None:
        """Take in a block of rows; ``Phi`` (b, q) is used as work space and overwritten.

        Threads share the tiles if there are any.
        """
        if self._shift is None:
            self._shift = Phi.mean(axis=0, dtype=np.float64).astype(Phi.dtype)
        Phi -= self._shift
        root = np.ones(len(tau)) if sample_weight is None else np.sqrt(sample_weight)
        if sample_weight is not None:
            Phi *= root[:, None].astype(Phi.dtype)
        # The last columns weigh the rows once more: they give the sums of phi and of phi tau'.
        right = np.concatenate([root[:, None] * tau, root[:, None]], axis=1)

        def add_moments(tile: slice) -> None:
            products = product_over_rows(Phi[:, tile], right.astype(Phi.dtype))
            self._moments[tile] += products[:, :-1]
            self._sum_Phi[tile] += products[:, -1]

        add_gram(self._gram, Phi, threads)
        run_tiles(threads, add_moments, column_tiles(self.n_columns))
        self._sum_tau += root @ right[:, :-1]
        self._squares_tau += float(np.square(right[:, :-1]).sum())
        self._sum_weights += float(root @ root)
        np.maximum(self._peaks, np.diag(self._gram), out=self._peaks)

    def merge(self, other: "GramAccumulator", sign: int = 1) -> None:
        """Take in, or with ``sign`` -1 take out, what another accumulator has taken in.

        Raises
        ------
        ValueError
            Other columns, targets or another shift.
        """
        if other._gram.shape != self._gram.shape or other.n_targets != self.n_targets:
            msg = (
                f"sums of {self.n_columns} columns and {self.n_targets} targets cannot take in "
                f"those of {other.n_columns} and {other.n_targets}."
            )
            raise ValueError(msg)
        if other._shift is None:
            return
        if self._shift is None:
            self._shift = other._shift
        if not np.array_equal(self._shift, other._shift):
            msg = "sums that are merged must have the same shift."
            raise ValueError(msg)
        for name in ("_gram", "_moments", "_sum_Phi", "_sum_tau"):
            mine, theirs = getattr(self, name), getattr(other, name)
            (np.add if sign > 0 else np.subtract)(mine, theirs, out=mine)
        self._squares_tau += sign * other._squares_tau
        self._sum_weights += sign * other._sum_weights
        for peaks in (other._peaks, np.diag(self._gram)):
            np.maximum(self._peaks, peaks, out=self._peaks)

    def keep_columns(self, columns: IndexArray) -> None:
        """Keep the columns at those positions, in that order, and drop the others."""
        self._replace(
            self._symmetric()[np.ix_(columns, columns)],
            *(
                None if array is None else array[columns]
                for array in (self._moments, self._sum_Phi, self._peaks, self._shift)
            ),
        )

    def append_columns(
        self, cross: FloatArray, of_new: "GramAccumulator", order: IndexArray
    ) -> None:
        """Append columns, given their own sums over the same rows; then put all into an order.

        Parameters
        ----------
        cross : ndarray, shape (q, q_new)
            Products of the columns that are there with the new ones, all shifted.
        of_new : GramAccumulator
            Sums of the new columns.
        order : ndarray of int, shape (q + q_new,)
            Positions that the columns are taken from.

        Raises
        ------
        ValueError
            The new sums are over other rows.
        """
        same = self._sum_weights == of_new._sum_weights and np.array_equal(
            self._sum_tau, of_new._sum_tau
        )
        if not same or self._shift is None or of_new._shift is None:
            msg = (
                "new columns need the rows that were taken in: "
                f"{self._sum_weights:g} of them, got {of_new._sum_weights:g}, or other targets."
            )
            raise ValueError(msg)
        gram = np.block([[self._symmetric(), cross], [cross.T, of_new._symmetric()]])
        self._replace(
            gram[np.ix_(order, order)],
            *(
                np.concatenate([getattr(self, name), getattr(of_new, name)])[order]
                for name in ("_moments", "_sum_Phi", "_peaks", "_shift")
            ),
        )

    def _replace(self, gram: Any, moments: Any, sum_Phi: Any, peaks: Any, shift: Any) -> None:
        # All at once, when nothing can fail any more.
        self._gram, self._moments, self._sum_Phi = gram, moments, sum_Phi
        self._peaks, self._shift = peaks, shift

    def _symmetric(self) -> FloatArray:
        return np.triu(self._gram) + np.triu(self._gram, 1).T

    def path(self, *, standardise: bool = False, keep: bool = True) -> RidgePath:
        """Factorise what has been taken in.

        Parameters
        ----------
        standardise : bool
            Let the ridge act on columns scaled to variance 1, so that it means the same for all;
            what comes out are linear weights of the columns as they are.
        keep : bool
            Leave the sums as they are. Otherwise they are used up, which saves a copy.

        Raises
        ------
        ValueError
            If no row of positive weight has been taken in.
        """
        if self._shift is None or self._sum_weights <= 0:
            msg = "a ridge regression needs at least one row of positive weight, got none."
            raise ValueError(msg)
        mean_Phi = self._sum_Phi / self._sum_weights
        mean_tau = self._sum_tau / self._sum_weights
        gram = self._gram.copy() if keep else self._gram
        for tile in column_tiles(self.n_columns):
            gram[tile] -= self._sum_Phi[tile, None] * mean_Phi
        scale = np.ones(len(gram))
        if standardise:
            deviation = np.sqrt(np.maximum(np.diag(gram), 0.0) / self._sum_weights)
            scale = 1 / spread(deviation, self._shift.astype(np.float64) + mean_Phi)
            gram *= scale[:, None]
            gram *= scale
        # The transpose is in the memory order of LAPACK, and its lower triangle is filled.
        eigenvalues, V = scipy.linalg.eigh(
            gram.T, lower=True, overwrite_a=True, check_finite=False, driver="evd"
        )
        eps = float(np.finfo(self._shift.dtype).eps)
        rounding = eigenvalue_rounding(eigenvalues, self._peaks * scale**2, eps)
        null_space = V[:, eigenvalues <= rounding]
        V *= scale[:, None]
        moments = self._moments - np.outer(self._sum_Phi, mean_tau)
        return RidgePath(
            eigenvalues=np.maximum(eigenvalues, 0.0),
            eigenvectors=V,
            projected_moments=V.T @ moments,
            mean_Phi=self._shift.astype(np.float64) + mean_Phi,
            mean_tau=mean_tau,
            squares_tau=self._squares_tau - float(self._sum_tau @ mean_tau),
            sum_weights=self._sum_weights,
            precision=eps,
            rounding=rounding,
            null_space=null_space,
        )

    def arrays(self) -> dict[str, Any]:
        """All sums as arrays, for a file."""
        if self._shift is None:
            msg = "there are no sums yet."
            raise ValueError(msg)
        return {
            "gram": self._symmetric(),
            "moments": self._moments,
            "sum_Phi": self._sum_Phi,
            "sum_tau": self._sum_tau,
            "peaks": self._peaks,
            "totals": np.array([self._squares_tau, self._sum_weights]),
            "shift": self._shift,
        }

    @classmethod
    def of_arrays(
        cls, arrays: Mapping[str, Any], n_columns: int, dtype: np.dtype[Any]
    ) -> "GramAccumulator":
        """Make the sums again that ``arrays`` gave.

        Parameters
        ----------
        arrays : mapping of str to ndarray
        n_columns : int
            Columns that they should have.
        dtype : numpy.dtype
            Type of the rows.

        Raises
        ------
        KeyError, ValueError
            An array is missing, not finite, or of a shape or type that it should not have.
        """
        k = arrays["moments"].shape[-1] if arrays["moments"].ndim == 2 else 0
        q, double = n_columns, np.dtype(np.float64)
        expected = {
            "gram": ((q, q), double), "moments": ((q, k), double), "sum_Phi": ((q,), double),
            "sum_tau": ((k,), double), "peaks": ((q,), double), "totals": ((2,), double),
            "shift": ((q,), dtype),
        }  # fmt: skip
        for name, (shape, kind) in expected.items():
            array = arrays[name]
            if array.shape != shape or array.dtype != kind or not np.isfinite(array).all():
                msg = (
                    f"{name} must be {shape} of {kind} and finite, got {array.shape} of "
                    f"{array.dtype}."
                )
                raise ValueError(msg)
        squares, weights = (float(value) for value in arrays["totals"])
        if k < 1 or squares < 0 or weights < 0:
            msg = (
                f"totals must not be negative, and targets be there, got {squares}, {weights}, {k}."
            )
            raise ValueError(msg)
        sums = cls(q, k, shift=arrays["shift"].copy())
        for name in ("gram", "moments", "sum_Phi", "sum_tau", "peaks"):
            getattr(sums, f"_{name}")[...] = arrays[name]
        sums._squares_tau, sums._sum_weights = squares, weights
        return sums
