"""Operations and memory of the output layer: bytes of the arrays held at the same time.

Letters as in :mod:`varpro_nn.training.estimate`.
"""

from dataclasses import dataclass
from math import prod

from varpro_nn.data.augmentation import Augmentation
from varpro_nn.linalg.convex import MARGINS
from varpro_nn.linalg.ridge import ROWS
from varpro_nn.output.feature_store import FEATURE_BYTES
from varpro_nn.output.features import VIEWS, block_slices, images_at_a_time
from varpro_nn.output.fit import FEW_ROWS, LARGEST_EIGENPROBLEM, searched_images
from varpro_nn.output.linear_fits import rows_for_start
from varpro_nn.output.penalties import RIDGES
from varpro_nn.output.ridge_fit import DUAL_BLOCK_BYTES
from varpro_nn.output.settings import OutputSettings
from varpro_nn.training.rates import Rates, UnitRates, operations_of_product
from varpro_nn.training.subnetwork_counts import Time, bytes_of_distortion
from varpro_nn.units import Units
from varpro_nn.units.maps import n_columns, n_columns_below

_SEARCH_PRODUCTS, _LAST_PRODUCTS = 80.0, 30.0
"""Typical CPU time of the convex fits, in units of a product with their rows: the search over all
penalties, and the last fit. Measured in runs on MNIST, CIFAR-10 and digits with hinge and
softmax."""
_FEW_OF_CLASS, _MORE_PRODUCTS = 40.0, 0.7
"""Images of a class below which the hinge takes more products than typical, and the power of their
ratio that says how many times more: measured with numbers of three digits, 300 and 1,000 classes of
4,000 images (``experiments.benchmarks.growth``). Almost all rows then violate a margin of some
output."""
_RIDGES_TRIED = 9
"""Penalties of a ridge layer that are fitted to a split, one by one."""


