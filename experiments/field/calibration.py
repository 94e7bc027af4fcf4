"""Are probabilities and label sets what they say? Measured on the test images.

``python -m experiments.field.calibration`` fits :class:`varpro_nn.VarProClassifier` to MNIST with a
few recipes. Temperature and label sets come from outputs of training images that the output layer
had not seen; the test images only measure them. Prints expected calibration error (with the
temperature, without, and as it was estimated in training) and, for the share ``alpha`` of labels
that sets may miss, the share that they missed and how many labels a set holds in the mean.
``--output FILE`` keeps each recipe as soon as it is there; ``--quick`` takes digits and ``default``
alone. The last line is JSON.
"""

import argparse
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from experiments.shared.ledger import Ledger, print_last_line, settings_of
from experiments.shared.options import parser
from experiments.shared.tables import print_table
from varpro_nn import VarProClassifier, configure, load
from varpro_nn.data import Dataset
from varpro_nn.output.calibration import error_of_right_probabilities, expected_calibration_error

ALPHAS = (0.005, 0.01, 0.05)


def measure(recipe: str, dataset: Dataset, args: argparse.Namespace) -> dict[str, Any]:
    """Fit a classifier to the training images; what its answers for the test images are worth."""
    assert dataset.test is not None
    shape = dataset.train.images.shape[1:]
    X, Z = (part.images.reshape(len(part.images), -1) for part in (dataset.train, dataset.test))
    z = dataset.test.labels
    # All settings: the estimator knows no name of a data set, and would not mirror CIFAR-10.
    known = VarProClassifier().get_params()
    settings = {
        option: value
        for option, value in configure(recipe, data=dataset).options().items()
        if option in known
    }
    classifier = VarProClassifier(
        **settings, image_shape=shape, random_state=args.seed, n_jobs=args.n_jobs
    ).fit(X, dataset.train.labels)
    proba = classifier.predict_proba(Z)
    plain = replace(classifier.network_, temperature=None).predict_proba(dataset.test.images)
    row = {
        "recipe": recipe,
        "test_accuracy": float((proba.argmax(axis=1) == z).mean()),
        "temperature": classifier.network_.temperature,
        "calibration_error": expected_calibration_error(proba, z),
        "calibration_error_without": expected_calibration_error(plain, z),
        "calibration_error_by_chance": error_of_right_probabilities(proba),
        "calibration_error_left_out": classifier.calibration_error_,
        "sets": [],
    }
    for alpha in ALPHAS:
        sets = classifier.predict_set(Z, alpha=alpha)
        missed = float(1 - sets[np.arange(len(z)), z].mean())
        size = float(sets.sum(axis=1).mean())
        row["sets"].append({"alpha": alpha, "missed": missed, "mean_size": size})
    return row


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--data", default="mnist", help="mnist, or cifar10; digits with --quick")
    options.add_argument("--recipes", nargs="+", default=["default", "bilinear"], metavar="RECIPE")
    args = options.parse_args()
    if args.quick:
        args.data, args.recipes = "digits", ["default"]
    dataset = load(args.data, args.data_dir)
    assert dataset.test is not None
    ledger = Ledger(args.output, data=dataset.digest, alphas=list(ALPHAS))
    rows = []
    for recipe in args.recipes:
        settings = settings_of(configure(recipe, data=dataset, seed=args.seed))
        fit = partial(measure, recipe, dataset, args)
        rows.append(ledger.get(recipe, fit, ("scikit-learn",), config=settings))
    cells = [
        {
            "recipe": row["recipe"],
            "test accuracy": f"{row['test_accuracy']:.4f}",
            "calibration error": f"{row['calibration_error']:.4f}",
            # Rows that were kept by earlier versions have none.
            "exactly right probabilities": f"{row.get('calibration_error_by_chance', np.nan):.4f}",
            "without temperature": f"{row['calibration_error_without']:.4f}",
            "as estimated in training": f"{row['calibration_error_left_out']:.4f}",
            **{
                f"alpha {s['alpha']:g}: missed, labels": f"{s['missed']:.4f}, {s['mean_size']:.3f}"
                for s in row["sets"]
            },
        }
        for row in rows
    ]
    title = f"Probabilities and label sets, {len(dataset.test):,} test images of {dataset.name}"
    note = (
        "Expected calibration error: the mean gap between how sure an answer is and how often it "
        "is right. alpha: the share of true labels that sets may miss; then the share that they "
        "missed, and the mean number of labels in a set."
    )
    print_table(cells, title, note)
    print_last_line({"rows": rows}, ["scikit-learn"])


if __name__ == "__main__":
    main()
