import json

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import RidgeClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC

from experiments.field.peers import ExtremeLearningMachine, Peer, measure, n_parameters, peers
from experiments.field.table import DATA
from varpro_nn.data.images import intensities


def rows_of(dataset):
    return intensities(dataset.train.images).reshape(len(dataset.train), -1), dataset.train.labels


def test_parameters_are_all_that_is_stored(first_digits):
    X, labels = rows_of(first_digits(200, 100))
    perceptron = MLPClassifier((7,), max_iter=2)
    with pytest.warns(UserWarning, match="converge"):
        perceptron.fit(X, labels)
    assert n_parameters(perceptron) == 65 * 7 + 8 * 10
    kernel = make_pipeline(Nystroem(n_components=20), RidgeClassifier()).fit(X, labels)
    assert n_parameters(kernel) == 20 * 64 + 20 * 20 + 20 * 10 + 10
    machine = SVC().fit(X, labels)
    assert n_parameters(machine) == int(machine.n_support_.sum()) * (64 + 9) + 45


def test_parameters_of_trees(first_digits):
    X, labels = rows_of(first_digits(200, 100))
    forest = RandomForestClassifier(3, random_state=0).fit(X, labels)
    count = 0
    for tree in forest.estimators_:
        for left in tree.tree_.children_left:
            count += 10 if left == -1 else 4
    assert n_parameters(forest) == count
    stumps = HistGradientBoostingClassifier(max_iter=5, max_leaf_nodes=2, early_stopping=False)
    assert n_parameters(stumps.fit(X, labels > 4)) == 5 * (4 + 2) + 1
    assert n_parameters(stumps.fit(X, labels)) == 5 * 10 * (4 + 2) + 10


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_extreme_learning_machine(digits):
    pytest.importorskip("hpelm")
    X, labels = rows_of(digits)
    machine = ExtremeLearningMachine(100, 0).fit(X[:1000], labels[:1000])
    assert n_parameters(machine) == 65 * 100 + 100 * 10
    assert np.mean(machine.predict(X[1000:]) == labels[1000:]) > 0.8
    again = ExtremeLearningMachine(100, 0).fit(X[:1000], labels[:1000])
    np.testing.assert_array_equal(again.predict(X), machine.predict(X))


class Recorder(RandomForestClassifier):
    """Is wrong on purpose with one tree; keeps how many images it has been given."""

    calls: list = []  # noqa: RUF012, shared on purpose

    def fit(self, X, y):
        self.calls.append(("fit", self.n_estimators, len(X)))
        return super().fit(X, y)

    def predict(self, X):
        self.calls.append(("predict", self.n_estimators, len(X)))
        return super().predict(X) if self.n_estimators > 1 else np.zeros(len(X), dtype=int)


@pytest.mark.parametrize(
    ("n_train", "n_choice", "fitted_on", "held_out"),
    [(None, None, 240, 60), (None, 100, 100, 60), (200, None, 160, 40), (200, 500, 160, 40)],
)
def test_images_held_out_choose(first_digits, n_train, n_choice, fitted_on, held_out):
    Recorder.calls.clear()
    grid = [{"n": 1}, {"n": 5}]
    peer = Peer(
        lambda seed, n: Recorder(n, random_state=seed), grid, n_train=n_train, n_choice=n_choice
    )
    small = first_digits(300, 100)
    result = measure(peer, small)
    assert Recorder.calls == [
        ("fit", 1, fitted_on), ("predict", 1, held_out),
        ("fit", 5, fitted_on), ("predict", 5, held_out),
        ("fit", 5, n_train or 300), ("predict", 5, 100),
    ]  # fmt: skip
    assert result["chosen"] == {"n": 5}
    assert min(result["choice_cpu_seconds"], result["training_cpu_seconds"]) > 0


def test_each_peer_is_kept_under_its_settings():
    for dataset in (*DATA, "digits"):
        settings = {name: json.dumps(peer.settings()) for name, peer in peers(dataset).items()}
        assert len(set(settings.values())) == len(settings)
    assert json.loads(settings["SVC"])["made"][1] == "SVC(C=5, random_state=0)"
    assert "max_iter=40" in str(peers("cifar10")["HistGradientBoosting-40"].settings())
