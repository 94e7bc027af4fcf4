import json
import sys

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from experiments.claims import bootstrap as table
from experiments.claims.bootstrap import REFITS, cells, figures, mean, one_pass
from varpro_nn import configure, load, train_network
from varpro_nn.compute.compute import Compute
from varpro_nn.training.plan import streams
from varpro_nn.training.pseudo_labels import bootstrap


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture(scope="module")
def config(digits):
    return configure(
        "paper", data=digits, n_units=80, n_subnetworks=4, images_per_subnetwork=150, max_nfev=2
    )


@pytest.fixture(scope="module")
def network(config, digits):
    train = digits.train
    return train_network(config, train.images, train.labels, digits.classes)[0]


def test_figures_by_hand():
    told = np.array([0, 1, 2, -1, 1])
    drawn = np.array([False, True, False, False, True])
    labels = np.array([0, 1, 1, 2, 0])
    before = np.array([0, 0, 2, 2, 0])
    after = np.array([0, 1, 2, 1, 2])
    assert figures(told, drawn, before, after, labels) == {
        "n_test": 5, "n_told": 4, "n_drawn": 2,
        "agreement": 3 / 4,  # 0, 1, 2 of the four that were told something
        "agreement_where_drawn": 1 / 2,
        "true_guesses": 2 / 4,
        "true_before": 3 / 5, "true_after": 2 / 5,
        "corrected": 1, "spoilt": 2,
    }  # fmt: skip


def test_agreement_takes_no_true_label():
    """With other labels only what is called true changes."""
    rng = np.random.default_rng(0)
    told, before, after, labels, others = rng.integers(0, 3, (5, 50))
    drawn = rng.random(50) < 0.5
    one, two = (figures(told, drawn, before, after, each) for each in (labels, others))
    changed = {key for key in one if one[key] != two[key]}
    assert changed == {"true_guesses", "true_before", "true_after", "corrected", "spoilt"}


def test_a_mean_is_of_the_seeds_that_have_the_figure():
    rows = [{"a": None, "n": 0}, {"a": 0.5, "n": 25}]
    assert mean(rows, "a", "n") == "0.5000 ± 0.1000"
    assert mean(rows[:1], "a", "n") == ""
    assert mean([{"a": 0.4, "n": 9}, {"a": 0.6, "n": 9}], "a", "n") == "0.5000 ± 0.1915"
    assert mean([{"a": 1.0, "n": 9}, {"a": 1.0, "n": 8}], "a", "n") == "1.0000 (all of 9)"
    # Of as many images as each says: 0.09 / 10 and 0.25 / 1000, and the spread.
    unequal = [{"a": 0.1, "n": 10}, {"a": 0.5, "n": 1000}]
    error = np.sqrt((0.009 + 0.00025) / 2 + 0.08 / 2)
    for rows in (unequal, unequal[::-1]):
        assert mean(rows, "a", "n") == f"0.3000 ± {error:.4f}"


def test_one_pass_is_the_pass_of_the_package(network, config, digits):
    row, after = one_pass(network, digits.test, config, "margin", 3)
    done = bootstrap(
        network, digits.test.images, config.subnetworks, Compute(), rule="margin",
        ridge=config.bootstrap.ridge, seed=3,
    )  # fmt: skip
    assert_array_equal(after.W, done.network.W)
    assert row["agreement"] == done.agreement_with_guesses
    assert row["n_drawn"] == done.guesses.ambiguous.sum() > 0
    right = np.mean(network.predict_codes(digits.test.images) == digits.test.labels)
    assert row["true_before"] == right
    gained = (row["corrected"] - row["spoilt"]) / row["n_test"]
    assert row["true_after"] - row["true_before"] == pytest.approx(gained)


def test_refits_leave_the_units_alone(network, config, digits):
    for name in REFITS:
        row, after = one_pass(network, digits.test, config, name, 3)
        assert_array_equal(after.W, network.W)
        assert row["n_drawn"] == (len(digits.test) if name == REFITS[1] else 0)
    assert row["true_guesses"] < 0.2  # one in ten
    assert row["true_after"] < 0.25
    assert row["true_before"] > 0.8
    # Labels that say nothing are learnt by heart, three times as many as by chance at least.
    assert row["agreement"] > 0.3


