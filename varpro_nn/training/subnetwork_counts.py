"""What one sub-network takes: operations of its rounds, and bytes of its arrays.

Counts follow the code step by step: :mod:`varpro_nn.varpro.functional` eliminates the linear
weights, :mod:`varpro_nn.varpro.jacobian` and :mod:`varpro_nn.varpro.cross_entropy` make the
problem that :mod:`varpro_nn.varpro.fit` solves. :mod:`varpro_nn.varpro.batches` makes no such
problem. A sub-network is assumed to use all evaluations that it may, and to accept each step. For
:mod:`varpro_nn.training.estimate`.
"""

from dataclasses import dataclass
from math import prod

from varpro_nn.data.augmentation import BLOCK, Augmentation
from varpro_nn.linalg.ridge import ROWS
from varpro_nn.training.config import SubnetworkSettings
from varpro_nn.training.layer_inputs import AT_A_TIME, MAPS_BYTES, maps_bytes
from varpro_nn.training.rates import LARGE, Rates, UnitRates
from varpro_nn.training.subnetwork import round_sizes
from varpro_nn.units import PatchUnits, Units, UnitsOnMaps, WholeImageUnits
from varpro_nn.varpro.batches import CURVATURE_EVERY, CURVATURE_SHARE
from varpro_nn.varpro.design_matrix import DERIVATIVE_BYTES
from varpro_nn.varpro.fit import INNER_ITERATIONS, cheaper_form

_INNER_PRODUCTS = 80.0
"""Products of the inner fit of an evaluation with cross-entropy: 57 to 88 in a run of ``tiny`` on
10,000 images of MNIST."""


@dataclass(frozen=True, slots=True)
class Time:
    """CPU seconds of work that one thread does, and of work that threads share."""

    alone: float = 0.0
    shared: float = 0.0

    def __add__(self, other: "Time") -> "Time":
        return Time(self.alone + other.alone, self.shared + other.shared)

    def times(self, count: float) -> "Time":
        """Repeat the same work."""
        return Time(count * self.alone, count * self.shared)

    @property
    def cpu(self) -> float:
        """CPU seconds."""
        return self.alone + self.shared

    def wall(self, n_threads: int) -> float:
        """Wall seconds with a number of threads."""
        return self.alone + self.shared / n_threads


@dataclass(frozen=True, slots=True)
class Problem:
    """The problem that a sub-network solves in one round: its sizes."""

    n: int
    h: int
    m: int
    p: int
    k: int
    fixed: int

    @property
    def n_weights(self) -> int:
        """Unit weights."""
        return self.h * self.p

    @property
    def trained(self) -> int:
        """Columns of the units in training and the constant column."""
        return self.h * self.m + 1

    @property
    def basis(self) -> int:
        """Columns that stand for the fixed ones."""
        return min(self.n, self.fixed)

    @property
    def q(self) -> int:
        """All columns."""
        return self.trained + self.basis


