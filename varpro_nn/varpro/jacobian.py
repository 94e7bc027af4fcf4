r"""The Jacobian of the variable-projection residual at one point: operator, array and sums.

In the letters of :mod:`varpro_nn.linalg.qr`, ``Q1 = s Phi T`` and ``Q2 = sqrt(lam) T`` (penalised
rows) are an orthonormal basis of the augmented range. With ``r = s (tau - Phi A)`` and

    B_k = s sum_c dPhi[:, c] A[c, :, k]                                     (n, h p),

Kaufman's Jacobian of class k is

    J_k = - (I - Q Q') [B_k; 0] = [ -B_k + Q1 Q1'B_k ; Q2 Q1'B_k ].

Since ``Q'[r; -sqrt(lam) A] = 0``, its gradient ``J'r`` is exact. Golub and Pereyra's full Jacobian
subtracts ``Q T_u' N_k``, where ``T_u`` are the rows of ``T`` of the unit columns,

    S = dPhi' s r                                                           (m, h, p, k),

and ``N_k`` holds ``S[c, i, l, k]`` in row (c, i) and column (i, l). This term is orthogonal to the
first, so it adds to ``J'J`` and nothing to the gradient. As sums over images, with ``D = s dPhi``
as (n, h p) and ``C = T'(s Phi)'D``, whole-image units (m = 1) have

    J'J = (D'D - C'C) ∘ (A A' ⊗ 1_pp),

and units of several cells the same with ``B_k`` in place of ``D``, summed over classes.

Two views of ``dPhi`` are at work: (h, m, n, p) for products with a vector, where each unit is a
small dense matrix, and rows of inputs (n, h p) for the Gram matrix.

References
----------
G. H. Golub and V. Pereyra, SIAM J. Numer. Anal. 10 (1973) 413-432.
L. Kaufman, BIT 15 (1975) 49-57.
"""

import numpy as np
import scipy

from varpro_nn._typing import FloatArray, RealArray
from varpro_nn.linalg import LinearSolution, product_over_rows
from varpro_nn.linalg.ridge import ROWS
from varpro_nn.varpro.design_matrix import Block


