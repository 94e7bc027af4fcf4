r"""Variable projection with cross-entropy: the linear weights minimise a convex function.

    cost(w) = min_A  sum_i omega_i ce(A' phi_i(w), y_i) + lam/2 ||A||^2  + nu/2 ||w||^2

with sample weights ``omega`` (1 by default) has the gradient of the inner function by ``w`` at the
minimising ``A(w)`` (the envelope theorem), exactly. How ``A`` moves with ``w`` follows from the
implicit function theorem. With ``p`` the probabilities of an image, ``S = diag(p) - p p'`` the
Hessian of its loss by the outputs, which factors as ``M M'`` with
``M = diag(sqrt p) - p sqrt(p)'``, and ``B`` (k, h p) the derivative of its outputs by ``w`` for
fixed ``A``, the Gauss-Newton matrix of the reduced function in Kaufman's spirit (the derivative of
``Phi`` meets ``A``, not the residual) is that of reweighted least squares,

    H = sum_i omega_i B_i'S_i B_i - X' Y^-1 X + nu I,
    X = sum_i omega_i (S_i B_i) ⊗ phi_i,    Y = sum_i omega_i S_i ⊗ phi_i phi_i' + lam.

The solver receives it as a small equivalent problem, as with squares.

When a network is certain of an image, ``S`` is far below the rounding error of a probability near
1. So ``S`` is computed without subtraction from 1, and ``S B`` relative to the likeliest class
``d``:

    S = sum_{a < c} p_a p_c (e_a - e_c)(e_a - e_c)',    S B = p * (B~ - p'B~),   B~_c = B_c - B_d,

The first is a sum of semidefinite terms. The second holds because ``S`` maps a change that is equal
for all outputs to zero. Both have the relative rounding error of a product, however small they are.

References
----------
E. Newman, L. Ruthotto, J. Hart and B. van Bloemen Waanders, Train like a (Var)Pro: efficient
training of neural networks with variable projection, SIAM J. Math. Data Sci. 3 (2021).
"""

from typing import Any, NamedTuple

import numpy as np
import scipy
from numpy.typing import ArrayLike, DTypeLike

from varpro_nn._arrays import row_weights
from varpro_nn._typing import FloatArray, RealArray
from varpro_nn.linalg import product_over_rows, schur_complement
from varpro_nn.linalg.convex import fit_linear
from varpro_nn.linalg.threads import Threads, in_order
from varpro_nn.units import Units
from varpro_nn.varpro.design_matrix import Design
from varpro_nn.varpro.jacobian import by_classes
from varpro_nn.varpro.reduced import Evaluation, ReducedFunctional, check_penalties

CURVATURE_BYTES = 2**30
"""Bytes that the matrix Y of (k q)^2 numbers may take; twice as many while it is made."""


