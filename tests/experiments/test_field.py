import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import RidgeClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC

from experiments import field, field_figure, ledger
from experiments.field_peers import ExtremeLearningMachine, Peer, measure, n_parameters, peers
from varpro_nn import configure, load
from varpro_nn.data.images import intensities
from varpro_nn.units.patches import PatchUnits


@pytest.fixture(autouse=True)
def nothing_handed_out(monkeypatch):
    monkeypatch.setattr(ledger, "_handed_out", [])


@pytest.fixture(scope="module")
def digits():
    return load("digits", progress=False)


@pytest.fixture
def networks():
    """Import the networks; a test that asks for them is left out where PyTorch is missing."""
    pytest.importorskip("torch")
    from experiments import torch_networks

    return torch_networks


def slice_of(dataset, n_train, n_test):
    """Take its first images."""
    train, test = dataset.train.take(slice(n_train)), dataset.test.take(slice(n_test))
    return replace(dataset, train=train, test=test)


def rows_of(dataset):
    return intensities(dataset.train.images).reshape(len(dataset.train), -1), dataset.train.labels


# The networks of PyTorch


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((1, 28, 28), {"LeNet-5": 61_706, "MLP-800": 636_010, "patches-logistic": 3_370,
                       "CNN-5": 1_026}),
        ((3, 32, 32), {"LeNet-5": 62_006, "MLP-800": 2_466_410, "patches-logistic": 3_838,
                       "CNN-3": 66_570, "CNN-5": 1_482}),
        ((1, 8, 8), {"MLP-800": 60_010, "patches-logistic": 1_610}),
    ],
)  # fmt: skip
def test_networks_have_the_parameters_that_they_are_said_to_have(networks, shape, expected):
    import torch

    for name, count in expected.items():
        network = networks.NETWORKS[name](shape)
        assert networks.n_parameters(network) == count, name
        assert network(torch.zeros(2, *shape)).shape == (2, 10)


