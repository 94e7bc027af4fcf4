import json
import sys

import numpy as np
import pytest

from experiments.claims import paper
from varpro_nn import load, whole_image_units


def test_arrays_of_the_papers_subnetwork():
    told = {array.name: array for array in paper.arrays(2000, 50, 28, 10)}
    assert told["Phi"].n_bytes == 2000 * 51 * 8
    assert told["J"].shape == (20_000, 1450)
    assert told["DPhi"].n_bytes == 2000 * 51 * 1450 * 8
    assert told["compact dPhi"].n_bytes == 2000 * 1450 * 4
    # All but 1 in I + 1 entries of DPhi are zero, and single precision halves the rest.
    assert told["DPhi"].n_bytes == 2 * 51 * told["compact dPhi"].n_bytes


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(0, "0.0 B"), (999, "999.0 B"), (1000, "1.0 kB"), (232e6, "232.0 MB"), (5e15, "5,000.0 TB")],
)
def test_amount(n_bytes, text):
    assert paper.amount(n_bytes) == text


def test_memory_of_an_array():
    told = paper.memory(lambda: np.concatenate([np.ones(50_000), np.ones(50_000)]))
    assert 800_000 <= told["held"] < 810_000
    assert 1_600_000 <= told["peak"] < 1_610_000


def test_measured_memory_holds_the_arrays():
    told = paper.measured_memory(load("digits").train, 200, 5)
    listed = {array.name: array.n_bytes for array in paper.arrays(200, 5, 8, 10)}
    assert told["compact dPhi alone"]["held"] == listed["compact dPhi"]
    assert listed["J"] < told["dense J (as MINPACK takes it)"]["held"]
    assert listed["compact dPhi"] < told["operator (the default)"]["peak"] < listed["J"]
    assert all(m["held"] <= m["peak"] for m in told.values())


def test_a_unit_on_colour_has_as_many_weights_as_the_paper_says():
    assert whole_image_units("quadratic", (3, 32, 32), 5).n_weights == 36
    assert 5200 * whole_image_units("quadratic", (28, 28), 5).n_weights == 150_800


def test_coloured_images_have_three_planes():
    part = load("digits").train
    colour = paper.coloured(part)
    assert colour.images.shape == (len(part), 3, 8, 8)
    np.testing.assert_array_equal(colour.images[:, 0], part.images)
    np.testing.assert_array_equal(colour.labels, part.labels)


def test_quick_run(monkeypatch, capsys, tmp_path):
    file = tmp_path / "rows.jsonl"
    monkeypatch.setattr(sys, "argv", ["paper", "--quick", "--output", str(file)])
    paper.main()
    *table, last = capsys.readouterr().out.splitlines()
    result = json.loads(last)
    assert sum(line.startswith("| paper: ") for line in table) == 11
    assert sum(line.startswith("| here: ") for line in table) == len(result["mnist"]) == 5
    for row in (*result["mnist"][:4], *result["colour"]):
        # What the paper leaves out: a linear weight a unit and class, and the constants.
        assert row["n_parameters"] == row["n_unit_weights"] + (row["n_units"] + 1) * 10
        assert 0.5 < row["test_accuracy"] < 1
        assert ("untrained" in row["name"]) == (row["scheme"] == "untrained")
    assert [("bootstrap" in row) for row in result["colour"]] == [True, False, False, False]
    text = file.read_text(encoding="utf-8")
    paper.main()
    assert file.read_text(encoding="utf-8") == text
