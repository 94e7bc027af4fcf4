"""The experiments keep the contract of their last line, at a size that takes seconds."""

import json
import sys

import numpy as np
import pytest

from experiments import (
    accuracy_table,
    bench_features,
    bench_subnetwork,
    glue_memory,
    linear_classifiers,
    matrix_equality,
    time_to_accuracy,
)
from varpro_nn import load
from varpro_nn.errors import DatasetError
from varpro_nn.units import ACTIVATIONS
from varpro_nn.units.patches import PatchUnits


@pytest.fixture(autouse=True)
def mnist():
    try:
        load("mnist", progress=False)
    except DatasetError as error:
        pytest.skip(f"MNIST cannot be had: {error}")


def last_line(module, arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["experiment", *arguments])
    module.main()
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_bench_subnetwork(monkeypatch, capsys):
    small = ["--n-images", "150", "--n-units", "4", "--max-nfev", "4"]
    result = last_line(bench_subnetwork, small, monkeypatch, capsys)
    paths = {"default", "full", "reduced", "dense_lsmr", "exact", "minpack", "joint"}
    assert set(result["seconds_per_iteration"]) == set(result["cost"]) == paths
    assert result["ratio_minpack_to_default"] > 0
    # The capped solves are the same method on three forms of one problem.
    assert result["cost"]["reduced"] == pytest.approx(result["cost"]["dense_lsmr"], rel=0.01)
    assert result["cost"]["default"] == pytest.approx(result["cost"]["dense_lsmr"], rel=0.01)


def test_glue_memory(monkeypatch, capsys):
    small = ["--images", "400", "800", "--n-units", "40", "--n-jobs", "1"]
    result = last_line(glue_memory, small, monkeypatch, capsys)
    assert [row["n_images"] for row in result["rows"]] == [400, 800]
    assert result["ratio"] == result["rows"][1]["peak_mib"] / result["rows"][0]["peak_mib"]


def torch_networks():
    """Import the networks; a test that asks for them is left out where PyTorch is missing."""
    pytest.importorskip("torch")
    from experiments import torch_networks

    return torch_networks


def test_networks_have_the_parameters_that_they_are_said_to_have():
    networks = torch_networks()
    counts = {name: networks.n_parameters(make()) for name, make in networks.NETWORKS.items()}
    assert counts == {
        "LeNet-5": 61_706,
        "MLP-800": 636_010,
        "patches-logistic": 3_370,
        "patches-rectifier": 3_370,
        "CNN-3": 66_570,
    }
    listed = {name for names in time_to_accuracy.NETWORKS.values() for name in names}
    assert listed == set(counts)


@pytest.mark.parametrize("activation", ["logistic", "rectifier"])
def test_patch_network_has_the_features_of_the_patch_units(activation):
    networks = torch_networks()
    import torch

    function = {"logistic": torch.nn.Sigmoid, "rectifier": torch.nn.ReLU}[activation]()
    layers = networks.patch_units(function)
    units = PatchUnits("dense", (28, 28), 16, window=7, grid=4, activation=activation)
    W = np.random.default_rng(0).standard_normal((16, 50)).astype(np.float32)
    images = load("mnist").test.images[:5]
    with torch.no_grad():
        layers[0].weight.copy_(torch.tensor(W[:, :-1].reshape(16, 1, 7, 7)))
        layers[0].bias.copy_(torch.tensor(W[:, -1]))
        pooled = torch.nn.Sequential(*layers)(torch.tensor(images[:, None] / np.float32(255)))
    theirs = pooled.numpy().swapaxes(1, 2).reshape(5, -1)
    np.testing.assert_allclose(theirs, units.features(W, images), rtol=1e-5, atol=1e-5)


def test_networks_are_measured_at_the_epochs_asked_for():
    networks = torch_networks()
    from varpro_nn.datasets import Dataset

    mnist = load("mnist")
    part = mnist.train.take(slice(300))
    small = Dataset("small", mnist.classes, part, mnist.test.take(slice(1100)))
    first, last = networks.train("LeNet-5", small, [1, 3])
    assert (first["epochs"], last["epochs"]) == (1, 3)
    assert 0 < first["training_cpu_seconds"] < last["training_cpu_seconds"]
    (alone,) = networks.train("LeNet-5", small, [3])
    assert alone["test_accuracy"] == last["test_accuracy"]


