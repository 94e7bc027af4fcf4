"""The windows of an image as a 0/1 matrix, beside faster ways to the same pre-activations.

The source on convolutional networks writes the collecting of sub-images as a matrix,

    phi(Z) = mat(P_phi vec(Z)),      S = W phi(Z) + b 1',

with ``Z`` of (channels, rows columns), its columns stacked in ``vec``: channels run fastest, then
rows, then columns; in a column of ``phi(Z)`` rows of the sub-image, then columns, then channels;
columns of ``phi(Z)`` by row of the place, then column. ``P_phi`` is "a huge matrix".

``python -m experiments.claims.patch_operator`` builds it, sparse, in that order, for windows of 7 x
7 pixels on MNIST and of 5 x 5 on CIFAR-10, and checks that it takes each image to the windows of
:mod:`varpro_nn.units.windows`, bit for bit; that ``W phi(Z) + b`` are the pre-activations of patch
units, to rounding; and that ``P_phi'`` applied to ones counts the windows that see each pixel. Then
it compares, on the first 1,000 training images and for 16 and 64 units:

* ``P_phi, sparse``: the sparse product, then the product with the filters;
* ``sliding_window_view``: windows collected by numpy, then the same product;
* ``fftconvolve``: SciPy's convolution by Fourier transforms;
* ``patch units``: what this project does.

CPU seconds of one thread, the smallest of ``--repeats``: of the pre-activations, and of features
(the same logistic and means over 4 x 4 cells after each). All work in single precision on blocks
of 32 images. Peak bytes are those that one call allocates beside its result (``tracemalloc``; the
operator itself is not in them). Operations: sparse product, 2 a nonzero; product with the filters,
2 a nonzero and unit. The last line is JSON.
"""

import argparse
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy import signal, sparse
from threadpoolctl import threadpool_limits

from experiments.shared.ledger import Ledger, print_last_line
from experiments.shared.options import parser
from experiments.shared.tables import print_table
from varpro_nn import load, patch_units
from varpro_nn._typing import RealArray
from varpro_nn.data.images import intensities
from varpro_nn.units import PatchUnits
from varpro_nn.units.activations import sides
from varpro_nn.units.patches import IMAGES, TILE
from varpro_nn.units.windows import Windows

Way = Callable[[PatchUnits, RealArray, RealArray], RealArray]
"""From units, filters (h, pixels + 1), bias last, and images (b, channels, rows, columns) to
pre-activations (b, h, rows of places, columns of places), in any order in memory."""


def operator(windows: Windows) -> Any:
    """Build ``P_phi`` in the order of the source: (places * n_pixels, pixels), CSR, single."""
    *channels, rows, columns = windows.image_shape
    d = prod(channels)
    n_rows, n_columns = windows.places
    # Axes from the slowest to the fastest: column and row of the place, then, in the window,
    # channel, column, row.
    place_column, place_row, channel, column, row = np.ogrid[
        :n_columns, :n_rows, :d, : windows.window, : windows.window
    ]
    at_row = place_row * windows.stride + row
    at_column = place_column * windows.stride + column
    pixel = ((at_column * rows + at_row) * d + channel).ravel()
    starts = np.arange(pixel.size + 1, dtype=np.int32)  # one entry, 1, in each row
    return sparse.csr_array(
        (np.ones(pixel.size, np.float32), pixel.astype(np.int32), starts),
        shape=(pixel.size, d * rows * columns),
    )


def vec(X: RealArray) -> RealArray:
    """Stack images (b, channels, rows, columns) as columns: (channels rows columns, b)."""
    return X.transpose(3, 2, 1, 0).reshape(-1, len(X))


def by_operator(P_phi: Any, units: PatchUnits, F: RealArray, X: RealArray) -> RealArray:
    """Pre-activations by the sparse product."""
    rows, columns = units.windows.places
    phi = (P_phi @ vec(X)).reshape(columns, rows, -1, len(X))
    W = F[:, :-1].reshape(len(F), -1, units.window, units.window)
    S = W.swapaxes(2, 3).reshape(len(F), -1) @ phi
    S += F[:, -1:]
    return S.transpose(3, 2, 1, 0)


def by_view(units: PatchUnits, F: RealArray, X: RealArray) -> RealArray:
    """Pre-activations from a view of all windows, which ``tensordot`` copies."""
    side = units.window
    view = sliding_window_view(X, (side, side), axis=(2, 3))[:, :, :: units.stride, :: units.stride]
    W = F[:, :-1].reshape(-1, X.shape[1], side, side)
    S = np.tensordot(view, W, axes=((1, 4, 5), (1, 2, 3)))
    S += F[:, -1]
    return S.transpose(0, 3, 1, 2)


def by_fft(units: PatchUnits, F: RealArray, X: RealArray) -> RealArray:
    """Pre-activations by SciPy's convolution, channel by channel."""
    side, step = units.window, units.stride
    W = F[:, :-1].reshape(-1, X.shape[1], side, side)[..., ::-1, ::-1]
    S = signal.fftconvolve(X[:, None], W[None], mode="valid", axes=(-2, -1)).sum(axis=2)
    S += F[:, -1, None, None]
    return S[..., ::step, ::step]


