"""Matrix products of the phases of training, counted and timed by themselves.

For :mod:`experiments.benchmarks.scaling_laws`. Letters: n images of s x s pixels, h units of p
weights and m cells, q columns of ``Phi``, k classes, g ridges; P = h p. A product of (a, b) and (b,
c) matrices counts 2abc operations, that of a matrix with its own transpose half of it. What is no
product is counted, and timed, as a product of as many operations: a QR factorisation of (n, c) as
2ncc, a triangular solve as half a product, a Cholesky factorisation of (P, P) as P³/3, an
eigendecomposition as 14/3 q³ (reduction 4/3, divide and conquer 4/3, back-transformation 2).
Elementwise work (activations, copies, conversions of type) counts nothing: it shows where a phase
takes longer than its products. Two such grow faster than most of what is counted: the reduced form
adds a (P, P) matrix to a double sum for every 2^23 / (m P) images, n m P³ / 2^23 in all; and the
windows of all places are copied for a derivative, (s - 4)² an image whatever the number of units.
"""

import time
from typing import Any, NamedTuple

import numpy as np

from varpro_nn.linalg import column_tiles
from varpro_nn.linalg.ridge import TILE as COLUMNS
from varpro_nn.output.features import TASK_IMAGES, block_slices
from varpro_nn.output.penalties import RIDGES
from varpro_nn.units.patches import DERIVATIVE_IMAGES, IMAGES, TILE
from varpro_nn.varpro.design_matrix import DERIVATIVE_BYTES

INNER = 20
PASSES = 2 * INNER + 1
"""Products with J or J' in so many iterations of LSMR."""
WINDOW, GRID = 5, 4
"""Side of the windows, and cells along each side of the image."""
CELLS = GRID**2


class Point(NamedTuple):
    """Images, units, classes, and side of the images."""

    n: int
    h: int
    k: int
    side: int


class Product(NamedTuple):
    """``times`` products of (batch, rows, inner) and (batch, inner, columns) matrices.

    ``symmetric``: of the transpose of (inner, rows) with itself.
    """

    times: float
    rows: int
    inner: int
    columns: int
    dtype: Any = np.float32
    batch: int = 1
    symmetric: bool = False

    @property
    def flop(self) -> float:
        """Operations, all ``times``."""
        each = self.batch * self.rows * self.inner * self.columns
        return self.times * each * (1 if self.symmetric else 2)

    def cpu_seconds(self, at_least: float = 0.02) -> float:
        """CPU seconds of all, from as many of them as take ``at_least``."""
        if self.symmetric:
            right = np.ones((self.inner, self.rows), self.dtype)
            left = right.T
        else:
            left = np.ones((self.batch, self.rows, self.inner), self.dtype)
            right = np.ones((self.batch, self.inner, self.columns), self.dtype)
        out = left @ right
        done, start = 0, time.process_time()
        while done == 0 or (time.process_time() - start < at_least and done < self.times):
            np.matmul(left, right, out=out)
            done += 1
        return (time.process_time() - start) / done * self.times


def products_of_features(patch: bool, point: Point) -> list[Product]:
    n, h, _, side = point
    if patch:
        places = side - WINDOW + 1
        times = n / IMAGES * places * -(-h // TILE)
        return [Product(times, min(h, TILE), WINDOW**2 + 1, places * IMAGES)]
    return [Product(n / TASK_IMAGES * len(column_tiles(h)), TASK_IMAGES, side**2, min(h, COLUMNS))]


def products_of_subnetwork(patch: bool, form: str, point: Point) -> list[Product]:
    """Products in the order of ``functional.py``, ``reduced.py`` and ``jacobian.py``."""
    n, h, k, side = point
    m, p, q = (CELLS, WINDOW**2 + 1, h * CELLS + 1) if patch else (1, 2 * side + 1, h + 1)
    P, double = h * p, np.float64
    of_features = products_of_features(True, point) if patch else [Product(1, n, side**2, h)]
    evaluation = [
        *of_features,
        Product(1, n, q + k, q + k, double),  # QR of [Phi, tau]
        Product(0.5, n, q, q, double),  # leverages
        Product(2, n, q, k, double),  # residuals
    ]
    if form == "operator":
        return [
            *evaluation, *of_features,
            Product(2, h, side, n * side),  # the image contracted with either vector
            Product(0.5, n, q, q, double),  # Q1
            Product(PASSES, n, p, 1, batch=h),  # dPhi times a vector, or its transpose
            Product(PASSES, n, h, k),
            Product(2 * PASSES, n, q, k, double),  # the projection
        ]  # fmt: skip
    b = min(n, max(1, DERIVATIVE_BYTES // (4 * m * P)))
    if patch:
        places = (side - WINDOW + 1) ** 2
        derivative = [
            Product(n, places, p, h),
            # Windows of a cell, weighted by the slopes of the activation, summed.
            Product(n / DERIVATIVE_IMAGES * m, h, places // m, p, batch=DERIVATIVE_IMAGES),
            Product(n / DERIVATIVE_IMAGES, k, m, p, batch=DERIVATIVE_IMAGES * h),  # B_k
            Product(n / b, 1, b * k, P),  # gradient
        ]
        wide, tall = k, k  # all B_k beside and below each other
    else:
        derivative = [*of_features, Product(2 * n / b, h, side, b * side), Product(n / b, P, b, k)]
        wide, tall = 1, 1
    return [
        *evaluation, *derivative,
        Product(n / b, q, b, P * wide),  # Phi'D
        Product(n / b, P, b * tall, P, symmetric=True),  # D'D
        Product(0.5, q, q, P * wide, double),
        Product(1, P, q * tall, P, double, symmetric=True),  # C'C
        Product(1 / 6, P, P, P, double),  # Cholesky
        Product(PASSES, P, P, 1, double),
    ]  # fmt: skip


def products_of_gram(point: Point) -> list[Product]:
    n, h, k, _ = point
    tiles, width = len(column_tiles(h)), min(h, COLUMNS)
    b = block_slices(n, h)[0].stop
    return [
        Product(n / b * tiles, width, b, width, symmetric=True),
        Product(n / b * tiles * (tiles - 1) / 2, width, b, width),
        Product(n / b * tiles, width, b, k + 1),
    ]


def products_of_factorisation(point: Point) -> list[Product]:
    _, h, k, _ = point
    return [
        Product(7 / 3, h, h, h, np.float64),
        Product(len(RIDGES) + 1, h, h, k, np.float64),
    ]


def products_of_leave_one_out(point: Point) -> list[Product]:
    n, h, k, _ = point
    b, g = block_slices(n, h)[0].stop, len(RIDGES)
    return [
        Product(n / b * len(column_tiles(h)), b, h, min(h, COLUMNS)),
        Product(n / b, b, h, g * k),
        Product(n / b, b, h, g),
    ]


def products_of_predict(point: Point) -> list[Product]:
    b = block_slices(point.n, point.h + 1)[0].stop
    outputs = Product(point.n / b, b, point.h, point.k, np.float64)
    return [*products_of_features(False, point), outputs]
