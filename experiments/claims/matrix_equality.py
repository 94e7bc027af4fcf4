"""Ridge regression on raw pixels and on random layers, by the primal and the dual form.

``python -m experiments.claims.matrix_equality`` measures what the post "Using a matrix equality for
(small-scale) image classification" says of CIFAR-10: raw pixels; one random layer (1,024 filters
of 6 x 6 pixels, rectifier, means over 2 x 2 cells); up to 25 such layers side by side. With more
columns than images the dual form solves the same problem from a matrix of images by images.

*All images*: raw pixels and one layer on all training images, as in the post, by the primal form.
*--images* of them: both forms on the same images, where the primal one is possible
(``--primal-columns``), and the dual one for every number of layers of ``--ks``. Its columns are
made half a layer at a time and added to two matrices, images by images and test images by images,
so no two blocks exist at once and no layer is made twice; outputs follow from the second matrix,
without linear weights. Row k solves a copy of the sum so far. The primal form makes its columns
twice, for the sums and for the leave-one-out errors.

Filters are Gaussian, scaled and shifted to pre-activations of mean 0 and variance 1 on training
images; pixels are in double precision, layers in single. The ridge comes from exact leave-one-out
errors on the training images; each row looks at the test labels once, at its end. Each task runs
in a separate process, which gives its peak memory; rows of the dual form share one and have
the largest so far. CPU seconds of the fit are those of all layers up to k, the sums and one
factorisation; features and outputs of test images are counted apart. Fewer columns than images
should make the primal form the cheaper one, more of them the dual form.

``--output FILE`` keeps each row as soon as it is there, and does not measure it again. ``--quick``
takes the digits of scikit-learn, seconds in all. The last line is JSON.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.shared.ledger import Ledger, print_last_line
from experiments.shared.options import parser
from experiments.shared.processes import child_lines
from experiments.shared.tables import print_table
from varpro_nn import load, patch_units
from varpro_nn._io.memory import peak_memory_mib
from varpro_nn._typing import FloatArray, ImageArray, RealArray
from varpro_nn.data import Dataset
from varpro_nn.data.images import intensities, one_hot
from varpro_nn.linalg import GramAccumulator, KernelAccumulator, column_tiles, run_tiles
from varpro_nn.linalg.ridge import LeaveOneOut
from varpro_nn.linalg.threads import Threads, thread_pool
from varpro_nn.output.features import block_features, block_slices
from varpro_nn.training.metrics import standard_error

RAW = 0
"""The number of layers that stands for raw pixels."""
CLAIMED = {RAW: 0.373, 1: 0.64, 25: 0.75}
"""Test accuracies of the post, from versions of it that print them; those say max pooling."""
CLAIMED_RIDGE = 0.1
RIDGES = tuple(float(10.0**e) for e in np.arange(-2.0, 7.01, 0.5))
HALF_LAYER = 512
"""Filters whose columns are made at a time."""


class Task(NamedTuple):
    """What one process measures: a row for each number of layers, of the first n images."""

    form: str
    n: int
    ks: list[int]


class Problem:
    """The first ``n`` training images, their targets, the test images, and random layers."""

    def __init__(self, dataset: Dataset, n: int, args: argparse.Namespace) -> None:
        assert dataset.test is not None
        self.train: ImageArray = dataset.train.images[:n]
        every = n == len(dataset.train)
        self.test = dataset.test.take(slice(None if every else args.test_images))
        self.tau = one_hot(dataset.train.labels[:n], len(dataset.classes))
        self.seed, self.folder = args.seed, args.folder
        self.units = patch_units(
            "dense", dataset.image_shape, args.filters, window=args.window, grid=2,
            activation="rectifier",
        )  # fmt: skip

    def n_columns(self, k: int) -> int:
        """Columns of ``k`` layers, or of raw pixels, without the constant one."""
        pixels = int(np.prod(self.train.shape[1:]))
        return k * self.units.n_units * self.units.n_cells if k else pixels

    def n_parameters(self, k: int) -> int:
        """All of them: filters with their biases, linear weights with the constants."""
        filters = k * self.units.n_units * self.units.n_weights
        return filters + (self.n_columns(k) + 1) * self.tau.shape[1]

    def filters(self, layer: int) -> RealArray:
        """Weights of layer 1, 2, and so on, each from a separate seed."""
        rng = np.random.default_rng([self.seed, layer])
        return self.units.init(self.train, rng).astype(np.float32)

    def halves(self, k: int) -> list[RealArray | None]:
        """Give the filters of layer ``k``, some at a time; None for raw pixels."""
        if k == RAW:
            return [None]
        W = self.filters(k)
        return [W[start : start + HALF_LAYER] for start in range(0, len(W), HALF_LAYER)]

    def columns(
        self, W: RealArray | None, images: ImageArray, threads: Threads | None
    ) -> RealArray:
        """Columns of filters, or of raw pixels where there are none, (n, q)."""
        if W is None:
            return intensities(images, np.float64).reshape(len(images), -1)
        return block_features(self.units, W, images, threads)

    def kept(self, k: int) -> Path:
        """Where the outputs of the dual form wait for the primal one."""
        return Path(self.folder) / f"{k}-{len(self.train)}-{len(self.test)}-{self.seed}.npz"

    def row(self, k: int, errors: LeaveOneOut, outputs: FloatArray) -> dict[str, Any]:
        """Figures that both forms have; the test labels are opened here."""
        best = best_ridge(errors)
        accuracy = float((outputs.argmax(axis=1) == self.test.labels).mean())
        return {
            "n_layers": k,
            "n_images": len(self.train),
            "n_test": len(outputs),
            "n_columns": self.n_columns(k),
            "n_parameters": self.n_parameters(k),
            "ridge": RIDGES[best],
            "loo_error": float(errors.error_rate[best]),
            "loo_error_at_claimed_ridge": float(errors.error_rate[RIDGES.index(CLAIMED_RIDGE)]),
            "test_accuracy": accuracy,
            "test_accuracy_standard_error": standard_error(accuracy, len(outputs)),
            "peak_memory_mib": peak_memory_mib(),
            "predicted_cheaper": "primal" if self.n_columns(k) < len(self.train) else "dual",
        }


def best_ridge(errors: LeaveOneOut) -> int:
    """Position of the lowest error rate, the squared error breaking ties."""
    return int(np.lexsort((errors.mean_squared_error, errors.error_rate))[0])


def primal(problem: Problem, ks: list[int], n_jobs: int) -> Iterator[dict[str, Any]]:
    """Add up blocks of images; a second pass over them gives the leave-one-out errors."""
    (k,) = ks
    q = problem.n_columns(k)
    start = time.process_time()
    # Layers side by side are one layer with the filters of all.
    W = np.concatenate([problem.filters(layer + 1) for layer in range(k)]) if k else None
    with thread_pool(n_jobs) as threads:

        def blocks(images: ImageArray) -> Iterator[tuple[slice, RealArray]]:
            for rows in block_slices(len(images), q):
                yield rows, problem.columns(W, images[rows], threads)

        sums = GramAccumulator(q, problem.tau.shape[1])
        for rows, Phi in blocks(problem.train):
            sums.add(Phi, problem.tau[rows], threads=threads)
        summed = time.process_time()
        path = sums.path(keep=False)
        solved = time.process_time()
        errors = path.leave_one_out(
            ((Phi, problem.tau[rows], None) for rows, Phi in blocks(problem.train)),
            np.array(RIDGES), threads,
        )  # fmt: skip
        A = path.solve(RIDGES[best_ridge(errors)])
        end = time.process_time()
        # At the ridge of the dual form too, if it has been there, for their difference.
        other = problem.kept(k)
        theirs = dict(np.load(other)) if other.exists() else None
        if theirs is not None:
            A = np.hstack([A, path.solve(float(theirs["ridge"]))])
        outputs = np.concatenate([Phi @ A[:-1] + A[-1] for _, Phi in blocks(problem.test.images)])
    n_targets = problem.tau.shape[1]
    row = {
        **problem.row(k, errors, outputs[:, :n_targets]),
        "cpu_seconds": end - start,
        "cpu_seconds_factorisation": solved - summed,
        "cpu_seconds_test": time.process_time() - end,
    }
    if theirs is not None:
        difference = np.abs(outputs[:, n_targets:] - theirs["outputs"]).max()
        row["largest_difference"] = float(difference)
    yield row


def dual(problem: Problem, ks: list[int], n_jobs: int) -> Iterator[dict[str, Any]]:
    """Add up blocks of columns: the kernel matrix, and that of test by training images."""
    images, test, n = problem.train, problem.test.images, len(problem.train)
    clock = time.process_time
    with thread_pool(n_jobs) as threads:
        kernel = KernelAccumulator(n)
        cross = np.zeros((len(test), n))
        fit = on_test = 0.0

        def add_product(left: RealArray, right: RealArray, tile: slice) -> None:
            cross[tile] += left[tile] @ right.T

        for k in range(1, max(ks) + 1) if max(ks) else [RAW]:
            start = clock()
            halves = problem.halves(k)
            fit += clock() - start
            for half in halves:
                start = clock()
                Phi = problem.columns(half, images, threads)
                mean = Phi.mean(axis=0, dtype=np.float64).astype(Phi.dtype)
                Phi -= mean
                middle = clock()
                of_test = problem.columns(half, test, threads) - mean
                tiles = column_tiles(len(test))
                run_tiles(threads, partial(add_product, of_test, Phi), tiles)
                end = clock()
                kernel.add(Phi, threads)
                fit += middle - start + clock() - end
                on_test += end - middle
            if k not in ks:
                continue
            start = clock()
            # The sum goes on, except after the last row: a factorisation uses it up.
            whole = kernel if k == max(ks) else deepcopy(kernel, {id(threads): threads})
            path = whole.path(problem.tau)
            factorised = clock() - start
            errors = path.leave_one_out(RIDGES, threads)
            ridge = RIDGES[best_ridge(errors)]
            alpha = path.alpha(ridge)
            solved = clock() - start
            start = clock()
            outputs = cross @ alpha + path.mean_tau
            del path, whole
            np.savez(problem.kept(k), outputs=outputs, ridge=ridge)
            yield {
                **problem.row(k, errors, outputs),
                "cpu_seconds": fit + solved,
                "cpu_seconds_factorisation": factorised,
                "cpu_seconds_test": on_test + clock() - start,
            }


def cells_of(row: dict[str, Any]) -> dict[str, str]:
    """Cells of a row of the table."""
    k, difference = row["n_layers"], row.get("largest_difference")
    claimed = CLAIMED.get(k) if row["data"] == "cifar10" else None
    return {
        "columns of": f"layers, {k}" if k else "raw pixels",
        "images": f"{row['n_images']:,}",
        "columns": f"{row['n_columns']:,}",
        "form": row["form"],
        "cheaper form, predicted": row["predicted_cheaper"],
        "ridge": f"{row['ridge']:.3g}",
        "left-out error (ridge 0.1)": f"{row['loo_error']:.4f} "
        f"({row['loo_error_at_claimed_ridge']:.4f})",
        "test accuracy": f"{row['test_accuracy']:.4f} ± {row['test_accuracy_standard_error']:.4f}",
        "claimed, of 50,000 images": "" if claimed is None else f"{claimed:g}",
        "CPU s, fit (factorisation)": f"{row['cpu_seconds']:.1f} "
        f"({row['cpu_seconds_factorisation']:.1f})",
        "CPU s, test images": f"{row['cpu_seconds_test']:.1f}",
        "peak MiB": f"{row['peak_memory_mib']:.0f}",
        "parameters": f"{row['n_parameters']:,}",
        "difference from dual": "" if difference is None else f"{difference:.1e}",
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=10_000, help="of both forms; 16,384 at most")
    options.add_argument("--test-images", type=int, help="the first ones, of --images (all)")
    options.add_argument("--ks", type=int, nargs="*", default=[1, 2, 4, 8, 16, 25], metavar="K")
    options.add_argument("--primal-columns", type=int, default=8192, help="more: dual form alone")
    options.add_argument("--skip-all-images", action="store_true", help="leave those rows out")
    options.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options.add_argument("--task", help=argparse.SUPPRESS)
    args = options.parse_args()
    args.filters, args.window = 1024, 6
    if args.quick:
        args.filters, args.window, args.images, args.ks = 64, 3, 400, [1, 2, 4]
        args.primal_columns = 512
    dataset = load("digits" if args.quick else "cifar10", args.data_dir)
    if args.task is not None:
        task = Task(*json.loads(args.task))
        problem = Problem(dataset, task.n, args)
        solve = primal if task.form == "primal" else dual
        for row in solve(problem, task.ks, args.n_jobs):
            figures = {"form": task.form, "data": dataset.name, **row}
            print(json.dumps(figures), flush=True)
        return

    settings = {name: getattr(args, name) for name in ("filters", "window", "seed")}
    ledger = Ledger(args.output, data=dataset.digest, n_jobs=args.n_jobs, **settings)
    n_all, n = len(dataset.train), min(args.images, len(dataset.train))
    per_layer = Problem(dataset, n, args).n_columns(1)
    ks = sorted(set(args.ks))
    possible = [k for k in ks if k * per_layer <= args.primal_columns]
    tasks = [] if args.skip_all_images else [Task("primal", n_all, [k]) for k in (RAW, 1)]
    tasks += [Task("dual", n, [RAW]), Task("primal", n, [RAW])]
    tasks += [Task("dual", n, ks)] if ks else []
    tasks += [Task("primal", n, [k]) for k in possible]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        # Outputs of the dual form wait beside the rows for the primal form.
        kept = Path(folder) if args.output is None else args.output.with_suffix(".outputs")
        kept.mkdir(parents=True, exist_ok=True)

        def measure(missing: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
            """Rows of a task as they come, from a separate process."""
            task = Task(missing[0]["form"], missing[0]["n"], [entry["k"] for entry in missing])
            told = ["--task", json.dumps(task), "--folder", str(kept)]
            command = ["experiments.claims.matrix_equality", *sys.argv[1:], *told]
            yield from map(json.loads, child_lines(command, args.n_jobs))

        for task in tasks:
            entries = [{"form": task.form, "n": task.n, "k": k} for k in task.ks]
            n_test = args.test_images if task.n < n_all else None
            rows += ledger.get_all(entries, measure, test_images=n_test)
    print_table([cells_of(row) for row in rows], "Ridge regression by the primal and dual form")
    print_last_line({"rows": rows, "settings": settings})


if __name__ == "__main__":
    main()