def by_rows(units: PatchUnits, F: RealArray, X: RealArray) -> RealArray:
    """Pre-activations as the project makes them: one row of places after the other."""
    windows = units.windows
    rows, columns = windows.places
    P = np.empty((windows.n_pixels + 1, columns, len(X)), dtype=X.dtype)
    P[-1] = 1.0
    flat = P.reshape(len(P), -1)
    S = np.empty((rows, len(F), columns, len(X)), dtype=X.dtype)
    innermost = np.ascontiguousarray(np.moveaxis(X, 0, -1))
    for row in range(windows.places[0]):
        windows.collect_rows(innermost, slice(row, row + 1), P[:-1, None])
        for start in range(0, len(F), TILE):
            tile = slice(start, start + TILE)
            np.matmul(F[tile], flat, out=S[row, tile].reshape(-1, flat.shape[1]))
    return S.transpose(3, 1, 0, 2)


def pooled(units: PatchUnits, S: RealArray) -> RealArray:
    """Features from pre-activations, which are overwritten: activation, means over cells."""
    (side,) = sides(units.activation)
    side.apply(S, S)
    rows, columns = units.windows.bounds(0), units.windows.bounds(1)
    sums = np.add.reduceat(np.add.reduceat(S, rows[:-1], axis=2), columns[:-1], axis=3)
    sums /= np.outer(np.diff(rows), np.diff(columns))
    return sums.transpose(0, 2, 3, 1).reshape(len(S), -1)


def sees(windows: Windows) -> RealArray:
    """Count, by hand, how many windows see each pixel: (rows, columns)."""

    def along(length: int, n_places: int) -> RealArray:
        first = np.arange(n_places)[:, None] * windows.stride
        pixel = np.arange(length)
        return ((first <= pixel) & (pixel < first + windows.window)).sum(axis=0)

    rows, columns = windows.image_shape[-2:]
    return np.outer(along(rows, windows.places[0]), along(columns, windows.places[1]))


def window_operator(windows: Windows) -> Any:
    """Make the 0/1 matrix that takes an image to its windows, sparse.

    (places * n_pixels, pixels), its rows in the order of ``windows.collect``.
    """
    n = prod(windows.image_shape)
    order = windows.collect(np.arange(float(n))[None]).ravel().astype(np.int64)
    entries = np.ones(order.size), (np.arange(order.size), order)
    return sparse.csr_array(entries, shape=(order.size, n))


def checks(units: PatchUnits, P_phi: Any, F: RealArray, X: RealArray) -> dict[str, Any]:
    """Describe the operator; compare it with windows and pre-activations of the project."""
    windows, b, d = units.windows, len(X), X.shape[1]
    rows, columns = windows.places
    phi = (P_phi @ vec(X)).reshape(columns, rows, d, units.window, units.window, b)
    one_cell = replace(windows, grid=1)  # places row by row
    theirs = one_cell.collect(X).reshape(b, rows, columns, d, units.window, units.window)
    ours = window_operator(one_cell) @ X.reshape(b, -1).T
    # A cell for each place, and both signs of a two-sided activation: what is left is z itself.
    bare = patch_units(
        "dense", windows.image_shape, len(F), window=units.window, stride=units.stride,
        grid=rows, activation="two-sided",
    )  # fmt: skip
    images = X.reshape(b, *windows.image_shape)
    above, below = np.split(bare.features(F, images), 2, axis=1)
    z = (above - below).reshape(b, rows, columns, -1).transpose(0, 3, 1, 2)
    S = by_operator(P_phi, units, F, X)
    seen = (P_phi.T @ np.ones(P_phi.shape[0])).reshape(*windows.image_shape[:-3:-1], d)
    return {
        "shape": P_phi.shape,
        "nonzeros": int(P_phi.nnz),
        "bytes_sparse": P_phi.data.nbytes + P_phi.indices.nbytes + P_phi.indptr.nbytes,
        "bytes_dense": prod(P_phi.shape) * P_phi.data.itemsize,
        "windows_equal": bool((phi.transpose(5, 1, 0, 2, 4, 3) == theirs).all()),
        "operators_equal": bool((ours.T.reshape(theirs.shape) == theirs).all()),
        "largest_difference": float(np.abs(S - z).max()),
        "largest_preactivation": float(np.abs(z).max()),
        "counts_equal": bool((seen.transpose(2, 1, 0) == sees(windows)).all()),
    }


def measured(make: Callable[[RealArray], RealArray], X: RealArray, repeats: int) -> dict[str, Any]:
    """CPU seconds over all blocks of images, the smallest, and peak bytes of one block."""
    blocks = [X[start : start + IMAGES] for start in range(0, len(X), IMAGES)]
    result = make(blocks[0])  # caches of plans and indices are filled
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        for block in blocks:
            make(block)
        seconds.append(time.process_time() - start)
    tracemalloc.start()
    make(blocks[0])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {"cpu_seconds": min(seconds), "peak_bytes": peak - result.nbytes}


