"""The experiments keep the contract of their last line, at a size that takes seconds."""

import json
import sys

import pytest

from experiments import bench_subnetwork, glue_memory
from varpro_nn import load
from varpro_nn.errors import DatasetError


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
