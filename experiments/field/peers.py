"""Estimators of scikit-learn, and hpelm's extreme learning machine, to compare with.

``python -m experiments.field.peers NAME DATASET`` trains one of them on all training images (or as
many first ones as it says) in this process, labels the test images and prints one JSON line. It
is a child process of ``experiments.field.table``.

Settings are the libraries' own, untuned, but for what :func:`peers` names: batches of 256 and ten
epochs of the perceptrons, and a grid, of which the
last 10,000 training images choose (the last fifth where there are fewer than 50,000). The CPU
seconds of that choice are counted apart from those of the training with the chosen settings. Images
are intensities from 0 to 1, one row each.

All that the fitted model stores to label an image counts as a parameter, folded or pruned or not,
as it does for this project; see :func:`n_parameters`. Loading
the data is in no figure. Numbers of epochs, trees, columns and neurons were set for their cost, not
by accuracy.
"""

import argparse
import contextlib
import importlib
import json
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import RidgeClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.svm import SVC

from varpro_nn import load
from varpro_nn._typing import LabelArray, RealArray
from varpro_nn.data import Dataset
from varpro_nn.data.images import intensities, one_hot
from varpro_nn.training.metrics import accuracy

N_HELD_OUT = 10_000


class ExtremeLearningMachine:
    """``hpelm.ELM`` with random sigmoid neurons: a least-squares layer on them, as it comes."""

    def __init__(self, n_neurons: int, random_state: int) -> None:
        self.n_neurons, self.random_state = n_neurons, random_state

    def __repr__(self) -> str:
        return f"ELM({self.n_neurons}, 'sigm', random_state={self.random_state})"

    def fit(self, X: RealArray, labels: LabelArray) -> "ExtremeLearningMachine":
        """Draw the neurons and fit the layer."""
        hpelm = importlib.import_module("hpelm")  # an extra of the experiments
        np.random.seed(self.random_state)  # noqa: NPY002, the library draws from there
        n_classes = int(labels.max()) + 1
        self.elm_ = hpelm.ELM(X.shape[1], n_classes)
        self.elm_.add_neurons(self.n_neurons, "sigm")
        self.elm_.train(X, one_hot(labels, n_classes), "c")
        return self

    def predict(self, X: RealArray) -> LabelArray:
        """Label rows."""
        return self.elm_.predict(X).argmax(axis=1)


@dataclass(frozen=True, slots=True)
class Peer:
    """An estimator, and how it is trained.

    Attributes
    ----------
    make : callable
        Gives the estimator for a seed, and for settings of the grid.
    grid : sequence of dict
        Settings to choose from.
    n_train : int or None
        Train on the first so many images; None: on all.
    n_choice : int or None
        Choose by training on the first so many of those that are not held out; None: on all.
    """

    make: Callable[..., Any]
    grid: Sequence[dict[str, Any]] = ({},)
    n_train: int | None = None
    n_choice: int | None = None

    def settings(self) -> dict[str, Any]:
        """All that its results depend on, but for the seed."""
        made = [repr(self.make(0, **choice)) for choice in self.grid]
        return {"made": made, "n_train": self.n_train, "n_choice": self.n_choice}


def peers(dataset: str) -> dict[str, Peer]:
    """All of them for a data set, by name.

    Two are cut down for CIFAR-10, and their names say how: with all images a support vector
    machine would take hours, and a hundred rounds of boosting twenty minutes.
    """
    # The first is the library's choice, 1 over the number of pixels.
    gammas = [{"gamma": gamma} for gamma in (None, 0.001, 0.003, 0.01, 0.03, 0.1)]
    small = dataset == "cifar10"
    return {
        **{
            f"MLPClassifier-{n}": Peer(
                lambda seed, n=n: MLPClassifier(
                    (n,), batch_size=256, max_iter=10, random_state=seed
                )
            )
            for n in (100, 150)
        },
        "Nystroem-1000": Peer(
            lambda seed, gamma: make_pipeline(
                Nystroem(n_components=1000, gamma=gamma, random_state=seed), RidgeClassifier()
            ),
            gammas,
        ),
        "SVC-first-10000" if small else "SVC": Peer(
            lambda seed, C: SVC(C=C, random_state=seed),
            [{"C": 1}, {"C": 5}, {"C": 10}],
            n_train=10_000 if small else None,
            n_choice=10_000,
        ),
        "RandomForest-100": Peer(lambda seed: RandomForestClassifier(random_state=seed)),
        "HistGradientBoosting-40" if small else "HistGradientBoosting-100": Peer(
            lambda seed: HistGradientBoostingClassifier(
                max_iter=40 if small else 100, random_state=seed
            )
        ),
        **{
            f"ELM-{n}": Peer(lambda seed, n=n: ExtremeLearningMachine(n, seed))
            for n in (1000, 5200)
        },
    }


