"""The methods that ``experiments.field.own_data`` compares, each trained in a separate process.

``python -m experiments.field.own_methods METHOD SOURCE NAME`` loads a data set, splits it, trains
one method on the training images, labels the test images and prints one JSON line.

* A recipe of this package, and ``NAME-untrained``: the same units as they were drawn, with the same
  output layer. CPU seconds include the contest of ``auto``. The package never sees the test images.
* Estimators of scikit-learn. Cross-validation with three stratified folds chooses the settings of
  a grid, on at most 2,000 stratified training images, for a larger support vector machine would
  take hours. Pixels are standardised for logistic regression, ridge regression and the
  perceptron. The others get intensities from 0 to 1. Histogram boosting has 40 iterations
  instead of 100: a tree for every class and thousands of columns are slow.
* ``CNN`` and ``CNN-shifts``: a small network of PyTorch (:mod:`experiments.field.own_cnn`), without
  data augmentation and with shifts by up to two pixels (one, if a side has less than 28).

Forest and boosting are those of :mod:`experiments.field.peers`. CPU seconds of training are those
of all processes, and include the choice of settings.
"""

import argparse
import contextlib
import importlib
import json
import pickle
import resource
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeClassifierCV
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from experiments.field.accuracy import UNTRAINED
from experiments.field.own_sets import load_split
from experiments.field.peers import peers
from experiments.shared.ledger import settings_of
from varpro_nn import Dataset, TrainConfig, configure, run
from varpro_nn._typing import FloatArray, LabelArray, RealArray
from varpro_nn.data.images import intensities
from varpro_nn.data.imageset import held_out
from varpro_nn.training.contest import contest, shortened
from varpro_nn.training.contest_results import Contest
from varpro_nn.training.metrics import ByClass, accuracy
from varpro_nn.training.resources import Clock

N_FOLDS = 3
N_CHOICE = 2000
"""Images that cross-validation uses at most."""
FACTORS = (0.25, 1.0, 4.0)
"""Scales of the support vector machine, in multiples of scikit-learn's ``gamma="scale"``."""
SUFFIX = "-untrained"
AUTO = "auto"
"""The recipe that chooses its settings by measuring."""


@dataclass(frozen=True, slots=True)
class Method:
    """An estimator of scikit-learn and the settings to choose from.

    Attributes
    ----------
    make : callable
        Gives the estimator for a seed.
    grid : dict
        Values of settings by name; empty if there is nothing to choose.
    scaled : bool
        Whether ``grid["gamma"]`` has multiples of ``gamma="scale"``.
    """

    make: Callable[[int], Any]
    grid: dict[str, list[Any]]
    scaled: bool = False

    def settings(self) -> dict[str, Any]:
        """All that its results depend on, but for data and seed."""
        grid = {name: [str(value) for value in values] for name, values in self.grid.items()}
        return {"made": repr(self.make(0)), "grid": grid, "folds": N_FOLDS, "n_choice": N_CHOICE}


LIBRARY: dict[str, Method] = {
    "logistic regression": Method(
        lambda seed: make_pipeline(StandardScaler(), LogisticRegression(max_iter=200)),
        {"logisticregression__C": [0.001, 0.01, 0.1, 1.0]},
    ),
    "SVM": Method(
        lambda seed: SVC(random_state=seed),
        {"C": [1.0, 10.0, 100.0], "gamma": list(FACTORS)},
        scaled=True,
    ),
    "random forest": Method(peers("mnist")["RandomForest-100"].make, {}),
    "perceptron": Method(
        lambda seed: make_pipeline(StandardScaler(), MLPClassifier(random_state=seed)), {}
    ),
    "ridge": Method(
        lambda seed: make_pipeline(
            StandardScaler(), RidgeClassifierCV(alphas=np.logspace(-1, 5, 7))
        ),
        {},
    ),
    "nearest neighbours": Method(
        lambda seed: KNeighborsClassifier(), {"n_neighbors": [1, 3, 5, 10]}
    ),
    "histogram boosting": Method(peers("cifar10")["HistGradientBoosting-40"].make, {}),
}
"""The estimators by the name that the table gives them."""
CNNS = {"CNN": 0, "CNN-shifts": 2}
"""Networks of PyTorch by name, and the largest shift of training images of 28 pixels or more."""


def methods(recipe: str) -> list[str]:
    """Name all methods, in the order of the table."""
    own = dict.fromkeys(name + end for name in (recipe, "default") for end in ("", SUFFIX))
    return [*own, *LIBRARY, *CNNS]


def packages(method: str) -> tuple[str, ...]:
    """Name the packages that a method needs beside those of this project."""
    return ("scikit-learn",) if method in LIBRARY else ("torch",) if method in CNNS else ()


def settings(method: str, dataset: Dataset) -> dict[str, Any]:
    """All that the results of a method depend on, but for data and seed.

    Of ``AUTO`` it is the name alone.
    """
    if method in LIBRARY:
        return LIBRARY[method].settings()
    if method in CNNS:
        own = importlib.import_module("experiments.field.own_cnn")
        lengths = {"epochs": own.EPOCHS, "steps": own.STEPS, "batch": own.BATCH}
        return {"shift": shift_of(method, dataset), **lengths}
    if method.removesuffix(SUFFIX) == AUTO:
        return {"recipe": method}
    return settings_of(configured(method, replace(dataset, test=None), 0))