class CrossEntropyFunctional(ReducedFunctional):
    """Cross-entropy of a classifier with its linear weights projected out.

    Parameters
    ----------
    units : Units
        The columns that are trained.
    inputs : array_like with ``len`` n and slicing
    tau : array_like, shape (n, k)
        One-hot targets, two classes at least.
    ridge : float
        ``lam > 0``: without it separable inputs have no finite ``A``.
    weight_decay : float
        ``nu >= 0``.
    sample_weight : array_like, shape (n,), optional
        Weight of each input in the sum of losses, >= 0.
    fixed : array_like, shape (n, f), optional
        Columns of ``Phi`` that are not trained.
    dtype : {float32, float64}
        Type of the features and of the large products.
    tolerance : float
        Tolerance of the inner fit; see :func:`varpro_nn.linalg.convex.fit_linear`.
    threads : Threads, optional
        Share the sums over inputs; no bit depends on them. See :mod:`varpro_nn.linalg.threads`.

    Raises
    ------
    ValueError
        Shapes that do not match, targets that are not one-hot, penalties out of range.

    Notes
    -----
    Features of all inputs are kept (n, q), and matrices of (k q)^2 numbers are solved: for some
    hundred columns. The inner fit starts from the linear weights of the point before, so two ways
    to the same ``w`` agree to ``tolerance``, not to the last bit.

    The gradient is exact at the minimising ``A``, and the inner fit ends near it. The relative
    error of the cost is at most about ``tolerance``. The relative error of the gradient is at most
    about the square root of ``tolerance``: 0.3 % by default.
    """

    def __init__(
        self,
        units: Units,
        inputs: Any,
        tau: ArrayLike,
        *,
        ridge: float = 1.0,
        weight_decay: float = 0.0,
        sample_weight: ArrayLike | None = None,
        fixed: ArrayLike | None = None,
        dtype: DTypeLike = np.float32,
        tolerance: float = 1e-5,
        threads: Threads | None = None,
    ) -> None:
        super().__init__(threads)
        check_penalties(ridge, weight_decay)
        if ridge == 0:
            msg = "ridge must be positive with cross-entropy, got 0."
            raise ValueError(msg)
        self.design = Design(
            units, inputs, tau, fixed, None,
            constant=True, ridge=ridge, dtype=dtype, block_size=None,
        )  # fmt: skip
        self.dtype, self.tau = self.design.dtype, self.design.tau
        # Not in the design, whose rows would then be weighted: the outputs are those of the rows
        # themselves.
        self._weights = None if sample_weight is None else row_weights(sample_weight, len(self.tau))
        one_hot = ((self.tau == 0) | (self.tau == 1)).all() and (self.tau.sum(axis=1) == 1).all()
        if self.tau.shape[1] < 2 or not one_hot:
            msg = "tau must be one-hot with two classes at least: a 1 in each row, else 0."
            raise ValueError(msg)
        self.units = units
        self.ridge, self.weight_decay = float(ridge), float(weight_decay)
        self.tolerance = tolerance
        self._labels = np.argmax(self.tau, axis=1)
        q = self.design.ridge_of_columns.size
        n_bytes = 8 * (q * self.tau.shape[1]) ** 2
        if n_bytes > CURVATURE_BYTES:
            msg = (
                f"units and fixed must make fewer columns with cross-entropy: {q} with "
                f"{self.tau.shape[1]} classes need a matrix of {n_bytes / 2**30:.1f} GiB, more "
                f"than {CURVATURE_BYTES / 2**30:.1f}."
            )
            raise ValueError(msg)
        self._A: FloatArray = np.zeros((q, self.tau.shape[1]))

    def _project(self, w: FloatArray) -> tuple[Evaluation, None]:
        (block,) = self.design.blocks(w)
        fit = fit_linear(
            "softmax", block.Phi[:, :-1].astype(self.design.dtype), self._labels, self._A,
            self.ridge, tolerance=self.tolerance, threads=self.threads,
            sample_weight=self._weights,
        )  # fmt: skip
        self._A = fit.A
        cost = fit.cost + 0.5 * self.weight_decay * float(w @ w)
        return Evaluation(w, fit.A, fit.A.shape[0], cost, np.nan, np.nan), None

    def _sums(self, w: FloatArray, *, matrix: bool, full: bool) -> tuple[FloatArray, FloatArray]:
        if full:
            msg = "kind must be 'kaufman' with cross-entropy, got 'full'."
            raise ValueError(msg)
        A = self.evaluate(w).A
        q, k = A.shape
        m, p = self.units.n_cells, self.n_weights
        unit_rows = A[: self.design.n_unit_columns].reshape(m, -1, k)
        g = np.zeros(p)
        H = np.zeros((p, p)) if matrix else np.zeros((0, 0))
        X, Y = np.zeros((k, q, p)), np.zeros((k, k, q, q))
        pairs = [(a, c) for a in range(k) for c in range(a + 1, k)]

        def terms_of(rows: slice) -> _Terms:
            block, dPhi = self.design.block_and_derivative(w, rows)
            b, dtype = len(block.tau), dPhi.dtype
            probability = scipy.special.softmax(block.Phi @ A, axis=1)
            B = by_classes(dPhi, unit_rows).reshape(b, k, p)
            weight = 1.0 if self._weights is None else self._weights[rows, None]
            residual = ((probability - block.tau) * weight).astype(dtype)
            gradient = product_over_rows(residual.ravel(), B.reshape(b * k, p))
            if not matrix:
                return _Terms(gradient, None)
            Phi, weighted = block.Phi.astype(dtype), (probability * weight).astype(dtype)
            probability = probability.astype(dtype)
            curvature = [_curvature(Phi, weighted[:, a] * probability[:, c]) for a, c in pairs]
            return _Terms(gradient, (curvature, *_cross_terms(Phi, probability, weighted, B)))

        # Terms are added in the order of the blocks.
        n_bytes = 8 * (len(pairs) * q**2 + k * q * p + p**2) if matrix else 0
        slices = self.design.derivative_slices()
        for terms in in_order(self.threads, terms_of, slices, n_bytes):
            g += terms.gradient
            if terms.sums is not None:
                curvature, cross, gram = terms.sums
                for (a, c), term in zip(pairs, curvature, strict=True):
                    Y[a, c] -= term
                    Y[a, a] += term
                    Y[c, c] += term
                for c, term in enumerate(cross):
                    X[c] += term
                H += gram
        if not matrix:
            return H, g
        Y = _whole(Y)
        Y[np.diag_indices_from(Y)] += np.tile(self.design.ridge_of_columns, k)
        # Y may be singular: a constant added to all outputs changes nothing, and the constant
        # column has no penalty. Images of which the network is certain add almost nothing to Y.
        noise = k * q * float(np.finfo(self.design.dtype).eps)
        return schur_complement(H, X.reshape(k * q, p), Y, noise), g


