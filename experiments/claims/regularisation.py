r"""What a penalty on the unit weights, and one on the linear weights, is worth: one C, or two.

The source on convolutional networks minimises, over all weights theta of the network at once,

    f(theta) = 1/(2C) theta'theta + 1/l sum_i ||z_i - y_i||^2        (l images).

Here z = Phi(W) A. Times l/2 this is 1/2 ||tau - Phi A||^2 + l/(4C) (||A||^2 + ||W||^2), so it is

    cost = 1/2 ||tau - Phi A||^2 + lam/2 ||A||^2 + nu/2 ||w||^2   with   lam = nu = l/(2C):

on 2,000 images lam = 1 is C = 1,000, and the default nu = 0.1 is C = 10,000. Eliminating A changes
neither minimum nor minimisers. One difference stays: the row of A of the constant column (the
biases of the output layer) is not penalised here, and theta'theta holds it; the biases of the units
are in w and are penalised in both.

``python -m experiments.claims.regularisation`` trains, for each pair of a penalty on W and one on
A, none included (C infinite), 200 bilinear units in four sub-networks of 2,000 images of MNIST, and
16 units on windows of 7 x 7 pixels (the recipe ``tiny``, but least squares, one round, 4,000 images
as they are). The diagonal is the objective of the source. Then the output layer is fitted on the
first 10,000 training images in two ways: with the same C as A had in training (lam = l/(2C), l now
10,000), and with the ridge that has the lowest leave-one-out error. Accuracy is that on the last
10,000 training images, which neither saw, mean over seeds; norms are Frobenius norms, without the
constant's row.

The pair and layer of highest held-out accuracy, and the best of the diagonal with one C
throughout, are then trained again and meet the test images once, beside the project's default
(lam = 1, nu = 0.1, ridge by leave-one-out) and units left as drawn. The last line is JSON.
"""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from experiments.shared.ledger import Ledger, print_last_line, settings_of
from experiments.shared.options import parser
from experiments.shared.tables import print_table
from experiments.shared.uncertainty import mean_and_error
from varpro_nn import Network, TrainConfig, configure, load
from varpro_nn.compute.compute import Compute
from varpro_nn.data import ImageSet
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.output.penalties import RIDGES
from varpro_nn.output.ridge_fit import fit_ridge
from varpro_nn.training.layers import train_units
from varpro_nn.training.metrics import accuracy

PENALTIES: tuple[float, ...] = (0.0, 0.01, 0.1, 1.0, 10.0)
"""lam and nu."""
DEFAULT = (0.1, 1.0)
"""nu and lam of the project."""
LAYERS = ("one C", "leave-one-out")
"""How the ridge of the output layer is set."""
CASES: dict[str, dict[str, Any]] = {
    "bilinear": {
        "recipe": "bilinear", "n_units": 200, "n_subnetworks": 4, "images_per_subnetwork": 2000,
        "max_nfev": 8,
    },
    "windows": {
        "recipe": "tiny", "loss": "squares", "n_rounds": 1, "images_per_subnetwork": 4000,
        "shift": 0, "n_copies": 0,
    },
}  # fmt: skip
QUICK_CASES: dict[str, dict[str, Any]] = {
    "bilinear": {
        "recipe": "bilinear", "n_units": 12, "n_subnetworks": 2, "images_per_subnetwork": 150,
        "max_nfev": 4,
    },
    "windows": {**CASES["windows"], "n_units": 3, "images_per_subnetwork": 150, "max_nfev": 3},
}  # fmt: skip
Row = dict[str, Any]


def c_of(penalty: float, n_images: int) -> float:
    """C of the source that a penalty on so many images stands for."""
    return n_images / (2 * penalty) if penalty else np.inf


def penalty_of(C: float, n_images: int) -> float:
    """Penalty, lam or nu, that C of the source stands for on so many images."""
    return n_images / (2 * C)


