r"""Variable projection on mini-batches: many units at once, on as many images as there are.

A step sees ``b`` images. Its linear weights come from more of them: products of the features with
themselves and with the targets are summed up over the batches, with weights that decay by ``rho``,

    G <- rho G + Phi' Phi,   C <- rho C + Phi' tau,   b_all <- rho b_all + b,
    A = (G + lam b_all / n I)^-1 C,

so ``A`` is fitted to about ``b / (1 - rho)`` images. Linear weights of the batch alone would
overfit it. The gradient is that with ``A`` held fixed. It is the gradient of the projected cost
where ``A`` is the best for the batch, and an approximation with the running sums. With
``r = Phi A - tau`` and ``dz`` the gradient ``r A'`` pulled back to the pre-activations
(:mod:`varpro_nn.units.linearised`),

    g = sum dz' P / b + (weight decay / n) W.

The step is a Gauss-Newton step with a Kronecker product in the place of ``J'J`` (K-FAC; Martens and
Grosse 2015, Grosse and Martens 2016 for windows that share weights):

    J'J / b  ~  S x Q,   S = mean over images of the sum over places of dz_e' dz_e,
                         Q = mean over images and places of P' P,

``dz_e`` pulled back from random outputs ``e`` with identity covariance, so that no target enters.
With damping and momentum, and the weight decay in the curvature as well,

    V <- mu V - eta (S~ x Q~ + (weight decay / n) I)^-1 g,   W <- W + V.

The learning rate ``eta`` falls linearly to 0.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, eigh

from varpro_nn._typing import FloatArray, ImageArray, RealArray
from varpro_nn.errors import NonFiniteError
from varpro_nn.linalg.threads import Threads, in_order
from varpro_nn.units import PatchUnits
from varpro_nn.units.linearised import Linearised, linearised
from varpro_nn.varpro.history import FitReport, Record

T = TypeVar("T")

DECAY = 0.95
"""``rho``: what is left of the sums after a batch."""
LEARNING_RATE = 0.1
"""``eta`` at the start."""
MOMENTUM = 0.8
"""``mu``."""
DAMPING = 0.03
"""``delta``, relative to the mean of the diagonal."""
CURVATURE_DECAY = 0.8
"""What is left of ``S`` and ``Q`` at their next estimate."""
CURVATURE_EVERY = 2
"""Steps between two estimates of ``S`` and ``Q``."""
CURVATURE_SHARE = 2
"""``S`` and ``Q`` are estimated on this part of a batch: 2 is the first half."""
BLOCK_BYTES = 2**21
"""Bytes of windows and pre-activations that are worked on at a time, for the sake of the cache."""
BATCHES_AHEAD = 3
"""Batches that the sums begin with, before the first step."""
FLOOR = 1e-5
"""Least penalty of the linear weights, relative to the diagonal of ``G``: above the rounding of its
products in single precision, about the square root of the number of columns times 6e-8."""


@dataclass(frozen=True, slots=True)
class BatchSettings:
    """Settings of a fit on batches.

    Attributes
    ----------
    batch_size : int
    n_passes : int
        Over all images.
    ridge : float
        Penalty on the linear weights, for a sum over all images.
    weight_decay : float
        Penalty on the unit weights, likewise.
    begin, end : float
        Begin and end of this fit as fractions of the whole training. The learning rate continues
        from the previous fit.
    """

    batch_size: int
    n_passes: int
    ridge: float
    weight_decay: float
    begin: float = 0.0
    end: float = 1.0


def fit_on_batches(
    units: PatchUnits,
    inputs: ImageArray,
    tau: FloatArray,
    W: FloatArray,
    rng: np.random.Generator,
    settings: BatchSettings,
    sample_weight: FloatArray | None = None,
    threads: Threads | None = None,
) -> FitReport:
    """Train the units on batches of the inputs.

    Parameters
    ----------
    units : PatchUnits
        With ``kind="dense"``.
    inputs : ndarray, shape (n, ...)
    tau : ndarray, shape (n, k)
    W : ndarray, shape (h, p)
        Initial weights.
    rng : numpy.random.Generator
        Draws batches and random outputs.
    settings : BatchSettings
    sample_weight : ndarray, shape (n,), optional
    threads : Threads, optional
        Share the images of a batch. No bit of the result depends on them.

    Returns
    -------
    FitReport
        One record for each pass. Its cost sums the costs of the batches, each at the weights before
        its step. There are no leave-one-out errors.

    Raises
    ------
    NonFiniteError
        Features or weights are not finite.
    """
    began = time.process_time()
    n = len(inputs)
    root = np.ones(n) if sample_weight is None else np.sqrt(sample_weight)
    W = np.ascontiguousarray(W, dtype=np.float32)
    size = min(settings.batch_size, n)
    n_steps = settings.n_passes * -(-n // size)
    sums = _Sums(units.n_units * units.n_cells + 1, tau.shape[1], settings.ridge / n)
    curvature = _Curvature(rng, settings.weight_decay / n)
    velocity = np.zeros_like(W)
    history: list[Record] = []
    cost = seen = 0.0
    ahead = list(_batches(n, size, 1, rng))[1 : 1 + BATCHES_AHEAD]
    for rows in ahead:
        Phi, targets, _ = _weighted(units.features(W, inputs[rows]), tau, root, rows)
        sums.add(Phi, targets)
    for step, rows in enumerate(_batches(n, size, settings.n_passes, rng)):
        batch = _Batch(units, W, inputs, rows, threads)
        Phi, targets, s = _weighted(batch.Phi, tau, root, rows)
        sums.add(Phi, targets)
        A = sums.linear_weights()
        r = Phi @ A - targets
        # By the features: s (s r) A', as Phi holds one s and the residual the other.
        gradient = batch.gradient((s * r) @ A[:-1].T) / np.float32(len(rows))
        gradient += np.float32(settings.weight_decay / n) * W
        if step % CURVATURE_EVERY == 0:
            curvature.estimate(batch, A)
        done = settings.begin + (settings.end - settings.begin) * step / n_steps
        velocity *= np.float32(MOMENTUM)
        velocity -= np.float32(LEARNING_RATE * (1 - done)) * curvature.solve(gradient)
        cost += _half_square(r)
        seen += len(rows)
        if (step + 1) % (n_steps // settings.n_passes) == 0:
            penalties = settings.ridge * _half_square(A[:-1])
            penalties += settings.weight_decay * _half_square(W)
            optimality = n * float(np.abs(gradient).max())
            elapsed = time.process_time() - began
            history.append(Record(cost * n / seen + penalties, optimality, np.nan, np.nan, elapsed))
            cost = seen = 0.0
        W = W + velocity
    if not np.isfinite(W).all():
        msg = "the unit weights became NaN or infinite: take larger batches, or another solver."
        raise NonFiniteError(msg)
    return FitReport(
        w=W.astype(np.float64).ravel(),
        cost=history[-1].cost,
        loo_mse=np.nan,
        loo_error=np.nan,
        history=tuple(history),
        status=0,
        reason="all passes were made",
        solver="kfac",
        form="",
        cpu_seconds=time.process_time() - began,
    )


def _weighted(
    columns: RealArray, tau: FloatArray, root: FloatArray, rows: NDArray[np.int64]
) -> tuple[RealArray, RealArray, RealArray]:
    """Rows of features with a constant column, of targets, and the roots of their weights."""
    if not np.isfinite(columns).all():
        msg = (
            "features of a batch are NaN or infinite. Check the images; if they are finite, the "
            "weights diverged: take larger batches, or another solver."
        )
        raise NonFiniteError(msg)
    s = root[rows, None].astype(np.float32)
    Phi = s * np.concatenate([columns, np.ones_like(columns[:, :1])], axis=1)
    return Phi, s * tau[rows].astype(np.float32), s


def _half_square(array: RealArray) -> float:
    return 0.5 * float(np.sum(np.square(array, dtype=np.float64)))


def _batches(
    n: int, size: int, n_passes: int, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Rows of the batches, in order; each image is in one batch of a pass."""
    for _ in range(n_passes):
        # Not sorted: the first part of a batch is a random part of it.
        yield from np.array_split(rng.permutation(n), -(-n // size))


class _Batch:
    """A batch at some weights, in blocks of images.

    Temporary arrays of a block, such as pre-activations, fit in the cache, and the next block uses
    their memory again. Those of the whole batch would get fresh pages from the system in each step,
    which takes long. Windows and slopes of all blocks are kept for the gradient.
    """

    def __init__(
        self,
        units: PatchUnits,
        W: RealArray,
        inputs: ImageArray,
        rows: NDArray[np.int64],
        threads: Threads | None,
    ) -> None:
        n_numbers = prod(units.windows.places) * (W.shape[0] + W.shape[1])  # of an image
        size = max(1, BLOCK_BYTES // (4 * n_numbers))
        self._size, self._threads = size, threads

        def block(start: int) -> Linearised:
            return linearised(units, W, inputs[rows[start : start + size]])

        self._blocks = list(in_order(threads, block, range(0, len(rows), size)))
        self.Phi: RealArray = np.concatenate([block.Phi for block in self._blocks])

    def gradient(self, G: RealArray) -> RealArray:
        """Sum ``dz' P`` over the images, (h, p), for a gradient by the features (b, h * m)."""
        total: Any = sum(self._of_blocks(G, lambda dz, P: dz.T @ P))
        return total

    def factors(self, G: RealArray) -> tuple[RealArray, RealArray, int]:
        """Sum ``dz' dz`` and ``P' P`` over the first images, as many as ``G`` has; and places."""
        S: Any = 0.0
        Q: Any = 0.0
        n_places = 0
        for SS, QQ, n in self._of_blocks(G, lambda dz, P: (dz.T @ dz, P.T @ P, len(P))):
            S, Q, n_places = S + SS, Q + QQ, n_places + n
        return S, Q, n_places

    def _of_blocks(
        self, G: RealArray, function: Callable[[RealArray, RealArray], T]
    ) -> Iterator[T]:
        """Call a function of ``dz`` and ``P`` of each block, a row for each place, in order."""

        def of_block(start: int) -> T:
            block = self._blocks[start // self._size]
            dz = block.pull_back(G[start : start + self._size])
            P = block.P[: len(dz)]
            return function(dz.reshape(-1, dz.shape[-1]), P.reshape(-1, P.shape[-1]))

        return in_order(self._threads, of_block, range(0, len(G), self._size))


class _Sums:
    """Products of features with themselves and with targets, over batches; the last counts most."""

    def __init__(self, q: int, k: int, penalty: float) -> None:
        self._G, self._C, self._n = np.zeros((q, q)), np.zeros((q, k)), 0.0
        self._penalty = penalty  # for each image

    def add(self, Phi: RealArray, tau: RealArray) -> None:
        """Add the products of a batch, multiplied in single precision."""
        self._G *= DECAY
        self._C *= DECAY
        self._G += Phi.T @ Phi
        self._C += Phi.T @ tau
        self._n = DECAY * self._n + len(Phi)

    def linear_weights(self) -> NDArray[np.float32]:
        """Solve for the linear weights (q, k), the constant last and not penalised."""
        diagonal = np.einsum("ii->i", self._G)
        added = np.full(len(diagonal), self._penalty * self._n)
        added[-1] = 0.0
        G = self._G.copy()
        np.einsum("ii->i", G)[:] += added + (FLOOR * diagonal.mean() or 1.0)
        factor = cho_factor(G, lower=True, overwrite_a=True, check_finite=False)
        A: Any = cho_solve(factor, self._C, check_finite=False)
        return A.astype(np.float32)


class _Curvature:
    """The Kronecker factors, of units and of windows, and the weight decay of an image."""

    def __init__(self, rng: np.random.Generator, decay: float) -> None:
        self._rng = rng
        self._decay = decay
        self._S: FloatArray | None = None
        self._Q: FloatArray | None = None
        self._factors: tuple[Any, Any] = (None, None)

    def estimate(self, batch: _Batch, A: RealArray) -> None:
        """Mix an estimate on part of a batch into the factors."""
        b = -(-len(batch.Phi) // CURVATURE_SHARE)
        outputs = self._rng.standard_normal((b, A.shape[1])).astype(np.float32)
        of_units, of_windows, n_places = batch.factors(outputs @ A[:-1].T)
        S, Q = of_units.astype(np.float64) / b, of_windows.astype(np.float64) / n_places
        self._S, self._Q = (
            new if old is None else CURVATURE_DECAY * old + (1 - CURVATURE_DECAY) * new
            for old, new in ((self._S, S), (self._Q, Q))
        )
        self._factors = _damped(self._S), _damped(self._Q)

    def solve(self, gradient: RealArray) -> NDArray[np.float32]:
        """Multiply a gradient (h, p) with the inverse of the curvature."""
        (s, U), (q, V) = self._factors
        turned = U.T @ gradient.astype(np.float64) @ V / (np.outer(s, q) + self._decay)
        step: Any = U @ turned @ V.T
        return step.astype(np.float32)


def _damped(factor: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Eigenvalues with a constant added, and eigenvectors."""
    values, vectors = eigh(factor, check_finite=False)
    return np.maximum(values, 0.0) + (DAMPING * float(values.mean()) or 1.0), vectors
