"""The recipe ``auto`` on the fewest, smallest, largest and most images and classes.

``python -m experiments.field.auto_limits --output FILE`` makes data sets of MNIST, or of numbers
with several digits (:mod:`experiments.shared.numbers_of_mnist`), and trains with ``auto`` on each
in a separate process. Test images are made of the test images of MNIST in the same way. Images are
drawn with replacement. The two largest sets repeat the 60,000 images of MNIST: their rows show time
and memory, not the gain from more data.

``--only`` takes some of the data sets. ``--quick`` takes the first two, unless ``--only`` names
others, and 500 test images.
"""

import argparse
import json
from typing import Any

import numpy as np

from experiments.shared.ledger import Ledger, print_last_line
from experiments.shared.numbers_of_mnist import numbers
from experiments.shared.options import parser
from experiments.shared.processes import child
from experiments.shared.tables import print_table, rounded_seconds
from varpro_nn import Dataset, load, run
from varpro_nn.training.contest import contest

Row = dict[str, Any]
BASE: Row = {"images": 1000, "classes": 10, "digits": 1, "side": 28, "test": 10_000}
LIMITS: dict[str, Row] = {
    "20 images": {"images": 20, "classes": 2},
    "8 pixels a side": {"side": 8},
    "256 pixels a side": {"side": 256, "test": 2000},
    "100 classes": {"images": 5000, "classes": 100, "digits": 2},
    "1,000 classes": {"images": 10_000, "classes": 1000, "digits": 3},
    "500,000 images": {"images": 500_000},
    "2 million images": {"images": 2_000_000},
}
"""For each data set what differs from the base."""


def data_of(point: Row, seed: int, data_dir: str | None) -> Dataset:
    """Make training and test images."""
    source = load("mnist", data_dir)
    assert source.test is not None  # MNIST has test images
    train, test = (
        numbers(
            part, np.arange(n) % point["classes"], n_digits=point["digits"], side=point["side"],
            seed=seed,
        )
        for part, n in ((source.train, point["images"]), (source.test, point["test"]))
    )  # fmt: skip
    return Dataset("numbers", np.arange(point["classes"]), train, test)


def measure(point: Row, seed: int, n_jobs: int, data_dir: str | None) -> Row:
    """Hold the contest, train what it chose, and label the test images."""
    data = data_of(point, seed, data_dir)
    found = contest(data, seed=seed, n_jobs=n_jobs)
    metrics = run(found.config, data, n_jobs=n_jobs).metrics
    names = (
        "test_accuracy", "test_accuracy_standard_error", "training_cpu_seconds",
        "peak_memory_mib", "n_parameters",
    )  # fmt: skip
    return {
        "contest_cpu_seconds": found.cpu_seconds, "chosen": found.chosen,
        "n_units": found.config.units.n_units, **{name: metrics[name] for name in names},
    }  # fmt: skip


def told(name: str, row: Row) -> dict[str, str]:
    """Make a row of the table."""
    training, of_contest = row["training_cpu_seconds"], row["contest_cpu_seconds"]
    return {
        "data": name, "chosen": row["chosen"], "units": str(row["n_units"]),
        "test accuracy": f"{row['test_accuracy']:.4f} ± {row['test_accuracy_standard_error']:.4f}",
        "CPU s of the contest": rounded_seconds(of_contest),
        "CPU s of the training": rounded_seconds(training),
        "ratio": f"{of_contest / training:.2g}",
        "parameters": f"{row['n_parameters']:,}",
        "memory, MiB": f"{row['peak_memory_mib']:,.0f}",
    }  # fmt: skip


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--only", nargs="+", choices=tuple(LIMITS), metavar="NAME")
    made.add_argument("--task", help=argparse.SUPPRESS)
    args = made.parse_args()
    if args.task is not None:
        point = json.loads(args.task)
        print(json.dumps(measure(point, args.seed, args.n_jobs, args.data_dir)))
        return
    ledger = Ledger(args.output, seed=args.seed, data=load("mnist", args.data_dir).digest)
    more = [] if args.data_dir is None else ["--data-dir", args.data_dir]
    names = args.only or (list(LIMITS)[:2] if args.quick else LIMITS)
    rows = {}
    for name in names:
        point = BASE | LIMITS[name] | ({"test": 500} if args.quick else {})
        options = ["--task", json.dumps(point), "--seed", str(args.seed)]
        command = ["experiments.field.auto_limits", *options, "--n-jobs", str(args.n_jobs), *more]

        def in_child(command: list[str] = command) -> Row:
            return dict(json.loads(child(command)[-1]))

        rows[name] = ledger.get(point, in_child)
    print_table([told(*each) for each in rows.items()])
    print_last_line(rows)


if __name__ == "__main__":
    main()
