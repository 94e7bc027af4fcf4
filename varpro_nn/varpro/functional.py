r"""The variable-projection functional, its Jacobians, and the small problem equivalent to it.

For unit weights ``w`` the linear weights are eliminated,

    cost(w) = 1/2 ||s (tau - Phi(w) A)||^2 + lam/2 ||A||^2 + nu/2 ||w||^2,
    A = argmin of it for this w,

where ``s`` are square roots of sample weights and the constant column of ``Phi`` is not
penalised. :mod:`varpro_nn.varpro.jacobian` has the formulas of the Jacobians.

Neither ``least_squares`` nor anything here needs the (n k, h p) array of the Jacobian. Two ways
lead around it:

*operator*: ``dPhi`` is stored once, ``J v`` and ``J'u`` contract it with a vector.

*reduced*: ``J'J`` and ``J'r`` are sums over images. Blocks of images are worked one after the
other and forgotten; from the sums comes a problem of h p + 1 rows with the same cost, gradient and
Gauss-Newton matrix (:func:`varpro_nn.linalg.small_equivalent`).

References
----------
V. Pereyra, Neural networks for image classification using quadratic scalarization and variable
projections for fast training (2019), sections 2 and 3.
"""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import scipy
from numpy.typing import ArrayLike, DTypeLike

from varpro_nn._typing import FloatArray
from varpro_nn._warn import warn_user
from varpro_nn.linalg import (
    LinearSolution,
    StreamingQR,
    least_squares_beside_fixed,
    least_squares_with_ridge,
    left_out_errors,
)
from varpro_nn.linalg.threads import Threads, in_order
from varpro_nn.units import Units
from varpro_nn.varpro.design_matrix import Block, Design
from varpro_nn.varpro.jacobian import Jacobian, NormalSums
from varpro_nn.varpro.reduced import (
    Evaluation,
    JacobianKind,
    ReducedFunctional,
    check_penalties,
    is_full,
)


class _Projection(NamedTuple):
    """The solved linear problem, and all rows of it unless they come in blocks."""

    solution: LinearSolution
    blocks: list[Block] | None