def shift_of(method: str, dataset: Dataset) -> int:
    """Largest shift in pixels: less for small images, whose objects would leave them."""
    return min(CNNS[method], max(1, min(dataset.image_shape[-2:]) // 14))


def configured(
    method: str, dataset: Dataset, seed: int, found: Contest | None = None
) -> TrainConfig:
    """Take the settings of a recipe or of a contest, or of their untrained units."""
    if found is not None:
        config = found.config
    else:
        config = configure(method.removesuffix(SUFFIX), data=dataset, seed=seed)
    return config.with_options(**UNTRAINED) if method.endswith(SUFFIX) else config


def of_contest(found: Contest, dataset: Dataset) -> dict[str, float]:
    """Compare the accuracy by which a contest chose with one on test images.

    Both networks have the size and the number of training images of the last round. The difference
    estimates how much the contest overstates the winner.
    """
    winner = found.winner
    small = shortened(found.config)
    part = dataset.hold_out(winner.n_images / len(dataset.train), found.config.seed).validation
    assert part is not None  # held out above
    metrics = run(small, replace(dataset, train=part, origin=None), n_jobs=1).metrics
    return {
        "claimed": winner.accuracy,
        "claimed_standard_error": winner.standard_error,
        "on_test_images": metrics["test_accuracy"],
        "on_test_images_standard_error": metrics["test_accuracy_standard_error"],
    }


def measure(method: str, dataset: Dataset, seed: int) -> dict[str, Any]:
    """Train a method and label the test images."""
    assert dataset.test is not None  # of the split
    if method in CNNS:
        importlib.import_module("experiments.field.own_cnn")  # imports take seconds: not counted
    clock, found = Clock(), None
    if method in LIBRARY or method in CNNS:
        model, chosen, n_bytes = _fitted(method, dataset, seed)
        predict: Callable[[Any], LabelArray] = model.predict
        test = _inputs(method, dataset.test.images)
    else:
        known = replace(dataset, test=None)
        if method.removesuffix(SUFFIX) == AUTO:
            found = contest(known, seed=seed, n_jobs=1)
        predict, chosen, n_bytes = _trained(configured(method, known, seed, found), known)
        test = dataset.test.images
    trained_after = clock.read()[1]
    start = time.process_time()
    predicted = predict(test)
    labelled_after = time.process_time() - start
    labels, k = dataset.test.labels, len(dataset.classes)
    by_class = ByClass.of(predicted, labels, k)
    return {
        "n_train": len(dataset.train),
        "n_test": len(labels),
        "accuracy": accuracy(predicted, labels),
        "balanced_accuracy": by_class.balanced_accuracy,
        "balanced_accuracy_standard_error": error_of_mean_recall(by_class.recall, labels),
        "training_cpu_seconds": trained_after,
        "labelling_cpu_seconds": labelled_after,
        "model_bytes": n_bytes,
        "chosen": chosen,
        **({"contest": of_contest(found, dataset)} if found is not None else {}),
    }


def _trained(
    config: TrainConfig, dataset: Dataset
) -> tuple[Callable[[Any], LabelArray], dict[str, Any], int]:
    network = run(config, dataset, n_jobs=1).network
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "model.npz"
        network.save(file)
        n_bytes = file.stat().st_size
    return network.predict_codes, config.options(), n_bytes


def _fitted(method: str, dataset: Dataset, seed: int) -> tuple[Any, dict[str, Any] | None, int]:
    X, labels = _inputs(method, dataset.train.images), dataset.train.labels
    if method in CNNS:
        own = importlib.import_module("experiments.field.own_cnn")
        network = own.SmallCNN(shift_of(method, dataset), seed)
        return network.fit(X, labels), None, network.n_bytes()
    known = LIBRARY[method]
    model, chosen = known.make(seed), None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the iterations are the setting
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        if known.grid:
            chosen = choose(known, X, labels, seed)
            model.set_params(**chosen)
        model.fit(X, labels)
    return model, chosen, len(pickle.dumps(model))


def choose(method: Method, X: RealArray, labels: LabelArray, seed: int) -> dict[str, Any]:
    """Choose the settings by cross-validation."""
    if len(labels) > N_CHOICE:
        mask = held_out(labels, int(labels.max()) + 1, N_CHOICE / len(labels), seed)
        X, labels = X[mask], labels[mask]
    grid = dict(method.grid)
    if method.scaled:
        grid["gamma"] = [factor / (X.shape[1] * float(X.var())) for factor in grid["gamma"]]
    folds = StratifiedKFold(N_FOLDS, shuffle=True, random_state=seed)
    search = GridSearchCV(method.make(seed), grid, cv=folds, refit=False).fit(X, labels)
    chosen: dict[str, Any] = search.best_params_
    return chosen


def _inputs(method: str, images: Any) -> Any:
    """Intensities: rows of pixels for scikit-learn, images for a network."""
    X = intensities(images[:])
    return X if method in CNNS else X.reshape(len(X), -1)


def error_of_mean_recall(recall: FloatArray, labels: LabelArray) -> float:
    """Binomial standard error of the mean recall of the classes that have images."""
    counts = np.bincount(labels, minlength=len(recall))
    there = counts > 0
    variances = recall[there] * (1 - recall[there]) / counts[there]
    return float(np.sqrt(variances.sum()) / np.count_nonzero(there))


@contextlib.contextmanager
def cpu_limit(seconds: int | None) -> Iterator[None]:
    """Let the system end this process with SIGXCPU after so many more CPU seconds."""
    if seconds is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
    core = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, core[1]))
    end = int(np.ceil(time.process_time())) + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (end, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))
        resource.setrlimit(resource.RLIMIT_CORE, core)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("method")
    parser.add_argument("source")
    parser.add_argument("name")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n-test", type=int)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--data-dir")
    args = parser.parse_args()
    dataset = load_split(
        args.source, args.name, args.seed, data_dir=args.data_dir, n_test=args.n_test
    )
    with cpu_limit(args.limit):
        result = measure(args.method, dataset, args.seed)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