@pytest.mark.filterwarnings("ignore::varpro_nn.errors.ClassSizeWarning")
def test_a_wide_network_agrees_with_plain_guesses_and_learns_nothing(digits):
    wide = configure(
        "paper", data=digits, n_units=400, n_subnetworks=8, images_per_subnetwork=150, max_nfev=0
    )
    part = digits.train.take(slice(100))
    poor = train_network(wide, part.images, part.labels, digits.classes)[0]
    row, _ = one_pass(poor, digits.test, wide.with_options(bootstrap_ridge=1e-6), REFITS[0], 0)
    assert row["agreement"] == 1
    assert row["true_after"] == row["true_before"] < 0.9


def test_cells_never_call_agreement_accuracy(network, config, digits):
    row, _ = one_pass(network, digits.test, config, "argmax", 3)
    made = cells([row])
    assert made["agreement with the guesses"].startswith(f"{row['agreement']:.4f}")
    assert made["with those drawn"] == ""
    for name, cell in made.items():
        if "accuracy" in name:
            assert name.startswith("true accuracy")
            assert "±" in cell


def without_time(row):
    return {key: value for key, value in row.items() if key != "cpu_seconds"}


def alone(guesses, seed):
    """Run the pass of the quick table by itself."""
    digits = load("digits")
    config = configure("paper", data=digits, n_units=40, n_subnetworks=2, seed=seed, **table.SMALL)
    part = digits.train if config.n_train is None else digits.train.take(slice(config.n_train))
    start = train_network(config, part.images, part.labels, digits.classes)[0]
    row, _ = one_pass(start, digits.test, config, guesses, streams(config)["bootstrap"])
    return without_time(row)


def test_quick_tables(tmp_path, monkeypatch, capsys):
    """Passes are shared by the parts; the first of several is the single one; rows are kept."""
    file = tmp_path / "rows.jsonl"
    monkeypatch.setattr(table, "UNITS", table.UNITS | {"n_units": 10, "n_subnetworks": 1})
    monkeypatch.setitem(table.QUICK, "labelled", 150)
    monkeypatch.setitem(table.SMALL, "max_nfev", 1)
    parts = ["rules", "repeated", "self-training"]
    arguments = ["bootstrap", "--quick", "--output", str(file), "--only", *parts]
    monkeypatch.setattr(sys, "argv", arguments)
    table.main()
    printed = capsys.readouterr().out.splitlines()
    result = json.loads(printed[-1])
    rules = {(each["units"], each["guesses"]): each["rows"] for each in result["rules"]}
    assert len(rules) == 2 * len(table.GUESSES)
    first = {each["guesses"]: each["rows"] for each in result["repeated"] if each["pass"] == "1"}
    assert first == {name: rules["40", name] for name in ("argmax", "margin")}
    for seed, (name, rows) in enumerate(first.items()):
        assert len(rows) == 2
        assert alone(name, seed) == without_time(rows[seed])
    second = {each["guesses"]: each["rows"] for each in result["repeated"] if each["pass"] == "2"}
    for name, rows in second.items():
        assert [r["true_before"] for r in rows] == [r["true_after"] for r in first[name]]
    for (n_units, _), rows in rules.items():
        start = rules[n_units, "argmax"]
        assert [row["true_before"] for row in rows] == [row["true_before"] for row in start]
    for each in rules["80", "argmax"]:
        assert each["true_guesses"] == each["true_before"]
    methods = {each["method"]: each["rows"][0] for each in result["self-training"]}
    assert len(methods) == 6
    for name, row in methods.items():
        sure = methods[name.replace("0.75", "0.95")]
        assert sure["n_told"] <= row["n_told"] <= row["n_test"]
    kept = file.read_text(encoding="utf-8")
    assert len(kept.splitlines()) == 2 * 2 * len(table.GUESSES) + 2 * 2 + 1
    table.main()
    assert capsys.readouterr().out.splitlines()[:-1] == printed[:-1]
    assert file.read_text(encoding="utf-8") == kept