class Jacobian:
    """Jacobian of all residuals at one ``w``, with ``dPhi`` in memory.

    Parameters
    ----------
    solution : LinearSolution
    block : Block
        All inputs.
    dPhi : ndarray, shape (n, m, h, p)
        Not weighted.
    ridge : ndarray, shape (q,)
    weight_decay : float
    full : bool
        With Golub and Pereyra's second term.
    """

    def __init__(
        self,
        solution: LinearSolution,
        block: Block,
        dPhi: RealArray,
        *,
        ridge: FloatArray,
        weight_decay: float,
        full: bool,
    ) -> None:
        _, m, h, _ = dPhi.shape
        self._D = np.ascontiguousarray(dPhi.transpose(2, 1, 0, 3))  # (h, m, n, p)
        A = solution.A[: m * h].reshape(m, h, -1).transpose(1, 0, 2)
        self._A = np.ascontiguousarray(A, dtype=self._D.dtype)  # (h, m, k)
        self._root = block.root[:, None]
        self._decay = np.sqrt(weight_decay)
        self._Q1 = solution.range_basis(block.Phi)
        self._Q2 = solution.range_basis(np.diag(np.sqrt(ridge))[ridge > 0])
        self._second: FloatArray | None = None  # T_u' N_k, (rank, k, h, p)
        if full:
            r = block.tau - block.Phi @ solution.A
            weighted = (self._root * r).astype(self._D.dtype)
            S = np.stack(
                [[product_over_rows(D, weighted) for D in unit] for unit in self._D], axis=1
            )
            self._second = second_term(solution, S)

    def operator(self) -> "scipy.sparse.linalg.LinearOperator":
        """``J`` by its products with vectors; nothing of size (n k, h p) is formed."""
        h, m, n, p = self._D.shape
        k = self._A.shape[2]
        d = len(self._Q2)
        decay, root = self._decay, self._root
        A = self._A.reshape(h * m, k)

        def matvec(v: FloatArray) -> FloatArray:
            V = v.reshape(h, 1, p, 1).astype(self._D.dtype)
            moved = (self._D @ V).reshape(h * m, n)  # dPhi v
            B = root * (moved.T @ A)  # B_k v, side by side
            C = self._Q1.T @ B
            top, bottom = self._Q1 @ C - B, self._Q2 @ C  # [-B + Q1 Q1'B ; Q2 Q1'B]
            if self._second is not None:
                E = np.tensordot(self._second, v.reshape(h, p), axes=2)  # T_u' N_k v
                top -= self._Q1 @ E
                bottom -= self._Q2 @ E
            parts = [top.ravel(), bottom.ravel()]
            if decay:
                parts.append(decay * v.ravel())
            return np.concatenate(parts)

        def rmatvec(u: FloatArray) -> FloatArray:
            u = u.ravel()
            top, bottom = u[: n * k].reshape(n, k), u[n * k : (n + d) * k].reshape(d, k)
            C = self._Q1.T @ top + self._Q2.T @ bottom  # Q'u
            moved = (root * (top - self._Q1 @ C)).astype(self._D.dtype)
            back = (A @ moved.T).reshape(h, m, 1, n)
            # -B'(u - Q Q'u): the sum over cells and inputs
            product = np.zeros((h, p))
            for start in range(0, n, ROWS):
                rows = slice(start, start + ROWS)
                terms = back[..., rows] @ self._D[:, :, rows]
                product -= terms.sum(axis=(1, 2), dtype=np.float64)
            if self._second is not None:
                product -= np.einsum("rkhp,rk->hp", self._second, C)
            result: FloatArray = product.ravel()
            if decay:
                result += decay * u[(n + d) * k :]
            return result

        n_rows = (n + d) * k + (h * p if decay else 0)
        return scipy.sparse.linalg.LinearOperator(
            (n_rows, h * p), matvec=matvec, rmatvec=rmatvec, dtype=np.dtype(np.float64)
        )

    def array(self) -> FloatArray:
        """Form the dense array (n_residuals, h * p): for comparison and for MINPACK."""
        h, _, n, p = self._D.shape
        k = self._A.shape[2]
        B = np.einsum("hmnp,hmk->nkhp", self._D, self._A, optimize=True, dtype=np.float64)
        B = (self._root[:, :, None, None] * B).reshape(n, -1)
        C = self._Q1.T @ B
        second = 0.0 if self._second is None else self._second.reshape(len(C), -1)
        top = self._Q1 @ (C - second)
        top -= B
        bottom = self._Q2 @ (C - second)
        parts = [top.reshape(n * k, h * p), bottom.reshape(-1, h * p)]
        if self._decay:
            parts.append(self._decay * np.eye(h * p))
        return np.concatenate(parts)


def second_term(solution: LinearSolution, S: FloatArray) -> FloatArray:
    """``T_u' N_k`` from ``S`` (m, h, p, k): (rank, k, h, p)."""
    m, h = S.shape[:2]
    q = len(solution.A)
    # transposed_map wants whole columns: a unit matrix picks out the rows of T that are needed.
    T_u = solution.transposed_map(np.eye(q, m * h)).reshape(-1, m, h)
    return np.einsum("rmh,mhpk->rkhp", T_u, S)