def features_by(way: Way, units: PatchUnits, F: RealArray, X: RealArray) -> RealArray:
    """Features by one of the ways; patch units have their own, which pool on the way."""
    if way is by_rows:
        return units.features(F, X.reshape(len(X), *units.image_shape))
    return pooled(units, way(units, F, X))


def one_problem(
    name: str, window: int, counts: list[int], n_images: int, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Check one data set and measure all ways on it; rows, the operator's first."""
    dataset = load(name, args.data_dir)
    images = dataset.train.images[:n_images]
    grid = 2 if args.quick else 4
    units = [patch_units("dense", images.shape[1:], h, window=window, grid=grid) for h in counts]
    rng = np.random.default_rng(args.seed)
    # Filters of dense units are their weights, bias last.
    filters = [of_units.init(images, rng).astype(np.float32) for of_units in units]
    X = intensities(images).reshape(n_images, -1, *images.shape[-2:])
    P_phi = operator(units[0].windows)
    ledger = Ledger(
        args.output, data=dataset.digest, window=window, grid=grid, n_images=n_images,
        seed=args.seed, repeats=args.repeats, counts=counts,
    )  # fmt: skip
    about = {"data": dataset.name, "window": window}
    rows = [about | ledger.get("operator", partial(checks, units[0], P_phi, filters[0], X[:50]))]
    ways: dict[str, Way] = {
        "P_phi, sparse": partial(by_operator, P_phi),
        "sliding_window_view": by_view,
        "fftconvolve": by_fft,
        "patch units": by_rows,
    }
    for of_units, F in zip(units, filters, strict=True):
        for way_name, way in ways.items():
            row: dict[str, Any] = {**about, "way": way_name, "n_units": len(F)}
            # Two operations an entry of phi and unit, and, sparse, two an entry.
            products = len(F) + (way_name == "P_phi, sparse")
            flop = 2 * n_images * P_phi.nnz * products
            row["gflop"] = None if way is by_fft else flop / 1e9
            for what, make in (
                ("preactivations", partial(way, of_units, F)),
                ("features", partial(features_by, way, of_units, F)),
            ):
                entry = {"way": way_name, "n_units": len(F), "what": what}
                row[what] = ledger.get(entry, partial(measured, make, X, args.repeats))
            rows.append(row)
    return rows


def cells_of_operator(row: dict[str, Any]) -> dict[str, str]:
    """Cells of the table of operators."""
    equal = {True: "equal", False: "NOT EQUAL"}
    return {
        "data": row["data"],
        "window": f"{row['window']} x {row['window']}",
        "P_phi": " x ".join(f"{length:,}" for length in row["shape"]),
        "nonzeros": f"{row['nonzeros']:,}",
        "MB, sparse": f"{row['bytes_sparse'] / 1e6:.2f}",
        "MB, dense": f"{row['bytes_dense'] / 1e6:,.1f}",
        "windows": equal[row["windows_equal"] and row["operators_equal"]],
        "W phi(Z) + b, largest difference (largest value)": (
            f"{row['largest_difference']:.1e} ({row['largest_preactivation']:.1f})"
        ),
        "P_phi' 1": equal[row["counts_equal"]],
    }


def cells_of_way(row: dict[str, Any]) -> dict[str, str]:
    """Cells of the table of ways."""
    of_z, of_features = row["preactivations"], row["features"]
    return {
        "data": row["data"],
        "units": f"{row['n_units']}",
        "way": row["way"],
        "Gflop": "" if row["gflop"] is None else f"{row['gflop']:.2f}",
        "CPU s, pre-activations": f"{of_z['cpu_seconds']:.3f}",
        "CPU s, features": f"{of_features['cpu_seconds']:.3f}",
        "peak MB, pre-activations": f"{of_z['peak_bytes'] / 1e6:.1f}",
        "peak MB, features": f"{of_features['peak_bytes'] / 1e6:.1f}",
    }


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--repeats", type=int, default=5, help="the smallest time counts")
    args = made.parse_args()
    problems = [("digits", 3)] if args.quick else [("mnist", 7), ("cifar10", 5)]
    counts, n_images = ([4, 8], 100) if args.quick else ([16, 64], 1000)
    of_problems = []
    with threadpool_limits(1, user_api="blas"):
        for name, window in problems:
            of_problems.append(one_problem(name, window, counts, n_images, args))
    operators = [rows[0] for rows in of_problems]
    ways = [row for rows in of_problems for row in rows[1:]]
    print_table(
        [cells_of_operator(row) for row in operators], "P_phi, single precision",
        "The 0/1 matrix that takes the pixels of an image to all its windows. Compared: its "
        "windows with those of the package, bit for bit; W phi(Z) + b with the pre-activations of "
        "patch units; P_phi' 1 with the number of windows that see each pixel.",
    )  # fmt: skip
    print_table(
        [cells_of_way(row) for row in ways],
        f"{n_images:,} images, one thread, seed {args.seed}",
        "Ways to the pre-activations of units on windows, and to their features (logistic, means "
        "over cells); peak MB that one call takes beside its result.",
    )
    print_last_line({"operators": operators, "ways": ways})


if __name__ == "__main__":
    main()
