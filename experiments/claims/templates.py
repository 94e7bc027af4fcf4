"""What linear classifiers see, beside what quadratic units see: a figure of CIFAR-10.

``python -m experiments.claims.templates --figure FILE`` draws three rows of pictures, each
stretched to its own range:

* the template of each class: its weights in softmax regression on pixels (``fit_linear``);
* the same of a network of quadratic units: the derivative of each class's output at the mean image;
* the filters of the units themselves, of those with the largest linear weights: ``c ⊗ w w'``.

The network is one layer of 1,000 trained quadratic units, 36 weights each. Prints parameters and
test accuracy of both classifiers; the last line is JSON. ``--quick`` takes digits.
"""

from pathlib import Path
from typing import Any

import numpy as np

from experiments.shared.figures import add_figure, drawn
from experiments.shared.ledger import Ledger, print_last_line, settings_of
from experiments.shared.options import parser
from experiments.shared.tables import print_table
from varpro_nn import TrainConfig, configure, load, run
from varpro_nn._typing import FloatArray, RealArray
from varpro_nn.data import Dataset
from varpro_nn.data.images import intensities
from varpro_nn.linalg.convex import fit_linear
from varpro_nn.model.network import Network
from varpro_nn.training.metrics import accuracy, standard_error

PENALTY = 100.0
"""Of softmax regression on CIFAR-10, as ``experiments.claims.linear_classifiers`` chose it."""
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""Its classes, of which the files of the images give the numbers."""


def softmax_templates(dataset: Dataset) -> dict[str, Any]:
    """Fit softmax regression to pixels; its figures, and the weights by class and pixel."""
    assert dataset.test is not None
    X, Z = (intensities(p.images).reshape(len(p), -1) for p in (dataset.train, dataset.test))
    k = len(dataset.classes)
    A = fit_linear("softmax", X, dataset.train.labels, np.zeros((X.shape[1] + 1, k)), PENALTY).A
    share = accuracy((Z @ A[:-1] + A[-1]).argmax(axis=1), dataset.test.labels)
    told = {"n_parameters": A.size, "test_accuracy": share, "n_test": len(Z)}
    return {**told, "weights": rounded(A[:-1].T)}


def rounded(pictures: RealArray) -> list[list[float]]:
    """Round to a thousandth of the range: enough to draw, and short to keep."""
    scaled = pictures / np.maximum(np.abs(pictures).max(axis=1, keepdims=True), 1e-300)
    return np.round(scaled.astype(np.float64), 3).tolist()


def class_derivatives(network: Network, images: RealArray) -> FloatArray:
    """Differentiate each output by the pixels, at the mean of ``images``: (classes, pixels)."""
    units: Any = network.units
    filters = units.effective_filters(network.W)
    z = filters[:, :-1] @ images.mean(axis=0, dtype=np.float64).ravel() + filters[:, -1]
    slope = 1 / (2 + np.exp(z) + np.exp(-z))  # of the logistic function
    return (network.A[:-1].T * slope) @ filters[:, :-1]


def quadratic_units(dataset: Dataset, config: TrainConfig) -> dict[str, Any]:
    """Train quadratic units; figures of the network, its filters and derivatives by class."""
    result = run(config, dataset, n_jobs=1, progress=True)
    network, units = result.network, result.network.units
    assert hasattr(units, "effective_filters")
    order = np.argsort(-np.linalg.norm(network.A[:-1], axis=1), kind="stable")
    strongest = units.effective_filters(network.W[order[: len(dataset.classes)]])[:, :-1]
    return {
        "n_parameters": network.n_parameters,
        "test_accuracy": result.metrics["test_accuracy"],
        "n_test": result.metrics["n_test"],
        "derivatives": rounded(class_derivatives(network, intensities(dataset.train.images))),
        "filters": rounded(strongest),
    }


def draw(
    rows: dict[str, list[list[float]]], columns: list[str], shape: tuple[int, ...], path: Path
) -> None:
    """Draw rows of pictures; where there are channels, they are the colours."""
    size = (1.1 * len(columns), 1.3 * len(rows))
    with drawn(path, (len(rows), len(columns)), size, dpi=120) as (_, panels):
        for panel, label in zip(panels[0], columns, strict=True):
            panel.set_title(label, fontsize=8)
        for across, (name, pictures) in zip(panels, rows.items(), strict=True):
            for panel, values in zip(across, pictures, strict=True):
                picture = np.reshape(values, shape)
                if len(shape) == 3:
                    picture = np.moveaxis(picture, 0, -1)
                panel.imshow((picture - picture.min()) / (np.ptp(picture) or 1.0), cmap="gray")
                panel.set(xticks=[], yticks=[])
            across[0].set_ylabel(name, fontsize=8)


def main() -> None:
    options = parser(__doc__)
    add_figure(options)
    options.add_argument("--n-units", type=int, default=1000, help="a multiple of 50")
    args = options.parse_args()
    dataset = load("digits" if args.quick else "cifar10", args.data_dir)
    assert dataset.test is not None
    n_units = 50 if args.quick else args.n_units
    config = configure(
        "paper", data=dataset, n_units=n_units, n_train=None, seed=args.seed, max_nfev=10,
        n_subnetworks=n_units // 50, images_per_subnetwork=min(2500, len(dataset.train)),
    )  # fmt: skip
    ledger = Ledger(args.output, data=dataset.digest)
    linear = ledger.get("softmax", lambda: softmax_templates(dataset), penalty=PENALTY)
    quadratic = ledger.get(
        "quadratic units", lambda: quadratic_units(dataset, config), config=settings_of(config)
    )
    rows = {"softmax regression on pixels": linear, f"{n_units:,} quadratic units": quadratic}
    n_test = len(dataset.test)
    cells = [
        {
            "classifier": name,
            "parameters, all": f"{row['n_parameters']:,}",
            "test accuracy": f"{row['test_accuracy']:.4f} ± "
            f"{standard_error(row['test_accuracy'], n_test):.4f}",
        }
        for name, row in rows.items()
    ]
    if args.figure:
        pictures = {
            "softmax": linear["weights"],
            "network": quadratic["derivatives"],
            "units": quadratic["filters"],
        }
        shape = dataset.train.images.shape[1:]
        names = map(str, dataset.classes) if args.quick else CIFAR10
        draw(pictures, list(names), shape, args.figure)
    print_table(cells, f"{dataset.name}: the classifiers that are drawn")
    figures = {
        name: {k: row[k] for k in ("n_parameters", "test_accuracy")} for name, row in rows.items()
    }
    print_last_line({"rows": figures})


if __name__ == "__main__":
    main()