class NormalSums:
    """``J'J`` and ``J'r`` without their penalties, summed over blocks of inputs.

    Parameters
    ----------
    solution : LinearSolution
        Of all inputs.
    n_cells : int
        m.
    n_unit_columns : int
        h * m.
    full : bool
        With Golub and Pereyra's second term.

    Notes
    -----
    ``J'J`` can be summed as the Gram matrix of ``D`` (n, m h p), which then meets ``A A'``, or as
    that of the k arrays ``B_k`` (n, h p) one below the other: (m h p)^2 multiplications an input
    against k (h p)^2. The cheaper one is taken: with k classes the first up to sqrt(k) cells.
    """

    def __init__(
        self, solution: LinearSolution, n_cells: int, n_unit_columns: int, *, full: bool = False
    ) -> None:
        self._solution = solution
        self._A = solution.A[:n_unit_columns].reshape(n_cells, -1, solution.A.shape[1])
        self._by_cells = n_cells**2 <= solution.A.shape[1]
        self._full = full
        self._S: FloatArray | float = 0.0  # dPhi' s r, (m, h, p, k)
        self._gradient: FloatArray | float = 0.0
        self._gram: FloatArray | float = 0.0  # D'D, or sum_k B_k'B_k
        self._cross: FloatArray | float = 0.0  # (s Phi)'D, or (s Phi)'B_k side by side

    def add(self, block: Block, dPhi: RealArray, *, matrix: bool) -> None:
        """Take in a block with its ``dPhi`` (b, m, h, p); the matrix only where it is asked."""
        b, m, h, p = dPhi.shape
        k = block.tau.shape[1]
        dtype = dPhi.dtype
        r = (block.tau - block.Phi @ self._solution.A).astype(dtype)
        if (block.root != 1).any():
            dPhi = block.root[:, None, None, None].astype(dtype) * dPhi
        if self._full or self._by_cells:
            D = np.ascontiguousarray(dPhi).reshape(b, -1)
            self._S = _added(self._S, product_over_rows(D, r).reshape(m, h, p, k))
        if not self._by_cells:
            D = by_classes(dPhi, self._A)
            self._gradient = _added(
                self._gradient, -product_over_rows(r.ravel(), D.reshape(b * k, -1))
            )
        if not matrix:
            return
        self._cross = _added(
            self._cross, product_over_rows(block.Phi.astype(dtype), D.reshape(b, -1))
        )
        if not self._by_cells:
            D = D.reshape(b * k, h * p)
        self._gram = _added(self._gram, product_over_rows(D, D))

    def merge(self, other: "NormalSums") -> None:
        """Take in what another has summed up, of the same solution."""
        self._S = _added(self._S, other._S)
        self._gradient = _added(self._gradient, other._gradient)
        self._gram = _added(self._gram, other._gram)
        self._cross = _added(self._cross, other._cross)

    def gradient(self) -> FloatArray:
        """``J'r``, (h * p,)."""
        if self._by_cells:
            return -np.einsum("mhpk,mhk->hp", self._S, self._A).ravel()
        assert isinstance(self._gradient, np.ndarray)  # a block has been added
        return self._gradient

    def matrix(self) -> FloatArray:
        """``J'J``, (h * p, h * p)."""
        assert isinstance(self._cross, np.ndarray)  # a block has been added
        m, h, k = self._A.shape
        C = self._solution.transposed_map(self._cross)
        if not self._by_cells:
            C = C.reshape(len(C) * k, -1)
        H: FloatArray = self._gram - C.T @ C  # D'D - C'C
        if self._by_cells:
            # ∘ (A A' ⊗ 1_pp): each entry of A A' meets a (p, p) block.
            p = len(H) // (m * h)
            columns = self._A.reshape(m * h, k)
            H = H.reshape(m * h, p, m * h, p) * (columns @ columns.T)[:, None, :, None]
            H = H.reshape(m, h * p, m, h * p).sum(axis=(0, 2))
        if self._full:
            assert isinstance(self._S, np.ndarray)
            second = second_term(self._solution, self._S).reshape(-1, len(H))
            H += second.T @ second
        return H


def _added(total: FloatArray | float, term: FloatArray | float) -> FloatArray | float:
    """Add in place, since large sums are memory-bound."""
    if isinstance(term, float):
        return total  # there is no sum
    if isinstance(total, float):
        return term  # the first term
    return np.add(total, term, out=total)


def by_classes(dPhi: RealArray, A: FloatArray) -> RealArray:
    """``B_k``, the derivative of the outputs for fixed ``A``.

    Parameters
    ----------
    dPhi : ndarray, shape (b, m, h, p)
    A : ndarray, shape (m, h, k)

    Returns
    -------
    ndarray, shape (b, k, h, p)
        Of the type of ``dPhi``.
    """
    b, _, h, p = dPhi.shape
    B = np.empty((b, A.shape[2], h, p), dtype=dPhi.dtype)
    weights = np.ascontiguousarray(A.transpose(1, 2, 0), dtype=dPhi.dtype)  # (h, k, m)
    np.matmul(weights, dPhi.swapaxes(1, 2), out=B.swapaxes(1, 2))
    return B
