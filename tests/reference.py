"""Slow and obvious versions of what the package computes."""

import itertools
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


# --- features, one image and one unit at a time ------------------------------------------


def _gray(X: FloatArray, u: FloatArray, v: FloatArray) -> float:
    """u'Xv, entry by entry; of numbers of Python, since those of NumPy are slow one by one."""
    z = 0.0
    columns = v.tolist()
    for left, row in zip(u.tolist(), X.tolist(), strict=True):
        for pixel, right in zip(row, columns, strict=True):
            z += left * pixel * right
    return z


def _mixed(X: FloatArray, mix: FloatArray, u: FloatArray, v: FloatArray) -> float:
    """Sum over channels of mix_c u'X_c v."""
    return sum(mix[c] * _gray(X[c], u, v) for c in range(len(X)))


def _term(kind: str, X: FloatArray, a: FloatArray) -> float:
    """One term of a unit without its bias; ``a`` are the vectors one after the other."""
    shape = X.shape
    if kind == "dense":
        weights, pixels = a.tolist(), X.ravel().tolist()
        return sum(weight * pixel for weight, pixel in zip(weights, pixels, strict=True))
    if kind == "tensor" and len(shape) == 3 and len(set(shape)) == 1:
        z = 0.0
        for i in range(shape[0]):
            for j in range(shape[1]):
                for l in range(shape[2]):  # noqa: E741
                    z += X[i, j, l] * a[i] * a[j] * a[l]
        return z
    if kind == "tensor" and len(shape) == 3 and shape[0] == shape[1]:
        return _mixed(X, a[: shape[0]], a[: shape[0]], a[shape[0] :])
    square = kind == "quadratic" or (kind == "tensor" and shape[-1] == shape[-2])
    mix, rest = (a[: shape[0]], a[shape[0] :]) if len(shape) == 3 else (None, a)
    u, v = (rest, rest) if square else (rest[: shape[-2]], rest[shape[-2] :])
    assert len(v) == shape[-1]
    return _gray(X, u, v) if mix is None else _mixed(X, mix, u, v)


def features(
    kind: str, W: FloatArray, images: FloatArray, rank: int = 1, activation: str = "logistic"
) -> FloatArray:
    """Activations (n, h) of ``images`` (n, ...) that are intensities already."""
    Phi = np.zeros((len(images), len(W)))
    for j, X in enumerate(images):
        for i, w in enumerate(W):
            z = w[-1] + sum(_term(kind, X, a) for a in w[:-1].reshape(rank, -1))
            Phi[j, i] = math.tanh(z) if activation == "tanh" else 1 / (1 + math.exp(-z))
    return Phi


# --- units on windows, one image, unit, cell and window at a time ------------------------


def activate(name: str, z: float, threshold: float = 0.0) -> list[float]:
    """Columns that an activation makes of ``z``, by its formula."""
    if name == "two-sided":
        return [max(0.0, z - threshold), max(0.0, -z - threshold)]
    formulas: dict[str, Callable[[float], float]] = {
        "logistic": lambda z: 1 / (1 + math.exp(-z)),
        "tanh": math.tanh,
        "rectifier": lambda z: max(0.0, z),
    }
    return [formulas[name](z)]


def windows(
    X: FloatArray,
    window: int,
    stride: int = 1,
    contrast: float | None = None,
    centre: FloatArray | None = None,
    whitening: FloatArray | None = None,
) -> list[list[FloatArray]]:
    """Windows of one image as a unit sees them, row by row of places, each in its shape."""
    places = []
    for top in range(0, X.shape[-2] - window + 1, stride):
        row = []
        for left in range(0, X.shape[-1] - window + 1, stride):
            P = X[..., top : top + window, left : left + window]
            if contrast is not None:
                pixels = P.ravel().tolist()
                mean = sum(pixels) / P.size
                variance = sum((pixel - mean) ** 2 for pixel in pixels) / P.size
                P = (P - mean) / math.sqrt(variance + contrast)
            if centre is not None and whitening is not None:
                components = np.array([direction @ (P.ravel() - centre) for direction in whitening])
                P = components.reshape(P.shape) if components.size == P.size else components
            row.append(P)
        places.append(row)
    return places


def patch_features(
    kind: str,
    W: FloatArray,
    images: FloatArray,
    *,
    window: int,
    grid: int,
    stride: int = 1,
    rank: int = 1,
    activation: str = "logistic",
    threshold: float = 0.0,
    contrast: float | None = None,
    centre: FloatArray | None = None,
    whitening: FloatArray | None = None,
) -> FloatArray:
    """Pooled activations of intensities: columns by side, row of cells, column of cells, unit."""
    h = len(W)
    Phi = np.zeros((len(images), len(activate(activation, 0.0)) * grid * grid * h))
    for j, X in enumerate(images):
        places = windows(X, window, stride, contrast, centre, whitening)
        bounds = [
            [round(cell * n / grid) for cell in range(grid + 1)]
            for n in (len(places), len(places[0]))
        ]
        for i, w in enumerate(W):
            for a in range(grid):
                for b in range(grid):
                    values = []
                    for y in range(bounds[0][a], bounds[0][a + 1]):
                        for x in range(bounds[1][b], bounds[1][b + 1]):
                            P = places[y][x]
                            z = w[-1] + sum(_term(kind, P, v) for v in w[:-1].reshape(rank, -1))
                            values.append(activate(activation, z, threshold))
                    for side, column in enumerate(zip(*values, strict=True)):
                        Phi[j, ((side * grid + a) * grid + b) * h + i] = sum(column) / len(column)
    return Phi


