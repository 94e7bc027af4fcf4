r"""The variable-projection functional, its Jacobians, and the small problem equivalent to it.

For unit weights ``w`` the linear weights are eliminated,

    cost(w) = 1/2 ||s (tau - Phi(w) A)||^2 + lam/2 ||A||^2 + nu/2 ||w||^2,
    A = argmin of it for this w,

where ``s`` are square roots of sample weights and the constant column of ``Phi`` is not
penalised. In the letters of :mod:`varpro_nn.linalg.projection`, ``Q1 = s Phi T`` and
``Q2 = sqrt(lam) T`` (penalised rows) are an orthonormal basis of the augmented range. With
``r = s (tau - Phi A)`` and ``B_k = s sum_c dPhi[:, c] A[c, :, k]`` (n, h p), Kaufman's Jacobian of
class k is

    J_k = - (I - Q Q') [B_k; 0] = [ -B_k + Q1 Q1'B_k ; Q2 Q1'B_k ],

and since ``Q'[r; -sqrt(lam) A] = 0`` its gradient ``J'r`` is exact. Golub and Pereyra's full
Jacobian subtracts ``Q T_u' N_k``, where ``T_u`` are the rows of ``T`` of the unit columns,
``S = dPhi' s r`` (m, h, p, k) and ``N_k`` holds ``S[c, i, l, k]`` in row (c, i) and column
(i, l): orthogonal to the first term, so it adds to ``J'J`` and nothing to the gradient.

Neither ``least_squares`` nor anything here needs the (n k, h p) array. Two ways lead around it:

*operator*: ``dPhi`` is stored once, ``J v`` and ``J'u`` contract it with a vector.

*reduced*: ``J'J`` and ``J'r`` are sums over images. With ``D = s dPhi`` as (n, h p) and
``C = T'(s Phi)'D``, whole-image units (m = 1) have

    J'J = (D'D - C'C) ∘ (A A' ⊗ 1_pp) + nu I,

and units of several cells the same with ``B_k`` in place of ``D``, summed over classes. Blocks
of images are worked one after the other and forgotten; from the sums comes a problem of
h p + 1 rows with the same cost, gradient and Gauss-Newton matrix
(:func:`varpro_nn.linalg.small_equivalent`).

References
----------
G. H. Golub and V. Pereyra, SIAM J. Numer. Anal. 10 (1973) 413-432.
L. Kaufman, BIT 15 (1975) 49-57.
V. Pereyra, Neural networks for image classification using quadratic scalarization and variable
projections for fast training (2019), sections 2 and 3.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, DTypeLike
from scipy.sparse.linalg import LinearOperator

from varpro_nn._typing import FloatArray
from varpro_nn.design import Block, Design
from varpro_nn.jacobian import Jacobian, NormalSums
from varpro_nn.linalg import (
    LinearSolution,
    RowSums,
    least_squares_with_ridge,
    left_out_errors,
    small_equivalent,
)
from varpro_nn.linalg.projection import RANK_TOLERANCE
from varpro_nn.units import Units

JacobianKind = Literal["kaufman", "full"]


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What is known at one ``w``.

    Attributes
    ----------
    w : ndarray, shape (h * p,)
    solution : LinearSolution
        The eliminated linear weights ``A`` and the projector.
    cost : float
        Half the sum of squares, ridge and weight decay included.
    loo_mse : float
        Weighted mean squared norm of the exact leave-one-out residual of the linear fit.
    loo_error : float
        Weighted share of inputs whose left-out output is largest at another class than ``tau``;
        NaN for a single target.
    """

    w: FloatArray
    solution: LinearSolution
    cost: float
    loo_mse: float
    loo_error: float