def test_networks_of_the_table_are_there(networks):
    for by_dataset in (field.BY_ADAM, field.BY_LM):
        assert {name for names in by_dataset.values() for name in names} <= set(networks.NETWORKS)


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 8, 8)])
def test_patch_network_has_the_features_of_the_recipe(networks, shape):
    import torch

    config = configure("tiny", data="mnist" if shape[1] > 8 else "digits")
    network = networks.patches(shape)
    units = PatchUnits(
        "dense", shape[1:], config.n_units,
        window=config.window, grid=config.grid, activation=config.activation,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    W = rng.standard_normal((config.n_units, config.window**2 + 1)).astype(np.float32)
    images = rng.integers(0, 256, (5, *shape[1:]), dtype=np.uint8)
    with torch.no_grad():
        weight = network[0].weight
        weight.copy_(torch.tensor(W[:, :-1]).reshape(weight.shape))
        network[0].bias.copy_(torch.tensor(W[:, -1]))
        pooled = network[:4](torch.tensor(intensities(images)[:, None]))
    theirs = pooled.numpy().swapaxes(1, 2).reshape(5, -1)
    np.testing.assert_allclose(theirs, units.features(W, images), rtol=1e-5, atol=1e-5)


def test_networks_are_measured_at_the_epochs_asked_for(networks, digits):
    small = slice_of(digits, 300, 200)
    first, last = networks.train("MLP-800", small, [1, 3])
    assert (first["epochs"], last["epochs"]) == (1, 3)
    assert 0 < first["training_cpu_seconds"] < last["training_cpu_seconds"]
    assert first["n_parameters"] == 60_010
    (alone,) = networks.train("MLP-800", small, [3])
    assert alone["test_accuracy"] == last["test_accuracy"]
    (other,) = networks.train("MLP-800", small, [3], seed=1)
    assert other["test_accuracy"] != last["test_accuracy"]


def test_training_that_ends_by_itself_is_told_as_it_then_is(networks, digits, monkeypatch):
    """The second step of the second epoch is the last one."""
    steps = []

    def optimiser(network, learning_rate):
        return lambda x, y: steps.append(len(x)) or len(steps) == 5

    monkeypatch.setitem(networks.OPTIMISERS, "adam", optimiser)
    results = list(networks.train("MLP-800", slice_of(digits, 300, 200), [1, 3, 4], batch=100))
    assert steps == [100] * 5
    assert [result["ended_after_steps"] for result in results] == [None, 5, 5]
    assert results[1]["test_accuracy"] == results[2]["test_accuracy"]


@pytest.mark.filterwarnings("ignore")  # of what the package imports
def test_levenberg_and_marquardt(networks, digits):
    pytest.importorskip("torch_levenberg_marquardt")
    small = slice_of(digits, 200, 100)
    of_lm = {"optimiser": "lm", "batch": 200, "learning_rate": 0.5}
    first, last = networks.train("patches-logistic", small, [1, 8], **of_lm)
    assert last["test_accuracy"] > max(0.5, first["test_accuracy"])
    assert last["n_parameters"] == 1_610


# The estimators of libraries


def test_parameters_are_all_that_is_stored(digits):
    X, labels = rows_of(slice_of(digits, 200, 100))
    perceptron = MLPClassifier((7,), max_iter=2)
    with pytest.warns(UserWarning, match="converge"):
        perceptron.fit(X, labels)
    assert n_parameters(perceptron) == 65 * 7 + 8 * 10
    kernel = make_pipeline(Nystroem(n_components=20), RidgeClassifier()).fit(X, labels)
    assert n_parameters(kernel) == 20 * 64 + 20 * 20 + 20 * 10 + 10
    machine = SVC().fit(X, labels)
    assert n_parameters(machine) == int(machine.n_support_.sum()) * (64 + 9) + 45


def test_parameters_of_trees(digits):
    X, labels = rows_of(slice_of(digits, 200, 100))
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
def test_images_held_out_choose(digits, n_train, n_choice, fitted_on, held_out):
    Recorder.calls.clear()
    grid = [{"n": 1}, {"n": 5}]
    peer = Peer(
        lambda seed, n: Recorder(n, random_state=seed), grid, n_train=n_train, n_choice=n_choice
    )
    small = slice_of(digits, 300, 100)
    result = measure(peer, small)
    assert Recorder.calls == [
        ("fit", 1, fitted_on), ("predict", 1, held_out),
        ("fit", 5, fitted_on), ("predict", 5, held_out),
        ("fit", 5, n_train or 300), ("predict", 5, 100),
    ]  # fmt: skip
    assert result["chosen"] == {"n": 5}
    assert min(result["choice_cpu_seconds"], result["training_cpu_seconds"]) > 0


def test_each_peer_is_kept_under_its_settings():
    for dataset in (*field.DATA, "digits"):
        settings = {name: json.dumps(peer.settings()) for name, peer in peers(dataset).items()}
        assert len(set(settings.values())) == len(settings)
    assert json.loads(settings["SVC"])["made"][1] == "SVC(C=5, random_state=0)"
    assert "max_iter=40" in str(peers("cifar10")["HistGradientBoosting-40"].settings())


# The table


def table(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["experiment", *arguments])
    field.main()
    return capsys.readouterr().out.splitlines()


def test_rows_in_the_file_are_not_run_again(monkeypatch, capsys, tmp_path):
    commands = []

    def child(command):
        commands.append(command)
        seed = int(command[command.index("--seed") + 1])
        result = {"n_parameters": 1000, "test_accuracy": 0.9 + 0.01 * seed,
                  "training_cpu_seconds": 2.0, "labelling_cpu_seconds": 0.1}  # fmt: skip
        n_epochs = len(command) - command.index("--epochs") - 1 if "--epochs" in command else 1
        return [json.dumps(result)] * n_epochs

    monkeypatch.setattr(field, "child", child)
    monkeypatch.setattr(field, "child_lines", child)
    monkeypatch.setattr(field.Network, "load", lambda folder: None)
    monkeypatch.setattr(field, "labelling", lambda network, dataset: 0.2)
    monkeypatch.setattr(field, "installed", lambda found: found)
    monkeypatch.setattr(ledger.importlib.metadata, "version", lambda name: "1.0")
    file = tmp_path / "rows.jsonl"
    options = ["--quick", "--output", str(file), "--repeats", "2", "--only"]
    names = ["tiny", "tiny-untrained", "SVC", "MLP-800"]
    first = table(monkeypatch, capsys, *options, *names)
    assert [line.split("|")[1].strip() for line in first[5:-1]] == [
        "tiny", "tiny-untrained", "SVC",
        "MLP-800, 1 epoch", "MLP-800, 3 epochs", "MLP-800, 10 epochs",
    ]  # fmt: skip
    assert "| 1,000 | 0.9000 / 0.9100 | 0.9050 ± 0.0177 | 2 / 2 |" in first[5]
    assert [command[0].split(".")[1] for command in commands] == [
        "train", "train", "field_peers", "torch_networks",
    ] * 2  # fmt: skip
    assert ["untrained" in command for command in commands[:3]] == [False, True, False]
    assert commands[3][-4:] == ["--epochs", "1", "3", "10"]
    rows = json.loads(first[-1])["rows"]
    assert all(len(row["repetitions"]) == 2 for row in rows)
    assert len(file.read_text(encoding="utf-8").splitlines()) == 12
    assert table(monkeypatch, capsys, *options, *names)[:-1] == first[:-1]
    assert len(commands) == 8
    once = ["--quick", "--output", str(file), "--repeats", "2", "--once", "SVC", "--only", *names]
    printed = table(monkeypatch, capsys, *once)
    assert "**digits, one thread, seeds 0, 1 (SVC: 0)**" in printed
    rows = json.loads(printed[-1])["rows"]
    assert [len(row["repetitions"]) for row in rows] == [2, 2, 1, 2, 2, 2]
    assert len(commands) == 8
    # A row with an epoch that is missing is trained for that one alone.
    monkeypatch.setattr(field, "EPOCHS", (1, 5))
    table(monkeypatch, capsys, *options, "MLP-800")
    assert [command[-2:] for command in commands[8:]] == [["--epochs", "5"]] * 2


def test_rows_of_missing_packages_are_left_out(capsys):
    found = [
        field.Entrant("a", field_figure.TRAINED, (), {}),
        field.Entrant("b", field_figure.LM, (), {}, ("scikit-learn", "no-such", "nor-this")),
        field.Entrant("c", field_figure.LM, (), {}, ("no-such",)),
    ]
    assert [entrant.name for entrant in field.installed(found)] == ["a"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "left out: b, c (no-such): pip install -e '.[experiments]'"
    assert field.installed(found[:1]) == found[:1]
    assert not capsys.readouterr().err


@pytest.mark.parametrize("dataset", field.DATA)
def test_entrants(dataset):
    found = field.entrants(dataset)
    assert len({entrant.name for entrant in found}) == len(found)
    assert {entrant.kind for entrant in found} == set(field_figure.STYLES)
    by_name = {entrant.name: entrant for entrant in found}
    tiny = configure("tiny", data=dataset)
    windows = [tiny.n_units, tiny.window, tiny.grid]
    for name in ("patches-logistic", "patches-logistic-LM"):
        assert by_name[name].settings["units"] == windows
    assert "units" not in by_name["LeNet-5"].settings
    for name in ("tiny", "default", "accurate", "bilinear"):
        trained, drawn = by_name[name], by_name[f"{name}-untrained"]
        different = {key for key, v in trained.settings.items() if drawn.settings[key] != v}
        assert {"scheme"} <= different <= {"scheme", "n_stages"}
        assert drawn.command[4:] == ("--scheme", "untrained", "--n-stages", "1")


def test_quick_run(monkeypatch, capsys):
    """Real processes: the same images, and a network with as many parameters."""
    names = ["tiny-untrained", "SVC"]
    lines = table(monkeypatch, capsys, "--quick", "--only", *names)
    last = json.loads(lines[-1])
    assert [row["entrant"] for row in last["rows"]] == names
    for row in last["rows"]:
        (result,) = row["repetitions"]
        assert 0.85 < result["test_accuracy"] < 1
        assert result["training_cpu_seconds"] > 0
        assert result["labelling_cpu_seconds"] > 0
    drawn, machine = (row["repetitions"][0] for row in last["rows"])
    assert drawn["n_parameters"] == 1_610
    assert (machine["n_parameters"] - 45) % (64 + 9) == 0


def test_figure(tmp_path):
    pytest.importorskip("matplotlib")
    results = [{"n_parameters": 1000 * k, "test_accuracy": 0.9, "training_cpu_seconds": 2.0 + k}
               for k in (1, 3)]  # fmt: skip
    rows = [
        {"entrant": entrant.name, "kind": entrant.kind, "repetitions": results}
        for entrant in field.entrants("mnist")
        for _ in entrant.epochs or (None,)
    ]
    points = field.points(rows)
    assert points[0][1:] == (field.entrants("mnist")[0].kind, 4.0, 2000.0, pytest.approx(10))
    field_figure.draw(points, "title", tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert "<svg" in text
    for kind in field_figure.STYLES:
        assert kind in text
