"""Units that scalarise a whole image; the kinds are those of :mod:`.scalarisation`.

All features of a block of images are one matrix product with the effective filters. The
derivative with respect to one vector contracts the image with all the others, again one matrix
product.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from varpro_nn._typing import FloatArray, ImageArray, RealArray
from varpro_nn.units.activations import Side, sides
from varpro_nn.units.inputs import pixels_of
from varpro_nn.units.scalarisation import Scalarisation, outer


@dataclass(frozen=True)
class WholeImageUnits:
    """A layer of units of one kind; made by :func:`varpro_nn.units.whole_image_units`.

    Attributes
    ----------
    kind : {"quadratic", "bilinear", "tensor", "dense"}
    image_shape : tuple of int
        (rows, columns) or (channels, rows, columns), or any other number of axes.
    n_units : int
    rank : int
        Terms of the sum.
    activation : str
        A key of ``ACTIVATIONS``.
    gain : float
        Standard deviation of the pre-activations that ``init`` draws.
    threshold : float
        Of the two-sided activation.

    Notes
    -----
    A row of ``W`` holds, for each term of the sum, the vectors one after the other; the bias ``b``
    is its last entry.
    """

    kind: str
    image_shape: tuple[int, ...]
    n_units: int
    rank: int = 1
    activation: str = "logistic"
    gain: float = 1.0
    threshold: float = 0.0

    @property
    def n_cells(self) -> int:
        """One column a unit, or one for each side of a two-sided activation."""
        return len(sides(self.activation))

    @property
    def n_weights(self) -> int:
        """Weights of one unit, the bias included."""
        return self.scalarisation.n_weights

    @property
    def scalarisation(self) -> Scalarisation:
        """How the weights make a linear form of the image."""
        return Scalarisation(self.kind, self.image_shape, self.rank)

    def spec(self) -> dict[str, Any]:
        """All choices as plain values, for a model file; see :func:`units_from_spec`."""
        return {**asdict(self), "image_shape": list(self.image_shape)}

    def init(self, inputs: ImageArray, rng: np.random.Generator) -> FloatArray:
        """Draw normal vectors, then scale and shift each unit.

        Over ``inputs`` each pre-activation has mean 0 and standard deviation ``gain``. (At
        ``w = 0`` the derivative of a product of vectors vanishes, and far from standardised
        pre-activations that of the activation does: neither is a place to start from.)
        """
        W = np.zeros((self.n_units, self.n_weights))
        W[:, :-1] = rng.standard_normal((self.n_units, self.n_weights - 1))
        # Single precision: a standardisation needs no more.
        z = self._preactivation(W.astype(np.float32), self._tensors(inputs, np.float32))
        mean, deviation = z.mean(axis=0, dtype=np.float64), z.std(axis=0, dtype=np.float64)
        # A unit to which all inputs look alike (they are constant, say) cannot be scaled.
        factor = self.gain / np.where(deviation > 1e-6 * np.abs(mean), deviation, np.inf)
        factor[factor == 0] = 1.0
        W[:, :-1] *= factor[:, None] ** (1 / len(self.scalarisation.axes))
        W[:, -1] = -mean * factor
        return W

    def effective_filters(self, W: RealArray) -> RealArray:
        """Fold the vectors of each unit into a filter on images, bias last, (h, pixels + 1)."""
        return np.concatenate([self.scalarisation.filters(W), W[:, -1:]], axis=1)

    def features(self, W: RealArray, inputs: ImageArray) -> RealArray:
        """Activations, (n, h * m)."""
        return self._activations(self._preactivation(W, self._tensors(inputs, W.dtype)))

    def features_and_derivative(
        self, W: RealArray, inputs: ImageArray
    ) -> tuple[RealArray, RealArray]:
        """Activations (n, h * m) and their derivative (n, m, h, p)."""
        X = self._tensors(inputs, W.dtype)
        Phi = self._activations(self._preactivation(W, X))
        h, n, m, R = len(W), len(X), self.n_cells, self.rank
        slopes = [
            np.ascontiguousarray(side.derivative(value).T)  # (h, n)
            for side, value in zip(self._sides, np.split(Phi, m, axis=1), strict=True)
        ]
        dPhi = np.empty((h, m, n, self.n_weights), dtype=W.dtype)
        form = self.scalarisation
        vectors = form.vectors(W)
        start = 0
        for number, length in enumerate(form.lengths):
            first, *others = (axis for axis, v in enumerate(form.tied) if v == number)
            # Tied axes: contracting another of them is contracting the first one of the image
            # with the two swapped.
            Y = X
            for axis in others:
                Y = Y + X.swapaxes(1 + first, 1 + axis)
            Y = np.moveaxis(Y, 1 + first, 1).reshape(n * length, -1)
            rest = outer([v for axis, v in enumerate(vectors) if axis != first], h * R, W.dtype)
            contracted = (rest @ Y.T).reshape(h, R, n, length).swapaxes(1, 2)
            for c, slope in enumerate(slopes):
                terms = dPhi[:, c, :, :-1].reshape(h, n, R, -1)
                np.multiply(
                    contracted, slope[:, :, None, None], out=terms[:, :, :, start : start + length]
                )
            start += length
        for c, slope in enumerate(slopes):
            dPhi[:, c, :, -1] = slope
        return Phi, dPhi.transpose(2, 1, 0, 3)

    @property
    def _sides(self) -> tuple[Side, ...]:
        return sides(self.activation, self.threshold)

    def _activations(self, z: RealArray) -> RealArray:
        """Columns of all sides, (n, h * m); ``z`` (n, h) is used as work space."""
        *others, last = self._sides
        columns = [side.apply(z, np.empty_like(z)) for side in others]
        return np.concatenate([*columns, last.apply(z, z)], axis=1) if others else last.apply(z, z)

    def _tensors(self, inputs: ImageArray, dtype: Any) -> RealArray:
        pixels = pixels_of(inputs, self.image_shape, dtype)
        return pixels.reshape(len(inputs), *self.scalarisation.axes)

    def _preactivation(self, W: RealArray, X: RealArray) -> RealArray:
        z: RealArray = X.reshape(len(X), -1) @ self.scalarisation.filters(W).T
        z += W[:, -1]
        return z
