"""How the settings of the recipe ``default`` were chosen: on training images alone.

``python -m experiments.validation_split --output FILE`` trains on the first 50,000 training images
of MNIST and measures on the last 10,000, which stand in the place of a test set. The test images
are not read. Prints a Markdown table.
"""

from typing import Any

from experiments.rows import parser, run_rows
from varpro_nn import load
from varpro_nn.datasets import Dataset

ROWS: dict[str, dict[str, Any]] = {
    "default": {},
    "sub-networks of 50 units": {"n_subnetworks": 40},
    "sub-networks of 100 units": {"n_subnetworks": 20},
    "sub-networks of 500 units": {"n_subnetworks": 4},
    "2,000 images each": {"images_per_subnetwork": 2000},
    "6,000 images each": {"images_per_subnetwork": 6000},
    "weight decay 0.03": {"weight_decay": 0.03},
    "weight decay 0.3": {"weight_decay": 0.3},
    "gain 2": {"gain": 2.0},
    "5 evaluations": {"max_nfev": 5},
    "15 evaluations": {"max_nfev": 15},
}


def main() -> None:
    args = parser(__doc__.splitlines()[0]).parse_args()
    mnist = load("mnist", args.data_dir)
    split = Dataset(
        "mnist, last 10,000 training images held out",
        mnist.classes,
        mnist.train.take(slice(50_000)),
        mnist.train.take(slice(50_000, None)),
    )
    print("| settings | accuracy on held-out training images | CPU s | wall s |")
    print("| --- | --- | --- | --- |")
    for name, metrics in run_rows(ROWS, split, args):
        print(
            f"| {name} | {metrics['test_accuracy']:.4f} ± "
            f"{metrics['test_accuracy_standard_error']:.4f} | "
            f"{metrics['training_cpu_seconds']:.0f} | {metrics['training_wall_seconds']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
