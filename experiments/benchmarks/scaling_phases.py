"""The phases of training, each by itself: how it runs, and what it is expected to cost.

For :mod:`experiments.benchmarks.scaling_laws`; letters and counts as in
:mod:`experiments.benchmarks.scaling_counts`.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.sparse.linalg import lsmr

from experiments.benchmarks.scaling_counts import (
    GRID,
    INNER,
    WINDOW,
    Point,
    Product,
    products_of_factorisation,
    products_of_features,
    products_of_gram,
    products_of_leave_one_out,
    products_of_predict,
    products_of_subnetwork,
)
from varpro_nn import Network, patch_units, whole_image_units
from varpro_nn._typing import ImageArray, LabelArray
from varpro_nn.data.images import one_hot
from varpro_nn.linalg import GramAccumulator
from varpro_nn.output.features import block_features, block_slices
from varpro_nn.output.penalties import RIDGES
from varpro_nn.varpro.functional import VarProFunctional

clock = time.process_time

Values = Mapping[str, tuple[int, ...]]
Once = Callable[[], float]
"""Do it once; the CPU seconds that it took, without those of what other phases do."""


@dataclass(frozen=True)
class Phase:
    """One phase: a base point, values of what it depends on, its operations, how to run it."""

    base: Point
    values: Values
    count: str
    prepare: Callable[[Point, ImageArray, LabelArray], Once]
    products: Callable[[Point], list[Product]]


def made_data(point: Point, seed: int) -> tuple[ImageArray, LabelArray]:
    """Images of noise around the mean image of their class, ``uint8``, and their classes."""
    rng = np.random.default_rng(seed)
    shape = point.side, point.side
    means = rng.integers(0, 128, (point.k, *shape), dtype=np.uint8)
    labels = rng.integers(point.k, size=point.n)
    images = np.empty((point.n, *shape), dtype=np.uint8)
    for start in range(0, point.n, 256):  # in small blocks: peak memory is that of the images
        part = images[start : start + 256]
        part[...] = rng.integers(0, 128, part.shape, dtype=np.uint8)
        part += means[labels[start : start + 256]]
    return images, labels


def units_of(point: Point, patch: bool) -> Any:
    """Bilinear units of the whole image, or dense ones of its windows."""
    shape = point.side, point.side
    if patch:
        return patch_units("dense", shape, point.h, window=WINDOW, grid=GRID)
    return whole_image_units("bilinear", shape, point.h)


def _drawn(point: Point, images: ImageArray, patch: bool) -> tuple[Any, Any]:
    units = units_of(point, patch)
    return units, units.init(images[:500], np.random.default_rng(0)).astype(np.float32)


def _blocks(
    network: tuple[Any, Any], point: Point, images: ImageArray, labels: LabelArray
) -> Iterator[tuple[Any, Any, float]]:
    """Features and targets of the glue, block by block, and the CPU seconds that they took."""
    for rows in block_slices(point.n, point.h):
        start = clock()
        Phi, tau = block_features(*network, images[rows]), one_hot(labels[rows], point.k)
        yield Phi, tau, clock() - start


def features(patch: bool, point: Point, images: ImageArray, labels: LabelArray) -> Once:
    """Features of all images, block by block."""
    units, W = _drawn(point, images, patch)

    def once() -> float:
        start = clock()
        for rows in block_slices(point.n, point.h * units.n_cells):
            block_features(units, W, images[rows])
        return clock() - start

    return once


def subnetwork(
    patch: bool, form: str, point: Point, images: ImageArray, labels: LabelArray
) -> Once:
    """One evaluation, its Jacobian, and the inner iterations of LSMR."""
    units, W = _drawn(point, images, patch)
    w, tau = W.ravel().astype(np.float64), one_hot(labels, point.k)

    def once() -> float:
        start = clock()
        functional = VarProFunctional(units, images, tau, ridge=1.0, weight_decay=0.1)
        if form == "operator":
            f, J = functional.residual(w), functional.jacobian(w)
        else:
            f, J = functional.reduced(w)
        lsmr(J, -f, atol=0, btol=0, conlim=0, maxiter=INNER)
        return clock() - start

    return once


def _sums(point: Point, images: ImageArray, labels: LabelArray) -> tuple[GramAccumulator, float]:
    sums, seconds = GramAccumulator(point.h, point.k), 0.0
    for Phi, tau, _ in _blocks(_drawn(point, images, False), point, images, labels):
        start = clock()
        sums.add(Phi, tau)
        seconds += clock() - start
    return sums, seconds


def gram(point: Point, images: ImageArray, labels: LabelArray) -> Once:
    """Sum up the normal equations, without the features."""
    return lambda: _sums(point, images, labels)[1]


def factorise(point: Point, images: ImageArray, labels: LabelArray) -> Once:
    """Eigendecomposition of the Gram matrix, and linear weights for all ridges."""
    sums = _sums(point, images, labels)[0]

    def once() -> float:
        start = clock()
        path = sums.path()
        for ridge in RIDGES:
            path.solve(ridge)
        return clock() - start

    return once


def leave_one_out(point: Point, images: ImageArray, labels: LabelArray) -> Once:
    """Leave-one-out errors for all ridges, without the features."""
    path = _sums(point, images, labels)[0].path(keep=False)
    network = _drawn(point, images, False)

    def once() -> float:
        of_features = []

        def rows() -> Iterator[tuple[Any, Any, None]]:
            for Phi, tau, seconds in _blocks(network, point, images, labels):
                of_features.append(seconds)
                yield Phi, tau, None

        start = clock()
        path.leave_one_out(rows(), np.array(RIDGES))
        return clock() - start - sum(of_features)

    return once


def predict(point: Point, images: ImageArray, labels: LabelArray) -> Once:
    """Compute the outputs of the finished network."""
    units, W = _drawn(point, images, False)
    A = np.random.default_rng(1).standard_normal((point.h + 1, point.k))
    network = Network(units, W, A, np.arange(point.k), images.shape[1:])

    def once() -> float:
        start = clock()
        network.decision_function(images)
        return clock() - start

    return once


WHOLE = Point(8000, 1024, 10, 28)
OF_SUBNETWORK = Point(4000, 16, 10, 28)
OF_WINDOWS = Point(2000, 16, 10, 28)
_N = {"n": (1000, 2000, 4000, 8000, 20_000, 60_000)}
_K = {"k": (2, 4, 10, 25, 50, 100)}
_SIDE = {"side": (8, 14, 28, 48, 80, 128)}
_COLUMNS = {"h": (64, 128, 256, 512, 1024, 2048)}
_UNITS = {"h": (4, 8, 16, 32, 64, 128)}

PHASES = {
    "features, whole image": Phase(
        WHOLE, _N | _COLUMNS | _SIDE, "2 n h s²",
        partial(features, False), partial(products_of_features, False),
    ),
    "features, windows": Phase(
        OF_WINDOWS, _N | _UNITS | _SIDE, "2 n P (s - 4)²",
        partial(features, True), partial(products_of_features, True),
    ),
    "sub-network, operator": Phase(
        OF_SUBNETWORK, _N | _UNITS | _K | _SIDE,
        "8 n h s² + 2 n (q + k)² + 2 n q² + 41 (2 n P + 2 n h k + 4 n q k)",
        partial(subnetwork, False, "operator"),
        partial(products_of_subnetwork, False, "operator"),
    ),
    "sub-network, reduced": Phase(
        OF_SUBNETWORK, _N | {"h": (2, 4, 8, 16, 32, 64)} | _K | _SIDE,
        "8 n h s² + 2 n (q + k)² + n P (P + 2 q + 2 k) + q P (P + q) + P³/3 + 82 P²",
        partial(subnetwork, False, "reduced"),
        partial(products_of_subnetwork, False, "reduced"),
    ),
    "sub-network of windows, reduced": Phase(
        OF_WINDOWS, _N | {"h": (4, 8, 12, 16, 24, 32)} | _K | _SIDE,
        "6 n P (s - 4)² + 2 n (q + k)² + n k P (P + 2 q + 2 m) + q k P (P + q) + P³/3 + 82 P²",
        partial(subnetwork, True, "reduced"), partial(products_of_subnetwork, True, "reduced"),
    ),
    "Gram matrix": Phase(
        WHOLE, _N | _COLUMNS | _K, "n q² + 2 n q (k + 1); n q (q + 512) in tiles of 512",
        gram, products_of_gram,
    ),
    "factorisation and path": Phase(
        WHOLE, _COLUMNS | _K, "14/3 q³ + 2 (g + 1) q² k", factorise, products_of_factorisation
    ),
    "leave-one-out": Phase(
        WHOLE, _N | _COLUMNS | _K, "2 n q² + 2 n q g (k + 1)",
        leave_one_out, products_of_leave_one_out,
    ),
    "predict": Phase(
        WHOLE, _N | _COLUMNS | _K | _SIDE, "2 n h s² + 2 n h k", predict, products_of_predict
    ),
}  # fmt: skip
"""The phases by name, with the leading terms of their operation counts."""

QUICK = {
    "n": (100, 200, 400, 800), "h": (4, 8, 16), "k": (2, 5, 10), "side": (8, 12, 16)
}  # fmt: skip
"""What ``--quick`` varies, around a separate point."""
QUICK_BASE = Point(400, 8, 5, 12)