class _Terms(NamedTuple):
    """What the inputs of one block add to the sums.

    ``gradient`` (p,); and, where the matrix is asked for, what is added to ``Y`` by pairs of
    classes, (q, q) each, to ``X`` by class, (q, p) each, and to ``H``, (p, p).
    """

    gradient: FloatArray
    sums: tuple[list[FloatArray], list[FloatArray], FloatArray] | None


def _curvature(Phi: RealArray, weight: RealArray) -> FloatArray:
    """``weight phi phi'``, summed over a block: (q, q). The weights are ``omega p_a p_c``."""
    return product_over_rows(Phi * weight[:, None], Phi)


def _cross_terms(
    Phi: RealArray, probability: RealArray, weighted: RealArray, B: RealArray
) -> tuple[list[FloatArray], FloatArray]:
    """``omega_i phi_i ⊗ S_i B_i`` of a block, by class, and its ``sum_i omega_i B_i'S_i B_i``.

    ``weighted`` is ``omega p``. ``B`` (b, k, p) is used as work space: ``p_c (B_c - p'B)`` is row
    c of ``S B``, and ``sqrt(p_c) (B_c - p'B)`` that of ``M'B``.
    """
    likeliest = probability.argmax(axis=1)
    B -= B[np.arange(len(B)), likeliest][:, None]
    B -= probability[:, None, :] @ B
    cross = [product_over_rows(Phi * weighted[:, c, None], B[:, c]) for c in range(B.shape[1])]
    B *= np.sqrt(weighted)[:, :, None]
    rows = B.reshape(-1, B.shape[2])
    return cross, product_over_rows(rows, rows)


def _whole(Y: FloatArray) -> FloatArray:
    """Fill the lower triangle: (k q, k q) from (k, k, q, q)."""
    k, _, q, _ = Y.shape
    for a in range(k):
        for c in range(a):
            Y[a, c] = Y[c, a].T
    return np.ascontiguousarray(Y.transpose(0, 2, 1, 3)).reshape(k * q, k * q)
