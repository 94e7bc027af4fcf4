"""One layer, two and three, trained and untrained, on held-out training images.

``python -m experiments.field.two_layers DATASET --output FILE`` trains the recipe ``default`` and
networks with a first layer of random units (``first_units``); those of three layers have a trained
layer between these and the last (``middle_units``). In some rows of three layers the output layer
sees the maps of all layers (``cells_below``). All have the distortions, copies and output layer of
the recipe. *Untrained* rows keep random units in all layers and fit the same output layer,
so the difference is the value of training. Rows *in sub-networks* train the last layer as the
recipe trains its one layer, each sub-network on a part of the images. Rows *on batches* train all
units of a layer at once, on batches of all images (``--solver kfac``).

The last 10,000 training images measure; the test images are not read. ``--n-train`` takes the first
ones of the others, ``--layers`` some rows. CPU seconds are those of the whole training. ``--quick``
takes a slice of the digits. Prints a Markdown table; the last line is JSON.
"""

from functools import partial
from typing import Any

from experiments.shared.held_out import held_out
from experiments.shared.ledger import Ledger, print_last_line, settings_of
from experiments.shared.options import parser, whole_number
from experiments.shared.tables import print_table, rounded_seconds
from varpro_nn import Dataset, TrainConfig, configure, load, run

LAYERS: dict[str, dict[str, dict[str, Any]]] = {
    "mnist": {
        "one": {},
        "two": {"first_units": 24, "first_grid": 12, "n_units": 64},
        "three": {"first_units": 24, "first_grid": 12, "middle_units": 64, "n_units": 96},
    },
    "cifar10": {
        "one": {"first_units": None},
        "two": {"first_units": 64, "middle_units": None, "n_units": 128, "cells_below": 0},
        "three": {
            "first_units": 64,
            "middle_units": 128,
            "n_units": 256,
            "n_components": 400,
            "cells_below": 0,
        },
    },
    "digits": {
        "one": {},
        "two": {"first_units": 8, "n_units": 12, "max_nfev": 2},
        "three": {"first_units": 8, "middle_units": 12, "n_units": 12, "max_nfev": 2},
    },
}
"""Settings by data set and number of layers."""
SEEN: dict[str, Any] = {"cells_below": 2}
"""With this setting the output layer sees all layers."""
APART: dict[str, dict[str, Any]] = {
    "mnist": {"n_subnetworks": 4}, "cifar10": {"n_subnetworks": 8}, "digits": {"n_subnetworks": 2},
}  # fmt: skip
"""Sub-networks of two layers."""
TOGETHER: dict[str, Any] = {
    "solver": "kfac", "n_subnetworks": 1, "max_nfev": 3, "n_rounds": 3, "loss": "squares",
}  # fmt: skip
"""One layer on batches; the settings that more layers have by default."""
NUMBERS = ("one", "two", "three", "three, output layer sees all")
UNTRAINED, IN_SUBNETWORKS, ON_BATCHES = "untrained", "in sub-networks", "on batches"


def rows(dataset: str, n_train: int) -> list[tuple[str, str, dict[str, Any]]]:
    """Name layers, training and settings of each row."""
    of, alone = LAYERS[dataset], {"scheme": "independent", "n_stages": 1}
    untrained = {**alone, "scheme": "untrained"}
    return [
        ("one", UNTRAINED, {**of["one"], **untrained}),
        ("one", IN_SUBNETWORKS, {**of["one"], **alone}),
        ("one", ON_BATCHES, {**of["one"], **TOGETHER, "images_per_subnetwork": n_train}),
        ("two", UNTRAINED, {**of["two"], **untrained}),
        ("two", IN_SUBNETWORKS, {**of["two"], **APART[dataset], "solver": "lsmr"}),
        ("two", ON_BATCHES, of["two"]),
        ("three", UNTRAINED, {**of["three"], **untrained}),
        ("three", ON_BATCHES, of["three"]),
        ("three, output layer sees all", UNTRAINED, {**of["three"], **SEEN, **untrained}),
        ("three, output layer sees all", ON_BATCHES, {**of["three"], **SEEN}),
    ]


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
    options.add_argument("dataset", choices=tuple(LAYERS))
    options.add_argument("--n-train", type=whole_number(1), help="training images; all")
    options.add_argument("--layers", nargs="+", choices=NUMBERS, default=NUMBERS)
    args = options.parse_args()
    data = held_out(load(args.dataset, args.data_dir), args.n_train, quick=args.quick)
    assert data.test is not None  # the images that are held out
    n_train, n_held = len(data.train), len(data.test)
    ledger = Ledger(args.output, data=data.digest, n_train=n_train, n_jobs=args.n_jobs)
    cells, results = [], []
    for layers, units, settings in rows(args.dataset, n_train):
        if layers not in args.layers:
            continue
        config = configure(data=args.dataset, seed=args.seed, **settings)
        found = ledger.get(
            {"layers": layers, "units": units},
            partial(measure, config, data, args.n_jobs),
            config=settings_of(config),
        )
        results.append({"layers": layers, "units": units, **found})
        cells.append({
            "layers": layers,
            "training": units,
            "parameters": f"{found['n_parameters']:,}",
            "held-out accuracy": f"{found['held_out_accuracy']:.4f} ± {found['error']:.4f}",
            "CPU s of training": rounded_seconds(found["cpu_seconds"]),
        })  # fmt: skip
    print_table(cells, f"{args.dataset}, {n_train:,} training images, the last {n_held:,} held out")
    print_last_line({"rows": results})


if __name__ == "__main__":
    main()
