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
)
from varpro_nn import load
from varpro_nn.errors import DatasetError
from varpro_nn.units import ACTIVATIONS


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
    assert set(result["rows"]) == paths
    cost = {name: row["cost"] for name, row in result["rows"].items()}
    assert result["ratio_minpack_to_default"] > 0
    # The capped solves are the same method on three forms of one problem.
    assert cost["reduced"] == pytest.approx(cost["dense_lsmr"], rel=0.01)
    assert cost["default"] == pytest.approx(cost["dense_lsmr"], rel=0.01)


def test_glue_memory(monkeypatch, capsys):
    small = ["--images", "400", "800", "--n-units", "40", "--n-jobs", "1"]
    result = last_line(glue_memory, small, monkeypatch, capsys)
    assert [row["n_images"] for row in result["rows"]] == [400, 800]
    assert result["ratio"] == result["rows"][1]["peak_mib"] / result["rows"][0]["peak_mib"]


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