class VarProFunctional:
    """A separable least-squares problem with its linear weights projected out.

    Parameters
    ----------
    units : Units
        The columns that are trained.
    inputs : array_like with ``len`` n and slicing
        What the units take: images, or the abscissae of a curve.
    tau : array_like, shape (n, k) or (n,)
        Targets.
    ridge : float
        ``lam >= 0``.
    weight_decay : float
        ``nu >= 0``.
    sample_weight : array_like, shape (n,), optional
        Weight of each input in the sum of squares, >= 0.
    fixed : array_like, shape (n, f), optional
        Columns of ``Phi`` that are not trained.
    constant : bool
        Whether ``Phi`` ends with a column of ones, never penalised.
    dtype : {float32, float64}
        Type of the features and of the large products. Projection, sums and solves are double
        in any case.
    block_size : int, optional
        Work on so many inputs at a time and keep nothing of size n but inputs and targets: only
        the cost, the gradient and the reduced problem are then to be had. None: keep all.
    rank_tolerance : float, optional
        Singular values of ``Phi`` below this times the largest count as zero. By default 1e-12,
        or q times the rounding error of ``dtype`` where that is larger: what single precision
        cannot tell from a repeated column is none of its own.

    Raises
    ------
    ValueError
        Shapes that do not match, negative or non-finite values.

    Notes
    -----
    ``least_squares`` asks for the residual at ``w`` and, if the step is accepted, for the
    Jacobian at the same ``w``, each time in a new array. A one-slot memo keyed by value lets the
    two share the projection.
    """

    def __init__(
        self,
        units: Units,
        inputs: Any,
        tau: ArrayLike,
        *,
        ridge: float = 0.0,
        weight_decay: float = 0.0,
        sample_weight: ArrayLike | None = None,
        fixed: ArrayLike | None = None,
        constant: bool = True,
        dtype: DTypeLike = np.float32,
        block_size: int | None = None,
        rank_tolerance: float | None = None,
    ) -> None:
        for name, value in (("ridge", ridge), ("weight_decay", weight_decay)):
            if not (np.isfinite(value) and value >= 0):
                msg = f"{name} must be finite and not negative, got {value}."
                raise ValueError(msg)
        self.design = Design(
            units, inputs, tau, fixed, sample_weight,
            constant=constant, ridge=ridge, dtype=dtype, block_size=block_size,
        )  # fmt: skip
        self.units = units
        self.ridge, self.weight_decay = float(ridge), float(weight_decay)
        if rank_tolerance is None:
            q = self.design.ridge_of_columns.size
            rank_tolerance = max(RANK_TOLERANCE, q * float(np.finfo(self.design.dtype).eps))
        self.rank_tolerance = rank_tolerance
        self._memo: tuple[Evaluation, list[Block] | None] | None = None

    @property
    def tau(self) -> FloatArray:
        """Targets, (n, k)."""
        return self.design.tau

    @property
    def n_weights(self) -> int:
        """Length of ``w``."""
        return self.units.n_units * self.units.n_weights

    @property
    def n_residuals(self) -> int:
        """Length of ``residual(w)``: inputs times targets, then the ridge and decay rows."""
        n, k = self.tau.shape
        decay_rows = self.n_weights if self.weight_decay else 0
        return (n + np.count_nonzero(self.design.ridge_of_columns)) * k + decay_rows

    def evaluate(self, w: FloatArray) -> Evaluation:
        """Eliminate the linear weights at ``w`` (h * p,)."""
        return self._evaluate(w)[0]

    def cost(self, w: FloatArray) -> float:
        """Half the sum of squares at ``w``."""
        return self._evaluate(w)[0].cost

    def residual(self, w: FloatArray) -> FloatArray:
        """Residual vector, (n_residuals,): ``s (tau - Phi A)`` row by row, then the penalties.

        Half its squared norm is the cost.
        """
        point, blocks = self._evaluate(w)
        (block,) = self._need_stored(blocks, "residual")
        A = point.solution.A
        penalised = self.design.ridge_of_columns > 0
        parts = [block.tau - block.Phi @ A, -np.sqrt(self.ridge) * A[penalised]]
        if self.weight_decay:
            parts.append(np.sqrt(self.weight_decay) * point.w)
        return np.concatenate([part.ravel() for part in parts])

    def jacobian(
        self,
        w: FloatArray,
        kind: JacobianKind = "kaufman",
        form: Literal["operator", "array"] = "operator",
    ) -> LinearOperator | FloatArray:
        """Jacobian of :meth:`residual`, (n_residuals, h * p).

        Parameters
        ----------
        w : ndarray, shape (h * p,)
        kind : {"kaufman", "full"}
            Without or with the second term of Golub and Pereyra. The gradient is the same.
        form : {"operator", "array"}
            A ``LinearOperator`` that stores ``dPhi``, or the dense array (k times as large; for
            comparison and for ``method="lm"``).
        """
        if form not in ("operator", "array"):
            msg = f"form must be 'operator' or 'array', got {form!r}."
            raise ValueError(msg)
        full = _is_full(kind)
        point, blocks = self._evaluate(w)
        self._need_stored(blocks, "jacobian")
        ((block, dPhi),) = self.design.blocks_and_derivative(w)
        jacobian = Jacobian(
            point.solution,
            block,
            dPhi,
            ridge=self.design.ridge_of_columns,
            weight_decay=self.weight_decay,
            full=full,
        )
        return jacobian.operator() if form == "operator" else jacobian.array()

    def gradient(self, w: FloatArray) -> FloatArray:
        """Exact gradient of the cost, (h * p,)."""
        return self._sums(w, matrix=False, full=False)[1]

    def normal_equations(
        self, w: FloatArray, kind: JacobianKind = "kaufman"
    ) -> tuple[FloatArray, FloatArray]:
        """Gauss-Newton matrix ``H = J'J`` (h * p, h * p) and gradient ``g = J'r`` (h * p,)."""
        return self._sums(w, matrix=True, full=_is_full(kind))

    def reduced(
        self, w: FloatArray, kind: JacobianKind = "kaufman"
    ) -> tuple[FloatArray, FloatArray]:
        """Residual and Jacobian of the equivalent problem of h * p + 1 rows.

        ``f @ f / 2``, ``J.T @ f`` and ``J.T @ J`` are the cost, gradient and Gauss-Newton matrix.
        """
        H, g = self.normal_equations(w, kind)
        noise = 10 * float(np.finfo(self.design.dtype).eps)
        return small_equivalent(H, g, 2 * self.cost(w), noise)

    def reduced_residual(self, w: FloatArray) -> FloatArray:
        """``f`` of :meth:`reduced` alone, which needs no derivative."""
        f = np.zeros(self.n_weights + 1)
        f[-1] = np.sqrt(2 * self.cost(w))
        return f

    def _evaluate(self, w: FloatArray) -> tuple[Evaluation, list[Block] | None]:
        if self._memo is not None and np.array_equal(self._memo[0].w, w):
            return self._memo
        w = np.array(w, dtype=np.float64)
        if w.shape != (self.n_weights,):
            msg = f"w must have shape ({self.n_weights},), got {w.shape}."
            raise ValueError(msg)
        ridge = self.design.ridge_of_columns
        sums = RowSums(ridge.size + self.tau.shape[1])
        stored: list[Block] | None = [] if self.design.block_size is None else None
        for block in self.design.blocks(w):
            sums.add(np.concatenate([block.Phi, block.tau], axis=1))
            if stored is not None:
                stored.append(block)
        solution = least_squares_with_ridge(sums, ridge, self.rank_tolerance)
        loo_squares = loo_wrong = 0.0
        for block in self.design.blocks(w) if stored is None else stored:
            squares, wrong = _left_out(block, solution)
            loo_squares += squares
            loo_wrong += wrong
        total = float(self.design.root @ self.design.root)
        point = Evaluation(
            w=w,
            solution=solution,
            cost=0.5 * (solution.sum_of_squares + self.weight_decay * float(w @ w)),
            loo_mse=loo_squares / total,
            loo_error=loo_wrong / total if self.tau.shape[1] > 1 else np.nan,
        )
        self._memo = point, stored
        return self._memo

    def _sums(self, w: FloatArray, *, matrix: bool, full: bool) -> tuple[FloatArray, FloatArray]:
        point, _ = self._evaluate(w)
        sums = NormalSums(point.solution, self.units.n_cells, self.design.n_unit_columns)
        for block, dPhi in self.design.blocks_and_derivative(w):
            sums.add(block, dPhi, matrix=matrix)
        g = sums.gradient() + self.weight_decay * point.w
        if not matrix:
            return np.zeros((0, 0)), g
        H = sums.matrix(full=full)
        H[np.diag_indices_from(H)] += self.weight_decay
        return H, g

    def _need_stored(self, blocks: list[Block] | None, what: str) -> list[Block]:
        if blocks is None:
            msg = (
                f"{what} has a row for every input and needs block_size=None, got "
                f"block_size={self.design.block_size}; use reduced, normal_equations or gradient."
            )
            raise ValueError(msg)
        return blocks


def _left_out(block: Block, solution: LinearSolution) -> tuple[float, float]:
    """Weighted sum of squared leave-one-out residuals, and weight of the misclassified."""
    basis = solution.range_basis(block.Phi)
    leverage = np.einsum("ij,ij->i", basis, basis)
    # Rows stay weighted by s: that weighs their squares, and moves no maximum.
    squared, wrong = left_out_errors(
        block.tau - block.Phi @ solution.A, block.tau, leverage, float(np.finfo(np.float64).eps)
    )
    return float(squared.sum()), float(block.root**2 @ wrong)


def _is_full(kind: str) -> bool:
    if kind not in ("kaufman", "full"):
        msg = f"kind must be 'kaufman' or 'full', got {kind!r}."
        raise ValueError(msg)
    return kind == "full"
