"""How the recipes were chosen, and what each scheme is worth: on training images alone.

``python -m experiments.field.validation_split DATASET --output FILE`` trains on all but the last
10,000 training images and measures on those, which stand in the place of a test set. The test
images are not read. Prints a Markdown table. The rows differ from the first in what their name
says.
"""

from typing import Any

from experiments.shared.ledger import print_last_line
from experiments.shared.options import parser
from experiments.shared.runs import run_rows
from experiments.shared.tables import print_table
from varpro_nn import load
from varpro_nn.data import Dataset

PLAIN: dict[str, Any] = {
    "shift": 0, "rotation": 0.0, "scale": 0.0, "shear": 0.0, "elastic": 0.0, "flip": False,
    "n_copies": 0, "scheme": "independent", "n_stages": 1,
}  # fmt: skip
MNIST = {"n_units": 48, "n_subnetworks": 4, **PLAIN}
CROSS_ENTROPY = {"loss": "cross-entropy", "ridge": 0.2, "weight_decay": 0.05}
CIFAR = {"first_units": None, "n_units": 64, "n_subnetworks": 4, **PLAIN}
ROWS: dict[str, dict[str, dict[str, Any]]] = {
    "mnist": {
        "48 units, 4 sub-networks, independent": MNIST,
        "untrained": MNIST | {"scheme": "untrained"},
        "stages": MNIST | {"scheme": "stages", "n_stages": 4},
        "growing subsets": MNIST | {"n_rounds": 3, "max_nfev": 3},
        "cross-entropy": MNIST | CROSS_ENTROPY,
        "6,000 images a sub-network": MNIST | {"images_per_subnetwork": 6000},
        "output layer softmax": MNIST | {"output_layer": "softmax"},
        "output layer ridge": MNIST | {"output_layer": "ridge"},
        "output layer ridge, untrained": MNIST | {"output_layer": "ridge", "scheme": "untrained"},
        "shifts, 1 copy": MNIST | {"shift": 1, "n_copies": 1},
        "shifts, affine, elastic, 1 copy": MNIST
        | {"shift": 1, "rotation": 8.0, "scale": 0.08, "shear": 0.08, "elastic": 0.4}
        | {"n_copies": 1},
        "rectifier": MNIST | {"activation": "rectifier"},
    },
    "cifar10": {
        "64 units, 4 sub-networks, independent": CIFAR,
        "untrained": CIFAR | {"scheme": "untrained"},
        "stages": CIFAR | {"scheme": "stages", "n_stages": 4},
        "output layer hinge": CIFAR | {"output_layer": "hinge"},
        "output layer ridge": CIFAR | {"output_layer": "ridge"},
        "mirrored copies": CIFAR | {"flip": True, "n_copies": 1},
        "2 x 2 cells": CIFAR | {"grid": 2},
    },
}
"""For each data set the rows, by name."""
QUICK = {"n_units": 8, "n_subnetworks": 2, "images_per_subnetwork": 400}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("dataset", choices=tuple(ROWS))
    args = options.parse_args()
    whole = load("mnist" if args.quick else args.dataset, args.data_dir)
    train = whole.train.take(slice(1500 if args.quick else None))
    n = len(train) - min(10_000, len(train) // 3)
    split = Dataset(
        f"{whole.name}, last {len(train) - n:,} training images held out",
        whole.classes,
        train.take(slice(n)),
        train.take(slice(n, None)),
    )
    chosen = ROWS[args.dataset]
    if args.quick:
        chosen = {name: chosen[name] | QUICK for name in list(chosen)[:2]}
    rows = dict(run_rows(chosen, split, args, whole.name))
    cells = [
        {
            "settings": name,
            "accuracy on held-out training images": f"{metrics['test_accuracy']:.4f} ± "
            f"{metrics['test_accuracy_standard_error']:.4f}",
            "jobs": f"{metrics['n_jobs']}",
            "CPU s": f"{metrics['training_cpu_seconds']:.0f}",
            "wall s": f"{metrics['training_wall_seconds']:.0f}",
        }
        for name, metrics in rows.items()
    ]
    print_table(cells, split.name)
    print_last_line({"rows": rows, "data": split.digest})


if __name__ == "__main__":
    main()
