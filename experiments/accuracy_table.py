"""The recipes on MNIST, Fashion-MNIST and CIFAR-10, beside untrained units of the same number.

``python -m experiments.accuracy_table DATASET --output FILE [--only NAME ...]`` trains each row on
all training images, measures on the test images once, appends its metrics to FILE and prints a
Markdown table: mean over seeds with its standard error (five seeds for the small networks, one
for the others, whose ± is the binomial standard error). *Untrained* is the same network, its
units left as they were drawn and its output layer fitted in the same way.
"""

from typing import Any

import numpy as np

from experiments.ledger import parser, run_rows
from varpro_nn import load

UNTRAINED = {"scheme": "untrained", "n_stages": 1}
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
    "cifar10": {
        "tiny": {"recipe": "tiny"},
        "default": {"recipe": "default"},
        "default, twice the units": {
            "recipe": "default", "n_units": 384, "n_subnetworks": 24, **UNTRAINED,
        },
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
    error = metrics[0]["test_accuracy_standard_error"]
    if len(shares) > 1:
        error = float(np.std(shares, ddof=1)) / len(shares) ** 0.5
    return f"{np.mean(shares):.4f} ± {error:.4f}"


def mean(metrics: list[dict[str, Any]], key: str) -> str:
    """Mean of a figure over runs, rounded."""
    return f"{np.mean([m[key] for m in metrics]):.0f}" if metrics else ""


def main() -> None:
    made = parser(__doc__.splitlines()[0])
    made.add_argument("dataset", choices=tuple(ROWS))
    made.add_argument("--only", nargs="+", metavar="NAME", help="these rows alone")
    args = made.parse_args()
    dataset = load(args.dataset, args.data_dir)
    print("| network | parameters, all | test accuracy | untrained | CPU s | untrained | wall s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, settings in ROWS[args.dataset].items():
        if args.only and name not in args.only:
            continue
        seeds = range(args.seed, args.seed + (5 if name in FIVE_SEEDS else 1))
        runs: dict[str, list[dict[str, Any]]] = {"trained": [], "untrained": []}
        kinds: dict[str, dict[str, Any]] = {"trained": {}, "untrained": UNTRAINED}
        if UNTRAINED.items() <= settings.items():
            del kinds["trained"]
        for seed in seeds:
            for kind, changes in kinds.items():
                row = {f"{name}, {kind}": {**settings, **changes, "seed": seed}}
                for _, metrics in run_rows(row, dataset, args, args.dataset):
                    runs[kind].append(metrics)
        trained, untrained = runs["trained"], runs["untrained"]
        cells = [
            name,
            f"{untrained[0]['n_parameters']:,}",
            summary(trained),
            summary(untrained),
            mean(trained, "training_cpu_seconds"),
            mean(untrained, "training_cpu_seconds"),
            mean(trained, "training_wall_seconds"),
        ]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