@dataclass(frozen=True, slots=True)
class OutputCounts:
    """Counts of the output layer, and of the outputs of the network.

    Attributes
    ----------
    settings : OutputSettings
    units : Units
        Of the whole network.
    n, k : int
    image_shape : tuple of int
    bytes_of_image : int
    distortion : Augmentation
    threads : int
    keep_sums : bool
    rates : Rates
    of_units : UnitRates
    """

    settings: OutputSettings
    units: Units
    n: int
    k: int
    image_shape: tuple[int, ...]
    bytes_of_image: int
    distortion: Augmentation
    threads: int
    keep_sums: bool
    rates: Rates
    of_units: UnitRates

    @property
    def q(self) -> int:
        """Columns of the features."""
        return n_columns(self.units)

    def seconds(self) -> Time:
        """Count the fit on all images and their copies, and the temperature."""
        rows = self._rows
        time = Time(self.n * self.settings.n_copies * self.of_units.distortion)
        if self._stores_features:
            time += self._stored(rows)
        else:
            time += self._dual(rows) if self._is_dual else self.primal(rows)
        left_out = self._searched / 6 if self._stores_features else rows
        return time + Time(self._temperature(left_out))

    def memory(self) -> float:
        """Count the bytes of the fit."""
        rows, n_bytes = self._rows, 0.0
        if self.settings.n_copies:
            of_distortion = bytes_of_distortion(self.distortion, self.image_shape)
            n_bytes = rows * self.bytes_of_image + of_distortion
        if self._stores_features:
            return n_bytes + self._bytes_of_stored(rows)
        own = self._bytes_of_dual(rows) if self._is_dual else self.bytes_of_primal(rows)
        return n_bytes + own

    @property
    def _rows(self) -> int:
        """Images of the output layer, copies included."""
        return self.n * (1 + self.settings.n_copies)

    @property
    def _searched(self) -> int:
        """Images with which the penalty is searched on a split."""
        return searched_images(self.n, 1 + self.settings.n_copies, self.q)

    @property
    def _has_dual(self) -> bool:
        """Whether there is a dual form, of images by images."""
        return not n_columns_below(self.units)

    @property
    def _is_dual(self) -> bool:
        return self._has_dual and self.q > self._rows

    @property
    def _stores_features(self) -> bool:
        """Whether the output layer passes over all features again and again."""
        output = self.settings
        alone = output.penalty is not None or (not output.n_copies and output.views == "single")
        side = min(self._rows, self.q) if self._has_dual else self.q
        small = side <= LARGEST_EIGENPROBLEM
        return not (output.layer == "ridge" and alone and small)

    def bytes_of_temporary(self) -> int:
        """Features that are stored in a file."""
        n_bytes = 4 * self._rows * self.q
        return n_bytes if self._stores_features and n_bytes > FEATURE_BYTES else 0

    def features(self, n: float) -> Time:
        """Count the features of ``n`` images."""
        return Time(0.0, n * self.units.n_units * self.of_units.features)

    def _temperature(self, n: float) -> float:
        """Count a search over one number: 35 evaluations, exponentials measured as 18 passes."""
        return 35 * 18 * 8 * min(n, 20_000) * self.k * self.rates.elementwise

    def primal(self, n: int) -> Time:
        """Gram matrix, eigendecomposition, and leave-one-out errors of all ridges."""
        rates, ridges, q = self.rates, len(RIDGES), self.q
        shared = n * q**2 * rates.product + 2 * n * q**2 * rates.product
        shared += 2 * n * q * ridges * (self.k + 1) * rates.product
        shared += 4 * 4 * n * q * rates.elementwise
        shared += 6 * 8 * n * ridges * self.k * rates.elementwise
        # Reduction 4/3, divide and conquer 4/3, back-transformation 2.
        alone = 14 / 3 * q**3 * rates.factorisation
        return Time(alone, shared) + self.features(2 * n)

    def _dual(self, n: int) -> Time:
        rates, q = self.rates, self.q
        shared = n**2 * q * rates.product + 2 * n * q * self.k * rates.thin_product
        shared += 2 * n**2 * len(RIDGES) * (self.k + 1) * rates.double_product
        return Time(14 / 3 * n**3 * rates.factorisation, shared) + self.features(2 * n)

    def _stored(self, n: int) -> Time:
        """Count stored features, columns of variance 1, and fits of one penalty after the other."""
        output, rates = self.settings, self.rates
        total = self.features(n) + Time(8 * 4 * n * self.q * rates.elementwise)
        q = self._fitted_columns(n)
        if q < self.q:  # columns that stand for all, found in two tries, and the way back
            alone = 2 * (n**3 / 3 * rates.factorisation + 2 * 8 * n**2 * rates.elementwise)
            shared = n**2 * self.q * rates.double_product + 3 * 8 * n * self.q * rates.elementwise
            total += Time(alone, shared + 2 * n * self.q * self.k * rates.thin_product)
        chosen, searched = output.penalty is None, self._searched / max(1, self.n)
        if chosen and output.views != "single":
            total += self.features(self._searched / 6 * len(VIEWS[output.views]))
        if output.layer == "ridge":
            grams = n * q**2 * rates.product * (1 + chosen * searched * 5 / 6)
            solves = 1 + chosen * _RIDGES_TRIED
            factors = q**3 / 3 * rates.factorisation + 4 * 8 * q**2 * rates.elementwise
            return total + Time(solves * factors, grams)
        start = min(n, rows_for_start(q)) * q**2 * rates.product
        products = _LAST_PRODUCTS + chosen * searched * _SEARCH_PRODUCTS
        if output.layer == "hinge":
            products *= max(1.0, _FEW_OF_CLASS * self.k / self.n) ** _MORE_PRODUCTS
        operations = operations_of_product(n, q, self.k)
        # Preconditioners: as many operations as the products since the last one.
        factors = products * operations * rates.product + 2 * q**3 / 3 * rates.factorisation
        fits = products * self.rates.convex_product(n, q, self.k)
        return total + Time(2 * q**3 / 3 * rates.factorisation, start + factors + fits)

    def _fitted_columns(self, n: int) -> int:
        """Columns of the fits: all, or as many as rows if there are few rows."""
        return n if n < FEW_ROWS * self.q else self.q

    def bytes_of_primal(self, n: int) -> float:
        """Gram matrix, eigenvectors, and the work space of LAPACK."""
        errors = 4 * 8 * self._rows_of_block(n) * len(RIDGES) * self.k
        return 8 * self.q**2 * (5 + self.keep_sums) + self.bytes_of_block(n) + errors

    def _rows_of_block(self, n: int) -> int:
        return min(n, block_slices(n, self.q)[0].stop)

    def bytes_of_block(self, n: int) -> float:
        """Count images that are read at a time: as they are, in single precision.

        Then the features of a block, the same in double precision, and a part of them.
        """
        image = self.bytes_of_image + 4 * prod(self.image_shape)
        rows = self._rows_of_block(n)
        return min(rows, images_at_a_time(self.image_shape)) * image + rows * 16 * self.q

    def _bytes_of_dual(self, n: int) -> float:
        kept = 4 * n * self.q if self.keep_sums else 0
        return 4 * 8 * n**2 + 3 * DUAL_BLOCK_BYTES + n * self.bytes_of_image + kept

    def _bytes_of_stored(self, n: int) -> float:
        """Features that are not in a file, outputs, and preconditioners."""
        features = 0 if self.bytes_of_temporary() else 4 * n * self.q
        q = self._fitted_columns(n)
        if q < self.q:  # columns that stand for all, and their factor
            features += 12 * n**2
        if self.settings.layer == "ridge":
            return features + self.bytes_of_block(n) + 8 * q**2 * 4
        margins = 3 * 8 * min(MARGINS, q * self.k) ** 2 if self.settings.layer == "hinge" else 0
        # Two Gram matrices and the last preconditioner; or that alone, and a block for each thread.
        blocks = min(self.threads, -(-n // ROWS)) * 4 * min(n, ROWS) * q
        arrays = max(20 * q**2, 4 * q**2 + blocks)
        return features + self.bytes_of_block(n) + arrays + 6 * 8 * n * self.k + margins

    def outputs(self, n: int) -> Time:
        """Count outputs of the network, whose linear weights are in double precision."""
        views = len(VIEWS[self.settings.views])
        one = 2 * 2 * n * self.q * self.k * self.rates.thin_product
        one += 8 * n * self.q * self.rates.elementwise
        return (self.features(n) + Time(one)).times(views)