def test_rows_in_the_file_are_not_run_again(monkeypatch, capsys, tmp_path):
    commands = []

    def child(command, threads):
        commands.append(command)
        epochs = [1, 3] if command[0] == "experiments.torch_networks" else [None]
        metrics = dict.fromkeys(time_to_accuracy.METRICS, 0.5) | {"n_parameters": 1000}
        return [json.dumps(metrics | {"epochs": n, "threads": threads}) for n in epochs]

    def table(*names):
        arguments = ["mnist", "--output", str(tmp_path / "rows.jsonl"), "--epochs", "1", "3"]
        monkeypatch.setattr(sys, "argv", ["experiment", *arguments, "--only", *names])
        time_to_accuracy.main()
        return capsys.readouterr().out.splitlines()

    monkeypatch.setattr(time_to_accuracy, "child", child)
    monkeypatch.setattr(time_to_accuracy, "torch_version", lambda: "2.0")
    first = table("default", "default-untrained", "LeNet-5")
    assert [line.split("|")[1].strip() for line in first[2:]] == [
        "default", "default-untrained", "LeNet-5, 1 epoch", "LeNet-5, 3 epochs",
    ]  # fmt: skip
    assert [command[0].split(".")[0] for command in commands] == ["varpro_nn"] * 2 + ["experiments"]
    assert ["--max-nfev" in command for command in commands] == [False, True, False]
    assert table("default", "default-untrained", "LeNet-5") == first
    assert len(commands) == 3
    table("LeNet-5", "MLP-800")
    assert [command[1] for command in commands[3:]] == ["MLP-800"]
    monkeypatch.setattr(time_to_accuracy, "torch_version", lambda: "2.1")
    table("default", "LeNet-5")
    assert [command[1] for command in commands[4:]] == ["LeNet-5"]


def test_figure_of_time_to_accuracy(tmp_path):
    pytest.importorskip("matplotlib")
    metrics = dict.fromkeys(time_to_accuracy.METRICS, 0.9) | {"n_parameters": 1000}
    rows = time_to_accuracy.rows("mnist", [1, 3], 0)
    time_to_accuracy.draw([(row, metrics) for row in rows], "title", tmp_path / "a.svg")
    assert "<svg" in (tmp_path / "a.svg").read_text(encoding="utf-8")


def test_bench_features(monkeypatch, capsys):
    small = ["--n-images", "64", "--n-units", "3"]
    result = last_line(bench_features, small, monkeypatch, capsys)
    assert set(result["activations"]) == set(ACTIVATIONS)
    for row in result["activations"].values():
        assert row["ratio"] == row["features"] / row["products"]


def test_accuracy_table_takes_rows_from_the_file(tmp_path, monkeypatch, capsys):
    """Five seeds of trained and untrained units, their means, and nothing run twice."""
    small = {"recipe": "tiny", "n_units": 2, "n_subnetworks": 1, "n_train": 600, "max_nfev": 1}
    monkeypatch.setitem(accuracy_table.ROWS, "mnist", {"tiny": small | {"n_copies": 0, "shift": 0}})
    file = tmp_path / "rows.jsonl"
    arguments = ["experiment", "mnist", "--output", str(file), "--n-jobs", "1"]
    monkeypatch.setattr(sys, "argv", arguments)
    accuracy_table.main()
    printed = capsys.readouterr().out
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    trained = [r["result"] for r in rows if r["result"]["scheme"] == "independent"]
    assert len(rows) == 10
    assert len(trained) == 5
    assert f"{np.mean([m['test_accuracy'] for m in trained]):.4f} ±" in printed
    accuracy_table.main()
    assert capsys.readouterr().out == printed
    assert len(file.read_text(encoding="utf-8").splitlines()) == 10


def test_matrix_equality(tmp_path, monkeypatch, capsys):
    """Both forms give the same outputs; rows in the file are not measured again."""
    file = tmp_path / "rows.jsonl"
    small = ["--quick", "--output", str(file)]
    result = last_line(matrix_equality, small, monkeypatch, capsys)
    at = {(row["form"], row["n_images"], row["n_layers"]): row for row in result["rows"]}
    assert set(at) == {
        ("primal", 1500, 0), ("primal", 1500, 1), ("dual", 400, 0), ("primal", 400, 0),
        *(("dual", 400, k) for k in (1, 2, 4)), *(("primal", 400, k) for k in (1, 2)),
    }  # fmt: skip
    assert at["primal", 400, 0]["largest_difference"] < 1e-10
    assert at["primal", 400, 2]["largest_difference"] < 1e-2
    assert [at["dual", 400, k]["predicted_cheaper"] for k in (1, 2)] == ["primal", "dual"]
    assert at["dual", 400, 2]["n_parameters"] == 2 * 64 * 10 + (512 + 1) * 10
    text = file.read_text(encoding="utf-8")
    again = last_line(matrix_equality, small, monkeypatch, capsys)
    assert again["rows"] == result["rows"]
    assert file.read_text(encoding="utf-8") == text


def test_linear_classifiers_go_on_where_they_stopped(monkeypatch, capsys, tmp_path):
    pytest.importorskip("torch")
    file = tmp_path / "rows.jsonl"
    arguments = ["--quick", "--output", str(file)]
    first = last_line(linear_classifiers, arguments, monkeypatch, capsys)
    assert len(first["rows"]) == 16
    assert {row["n_parameters"] for row in first["rows"]} == {650}
    by_name = {(row["name"], row["centred"]): row["test_accuracy"] for row in first["rows"]}
    for name in ("LinearDiscriminantAnalysis", "fit_linear softmax", "RidgeClassifierCV"):
        assert by_name[name, False] == pytest.approx(by_name[name, True], abs=0.01)
        assert by_name[name, False] > 0.8
    written = file.read_text(encoding="utf-8")
    assert last_line(linear_classifiers, arguments, monkeypatch, capsys) == first
    assert file.read_text(encoding="utf-8") == written
