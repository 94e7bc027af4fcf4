"""The recipes on MNIST, Fashion-MNIST and CIFAR-10, beside untrained units of the same number.

``python -m experiments.field.accuracy DATASET --output FILE [--only NAME ...]`` trains each row on
all training images, measures on the test images once, and prints a Markdown table: mean over seeds
with its standard error (five seeds for the small networks, one for the others, whose ± is the
binomial standard error). *Untrained* is the same network, its units left as they were drawn and
its output layer fitted in the same way. ``--quick`` takes the digits of scikit-learn.
"""

from typing import Any

import numpy as np

from experiments.shared.ledger import print_last_line
from experiments.shared.options import parser
from experiments.shared.runs import run_rows
from experiments.shared.tables import print_table
from experiments.shared.uncertainty import mean_and_error
from varpro_nn import load

UNTRAINED: dict[str, Any] = {"scheme": "untrained", "n_stages": 1}
SMALL: dict[str, dict[str, Any]] = {
    "up to 1,026 parameters": {"recipe": "tiny", "n_units": 11, "n_subnetworks": 1, "grid": 2},
    "tiny": {"recipe": "tiny"},
}
ROWS: dict[str, dict[str, dict[str, Any]]] = {
    "mnist": {
        **SMALL,
        "up to 5,000 parameters": {
            "recipe": "tiny", "n_units": 23, "n_subnetworks": 1, "images_per_subnetwork": 30_000,
            "n_rounds": 5, "n_copies": 4,
        },
        "default": {"recipe": "default"},
        "default, twice the units": {
            "recipe": "default", "n_units": 144, "n_subnetworks": 12, **UNTRAINED,
        },
        "accurate": {"recipe": "accurate"},
    },
    "fashion-mnist": {
        "tiny": {"recipe": "tiny"},
        "default": {"recipe": "default"},
        "accurate": {"recipe": "accurate"},
    },
    "digits": {"tiny": {"recipe": "tiny"}, "default": {"recipe": "default"}},
    "cifar10": {
        "tiny": {"recipe": "tiny"},
        "192 units in one layer": {"recipe": "default", "first_units": None},
        "384 units in one layer": {
            "recipe": "default", "first_units": None, "n_units": 384, "n_subnetworks": 24,
            **UNTRAINED,
        },
        "default": {"recipe": "default"},
        "768 units in one layer": {"recipe": "accurate", "first_units": None},
        "accurate": {"recipe": "accurate"},
    },
}  # fmt: skip
"""For each data set the rows, by name."""
FIVE_SEEDS = ("up to 1,026 parameters", "tiny")
"""Rows that are run with five seeds."""


def summary(metrics: list[dict[str, Any]]) -> str:
    """Accuracy, one run or the mean of several, with its standard error."""
    if not metrics:
        return ""
    shares = [m["test_accuracy"] for m in metrics]
    return "{:.4f} ± {:.4f}".format(*mean_and_error(shares, metrics[0]["n_test"]))


def mean(metrics: list[dict[str, Any]], key: str) -> str:
    """Mean of a figure over runs, rounded."""
    return f"{np.mean([m[key] for m in metrics]):.0f}" if metrics else ""


def main() -> None:
    options = parser(__doc__)
    options.add_argument("dataset", choices=tuple(ROWS))
    options.add_argument("--only", nargs="+", metavar="NAME", help="these rows alone")
    args = options.parse_args()
    name_of_data = "digits" if args.quick else args.dataset
    known = ROWS[name_of_data]
    if unknown := sorted(set(args.only or []) - set(known)):
        options.error(f"--only: no {', '.join(unknown)} among {', '.join(known)}")
    dataset = load(name_of_data, args.data_dir)
    rows, cells = [], []
    for name, settings in known.items():
        if args.only and name not in args.only:
            continue
        n_seeds = 5 if name in FIVE_SEEDS and not args.quick else 1
        runs: dict[str, list[dict[str, Any]]] = {"trained": [], "untrained": []}
        kinds: dict[str, dict[str, Any]] = {"trained": {}, "untrained": UNTRAINED}
        if UNTRAINED.items() <= settings.items():
            del kinds["trained"]
        for seed in range(args.seed, args.seed + n_seeds):
            for kind, changes in kinds.items():
                row = {f"{name}, {kind}": {**settings, **changes, "seed": seed}}
                runs[kind] += [metrics for _, metrics in run_rows(row, dataset, args)]
        trained, untrained = runs["trained"], runs["untrained"]
        rows.append({"name": name, **runs})
        cells.append(
            {
                "network": name,
                "parameters, all": f"{untrained[0]['n_parameters']:,}",
                "seeds": f"{n_seeds}",
                "test accuracy": summary(trained),
                "untrained": summary(untrained),
                "jobs": "/".join(map(str, sorted({m["n_jobs"] for m in trained + untrained}))),
                "CPU s": mean(trained, "training_cpu_seconds"),
                "CPU s, untrained": mean(untrained, "training_cpu_seconds"),
                "wall s": mean(trained, "training_wall_seconds"),
            }
        )
    print_table(cells, f"{dataset.name}: recipes, trained and untrained")
    print_last_line({"rows": rows, "data": dataset.digest})


if __name__ == "__main__":
    main()