# --- linear fits -------------------------------------------------------------------------


def augmented(
    Phi: ArrayLike, tau: ArrayLike, ridge: ArrayLike, weights: ArrayLike | None = None
) -> tuple[FloatArray, FloatArray]:
    """``K`` and ``y`` with ``||K A - y||^2`` the penalised, weighted sum of squares."""
    Phi, tau, ridge = (np.asarray(a, dtype=np.float64) for a in (Phi, tau, ridge))
    root = np.ones(len(Phi)) if weights is None else np.sqrt(np.asarray(weights))
    penalty = np.diag(np.sqrt(ridge))[ridge > 0]
    K = np.vstack([root[:, None] * Phi, penalty])
    y = np.vstack([root[:, None] * tau, np.zeros((len(penalty), tau.shape[1]))])
    return K, y


def ridge_fit(
    Phi: ArrayLike,
    tau: ArrayLike,
    ridge: ArrayLike,
    weights: ArrayLike | None = None,
    tolerance: float = 1e-12,
) -> tuple[FloatArray, float]:
    """Minimum-norm linear weights and the sum of squares, penalty included."""
    K, y = augmented(Phi, tau, ridge, weights)
    A = np.linalg.lstsq(K, y, rcond=tolerance)[0]
    return A, float(np.sum((K @ A - y) ** 2))


def left_out(
    Phi: FloatArray, tau: FloatArray, ridge: ArrayLike, weights: ArrayLike | None = None
) -> FloatArray:
    """Residual of each row (n, k) in a fit that never saw it: n fits."""
    n = len(Phi)
    weights = np.ones(n) if weights is None else np.asarray(weights)
    residual = np.zeros(tau.shape)
    for i in range(n):
        others = np.arange(n) != i
        A, _ = ridge_fit(Phi[others], tau[others], ridge, weights[others])
        residual[i] = tau[i] - Phi[i] @ A
    return residual


def left_out_errors(
    Phi: FloatArray, tau: FloatArray, ridge: ArrayLike, weights: ArrayLike | None = None
) -> tuple[float, float]:
    """Weighted mean squared left-out residual, and weighted share of misclassified rows."""
    weights = np.ones(len(Phi)) if weights is None else np.asarray(weights)
    residual = left_out(Phi, tau, ridge, weights)
    wrong = np.argmax(tau - residual, axis=1) != np.argmax(tau, axis=1)
    total = weights.sum()
    return float(weights @ np.sum(residual**2, axis=1) / total), float(weights @ wrong / total)


# --- derivatives -------------------------------------------------------------------------


def derivative(
    function: Callable[[FloatArray], ArrayLike], w: FloatArray, step: float = 1e-3
) -> FloatArray:
    """Fourth-order central difference: ``function``'s shape, then that of ``w``."""
    columns = []
    for j in range(w.size):
        e = np.zeros(w.size)
        e[j] = step
        e = e.reshape(w.shape)
        far = np.asarray(function(w + 2 * e)) - np.asarray(function(w - 2 * e))
        near = np.asarray(function(w + e)) - np.asarray(function(w - e))
        columns.append((8 * near - far) / (12 * step))
    stacked = np.stack(columns, axis=-1)
    return stacked.reshape(*stacked.shape[:-1], *w.shape)


def golub_pereyra(
    Phi: FloatArray,
    dPhi: FloatArray,
    tau: FloatArray,
    ridge: FloatArray,
    weights: FloatArray,
    *,
    full: bool,
) -> FloatArray:
    """Jacobian (rows of ``K`` times k, h p) of ``y - K K^+ y``, the pseudo-inverse differentiated.

    ``dPhi`` is the compact derivative (n, m, h, p). Without ``full``, Kaufman's.
    """
    n, m, h, p = dPhi.shape
    K, y = augmented(Phi, tau, ridge, weights)
    inverse = np.linalg.pinv(K)
    P = np.eye(len(K)) - K @ inverse
    columns = []
    for i in range(h):
        for weight in range(p):
            dK = np.zeros_like(K)
            for c in range(m):
                dK[:n, c * h + i] = np.sqrt(weights) * dPhi[:, c, i, weight]
            d_inverse = -inverse @ dK @ inverse + inverse @ inverse.T @ dK.T @ P
            dr = -(dK @ inverse + K @ d_inverse) @ y if full else -P @ dK @ inverse @ y
            columns.append(dr.ravel())
    return np.stack(columns, axis=1)


