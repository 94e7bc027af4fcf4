"""CPU time and memory of whole runs against each size, by itself.

``python -m experiments.benchmarks.growth`` trains networks with the recipe ``default`` on images of
MNIST, each run in a separate process with one job. Around a base point it varies units (the
sub-networks follow), sub-networks of the same units, stages, images, images of a sub-network,
classes, pixels, channels, cells and pixels of a window, from half to 16 times the base where that
is possible, pixels and classes further. Classes are numbers of three digits, side by side in one
image; larger images are images of MNIST with each pixel repeated; channels are further images of
the same class. Images are drawn with replacement.

Beside the slope of CPU seconds on log-log axes (of the training, last half of the points, with its
standard error) stands the same slope of the estimate that precedes a run
(:func:`varpro_nn.estimate`), which rests on operation counts. ``--only`` takes
some of the sizes, ``--n-jobs`` runs so many processes at a time. The last line is JSON.
"""

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from experiments.shared.ledger import Ledger, print_last_line
from experiments.shared.numbers_of_mnist import numbers
from experiments.shared.options import parser
from experiments.shared.processes import child
from experiments.shared.slopes import slope
from experiments.shared.tables import print_table
from varpro_nn import configure, estimate, load, run
from varpro_nn.data import Dataset

Row = dict[str, Any]
BASE: Row = {
    "n_units": 24, "n_subnetworks": 2, "scheme": "independent", "n_stages": 1, "images": 4000,
    "images_per_subnetwork": 1000, "digits": 1, "classes": 10, "side": 28, "channels": 1,
    "grid": 4, "window": 7,
}  # fmt: skip
SIZES: dict[str, list[Row]] = {
    "units": [{"n_units": 12 * s, "n_subnetworks": s} for s in (1, 2, 4, 8, 16, 32)],
    "sub-networks": [{"n_units": 96, "n_subnetworks": s} for s in (4, 8, 16, 32)],
    "stages": [
        {"n_units": 96, "n_subnetworks": 8, "scheme": "stages", "n_stages": s}
        for s in (2, 4, 8)
    ],
    "units of stages": [
        {"n_units": 12 * s, "n_subnetworks": s, "scheme": "stages", "n_stages": s}
        for s in (2, 4, 8, 16)
    ],
    "images": [{"images": n} for n in (2000, 4000, 8000, 16_000, 32_000, 60_000)],
    "images of a sub-network": [
        {"images": 16_000, "images_per_subnetwork": n} for n in (500, 1000, 2000, 4000, 8000)
    ],
    "classes": [{"digits": 3, "classes": k} for k in (10, 30, 100, 300, 1000)],
    "pixels": [{"side": 28 * s, "images": 1000} for s in (1, 2, 4, 8)],
    "channels": [{"channels": c} for c in (1, 2, 4, 8, 16)],
    "cells": [{"grid": g} for g in (2, 3, 4, 6, 8, 11)],
    "pixels of a window": [{"window": s} for s in (3, 5, 7, 10, 14, 20)],
}  # fmt: skip
"""For each size the settings that differ from the base."""


def value_of(size: str, point: Row) -> int:
    """Size of a point: what the slope is against."""
    whole = BASE | point
    values = {
        "units": whole["n_units"], "sub-networks": whole["n_subnetworks"],
        "stages": whole["n_stages"], "units of stages": whole["n_units"],
        "images": whole["images"], "images of a sub-network": whole["images_per_subnetwork"],
        "classes": whole["classes"], "pixels": whole["side"] ** 2, "channels": whole["channels"],
        "cells": whole["grid"] ** 2, "pixels of a window": whole["window"] ** 2,
    }  # fmt: skip
    return int(values[size])


def data_of(point: Row, data_dir: str | None) -> Dataset:
    """Make images of MNIST with the digits, classes, side and channels of a point."""
    labels = np.arange(point["images"]) % point["classes"]
    train = numbers(
        load("mnist", data_dir).train, labels,
        n_digits=point["digits"], side=point["side"], n_channels=point["channels"],
    )  # fmt: skip
    name = f"{point['digits']} digits of MNIST"
    return Dataset(name, np.arange(point["classes"]), train, None)


