r"""Units that look at every window of an image with the same weights, and pool in cells.

A unit scalarises each window ``P`` of the image (see :mod:`varpro_nn.units.scalarisation`),
applies its activation, and takes the mean over the windows of each cell of a grid: one column of
``Phi`` for each cell, all of which share the unit's weights,

    z = <F, N(P)> + b,      phi_c = mean over windows P of cell c of  activation(z).

``N`` is the preprocessing of a window: nothing; its mean and contrast taken out,
``(P - mean) / sqrt(variance + contrast)``; and a linear map that was learnt from training
images (whitening, see :mod:`varpro_nn.units.whitening`). The linear parts of ``N`` are folded
into the filters, so they cost nothing.

Memory: features work on few images at a time, and on some rows of windows of these; a
derivative holds the windows of ``DERIVATIVE_IMAGES`` images.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from varpro_nn._arrays import plain_array
from varpro_nn._typing import FloatArray, ImageArray, RealArray
from varpro_nn.data.images import intensities
from varpro_nn.units.activations import Side, sides
from varpro_nn.units.inputs import check_shape, pixels_of
from varpro_nn.units.scalarisation import Scalarisation
from varpro_nn.units.windows import Windows, cell_sizes, sums_of_cells

DRAWS = ("gaussian", "windows")
"""What ``init`` may take as filters."""
IMAGES = 32
"""Images of one block of features: what is worked on stays in cache."""
TILE = 64
"""Least number of units in one product; more if it has few columns."""
PRODUCT = 2**16
"""Number of values that the result of one product may have, so that it stays in the cache."""
FAINT_CONTRAST = 1e-4
"""Least ``contrast`` for which single precision leaves less than 1e-5 of a flat window."""
DERIVATIVE_IMAGES = 32
"""Images of one block of derivatives."""


@dataclass(frozen=True, eq=False)
class PatchUnits:
    """A layer of units on windows; made by :func:`varpro_nn.units.patch_units`.

    Attributes
    ----------
    kind : {"dense", "bilinear", "quadratic", "tensor"}
        Scalarisation of a window.
    image_shape : tuple of int
        (rows, columns) or (channels, rows, columns).
    n_units : int
    window, stride : int
        Side of the windows, and their distance.
    grid : int
        Cells along each side.
    rank : int
        Terms of the scalarisation.
    activation : str
        A key of ``ACTIVATIONS``; ``two-sided`` gives two columns a cell.
    gain : float
        Standard deviation of the pre-activations that ``init`` draws.
    threshold : float
        Of the two-sided activation.
    contrast : float or None
        Added to the variance of a window by which it is normalised. None: not normalised.
    draw : {"gaussian", "windows"}
        What ``init`` takes as filters: random numbers, or windows of the images.
    centre : ndarray, shape (pixels of a window,), or None
    whitening : ndarray, shape (d, pixels of a window), or None
        Windows are whitened as ``whitening @ (P - centre)``.

    Notes
    -----
    A row of ``W`` holds the weights of the scalarisation, then the bias. Columns are ordered by
    side, row of cells, column of cells, unit.
    """

    kind: str
    image_shape: tuple[int, ...]
    n_units: int
    window: int
    stride: int = 1
    grid: int = 4
    rank: int = 1
    activation: str = "logistic"
    gain: float = 1.0
    threshold: float = 0.0
    contrast: float | None = None
    draw: str = "gaussian"
    centre: FloatArray | None = field(default=None, repr=False)
    whitening: FloatArray | None = field(default=None, repr=False)
    windows: Windows = field(init=False, repr=False)

    def __post_init__(self) -> None:
        windows = Windows(self.image_shape, self.window, self.stride, self.grid)
        object.__setattr__(self, "windows", windows)

    @property
    def n_cells(self) -> int:
        """Columns of one unit."""
        return len(sides(self.activation)) * self.grid**2

    @property
    def n_weights(self) -> int:
        """Weights of one unit, the bias included."""
        return self.scalarisation.n_weights

    @property
    def scalarisation(self) -> Scalarisation:
        """How the weights make a linear form of the window."""
        shape = self.windows.shape
        if self.whitening is not None and len(self.whitening) != self.windows.n_pixels:
            shape = (len(self.whitening),)  # fewer components than pixels: no rows and columns
        return Scalarisation(self.kind, shape, self.rank)

    def spec(self) -> dict[str, Any]:
        """All choices as plain values, for a model file; the arrays are apart in ``arrays``."""
        names = (
            "kind", "n_units", "window", "stride", "grid", "rank", "activation", "gain",
            "threshold", "contrast", "draw",
        )  # fmt: skip
        plain = {name: getattr(self, name) for name in names}
        return {"place": "windows", "image_shape": list(self.image_shape), **plain}

    @property
    def arrays(self) -> Mapping[str, FloatArray]:
        """What was learnt from training images before the weights."""
        if self.centre is None or self.whitening is None:
            return {}
        return {"centre": self.centre, "whitening": self.whitening}

    def init(self, inputs: ImageArray, rng: np.random.Generator) -> FloatArray:
        """Draw filters, then scale and shift each unit.

        Over the windows of a sample of ``inputs`` each pre-activation has mean 0 and standard
        deviation ``gain``.
        """
        windows = self.sample_windows(inputs, rng, 20_000)  # (N, n_pixels), normalised
        spread = windows.std(axis=1)
        if self.whitening is not None and self.centre is not None:
            windows = (windows - self.centre) @ self.whitening.T
        W = np.zeros((self.n_units, self.n_weights))
        if self.draw == "windows":
            # A flat window (the margin of a digit) would make a filter without any response.
            # By rounding, the mean of equal numbers may exceed all of them.
            least = min(spread.mean(), spread.max())
            chosen = rng.choice(np.flatnonzero(spread >= least), self.n_units)
            W[:, :-1] = windows[chosen] - windows.mean(axis=0)
        else:
            W[:, :-1] = rng.standard_normal((self.n_units, self.n_weights - 1))
        z = windows @ self.scalarisation.filters(W).T
        mean, deviation = z.mean(axis=0), z.std(axis=0)
        # A unit to which all windows look alike (they are constant, say) cannot be scaled.
        factor = self.gain / np.where(deviation > 1e-6 * np.abs(mean), deviation, np.inf)
        factor[factor == 0] = 1.0
        W[:, :-1] *= factor[:, None] ** (1 / len(self.scalarisation.axes))
        W[:, -1] = -mean * factor
        return W

    def features(self, W: RealArray, inputs: ImageArray) -> RealArray:
        """Activations, pooled, (n, h * m)."""
        X = self._images(inputs, W.dtype)
        n, g, h = len(X), self.grid, len(W)
        filters = self.effective_filters(W)
        Phi = np.empty((n, len(self._sides), g, g, h), dtype=W.dtype)
        for start in range(0, n, IMAGES):
            rows = slice(start, start + IMAGES)
            cells = self.cells(filters, _images_last(X[rows]))
            Phi[rows] = cells.transpose(4, 0, 2, 3, 1)
        return Phi.reshape(n, -1)

    def innermost(self, inputs: ImageArray, dtype: Any) -> RealArray:
        """Intensities of ``inputs``, (channels, rows, columns, n), as :meth:`cells` takes them."""
        return _images_last(self._images(inputs, dtype))

    def cells(self, filters: RealArray, X: RealArray) -> RealArray:
        """Compute the mean activation of each cell, for a block of images.

        Parameters
        ----------
        filters : ndarray, shape (h, n_pixels + 1)
            From :meth:`effective_filters`.
        X : ndarray, shape (channels, rows, columns, b)
            Contiguous.

        Returns
        -------
        ndarray, shape (sides, h, grid, grid, b)
        """
        b, d, dtype = X.shape[-1], self.windows.n_pixels, X.dtype
        n_columns = self.windows.places[1]
        h, activation = len(filters), self._sides
        bands = list(self.windows.bands(n_columns * b))
        n_rows = max(rows.stop - rows.start for _, rows in bands)
        most = max(TILE, PRODUCT // (n_rows * n_columns * b))
        memory = np.empty((d + 1) * n_rows * n_columns * b, dtype=dtype)
        z_memory = np.empty(min(most, h) * n_rows * n_columns * b, dtype=dtype)
        scratch = np.empty_like(z_memory) if len(activation) > 1 else z_memory
        sums = np.zeros((len(activation), h, n_columns, b), dtype=dtype)
        flat_sums = sums.reshape(len(activation), h, -1)
        bounds = self.windows.bounds(0)
        pooled = np.empty((len(activation), h, self.grid, self.grid, b), dtype=dtype)
        for cell, rows in bands:
            shape = (rows.stop - rows.start, n_columns, b)
            n = prod(shape)
            P = memory[: (d + 1) * n].reshape(d + 1, n)
            self.windows.collect_rows(X, rows, P[:-1].reshape(d, *shape))
            P[-1] = 1.0
            if self.contrast is not None:
                _normalise(P[:-1], self.contrast)
            first = rows.start == bounds[cell]
            for begin in range(0, h, most):
                tile = slice(begin, min(begin + most, h))
                size = tile.stop - begin
                z = np.matmul(filters[tile], P, out=z_memory[: size * n].reshape(size, n))
                work = scratch[: size * n].reshape(size, n)
                self._add_rows(flat_sums[:, tile], z, work, shape[0], first=first)
            if rows.stop == bounds[cell + 1]:
                pooled[:, :, cell] = self._pool(sums, rows.stop - bounds[cell])
        return pooled

    def _add_rows(
        self, sums: RealArray, z: RealArray, scratch: RealArray, n_rows: int, *, first: bool
    ) -> None:
        """Add activations to ``sums`` (sides, h, columns * b), or begin the sums with the first.

        ``z`` (h, n_rows * columns * b) is overwritten.
        """
        *others, last = zip(sums, self._sides, strict=True)
        for target, side in (*others, last):
            if first and n_rows == 1:  # no pass over memory more than need be
                side.apply(z, target)
                continue
            value = side.apply(z, z if side is last[1] else scratch)
            of_rows = value.reshape(len(z), n_rows, -1)
            if first:
                np.copyto(target, of_rows[:, 0])
            for row in range(int(first), n_rows):
                target += of_rows[:, row]

    def _pool(self, sums: RealArray, n_rows: int) -> RealArray:
        """Means over the cells of one row of cells: (sides, h, grid, b)."""
        bounds = self.windows.bounds(1)
        pooled = sums_of_cells(sums, bounds, axis=2)
        pooled /= (n_rows * cell_sizes(bounds))[:, None].astype(sums.dtype)
        return pooled

    def features_and_derivative(
        self, W: RealArray, inputs: ImageArray
    ) -> tuple[RealArray, RealArray]:
        """Activations (n, h * m) and their derivative (n, m, h, p)."""
        X = self._images(inputs, W.dtype)
        filters = self.effective_filters(W)
        n, h, m, g = len(X), len(W), self.n_cells, self.grid**2
        Phi = np.empty((n, m, h), dtype=W.dtype)
        dPhi = np.empty((n, h, m, self.n_weights), dtype=W.dtype).transpose(0, 2, 1, 3)
        for start in range(0, n, DERIVATIVE_IMAGES):
            rows = slice(start, min(start + DERIVATIVE_IMAGES, n))
            P = self._collected(X[rows])
            z = P @ filters.T  # (b, places, h)
            *others, last = self._sides
            for number, side in enumerate((*others, last)):
                value = side.apply(z, z if side is last else np.empty_like(z))
                slope = side.derivative(value)
                for c, cell in enumerate(self.windows.cells):
                    column = number * g + c
                    size = cell.stop - cell.start
                    Phi[rows, column] = value[:, cell].mean(axis=1)
                    by_filter = slope[:, cell].swapaxes(1, 2) @ P[:, cell]  # (b, h, pixels + 1)
                    by_filter /= size
                    dPhi[rows, column] = self._by_weights(W, by_filter)
        return Phi.reshape(n, -1), dPhi

    def sample_windows(
        self, inputs: ImageArray, rng: np.random.Generator, n_windows: int
    ) -> FloatArray:
        """Draw windows of ``inputs`` at random, normalised, not whitened: (N, n_pixels)."""
        check_shape(inputs, self.image_shape)
        n_images = min(len(inputs), n_windows)
        # Taken out first: images may be on disk.
        drawn = inputs[rng.choice(len(inputs), n_images, replace=False)]
        pixels = plain_array(drawn, "inputs").reshape(n_images, -1, *self.image_shape[-2:])
        each = -(-n_windows // n_images)
        place = rng.integers(self.windows.places, size=(n_images, each, 2)) * self.windows.stride
        side = np.arange(self.window)
        rows = place[..., 0, None, None] + side[:, None]  # (images, each, window, window)
        columns = place[..., 1, None, None] + side
        # The windows alone become numbers of eight bytes, not all images.
        channels = np.moveaxis(pixels, 1, -1)
        taken = channels[np.arange(n_images)[:, None, None, None], rows, columns]
        taken = np.moveaxis(taken, -1, 2).reshape(n_images * each, -1)
        P: Any = intensities(taken, np.float64)
        if self.contrast is not None:
            P = np.ascontiguousarray(P.T)
            _normalise(P, self.contrast)
            P = P.T
        return P

    @property
    def _sides(self) -> tuple[Side, ...]:
        return sides(self.activation, self.threshold)

    def _images(self, inputs: ImageArray, dtype: Any) -> RealArray:
        """Intensities with an axis of channels."""
        pixels = pixels_of(inputs, self.image_shape, dtype)
        return pixels.reshape(len(inputs), -1, *self.image_shape[-2:])

    def effective_filters(self, W: RealArray) -> RealArray:
        """Fold all linear steps into filters on windows, bias last, (h, n_pixels + 1)."""
        F, bias = self.scalarisation.filters(W), W[:, -1]
        if self.whitening is not None and self.centre is not None:
            F = F @ self.whitening.astype(W.dtype)
            bias = bias - F @ self.centre.astype(W.dtype)
        return np.concatenate([F, bias[:, None]], axis=1)

    def prepared_windows(self, inputs: ImageArray, dtype: Any) -> RealArray:
        """Windows of images as the scalarisation takes them, cell by cell, (b, places, d + 1).

        They are normalised and whitened if the units do so; the last entry is 1.
        """
        P = self._collected(self._images(inputs, dtype))
        if self.whitening is None or self.centre is None:
            return P
        whitened = np.empty((*P.shape[:2], len(self.whitening) + 1), dtype=dtype)
        whitening = self.whitening.astype(dtype)
        np.matmul(P[..., :-1], whitening.T, out=whitened[..., :-1])
        whitened[..., :-1] -= whitening @ self.centre.astype(dtype)
        whitened[..., -1] = 1
        return whitened

    def _collected(self, X: RealArray) -> RealArray:
        """Windows cell by cell with a last pixel of 1: (b, places, n_pixels + 1)."""
        P = self.windows.collect(X)
        if self.contrast is not None:
            columns = np.ascontiguousarray(P.reshape(-1, P.shape[-1]).T)
            _normalise(columns, self.contrast)
            P = columns.T.reshape(P.shape)
        return np.concatenate([P, np.ones((*P.shape[:2], 1), dtype=P.dtype)], axis=2)

    def _by_weights(self, W: RealArray, by_filter: RealArray) -> RealArray:
        """Turn derivatives by the effective filter and bias into those by the weights (b, h, p)."""
        G, slope = by_filter[..., :-1], by_filter[..., -1:]
        if self.whitening is not None and self.centre is not None:
            G = (G - slope * self.centre.astype(W.dtype)) @ self.whitening.T.astype(W.dtype)
        return np.concatenate([self.scalarisation.pull_back(W, G), slope], axis=-1)


def _images_last(X: RealArray) -> RealArray:
    """Turn images (n, ...) into a contiguous array (..., n)."""
    return np.ascontiguousarray(np.moveaxis(X, 0, -1))


def _normalise(P: RealArray, contrast: float) -> None:
    """Take mean and contrast out of windows ``P`` (pixels, N), in place."""
    if contrast < FAINT_CONTRAST:
        # The mean of equal numbers is rounded: of what is left a flat window would be made.
        P -= P[0].copy()
    P -= P.mean(axis=0)
    variance = np.einsum("dn,dn->n", P, P) / len(P)  # one pass, nothing of the size of P
    P /= np.sqrt(variance + max(contrast, np.finfo(P.dtype).tiny))
