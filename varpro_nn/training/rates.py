"""How fast this machine does what training consists of, measured in about a second.

Each rate is the CPU time of one operation of a kind. Products of large matrices, factorisations,
products with few columns, and passes over memory differ by a factor of ten an operation, so one
rate would not do. Units are measured as they are, on some images: their features are a mixture of
all of these.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
import scipy

from varpro_nn._typing import ImageArray
from varpro_nn.data.augmentation import BLOCK, Augmentation, distort
from varpro_nn.linalg.blas_limit import single_threaded_blas
from varpro_nn.linalg.ridge import ROWS, TILE
from varpro_nn.output.features import TASK_IMAGES, block_features
from varpro_nn.units import PatchUnits, Units, UnitsOnMaps, WholeImageUnits, with_n_units
from varpro_nn.units.maps import folded
from varpro_nn.units.patches import IMAGES

LARGE = 2**25
"""Bytes from which on an array gets new pages of memory from the system each time (glibc)."""
SAMPLE = 2000
"""Images on which units are measured, at most."""
_LEAST_SECONDS = 0.03
"""Least CPU seconds for which an operation is repeated, after one call to warm up."""
_CLASSES = 10
"""Columns of a product with few columns."""


@dataclass(frozen=True, slots=True)
class Rates:
    """CPU seconds of one operation, one thread.

    Attributes
    ----------
    product, double_product : float
        Of a product of large matrices, in single and double precision. A product of (a, b) and
        (b, c) matrices has 2abc operations.
    thin_product : float
        Of a product in single precision whose result has few columns: one for each class.
    factorisation : float
        Of a QR factorisation in double precision, 2nqq for (n, q).
    vector_product : float
        For each byte of a stack of matrices in single precision that are multiplied by vectors.
    elementwise : float
        For each byte of a new array, as of a sum of two others.
    fresh : float
        For each byte of a new array of more than :data:`LARGE` bytes, filled with zeros.
    """

    product: float
    double_product: float
    thin_product: float
    factorisation: float
    vector_product: float
    elementwise: float
    fresh: float

    def convex_product(self, n: float, q: int, k: int) -> float:
        """Seconds of a product in a convex fit of all rows, with the passes over outputs."""
        passes = 25 * 8 * n * k * self.elementwise
        return operations_of_product(n, q, k) * self.thin_product + passes


def operations_of_product(n: float, q: int, k: int) -> float:
    """Count a product with the Hessian of a convex fit, and a solution by its preconditioner."""
    return 2.0 * k * q * (2 * n + q)


@dataclass(frozen=True, slots=True)
class UnitRates:
    """CPU seconds of units and distortions on the images in question, one thread.

    Attributes
    ----------
    features : float
        Of one unit on one image, in the whole network.
    features_in_training, derivative : float
        Of one unit on one image, while it trains: at the training stride.
    start : float
        Of drawing the weights of one sub-network.
    distortion : float
        Of one image.
    maps : float
        Of one image: what a sub-network computes once, if there is a layer below.
    """

    features: float
    features_in_training: float
    derivative: float
    start: float
    distortion: float
    maps: float = 0.0


TYPICAL = Rates(
    product=1 / 70e9,
    double_product=1 / 28e9,
    thin_product=1 / 28e9,
    factorisation=1 / 9e9,
    vector_product=1 / 9e9,
    elementwise=1 / 9e9,
    fresh=1 / 5e9,
)
"""Rates of a plain core of 2020 and later, for a first look that need not be close."""


def typical_units(units: Units, of_one: Units, images: ImageArray, _: Augmentation) -> UnitRates:
    """Rates of units from the size of their filters alone, for a first look."""
    pixels, rates = prod(images.shape[1:]), TYPICAL

    def features(of: Units) -> float:
        n_filtered, n_places = pixels, 1
        if isinstance(of, UnitsOnMaps):
            whole, _ = folded(of, np.zeros((1, of.n_weights)))
            return features(whole.units) + maps(whole) / of.n_units
        if isinstance(of, PatchUnits):
            n_filtered, n_places = of.windows.n_pixels + 1, prod(of.windows.places)
        # The filter, and about six passes for the activation and the mean.
        return n_places * (2 * n_filtered * rates.product + 6 * 4 * rates.elementwise)

    def maps(of: Units) -> float:
        if not isinstance(of, UnitsOnMaps):
            return 0.0
        below, n_places = of.below, prod(of.below.windows.places)
        of_layer = len(below.W) * features(below.units)
        size = 0 if below.whitening is None else below.whitening.size
        return of_layer + n_places * 2 * size * rates.product

    in_training = of_one.units if isinstance(of_one, UnitsOnMaps) else of_one
    derivative = 3 * features(in_training)
    derivative += 2 * 4 * of_one.n_cells * of_one.n_weights * rates.elementwise
    return UnitRates(
        features(units), features(in_training), derivative, 0.02, pixels * 2e-7, maps(of_one)
    )


@lru_cache(maxsize=1)
def measured_rates() -> Rates:
    """Measure the rates of this machine, once a process."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((ROWS // 2, TILE), dtype=np.float32)
    other = rows[:, ::-1].copy()
    few = rng.standard_normal((TILE, _CLASSES), dtype=np.float32)
    double = rows[:, : TILE // 2].astype(np.float64)
    stack = np.ones((4, 16, 2048, 64), dtype=np.float32)  # no cache holds it

    vectors = np.ones((4, 1, 64, 1), dtype=np.float32)
    n, q = double.shape
    with single_threaded_blas():
        return Rates(
            product=_seconds(lambda: rows.T @ other) / (2 * rows.size * TILE),
            double_product=_seconds(lambda: double.T @ other[:, :q]) / (2 * double.size * q),
            thin_product=_seconds(lambda: rows @ few) / (2 * rows.size * _CLASSES),
            factorisation=_seconds(
                lambda: scipy.linalg.qr(double, mode="r", check_finite=False)
            ) / (2 * n * q * q),
            vector_product=_seconds(lambda: stack @ vectors) / stack.nbytes,
            elementwise=_seconds(lambda: rows + other) / rows.nbytes,
            fresh=_seconds(lambda: np.empty(2 * LARGE, dtype=np.uint8).fill(0)) / (2 * LARGE),
        )  # fmt: skip


def measured_units(
    units: Units, of_one: Units, images: ImageArray, distortion: Augmentation
) -> UnitRates:
    """Measure units on some images.

    Parameters
    ----------
    units : Units
        All units of the network.
    of_one : Units
        The units of one sub-network while it trains.
    images : ndarray, shape (n, ...)
        Some training images, :data:`SAMPLE` or fewer.
    distortion : Augmentation
    """
    rng = np.random.default_rng(0)
    in_training: Units = of_one
    inputs, of_maps = images, 0.0
    if isinstance(of_one, UnitsOnMaps):
        on_maps = of_one
        with single_threaded_blas():
            of_maps, (in_training, inputs) = _timed(lambda: on_maps.on_top(images))
        of_maps /= len(images)
    # Patch units work on small blocks of images, others on all at once: on a task of features, and
    # on a derivative that is as large as it is in training.
    of_patches = not isinstance(units, WholeImageUnits)
    some = slice(2 * IMAGES if of_patches else TASK_IMAGES)
    bytes_of_image = 4 * of_one.n_units * of_one.n_cells * of_one.n_weights
    few = some if of_patches else slice(max(1, (LARGE + LARGE // 4) // bytes_of_image))
    h, all_units = of_one.n_units, units
    if not of_maps:  # maps cost the same for any number of units
        all_units = with_n_units(units, min(units.n_units, TILE))
    moved = 0.0
    with single_threaded_blas():
        start, drawn = _timed(lambda: of_one.init(images, rng))
        W = drawn.astype(np.float32)
        several = np.resize(W, (all_units.n_units, W.shape[1]))
        whole = folded(all_units, several)  # as it is once for many images
        if distortion:
            block = images[:BLOCK]
            moved = _timed(lambda: distort(block, distortion, rng))[0] / len(block)
        return UnitRates(
            features=_seconds(lambda: block_features(*whole, images[some]))
            / (len(images[some]) * len(several)),
            features_in_training=_seconds(lambda: in_training.features(W, inputs[some]))
            / (len(inputs[some]) * h),
            derivative=_seconds(lambda: in_training.features_and_derivative(W, inputs[few]))
            / (len(inputs[few]) * h),
            start=start,
            distortion=moved,
            maps=of_maps,
        )


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of this thread for ``work``, and its result."""
    start = time.thread_time()
    result = work()
    return time.thread_time() - start, result


def _seconds(work: Callable[[], Any]) -> float:
    """Mean CPU seconds of ``work``."""
    work()
    count, total = 0, 0.0
    while total < _LEAST_SECONDS:
        total += _timed(work)[0]
        count += 1
    return total / count