@dataclass(frozen=True, slots=True)
class SubnetworkCounts:
    """Counts of the sub-networks of a run.

    Attributes
    ----------
    settings : SubnetworkSettings
    units : Units
        Of one sub-network while it trains.
    k : int
        Classes.
    image_shape : tuple of int
    bytes_of_image : int
    distortion : Augmentation
    rates : Rates
    of_units : UnitRates
    """

    settings: SubnetworkSettings
    units: Units
    k: int
    image_shape: tuple[int, ...]
    bytes_of_image: int
    distortion: Augmentation
    rates: Rates
    of_units: UnitRates

    def _problem(self, n: int, fixed: int) -> Problem:
        one = self.units
        return Problem(n, one.n_units, one.n_cells, one.n_weights, self.k, fixed)

    def seconds(self, n: int, fixed: int) -> Time:
        """One sub-network, all rounds."""
        of_units, settings = self.of_units, self.settings
        sizes = round_sizes(settings, n)
        total = Time(of_units.start)
        if isinstance(self.units, WholeImageUnits):  # others draw by some of their images
            total += Time(sizes[-1] * self.units.n_units * of_units.features_in_training)
        if settings.max_nfev == 0:
            return total
        for size in sizes:
            z = self._problem(size, fixed)
            total += Time(size * of_units.distortion + self._elimination(z))
            if settings.solver == "kfac":
                total += Time(0.0, size * of_units.maps)
                total += self._pass(z).times(settings.max_nfev)
                continue
            total += Time(size * of_units.maps)
            total += self._evaluation(z).times(settings.max_nfev)
            # After the last evaluation nothing is solved.
            total += Time(self._inner(z)).times(settings.max_nfev - 1)
        return total

    @property
    def _windows(self) -> tuple[int, int]:
        """Places and pixels of the windows of the units in training."""
        top = self.units.units if isinstance(self.units, UnitsOnMaps) else self.units
        assert isinstance(top, PatchUnits)  # kfac takes no others
        return prod(top.windows.places), top.windows.n_pixels

    def _pass(self, z: Problem) -> Time:
        """Count a pass of ``varpro.batches`` over all images."""
        rates, (places, n_pixels) = self.rates, self._windows
        n_batches = -(-z.n // self.settings.batch_size)
        # Pre-activations, and the gradient by the weights; the Kronecker factors of some.
        products: float = 4 * places * z.n_weights
        if z.p <= n_pixels:  # projected
            products += 2 * places * n_pixels * z.p
        products += places * (z.h**2 + z.p**2) / (CURVATURE_SHARE * CURVATURE_EVERY)
        sums = z.trained**2 + 8 * z.trained * z.k
        passes = 4 * places * (16 * z.h + 4 * z.p) * rates.elementwise
        # The sums in double precision, and a factor of Cholesky.
        solved = z.trained**3 / 3 * rates.double_product + 40 * z.trained**2 * rates.elementwise
        return Time(
            z.n * sums * rates.product + n_batches * solved,
            z.n * (products * rates.product + passes),
        )

    def _elimination(self, z: Problem) -> float:
        """Features of fixed columns, and their singular value decomposition."""
        if not z.fixed:
            return 0.0
        features = z.n * z.fixed / z.m * self.of_units.features_in_training
        if self.settings.loss != "squares":
            return features
        # LAPACK's on (n, f), f < n: about 6 n f^2 + 20 f^3 operations, at twice the rate of a QR.
        longer = max(z.n, z.fixed)
        return features + (3 * longer * z.basis**2 + 10 * z.basis**3) * self.rates.factorisation

    def _evaluation(self, z: Problem) -> Time:
        """One evaluation with its Jacobian and the inner iterations that follow."""
        features = z.n * z.h * self.of_units.features_in_training
        # Weighted, together, and in the order of LAPACK: three copies in double precision.
        stacking = 3 * 8 * z.n * z.q * self.rates.elementwise
        if self.settings.loss != "squares":
            return Time(features + stacking) + self._cross_entropy(z)
        total = Time(features + stacking + self._linear_solution(z))
        if self.settings.solver in ("powell", "nelder-mead"):
            return total
        # The features once more, with the derivative, which is checked to be finite.
        total += Time(
            0.0,
            z.n * z.h * self.of_units.derivative
            + (2 * 8 * z.n * z.q + 4 * z.n * z.m * z.n_weights) * self.rates.elementwise,
        )
        if self._form(z) == "reduced":
            return total + self._reduced(z)
        return total + Time(self._operator(z))

    def _form(self, z: Problem) -> str:
        if self.settings.form != "auto":
            return self.settings.form
        if self.settings.loss != "squares" or self.settings.solver != "lsmr":
            return "reduced"
        return cheaper_form((z.n, z.k), z.n_weights, z.m, z.q, 4)

    def _basis(self, z: Problem) -> float:
        """Count an orthonormal basis of all columns: a triangular solve."""
        products = z.n * z.trained**2 + 2 * z.n * z.basis * z.trained
        return products * self.rates.double_product + 8 * z.n * z.q * self.rates.elementwise

    def _linear_solution(self, z: Problem) -> float:
        """QR of the trained columns and targets, after the fixed ones; leave-one-out errors."""
        rates, columns = self.rates, z.trained + z.k
        seconds = 2 * (z.n + z.basis) * columns**2 * rates.factorisation
        seconds += 4 * z.n * z.basis * columns * rates.double_product
        # Outputs twice, in double precision: twice the bytes.
        return seconds + self._basis(z) + 2 * 2 * 2 * z.n * z.q * z.k * rates.thin_product

    def _operator(self, z: Problem) -> float:
        """Count the stored derivative, in the order of its products, and three of these.

        The products give the gradient and the test for the end.
        """
        derivative = 4 * z.n * z.m * z.n_weights
        stored = 2 * derivative * (self.rates.fresh if derivative > LARGE else 0.0)
        stored += derivative * self.rates.elementwise
        return stored + self._basis(z) + 3 * self._product(z)

    def _product(self, z: Problem) -> float:
        """Count a product with a vector: the derivative, then the basis there and back.

        The basis is in double precision: twice the bytes of a product with few columns.
        """
        derivative = 4 * z.n * z.m * z.n_weights * self.rates.vector_product
        return derivative + 2 * 2 * (2 * z.n * z.q * z.k) * self.rates.thin_product

    def _inner(self, z: Problem) -> float:
        """One inner solve; in LSMR one product with J and one with J' an iteration."""
        if self.settings.solver == "lsmr":
            one = 8 * z.n_weights**2 * self.rates.vector_product
            # A few more choose the length of the step.
            return (
                2
                * (INNER_ITERATIONS + 3)
                * (self._product(z) if self._form(z) == "operator" else one)
            )
        if self.settings.solver == "exact":
            return 10 * z.n_weights**3 * self.rates.factorisation  # singular values
        return 0.0

    def _reduced(self, z: Problem) -> Time:
        """Count normal equations (``varpro.jacobian.NormalSums``) and the problem of P + 1 rows."""
        rates, by_cells = self.rates, z.m**2 <= z.k
        rows = z.n if by_cells else z.n * z.k
        side = z.m * z.n_weights if by_cells else z.n_weights
        right = side if by_cells else z.k * z.n_weights
        shared = rows * side**2 * rates.product  # of a matrix with itself: half the operations
        shared += 2 * z.n * z.q * right * rates.product
        shared += 4 * z.n * right * rates.elementwise
        if not by_cells:
            shared += 2 * z.n * z.k * z.m * z.n_weights * rates.thin_product
        # Each block adds to sums in double precision; then J'J is factorised.
        blocks = -(-4 * z.n * z.m * z.n_weights // DERIVATIVE_BYTES)
        blocks = max(blocks, rows // ROWS)
        alone = 2 * 8 * blocks * (side**2 + z.q * right) * rates.elementwise
        alone += (z.q**2 * right + right * z.q * side) * rates.double_product
        return Time(alone + z.n_weights**3 / 3 * rates.factorisation, shared)

    def _cross_entropy(self, z: Problem) -> Time:
        """Count the inner fit, the sums of ``varpro.cross_entropy``, and their elimination."""
        rates, columns = self.rates, z.trained + z.fixed
        pairs, side = z.k * (z.k - 1) // 2, z.k * columns
        shared = _INNER_PRODUCTS * self.rates.convex_product(z.n, columns, z.k)
        shared += z.n * z.h * self.of_units.derivative
        shared += 2 * z.n * z.k * z.m * z.n_weights * rates.thin_product  # B, by classes
        shared += 6 * 4 * z.n * z.k * z.n_weights * rates.elementwise
        shared += pairs * z.n * columns * (2 * columns * rates.product + 4 * rates.elementwise)
        shared += 2 * z.n * side * z.n_weights * rates.product
        shared += z.n * z.k * z.n_weights**2 * rates.product
        blocks = -(-4 * z.n * z.m * z.n_weights // DERIVATIVE_BYTES)
        sums = 3 * pairs * columns**2 + side * z.n_weights + z.n_weights**2
        alone = 8 * (blocks * sums + 4 * side**2) * rates.elementwise
        alone += (side**3 / 3 * rates.factorisation) + side**2 * z.n_weights * rates.double_product
        return Time(alone + z.n_weights**3 / 3 * rates.factorisation, shared)

    def bytes_of_temporary(self, n: int) -> int:
        """Count the bytes of the file that holds the maps of one sub-network."""
        if self.settings.solver != "kfac" or self.settings.max_nfev == 0:
            return 0
        n_bytes = maps_bytes(self.units, round_sizes(self.settings, n)[-1])
        return n_bytes if n_bytes > MAPS_BYTES else 0

    def memory(self, n: int, fixed: int) -> float:
        """Largest memory of one sub-network, the last round."""
        z = self._problem(round_sizes(self.settings, n)[-1], fixed)
        images = 2 * z.n * self.bytes_of_image + bytes_of_distortion(
            self.distortion, self.image_shape
        )
        # Larger maps are in a file; only the maps that are being written are in memory.
        n_maps = AT_A_TIME if self.bytes_of_temporary(n) else z.n
        images += maps_bytes(self.units, n_maps)
        if self.settings.max_nfev == 0:
            return images
        if self.settings.solver == "kfac":
            b = min(self.settings.batch_size, z.n)
            places, n_pixels = self._windows
            batch = 4 * b * (places * (3 * n_pixels + z.p + 6 * z.h) + 3 * z.trained)
            return images + batch + 4 * 8 * z.trained**2
        # Columns now and at the last point, and what a QR makes of them: five in double precision.
        # The elimination has six of the fixed columns.
        columns = 8 * z.n * max(5 * z.q, 6 * z.fixed)
        form, derivative = self._form(z), 4 * z.n * z.m * z.n_weights
        if self.settings.loss != "squares":
            side = z.k * (z.trained + z.fixed)
            return (
                images
                + columns / 2
                + 8 * (3 * side**2 + 2 * side * z.n_weights)
                + self._of_block(z)
            )
        if form == "reduced":
            right = z.m * z.n_weights if z.m**2 <= z.k else z.k * z.n_weights
            squares = 5 * 8 * z.n_weights**2 + 8 * right * (3 * z.q)
            return images + columns + squares + self._of_block(z)
        # The derivative as it comes, in the order of its products, and that of the last point.
        stored = 3 * derivative if form == "operator" else derivative + 16 * z.n * z.k * z.n_weights
        return images + columns + stored

    def _of_block(self, z: Problem) -> float:
        """Memory of one block of derivatives, and of the derivatives by class."""
        block = min(DERIVATIVE_BYTES, 4 * z.n * z.m * z.n_weights)
        return block * (2 + 2 * z.k / z.m)


def bytes_of_distortion(distortion: Augmentation, image_shape: tuple[int, ...]) -> float:
    """Count bytes for images distorted at a time: coordinates and displacements, else copies."""
    if distortion.interpolates:
        return 100.0 * BLOCK * prod(image_shape[-2:])
    return 3.0 * 4 * BLOCK * prod(image_shape) if distortion else 0.0