class VarProFunctional(ReducedFunctional):
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
        Work on this number of inputs at a time and keep nothing of size n but inputs, targets and
        fixed columns. With these, an evaluation computes the features three times instead of twice.
        ``residual`` and ``jacobian`` are then not available. None: keep all.
    threads : Threads, optional
        Share the sums over inputs; results do not depend on them. See
        :mod:`varpro_nn.linalg.threads`.

    Raises
    ------
    TypeError
        Units without the members of the contract (:class:`varpro_nn.Units`).
    ValueError
        Shapes that do not match, negative, non-finite, masked or complex values.

    Warns
    -----
    UserWarning
        The ridge is zero, and there are at most as many inputs as columns. The linear weights then
        fit all targets, and the cost does not depend on the unit weights.
    """

    forms: ClassVar[tuple[str, ...]] = ("operator", "reduced", "array")

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
        threads: Threads | None = None,
    ) -> None:
        super().__init__(threads)
        check_penalties(ridge, weight_decay)
        self.design = Design(
            units, inputs, tau, fixed, sample_weight,
            constant=constant, ridge=ridge, dtype=dtype, block_size=block_size, eliminate=True,
        )  # fmt: skip
        self.dtype, self.tau = self.design.dtype, self.design.tau
        self.units = units
        self.ridge, self.weight_decay = float(ridge), float(weight_decay)
        n, q = int(np.count_nonzero(self.design.root)), self.design.n_columns
        if interpolates(n, q, ridge):
            msg = (
                f"{q} columns fit any targets of {n} inputs, whatever the unit weights: set ridge, "
                "or take fewer units or more inputs."
            )
            warn_user(msg)

    @property
    def n_residuals(self) -> int:
        """Length of ``residual(w)``: inputs times targets, then the ridge and decay rows."""
        n, k = self.tau.shape
        decay_rows = self.n_weights if self.weight_decay else 0
        return (n + np.count_nonzero(self.design.ridge_of_columns)) * k + decay_rows

    def residual(self, w: FloatArray) -> FloatArray:
        """Compute the residual: ``s (tau - Phi A)`` row by row, then the penalties.

        Half its squared norm is the cost. The penalties of fixed columns are those of their
        orthonormal basis (:mod:`varpro_nn.linalg.fixed`).

        Parameters
        ----------
        w : ndarray, shape (h * p,) or (h, p)

        Returns
        -------
        ndarray, shape (n_residuals,)

        Raises
        ------
        ValueError
            Weights of another shape, or a functional with ``block_size``.
        NonFiniteError
            The features there are not finite.
        """
        point, projection = self._evaluate(w)
        (block,) = self._need_stored(projection.blocks, "residual")
        A = projection.solution.A
        penalised = self.design.ridge_of_columns > 0
        ridge = self.design.ridge_of_columns[penalised, None]
        parts = [block.tau - block.Phi @ A, -np.sqrt(ridge) * A[penalised]]
        if self.weight_decay:
            parts.append(np.sqrt(self.weight_decay) * point.w)
        return np.concatenate([part.ravel() for part in parts])

    def jacobian(
        self,
        w: FloatArray,
        kind: JacobianKind = "kaufman",
        form: Literal["operator", "array"] = "operator",
    ) -> "scipy.sparse.linalg.LinearOperator | FloatArray":
        """Compute the Jacobian of :meth:`residual`.

        Parameters
        ----------
        w : ndarray, shape (h * p,) or (h, p)
        kind : {"kaufman", "full"}
            Without or with the second term of Golub and Pereyra. The gradient is the same.
        form : {"operator", "array"}
            A ``LinearOperator`` that stores ``dPhi``, or the dense array (k times as large; for
            comparison and for ``method="lm"``).

        Returns
        -------
        LinearOperator or ndarray, shape (n_residuals, h * p)

        Raises
        ------
        ValueError
            An unknown name; otherwise as :meth:`residual`.
        """
        if form not in ("operator", "array"):
            msg = f"form must be 'operator' or 'array', got {form!r}."
            raise ValueError(msg)
        full = is_full(kind)
        point, projection = self._evaluate(w)
        self._need_stored(projection.blocks, "jacobian")
        block, dPhi = self.design.block_and_derivative(point.w, slice(None))
        jacobian = Jacobian(
            projection.solution,
            block,
            dPhi,
            ridge=self.design.ridge_of_columns,
            weight_decay=self.weight_decay,
            full=full,
        )
        return jacobian.operator() if form == "operator" else jacobian.array()

    def _project(self, w: FloatArray) -> tuple[Evaluation, _Projection]:
        design = self.design
        stored = list(design.blocks(w)) if design.block_size is None else None

        def blocks() -> Iterable[Block]:
            return design.blocks(w) if stored is None else stored

        solution = self._solution(blocks)
        left_out = left_out_sums(blocks(), solution)
        total = float(design.root @ design.root)
        A = design.linear_weights(solution.A)
        point = evaluation(w, A, solution, self.weight_decay, left_out, total)
        return point, _Projection(solution, stored)

    def _solution(self, blocks: Callable[[], Iterable[Block]]) -> LinearSolution:
        design = self.design
        ridge, u = design.ridge_of_columns, design.n_unit_columns
        of_ones = float(np.linalg.norm(design.root))
        if design.eliminated is not None:
            after = u + len(design.eliminated.ridge)

            def split() -> Iterable[tuple[FloatArray, FloatArray, FloatArray]]:
                for block in blocks():
                    Y = np.concatenate([block.Phi[:, :u], block.Phi[:, after:]], axis=1)
                    yield block.Phi[:, u:after], Y, block.tau

            return least_squares_beside_fixed(
                design.eliminated, split, np.concatenate([ridge[:u], ridge[after:]]), u,
                design.rank_tolerance, length=of_ones,
            )  # fmt: skip
        sums = row_sums(blocks())
        # The yardstick of the rank is a column of ones, or the longest unit column if that is
        # shorter: the unit of its features must not make all units count as rounding error.
        # (The largest entry of R is a norm up to a factor of sqrt(q), and cannot overflow.)
        longest = float(np.abs(sums.factor[:, :u]).max())
        length = min(of_ones, longest or np.inf)
        return least_squares_with_ridge(sums, ridge, design.rank_tolerance, length=length)

    def _sums(self, w: FloatArray, *, matrix: bool, full: bool) -> tuple[FloatArray, FloatArray]:
        solution = self._evaluate(w)[1].solution
        sums = self._normal_sums(w, solution, matrix=matrix, full=full)
        return sums.matrix() if matrix else np.zeros((0, 0)), sums.gradient()

    def _normal_sums(
        self, w: FloatArray, solution: LinearSolution, *, matrix: bool, full: bool
    ) -> NormalSums:
        """Sum up the normal equations block by block, in threads if there are any."""
        design = self.design

        def add_block(sums: NormalSums, rows: slice) -> NormalSums:
            sums.add(*design.block_and_derivative(w, rows), matrix=matrix)
            return sums

        def empty() -> NormalSums:
            return NormalSums(solution, self.units.n_cells, design.n_unit_columns, full=full)

        total = empty()
        if self.threads is None:
            for rows in design.derivative_slices():
                add_block(total, rows)
            return total
        slices = design.derivative_slices()
        # Of the large matrices of one block: the Gram matrix and the cross products.
        side = self.n_weights * (self.units.n_cells if total._by_cells else 1)
        n_bytes = 8 * side * (side + design.ridge_of_columns.size) if matrix else 0
        for sums in in_order(self.threads, lambda rows: add_block(empty(), rows), slices, n_bytes):
            total.merge(sums)
        return total

    def _need_stored(self, blocks: list[Block] | None, what: str) -> list[Block]:
        if blocks is None:
            msg = (
                f"{what} has a row for every input and needs block_size=None, got "
                f"block_size={self.design.block_size}; use reduced, normal_equations or gradient."
            )
            raise ValueError(msg)
        return blocks


def interpolates(n_inputs: int, n_columns: int, ridge: float) -> bool:
    """Whether the linear weights fit any targets, so that units have nothing to learn from."""
    return ridge == 0 and n_inputs <= n_columns


def row_sums(blocks: Iterable[Block]) -> StreamingQR:
    """Triangular factor of ``s [Phi, tau]``."""
    sums: StreamingQR | None = None
    for block in blocks:
        rows = np.concatenate([block.Phi, block.tau], axis=1)
        sums = StreamingQR(rows.shape[1]) if sums is None else sums
        sums.add(rows)
    assert sums is not None  # a design has one input at least
    return sums


def left_out_sums(blocks: Iterable[Block], solution: LinearSolution) -> tuple[float, float]:
    """Weighted sum of squared leave-one-out residuals, and weight of the misclassified."""
    squares = weight = 0.0
    for block in blocks:
        basis = solution.range_basis(block.Phi)
        leverage = np.einsum("ij,ij->i", basis, basis)
        # Rows stay weighted by s: that weighs their squares, and moves no maximum.
        squared, wrong = left_out_errors(
            block.tau - block.Phi @ solution.A, block.tau, leverage, float(np.finfo(np.float64).eps)
        )
        squares += float(squared.sum())
        weight += float(block.root**2 @ wrong)
    return squares, weight


def evaluation(
    w: FloatArray,
    A: FloatArray,
    solution: LinearSolution,
    weight_decay: float,
    left_out: tuple[float, float],
    sum_weights: float,
) -> Evaluation:
    """Put together what is known at ``w``; ``left_out`` as :func:`left_out_sums` gives it."""
    squares, wrong = left_out
    return Evaluation(
        w=w,
        A=A,
        rank=solution.rank,
        cost=0.5 * (solution.sum_of_squares + weight_decay * float(w @ w)),
        loo_mse=squares / sum_weights,
        loo_error=wrong / sum_weights if A.shape[1] > 1 else np.nan,
    )
