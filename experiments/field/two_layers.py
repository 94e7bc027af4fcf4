"""One layer and two, trained and untrained, on held-out training images.

``python -m experiments.field.two_layers DATASET --output FILE`` trains the recipe ``default`` and
networks with a first layer of random units (``first_units``), whose second layer has as many
columns. All have the distortions, copies and output layer of the recipe. *Untrained* rows keep the
random units of the last layer and fit the same output layer, so the difference is the value of
training. Rows *on batches* train all units of the last layer at once, on batches of all images
(``--solver kfac``).

The last 10,000 training images measure; the test images are not read. ``--n-train`` takes the first
ones of the others. CPU seconds are those of the whole training. ``--quick`` takes a slice of the
digits. Prints a Markdown table; the last line is JSON.
"""

from dataclasses import replace
from functools import partial
from typing import Any

from experiments.shared.ledger import Ledger, print_last_line, settings_of
from experiments.shared.options import parser, whole_number
from experiments.shared.tables import print_table, rounded_seconds
from varpro_nn import Dataset, TrainConfig, configure, load, run

N_HELD = 10_000
FIRST: dict[str, dict[str, Any]] = {
    "mnist": {"first_units": 24, "first_grid": 12, "n_units": 64, "n_subnetworks": 4},
    "cifar10": {"first_units": 64, "n_units": 96, "n_subnetworks": 6},
    "digits": {
        "first_units": 8, "n_units": 12, "n_subnetworks": 2, "max_nfev": 2,
    },
}  # fmt: skip
"""Settings of two layers, by data set."""
TOGETHER = "trained on batches of all images"
BATCHES: dict[str, dict[str, Any]] = {
    "mnist": {"max_nfev": 3, "n_rounds": 3},
    "cifar10": {"max_nfev": 3, "n_rounds": 3},
    "digits": {"max_nfev": 2},
}
"""Settings of the training on batches."""


def measure(config: TrainConfig, data: Dataset, n_jobs: int) -> dict[str, Any]:
    """Train a network and measure it."""
    metrics = run(config, data, n_jobs=n_jobs).metrics
    return {
        "held_out_accuracy": metrics["test_accuracy"],
        "error": metrics["test_accuracy_standard_error"],
        "n_parameters": metrics["n_parameters"],
        "cpu_seconds": metrics["training_cpu_seconds"],
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("dataset", choices=tuple(FIRST))
    options.add_argument("--n-train", type=whole_number(1), help="training images; all")
    args = options.parse_args()
    data = load(args.dataset, args.data_dir)
    whole = data.train
    n_held = min(N_HELD, len(whole) // 3)
    n_train = min(
        args.n_train or len(whole), 300 if args.quick else len(whole), len(whole) - n_held
    )
    data = replace(
        data, train=whole.take(slice(n_train)), test=whole.take(slice(len(whole) - n_held, None)),
        origin=None,
    )  # fmt: skip
    ledger = Ledger(args.output, data=data.digest, n_train=n_train, n_jobs=args.n_jobs)
    cells, results = [], []
    two = FIRST[args.dataset]
    on_batches = {
        **BATCHES[args.dataset], "solver": "kfac", "n_subnetworks": 1,
        "images_per_subnetwork": n_train,
    }  # fmt: skip
    for layers, units, settings in (
        ("one", "untrained", {}),
        ("one", "trained", {}),
        ("one", TOGETHER, on_batches),
        ("two", "untrained", two),
        ("two", "trained", two),
        ("two", TOGETHER, {**two, **on_batches}),
    ):
        scheme = "untrained" if units == "untrained" else "independent"
        config = configure(data=args.dataset, seed=args.seed, scheme=scheme, n_stages=1, **settings)
        found = ledger.get(
            {"layers": layers, "units": units},
            partial(measure, config, data, args.n_jobs),
            config=settings_of(config),
        )
        results.append({"layers": layers, "units": units, **found})
        cells.append({
            "layers": layers,
            "units": units,
            "parameters": f"{found['n_parameters']:,}",
            "held-out accuracy": f"{found['held_out_accuracy']:.4f} ± {found['error']:.4f}",
            "CPU s of training": rounded_seconds(found["cpu_seconds"]),
        })  # fmt: skip
    print_table(cells, f"{args.dataset}, {n_train:,} training images, the last {n_held:,} held out")
    print_last_line({"rows": results})


if __name__ == "__main__":
    main()