def measure(config: TrainConfig, parts: dict[str, ImageSet], n_glue: int, k: int) -> Row:
    """Train units with a pair of penalties, and both output layers on the first images.

    Returns
    -------
    dict
        CPU seconds, the number of images held out or of the test; for each layer its ridge, norms,
        and the accuracy on each of ``parts`` but ``train``.
    """
    images = parts["train"]
    with threadpool_limits(1, user_api="blas"):
        start = time.process_time()
        training = TrainingSet(images.images, images.labels, k)
        trained = train_units(config, training, Compute())
        of_layer = training.take(slice(n_glue))
        C = c_of(config.subnetworks.ridge, config.subnetworks.images_per_subnetwork)
        fitted = [
            fit_ridge(trained.units, trained.W, of_layer, Compute(), ridge=ridge)
            for ridge in (penalty_of(C, n_glue), RIDGES)
        ]
        row: Row = {"cpu_seconds": time.process_time() - start}
        # Both layers side by side: features are made once.
        both = Network(
            trained.units, trained.W, np.hstack([report.A for report in fitted]),
            np.arange(len(LAYERS) * k), images.images.shape[1:],
        )  # fmt: skip
        for name, report in zip(LAYERS, fitted, strict=True):
            row[name] = {
                "n_parameters": trained.W.size + report.A.size,
                "ridge": report.penalty,
                "norm_W": float(np.linalg.norm(trained.W)),
                "norm_A": float(np.linalg.norm(report.A[:-1])),
            }
        for part, measured in parts.items():
            if part not in ("train", "glue"):
                row["n_test"] = len(measured)
            if part != "train":
                outputs = np.split(both.decision_function(measured.images), len(LAYERS), axis=1)
                for name, own in zip(LAYERS, outputs, strict=True):
                    row[name][part] = accuracy(own.argmax(axis=1), measured.labels)
    return row


def mean_of(rows: Sequence[Row], layer: str, key: str) -> float:
    """Mean of a figure over seeds."""
    return float(np.mean([row[layer][key] for row in rows]))


def best_pair(found: dict[tuple[float, float], list[Row]], layers: Sequence[str]) -> Any:
    """(nu, lam) and layer of highest mean held-out accuracy; of equals the larger penalties."""
    pairs = [(pair, layer) for pair in found for layer in layers]
    return max(pairs, key=lambda p: (mean_of(found[p[0]], p[1], "held out"), *p[0]))


def effects(found: dict[tuple[float, float], list[Row]], layer: str, none: bool) -> Row:
    """How far the mean held-out accuracy moves along nu, for each lam, and the other way.

    Returns
    -------
    dict
        Mean over the lines of the grid of highest less lowest; ``none``: with the penalty 0.
    """
    nus, lams = (sorted({pair[i] for pair in found} - (set() if none else {0.0})) for i in (0, 1))
    grid = np.array(
        [[mean_of(found[nu, lam], layer, "held out") for lam in lams] for nu in nus]
    )  # fmt: skip
    return {"W": float(np.ptp(grid, axis=0).mean()), "A": float(np.ptp(grid, axis=1).mean())}


def chosen(found: dict[tuple[float, float], list[Row]]) -> dict[str, tuple[Any, str]]:
    """Pairs (None: no training) and layers that meet the test images, by why."""
    diagonal = {pair: rows for pair, rows in found.items() if pair[0] == pair[1]}
    return {
        "highest held-out accuracy": best_pair(found, LAYERS),
        "best of one C for all": best_pair(diagonal, LAYERS[:1]),
        "default": (DEFAULT, LAYERS[1]),
        "untrained": (None, LAYERS[1]),
    }


def named(penalty: float, n_images: int) -> str:
    """Penalty, and the C that it stands for."""
    return f"{penalty:g} (C = {c_of(penalty, n_images):,.0f})" if penalty else "none"


