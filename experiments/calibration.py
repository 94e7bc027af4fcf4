"""Are probabilities and label sets what they say? Measured on the test images.

``python -m experiments.calibration`` fits :class:`varpro_nn.VarProClassifier` to MNIST with a few
recipes. Temperature and label sets come from outputs of training images that the output layer had
not seen; the test images only measure them. Prints expected calibration error (with the
temperature, without, and as it was estimated in training) and how often label sets hold the true
label. The last line is JSON.
"""

import argparse
from dataclasses import replace
from typing import Any

import numpy as np

from experiments.ledger import print_last_line, print_table
from varpro_nn import VarProClassifier, load
from varpro_nn.calibration import expected_calibration_error

ALPHAS = (0.005, 0.01, 0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--recipes", nargs="+", default=["default", "bilinear"])
    parser.add_argument("--n-jobs", type=int, default=-1)
    args = parser.parse_args()
    dataset = load(args.data)
    assert dataset.test is not None
    shape = dataset.train.images.shape[1:]
    X, Z = (part.images.reshape(len(part.images), -1) for part in (dataset.train, dataset.test))
    z = dataset.test.labels
    rows: list[dict[str, Any]] = []
    for recipe in args.recipes:
        classifier = VarProClassifier(
            recipe=recipe, image_shape=shape, random_state=0, n_jobs=args.n_jobs
        ).fit(X, dataset.train.labels)
        shares = classifier.predict_proba(Z)
        plain = replace(classifier.network_, temperature=None).predict_proba(dataset.test.images)
        row = {
            "recipe": recipe,
            "test_accuracy": float((shares.argmax(axis=1) == z).mean()),
            "temperature": classifier.network_.temperature,
            "calibration_error": expected_calibration_error(shares, z),
            "calibration_error_without": expected_calibration_error(plain, z),
            "calibration_error_left_out": classifier.calibration_error_,
            "sets": [],
        }
        for alpha in ALPHAS:
            sets = classifier.predict_set(Z, alpha=alpha)
            missed = float(1 - sets[np.arange(len(z)), z].mean())
            size = float(sets.sum(axis=1).mean())
            row["sets"].append({"alpha": alpha, "missed": missed, "mean_size": size})
        rows.append(row)
    cells = [
        {
            "recipe": row["recipe"],
            "test accuracy": f"{row['test_accuracy']:.4f}",
            "calibration error": f"{row['calibration_error']:.4f}",
            "without temperature": f"{row['calibration_error_without']:.4f}",
            "as estimated in training": f"{row['calibration_error_left_out']:.4f}",
            **{
                f"missed, labels in a set, alpha {s['alpha']:g}": f"{s['missed']:.4f}, "
                f"{s['mean_size']:.3f}"
                for s in row["sets"]
            },
        }
        for row in rows
    ]
    print_table(cells, f"Probabilities and label sets, {len(z):,} test images of {dataset.name}")
    print_last_line({"rows": rows})


if __name__ == "__main__":
    main()