def folded_probabilities(folded, images):
    """Outputs and probabilities of a folded network, loop by loop, in double precision."""
    channels, rows, columns = folded.image_shape
    images = images / 255.0 if images.dtype == np.uint8 else np.asarray(images, dtype=np.float64)
    outputs = []
    for image in images.reshape(len(images), channels, rows, columns):
        views = [image]
        if folded.views == "flip":
            views.append(image[:, :, ::-1])
        outputs.append(np.mean([_folded_outputs(folded, view) for view in views], axis=0))
    outputs = np.array(outputs)
    if folded.link == "softmax":
        e = np.exp((outputs - outputs.max(axis=1, keepdims=True)) / folded.temperature)
        return outputs, e / e.sum(axis=1, keepdims=True)
    positive = np.maximum(outputs, 0)
    positive[positive.sum(axis=1) == 0] = 1
    return outputs, positive / positive.sum(axis=1, keepdims=True)


def _folded_outputs(folded, image):
    outputs = folded.constant.copy()
    for number, (layer, linear) in enumerate(zip(folded.layers, folded.linear, strict=True)):
        phi = _folded_cells(layer, image)  # sides, rows, columns, units
        image = np.moveaxis(phi, 3, 1).reshape(-1, *layer.grid)
        if number + 1 < len(folded.layers):
            phi = in_larger_cells(phi, layer.shown) if layer.shown else np.zeros(0)
        outputs += phi.ravel() @ linear.reshape(-1, len(outputs))
    return outputs


def in_larger_cells(phi, bounds):
    """Means of cells (sides, rows, columns, units) over larger cells."""
    n_rows, n_columns = (len(along) - 1 for along in bounds)
    means = np.zeros((len(phi), n_rows, n_columns, phi.shape[3]))
    for r in range(n_rows):
        for c in range(n_columns):
            down = range(bounds[0][r], bounds[0][r + 1])
            across = range(bounds[1][c], bounds[1][c + 1])
            for i in down:
                for j in across:
                    means[:, r, c] += phi[:, i, j] / (len(down) * len(across))
    return means


def _folded_cells(layer, image):
    n_rows, n_columns = layer.grid
    phi = np.zeros((layer.n_sides, n_rows, n_columns, len(layer.bias)))
    for r in range(n_rows):
        for c in range(n_columns):
            down = range(layer.bounds[0][r], layer.bounds[0][r + 1])
            across = range(layer.bounds[1][c], layer.bounds[1][c + 1])
            for i in down:
                for j in across:
                    y, x = i * layer.stride, j * layer.stride
                    P = image[:, y : y + layer.window[0], x : x + layer.window[1]].ravel()
                    if layer.contrast is not None:
                        P = (P - P.mean()) / np.sqrt(P.var() + layer.contrast)
                    z = layer.filters.astype(np.float64) @ P + layer.bias
                    values = _sides(layer.activation, layer.threshold, z)
                    phi[:, r, c] += np.array(values) / (len(down) * len(across))
    return phi


def _sides(activation, threshold, z):
    if activation == "two-sided":
        return [np.maximum(z - threshold, 0), np.maximum(-z - threshold, 0)]
    return [
        {
            "logistic": lambda z: 1 / (1 + np.exp(-z)),
            "tanh": np.tanh,
            "rectifier": lambda z: np.maximum(z, 0),
            "linear": lambda z: z,
        }[activation](z)
    ]


def window_operator(windows):
    """The matrix of 0 and 1 that takes an image to its windows, cell by cell."""
    pixel = np.arange(math.prod(windows.image_shape)).reshape(-1, *windows.image_shape[-2:])
    rows, columns = windows.bounds(0), windows.bounds(1)
    order = []
    for a, b in itertools.product(range(windows.grid), repeat=2):
        for y in range(rows[a], rows[a + 1]):
            for x in range(columns[b], columns[b + 1]):
                top, left = y * windows.stride, x * windows.stride
                window = pixel[:, top : top + windows.window, left : left + windows.window]
                order += window.ravel().tolist()
    operator = np.zeros((len(order), pixel.size))
    operator[np.arange(len(order)), order] = 1
    return operator


def maps_of_cells(phi, *, n_units, n_sides, grid):
    """The cells of one image, ordered by side, row, column, unit, as maps: (channels, g, g)."""
    maps = np.empty((n_sides * n_units, grid, grid))
    columns = iter(phi)
    for side in range(n_sides):
        for row in range(grid):
            for column in range(grid):
                for unit in range(n_units):
                    maps[side * n_units + unit, row, column] = next(columns)
    return maps


def projected(maps, window, centre, whitening):
    """Windows of the maps of one image, each projected: (d, rows, columns)."""
    places = maps.shape[1] - window + 1
    projections = np.empty((len(whitening), places, places))
    for row in range(places):
        for column in range(places):
            pixels = maps[:, row : row + window, column : column + window].ravel()
            projections[:, row, column] = whitening @ (pixels - centre)
    return projections


def loss_of_row(loss, z, y):
    """The loss of one row, a list of outputs, by its formula."""
    if loss == "softmax":
        largest = max(z)
        return math.log(math.fsum(math.exp(v - largest) for v in z)) + (largest - z[y])
    return 0.5 * sum(max(0.0, 1 + z[c] - z[y]) ** 2 for c in range(len(z)) if c != y)