def n_parameters(model: Any) -> int:
    """Count the numbers that must be stored to label an image.

    Networks: all weights. ``Nystroem``: its images, the matrix that normalises them, the linear
    weights. ``SVC``: support vectors, their coefficients, the constants. Trees: four numbers for
    each inner node (feature, threshold, two children); for each leaf its output, one number where
    a tree is of one class, else one a class. Extreme learning machine: random weights too.
    """
    if isinstance(model, MLPClassifier):
        return sum(array.size for array in (*model.coefs_, *model.intercepts_))
    if isinstance(model, Pipeline):
        kernel, linear = model[0], model[1]
        arrays = (kernel.components_, kernel.normalization_, linear.coef_, linear.intercept_)
        return sum(array.size for array in arrays)
    if isinstance(model, SVC):
        return model.support_vectors_.size + model.dual_coef_.size + model.intercept_.size
    if isinstance(model, RandomForestClassifier):
        trees = [tree.tree_ for tree in model.estimators_]
        n_leaves = sum(int(tree.n_leaves) for tree in trees)
        n_nodes = sum(int(tree.node_count) for tree in trees)
        return 4 * (n_nodes - n_leaves) + len(model.classes_) * n_leaves
    if isinstance(model, HistGradientBoostingClassifier):
        # The library has no public way to the nodes.
        leaves = [tree.nodes["is_leaf"] for trees in model._predictors for tree in trees]
        n_leaves = sum(int(own.sum()) for own in leaves)
        n_nodes = sum(len(own) for own in leaves)
        return 4 * (n_nodes - n_leaves) + n_leaves + model._baseline_prediction.size
    neurons = sum(W.size + b.size for _, _, W, b in model.elm_.nnet.get_neurons())
    return neurons + model.elm_.nnet.get_B().size


def measure(peer: Peer, dataset: Dataset, seed: int = 0) -> dict[str, Any]:
    """Choose, train and label; ``chosen`` is None where there was one setting only."""
    assert dataset.test is not None  # the data sets here have one
    X, X_test = (
        intensities(part.images).reshape(len(part), -1) for part in (dataset.train, dataset.test)
    )
    X, labels = X[: peer.n_train], dataset.train.labels[: peer.n_train]
    n_fit = len(X) - min(N_HELD_OUT, len(X) // 5)
    first = slice(min(peer.n_choice or n_fit, n_fit))

    def fitted(rows: slice, choice: dict[str, Any]) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # ten epochs are the setting
            return peer.make(seed, **choice).fit(X[rows], labels[rows])

    clocks = [time.process_time()]
    choice = peer.grid[0]
    if len(peer.grid) > 1:
        shares = [
            accuracy(fitted(first, choice).predict(X[n_fit:]), labels[n_fit:])
            for choice in peer.grid
        ]
        choice = peer.grid[int(np.argmax(shares))]
    clocks.append(time.process_time())
    model = fitted(slice(None), choice)
    clocks.append(time.process_time())
    predicted = model.predict(X_test)
    clocks.append(time.process_time())
    choosing, training, labelling = np.diff(clocks).tolist()
    return {
        "n_parameters": int(n_parameters(model)),
        "test_accuracy": accuracy(predicted, dataset.test.labels),
        "training_cpu_seconds": training,
        "choice_cpu_seconds": choosing if len(peer.grid) > 1 else 0.0,
        "labelling_cpu_seconds": labelling,
        "chosen": choice if len(peer.grid) > 1 else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("dataset")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-dir")
    args = parser.parse_args()
    known = peers(args.dataset)
    if args.name not in known:
        parser.error(f"no {args.name} among {', '.join(known)}")
    dataset = load(args.dataset, args.data_dir)
    with contextlib.redirect_stdout(sys.stderr):  # hpelm prints its warnings
        result = measure(known[args.name], dataset, args.seed)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