def print_case(
    case: str, n: int, n_held_out: int, found: dict[tuple[float, float], list[Row]]
) -> None:
    """Print a grid for each layer, then all rows."""
    nus, lams = (sorted({pair[i] for pair in found}) for i in (0, 1))
    for layer in LAYERS:
        grid = []
        for nu in nus:
            row = {"W \\ A": named(nu, n)}
            for lam in lams:
                value = f"{mean_of(found[nu, lam], layer, 'held out'):.4f}"
                row[named(lam, n)] = f"**{value}**" if nu == lam else value
            grid.append(row)
        print_table(grid, f"{case}: held-out accuracy, output layer: {layer} (diagonal bold)")
    told = []
    for (nu, lam), rows in found.items():
        row = {
            "nu": f"{nu:g}",
            "lam": f"{lam:g}",
            "norm W": f"{mean_of(rows, LAYERS[0], 'norm_W'):.1f}",
        }
        for layer in LAYERS:
            mean, error = mean_and_error([r[layer]["held out"] for r in rows], n_held_out)
            row[f"held out, {layer}"] = f"{mean:.4f} ± {error:.4f}"
            row[f"training, {layer}"] = f"{mean_of(rows, layer, 'glue'):.4f}"
            row[f"norm A, {layer}"] = f"{mean_of(rows, layer, 'norm_A'):.2f}"
        ridges = [r[LAYERS[1]]["ridge"] for r in rows]
        row["ridge by leave-one-out"] = ", ".join(f"{ridge:.3g}" for ridge in ridges)
        row["CPU s"] = f"{np.mean([r['cpu_seconds'] for r in rows]):.1f}"
        told.append(row)
    print_table(told, f"{case}: all pairs, {rows[0][LAYERS[0]]['n_parameters']:,} parameters")


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--seeds", type=int, default=2)
    args = made.parse_args()
    data = load("digits" if args.quick else "mnist", args.data_dir)
    cases, penalties = (QUICK_CASES, (0.0, *DEFAULT)) if args.quick else (CASES, PENALTIES)
    seeds = range(args.seed, args.seed + (1 if args.quick else args.seeds))
    n_held_out, n_glue = (300, 800) if args.quick else (10_000, 10_000)
    assert data.test is not None
    k = len(data.classes)
    held_out = data.train.take(slice(-n_held_out, None))
    kept = data.train.take(slice(-n_held_out))
    parts = {"train": kept, "glue": kept.take(slice(n_glue)), "held out": held_out}
    on_test = {"train": kept, "test": data.test}
    ledger = Ledger(args.output, data=data.digest, n_held_out=n_held_out, n_glue=n_glue)

    def rows_of(config: TrainConfig, used: dict[str, ImageSet]) -> list[Row]:
        found = []
        for seed in seeds:
            own = config.with_options(seed=seed)
            entry = {"config": settings_of(own), "parts": list(used)}
            found.append(ledger.get(entry, partial(measure, own, used, n_glue, k)))
        return found

    told, moved, result = [], [], {}
    for case, settings in cases.items():
        base = configure(data=data, **settings)
        n = base.subnetworks.images_per_subnetwork
        found = {
            (nu, lam): rows_of(base.with_options(weight_decay=nu, ridge=lam), parts)
            for nu in penalties
            for lam in penalties
        }
        print_case(case, n, n_held_out, found)
        for layer in LAYERS:
            for none in (True, False):
                by = effects(found, layer, none)
                moved.append({
                    "network": case, "output layer": layer,
                    "penalties": "all" if none else "without none",
                    "along C of W": f"{by['W']:.4f}", "along C of A": f"{by['A']:.4f}",
                })  # fmt: skip
        tested = {}
        for name, (pair, layer) in chosen(found).items():
            nu, lam = pair or DEFAULT
            config = base.with_options(weight_decay=nu, ridge=lam)
            rows = rows_of(config if pair else config.with_options(scheme="untrained"), on_test)
            tested[name] = {"pair": pair, "layer": layer, "rows": rows}
            mean, error = mean_and_error([row[layer]["test"] for row in rows], len(data.test))
            told.append({
                "network": case, "setting": name,
                "nu": named(nu, n) if pair else "", "lam": named(lam, n) if pair else "",
                "output layer": layer, "test accuracy": f"{mean:.4f} ± {error:.4f}",
                "parameters": f"{rows[0][layer]['n_parameters']:,}",
            })  # fmt: skip
        result[case] = {
            "grid": [{"nu": nu, "lam": lam, "rows": rows} for (nu, lam), rows in found.items()],
            "test": tested,
        }
    print_table(
        moved, "Held-out accuracy, highest less lowest along one penalty, mean over the other"
    )
    print_table(told, f"Test images of {data.name}, once, mean of {len(seeds)} seeds")
    print_last_line({"cases": result, "seeds": list(seeds), "data": data.name})


if __name__ == "__main__":
    main()