def measure(point: Row, seed: int, data_dir: str | None) -> Row:
    """Train at one point; CPU seconds and memory, and those of the estimate."""
    dataset = data_of(point, data_dir)
    settings = {name: point[name] for name in (
        "n_units", "n_subnetworks", "scheme", "n_stages", "images_per_subnetwork", "grid", "window",
    )}  # fmt: skip
    config = configure(data="mnist", seed=seed, **settings)
    metrics = run(config, dataset, n_jobs=1).metrics
    # Afterwards: its own arrays are not part of the peak.
    expected = estimate(config, dataset, n_jobs=1)
    in_training = ("sub-networks", "output layer")
    return {
        "cpu_seconds": metrics["training_cpu_seconds"],
        "mib": metrics["peak_memory_mib"],
        "estimated_cpu_seconds": sum(
            step.cpu_seconds for step in expected.steps if step.name in in_training
        ),
        "estimated_mib": expected.memory_mib,
        "train_accuracy": metrics["train_accuracy"],
    }


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--only", nargs="+", choices=tuple(SIZES), metavar="SIZE")
    made.add_argument("--task", help=argparse.SUPPRESS)
    args = made.parse_args()
    if args.task is not None:
        print(json.dumps(measure(json.loads(args.task), args.seed, args.data_dir)))
        return
    data = load("mnist", args.data_dir).digest
    ledger = Ledger(args.output, seed=args.seed, data=data, drawn="by digit")
    few: Row = {"images": 200, "images_per_subnetwork": 100} if args.quick else {}
    more = [] if args.data_dir is None else ["--data-dir", args.data_dir]

    def in_child(point: Row) -> Row:
        options = ["--task", json.dumps(point), "--seed", str(args.seed), *more]
        return dict(json.loads(child(["experiments.benchmarks.growth", *options])[-1]))

    sizes = {name: SIZES[name] for name in args.only or SIZES}
    if args.quick:
        sizes = {"units": SIZES["units"][:2]}
    points = [(size, BASE | point | few) for size, some in sizes.items() for point in some]

    def kept(point: Row) -> Row:
        found: Row = ledger.get(point, partial(in_child, point))
        return found

    with ThreadPoolExecutor(args.n_jobs) as executor:  # of threads that wait for processes
        found = list(executor.map(kept, [point for _, point in points]))
    rows = [
        {"size": size, "value": value_of(size, point), **row}
        for (size, point), row in zip(points, found, strict=True)
    ]
    slopes: list[Row] = []
    for size in sizes:
        own = [row for row in rows if row["size"] == size]
        x = [float(row["value"]) for row in own]
        told: list[dict[str, str]] = [
            {
                size: f"{row['value']:,}", "CPU s": f"{row['cpu_seconds']:.1f}",
                "estimated": f"{row['estimated_cpu_seconds']:.1f}",
                "memory, MiB": f"{row['mib']:.0f}",
                "memory estimated, MiB": f"{row['estimated_mib']:.0f}",
            }
            for row in own
        ]  # fmt: skip
        print_table(told, f"Against {size}")
        columns = ("cpu_seconds", "estimated_cpu_seconds", "mib")
        (measured, error), (counted, _), (memory, _) = (
            slope(x, [row[column] for row in own]) for column in columns
        )
        slopes.append(
            {"size": size, "slope": measured, "error": error, "counted": counted,
             "slope_of_memory": memory}
        )  # fmt: skip
    cells = [
        {
            "varied": str(row["size"]), "slope": f"{row['slope']:.2f} ± {row['error']:.2f}",
            "of the estimate": f"{row['counted']:.2f}",
            "of memory": f"{row['slope_of_memory']:.2f}",
        }
        for row in slopes
    ]  # fmt: skip
    print_table(cells, "Slopes on log-log axes, last half of the points")
    print_last_line({"rows": rows, "slopes": slopes})


if __name__ == "__main__":
    main()
