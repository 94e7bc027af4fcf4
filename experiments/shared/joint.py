"""The cost of a variable-projection functional as a function of all weights, without projection.

What ``experiments.claims.projection`` sets beside variable projection: the same cost, the same
stored dPhi, applied as an operator, and the same inner solvers.
"""

import time
from typing import Any

import numpy as np
from numpy.typing import DTypeLike
from scipy.optimize import least_squares
from scipy.sparse.linalg import LinearOperator

from experiments.shared.subnetwork import INNER, TIGHT, CostPath
from varpro_nn import VarProFunctional
from varpro_nn._typing import FloatArray, RealArray
from varpro_nn.linalg import small_equivalent


class Joint:
    """The same cost as a function of all weights: ``x`` holds W, then A with its constant row."""

    def __init__(self, functional: VarProFunctional) -> None:
        self.functional = functional
        self.units: Any = functional.units
        self.n, self.k = functional.tau.shape
        self.hp = functional.n_weights

    def start(self, w0: FloatArray) -> FloatArray:
        """Join unit weights and the linear weights that fit them."""
        return np.concatenate([w0, self.functional.evaluate(w0).A.ravel()])

    def split(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Take apart: W (h, p) and A (h + 1, k)."""
        return x[: self.hp].reshape(self.units.n_units, -1), x[self.hp :].reshape(-1, self.k)

    def _with_ones(self, features: RealArray) -> FloatArray:
        return np.concatenate([features, np.ones((self.n, 1))], axis=1, dtype=np.float64)

    def residual(self, x: FloatArray) -> FloatArray:
        """Residuals of the images, then of the penalties."""
        W, A = self.split(x)
        f = self.functional
        Phi = self._with_ones(self.units.features(W.astype(f.dtype), f.design.inputs))
        penalties = np.sqrt(f.ridge) * A[:-1].ravel(), np.sqrt(f.weight_decay) * W.ravel()
        return np.concatenate([(f.tau - Phi @ A).ravel(), *penalties])

    def derivative(self, x: FloatArray, dtype: DTypeLike) -> tuple[FloatArray, RealArray]:
        """Give Phi (n, h + 1) and dPhi as (h, n, p)."""
        W = self.split(x)[0].astype(dtype)
        features, dPhi = self.units.features_and_derivative(W, self.functional.design.inputs)
        return self._with_ones(features), np.ascontiguousarray(dPhi[:, 0].transpose(1, 0, 2))

    def operator(self, x: FloatArray) -> LinearOperator:
        """Jacobian of the residual, by its products with vectors."""
        f, nk = self.functional, self.n * self.k
        A = self.split(x)[1]
        Phi, D = self.derivative(x, f.dtype)
        ridge, decay = np.sqrt(f.ridge), np.sqrt(f.weight_decay)

        def matvec(v: FloatArray) -> FloatArray:
            dW, dA = self.split(v.ravel())
            moved = (D @ dW[:, :, None].astype(D.dtype))[:, :, 0]
            top = -(moved.T @ A[:-1] + Phi @ dA)
            return np.concatenate([top.ravel(), ridge * dA[:-1].ravel(), decay * dW.ravel()])

        def rmatvec(u: FloatArray) -> FloatArray:
            u = u.ravel()
            top = u[:nk].reshape(self.n, self.k)
            back = (A[:-1] @ top.T).astype(D.dtype)[:, None]
            gW = decay * u[-self.hp :] - (back @ D).ravel()
            gA = -Phi.T @ top
            gA[:-1] += ridge * u[nk : -self.hp].reshape(-1, self.k)
            return np.concatenate([gW, gA.ravel()])

        shape = (nk + x.size - self.k, x.size)
        return LinearOperator(shape, matvec=matvec, rmatvec=rmatvec, dtype=np.dtype(np.float64))

    def gauss_newton(self, x: FloatArray, *, penalties: bool = True) -> FloatArray:
        """``J'J`` of all weights, in double precision."""
        A = self.split(x)[1]
        Phi, D = self.derivative(x, np.float64)
        h, _, p = D.shape
        columns = D.transpose(1, 0, 2).reshape(self.n, -1)
        scale = np.repeat(A[:-1], p, axis=0)  # the linear weights of each column's unit
        cross = columns.T @ Phi
        H = np.zeros((x.size, x.size))
        H[: self.hp, : self.hp] = (columns.T @ columns) * (scale @ scale.T)
        H[: self.hp, self.hp :] = (cross[:, :, None] * scale[:, None]).reshape(self.hp, -1)
        H[self.hp :, : self.hp] = H[: self.hp, self.hp :].T
        H[self.hp :, self.hp :] = np.kron(Phi.T @ Phi, np.eye(self.k))
        if penalties:
            f = self.functional
            amounts = (f.weight_decay, self.hp), (f.ridge, h * self.k), (0.0, self.k)
            H += np.diag(np.concatenate([np.full(size, value) for value, size in amounts]))
        return H

    def minimise(
        self, x0: FloatArray, solver: str, max_nfev: int, x_scale: float | str = 1.0
    ) -> tuple[FloatArray, CostPath]:
        """Search over all weights; the best ones and the path."""
        path: CostPath = []
        latest = [np.zeros(0)]  # the Jacobian is asked for where the residual was taken last
        start = time.process_time()

        def residual(x: FloatArray) -> FloatArray:
            latest[0] = self.residual(x)
            if solver == "lsmr":
                return latest[0]
            return np.append(np.zeros(x.size), np.linalg.norm(latest[0]))

        def jacobian(x: FloatArray) -> LinearOperator | FloatArray:
            (r,) = latest
            J: LinearOperator | FloatArray = self.operator(x)
            if solver == "exact":
                noise = 10 * float(np.finfo(np.float64).eps)
                J = small_equivalent(self.gauss_newton(x), J.T @ r, float(r @ r), noise)[1]
            path.append((0.5 * float(r @ r), time.process_time() - start))
            return J

        options = {"tr_options": {"maxiter": INNER}} if solver == "lsmr" else {}
        # SciPy's stubs tie the type of the Jacobian to the solver by overloads.
        search: Any = least_squares
        result = search(
            residual, x0, jacobian, method="trf", tr_solver=solver, x_scale=x_scale,
            max_nfev=max_nfev, **options, **TIGHT,
        )  # fmt: skip
        return result.x, path


def schur_complement(H: FloatArray, n_first: int) -> FloatArray:
    """Eliminate all but the first variables: ``J'J`` of Kaufman from that of all weights."""
    cross = H[:n_first, n_first:]
    return H[:n_first, :n_first] - cross @ np.linalg.pinv(H[n_first:, n_first:]) @ cross.T
