import json
import sys

import pytest

from experiments import compare
from experiments.all import RESULTS


def lines(path, *rows):
    text = [
        json.dumps(
            {"key": {"entry": name, "seed": seed, "versions": {"numpy": path.name}}, "result": r}
        )
        for name, seed, r in rows
    ]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    return path


def test_seeds_are_paired(tmp_path):
    """Each with its own, and only then with another one."""
    first = compare.entries(
        lines(tmp_path / "a", *(("one", s, s) for s in (0, 1, 2, 3)), ("x", 0, 9))
    )
    second = compare.entries(
        lines(tmp_path / "b", *(("one", s, s) for s in (7, 2, 0)), ("y", 0, 9))
    )
    assert [(a, b) for _, a, b in compare.pairs(first, second)] == [(0, 0), (2, 2), (1, 7)]


def test_shares_have_other_names_too():
    """And what is no share of images held back is none, whatever its name ends with."""
    first = {"one C": {"held out": 0.9, "training": 0.5}, "true_after": 0.8, "grid": [0.5]}
    second = {"one C": {"held out": 0.91, "training": 0.6}, "true_after": 0.8, "grid": [0.6]}
    first |= {"cpu_seconds_test": 0.2, "train_accuracy": 0.9}
    second |= {"cpu_seconds_test": 0.3, "train_accuracy": 0.8}
    found = {name: (d, r) for name, d, r in compare.compare(first, second, 10_000)}
    assert set(found) == {"one C.held out", "true_after", "cpu_seconds_test"}
    assert found["true_after"][0] == 0
    assert found["one C.held out"][0] > 2
    assert found["cpu_seconds_test"][1] == pytest.approx(1.5)


OTHERS = {
    "train_accuracy", "training_accuracy", "split_accuracy", "linear_layer_loo_accuracy",
    "test_accuracy_standard_error", "agreement_where_drawn", "n_test", "cpu_seconds_test",
    "test_calibration_error", "balanced_accuracy", "balanced_accuracy_standard_error",
    "test_balanced_accuracy", "test_macro_f1", "test_calibration_error_by_chance",
    "contest_cpu_seconds",
    "on_test_images", "on_test_images_standard_error",
}  # fmt: skip
"""Shares of training images, or of a part of the test images; no shares."""


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.jsonl")), ids=lambda path: path.stem)
def test_shares_in_the_results_have_known_names(path):
    words = ("accuracy", "agreement", "true_", "test", "held_out", "held out")
    for line in path.read_text(encoding="utf-8").splitlines():
        for name, *_ in compare.leaves(json.loads(line)["result"]):
            last = name.rsplit(".", 1)[-1]
            if any(word in last for word in words):
                assert last in compare.SHARES | OTHERS, name


def test_difference_is_told_by_its_standard_error():
    first = {"test_accuracy": 0.90, "rows": [{"cpu_seconds": 2.0}], "n": 3}
    second = {"test_accuracy": 0.91, "rows": [{"cpu_seconds": 3.0}], "n": 4}
    found = {name: (d, r) for name, d, r in compare.compare(first, second, 10_000)}
    assert set(found) == {"test_accuracy", "rows.0.cpu_seconds"}
    error = (2 * 0.905 * 0.095 / 10_000) ** 0.5
    assert found["test_accuracy"][0] == pytest.approx(0.01 / error)
    assert found["rows.0.cpu_seconds"][1] == 1.5


@pytest.mark.parametrize(("accuracy", "status"), [(0.9, None), (0.903, None), (0.92, 1)])
def test_runs_that_disagree(accuracy, status, tmp_path, monkeypatch, capsys):
    first = lines(tmp_path / "a", ("one", 0, {"test_accuracy": 0.9}), ("two", 0, 1))
    second = lines(tmp_path / "b", ("three", 0, 2), ("one", 1, {"test_accuracy": accuracy}))
    arguments = ["compare", str(first), str(second), "--n-test", "10000"]
    monkeypatch.setattr(sys, "argv", arguments)
    if status is None:
        compare.main()
    else:
        with pytest.raises(SystemExit) as ended:
            compare.main()
        assert ended.value.code == status
    assert "| 1 | 1 / 1 | 1 |" in capsys.readouterr().out


def test_a_result_tells_its_number_of_images(tmp_path, monkeypatch, capsys):
    """The innermost number counts; without any there is no verdict."""
    first, second = ({"n_test": 100, "a": [{"test": x, "n_test": 25}]} for x in (0.5, 0.7))
    ((_, distance, _),) = compare.compare(first, second, 10_000)
    assert distance == pytest.approx(0.2 / (2 * 0.6 * 0.4 / 25) ** 0.5)
    ((_, of_all, _),) = compare.compare({"test": 0.5}, {"test": 0.7}, 100)
    assert of_all == pytest.approx(2 * distance)
    with pytest.raises(ValueError, match="--n-test"):
        list(compare.compare({"test": 0.5}, {"test": 0.7}))
    files = [lines(tmp_path / name, ("one", 0, {"test": 0.5})) for name in "ab"]
    monkeypatch.setattr(sys, "argv", ["compare", *map(str, files)])
    with pytest.raises(SystemExit, match="2"):
        compare.main()
    assert "give --n-test" in capsys.readouterr().err


@pytest.mark.parametrize("text", [None, "# a page\n", "[1, 2", "[1, 2]\n", '{"a": 1}\n'])
def test_files_that_are_none(text, tmp_path, monkeypatch, capsys):
    first = lines(tmp_path / "a", ("one", 0, 1))
    if text is not None:
        (tmp_path / "b").write_text(text, encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["compare", str(first), str(tmp_path / "b")])
    with pytest.raises(SystemExit, match="2"):
        compare.main()
    assert "error: " in capsys.readouterr().err


def test_nothing_in_common(tmp_path, monkeypatch):
    first = lines(tmp_path / "a", ("one", 0, 1))
    second = lines(tmp_path / "b", ("two", 0, 1))
    monkeypatch.setattr(sys, "argv", ["compare", str(first), str(second)])
    with pytest.raises(SystemExit, match="2"):
        compare.main()
