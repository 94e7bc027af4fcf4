import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import ledger
from experiments.ledger import ROOT, Ledger, child, mean_and_error, print_last_line, print_table
from varpro_nn import load


@pytest.fixture(autouse=True)
def nothing_handed_out(monkeypatch):
    monkeypatch.setattr(ledger, "_handed_out", [])


def test_results_are_taken_from_the_file(tmp_path):
    calls = []

    def make(value):
        calls.append(value)
        return {"value": value}

    path = tmp_path / "folder" / "rows.jsonl"
    first = Ledger(path, data="a", seed=0)
    assert first.get("one", lambda: make(1)) == {"value": 1}
    assert first.get("one", lambda: make(2)) == {"value": 1}
    assert Ledger(path, seed=0, data="a").get("one", lambda: make(3)) == {"value": 1}
    assert calls == [1]
    # Another entry, data, seed, setting or package is measured by itself.
    assert first.get("two", lambda: make(4)) == {"value": 4}
    assert Ledger(path, data="b", seed=0).get("one", lambda: make(5)) == {"value": 5}
    assert Ledger(path, data="a", seed=1).get("one", lambda: make(6)) == {"value": 6}
    assert first.get("one", lambda: make(7), penalty=2.0) == {"value": 7}
    assert first.get("one", lambda: make(8), ["scikit-learn"]) == {"value": 8}
    assert first.get("one", lambda: make(9)) == {"value": 1}
    assert len(path.read_text(encoding="utf-8").splitlines()) == 6


def test_other_versions_are_measured_anew(tmp_path, monkeypatch):
    book = Ledger(tmp_path / "rows.jsonl")
    assert book.get("one", lambda: 1) == 1
    monkeypatch.setattr(ledger, "versions", lambda *packages: {"numpy": "0.0"})
    assert book.get("one", lambda: 2) == 2


def test_what_came_before_a_failure_is_kept(tmp_path):
    def rows(missing):
        for entry in missing:
            if entry == 3:
                raise OSError
            yield entry * 10

    book = Ledger(tmp_path / "rows.jsonl")
    with pytest.raises(OSError):  # noqa: PT011
        book.get_all([1, 2, 3], rows)
    asked = []
    results = book.get_all([1, 3, 2], lambda missing: [asked.append(e) or e * 10 for e in missing])
    assert results == [10, 30, 20]
    assert asked == [3]


def test_a_line_that_was_cut_off_is_measured_anew(tmp_path):
    path = tmp_path / "rows.jsonl"
    Ledger(path).get("one", lambda: "é" * 10)
    Ledger(path).get("two", lambda: 2)
    text = path.read_bytes()
    path.write_bytes(text[:-20])
    assert Ledger(path).get("one", lambda: None) == "é" * 10
    assert Ledger(path).get("two", lambda: 3) == 3
    assert len(path.read_text(encoding="utf-8").splitlines()) == 2
    assert Ledger(path).get("two", lambda: 4) == 3


def test_results_must_be_as_many_as_entries(tmp_path):
    with pytest.raises(ValueError, match="shorter"):
        Ledger(tmp_path / "rows.jsonl").get_all([1, 2], lambda missing: [1])


def test_results_are_what_json_makes_of_them(tmp_path):
    """The same type at first and from the file."""
    book = Ledger(tmp_path / "rows.jsonl")
    assert book.get("one", lambda: {1: (2, 3)}) == {"1": [2, 3]} == book.get("one", lambda: None)


def test_last_line_tells_when_each_result_was_measured(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    Ledger(path).get("one", lambda: 1)
    line = json.loads(path.read_text(encoding="utf-8"))
    line |= {"date": "2001-02-03", "commit": "abc", "load": 0.5}
    path.write_text(json.dumps(line) + "\n", encoding="utf-8")
    ledger._handed_out.clear()
    book = Ledger(path)
    book.get("one", lambda: 1)
    book.get("two", lambda: 2)
    print_last_line({"rows": [1, 2]}, ["scikit-learn"])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["rows"] == [1, 2]
    assert told["date"][0] == "2001-02-03"
    assert len(told["date"]) == 2
    assert "abc" in told["commit"]
    assert 0.5 in told["load"]
    assert {"numpy", "scikit-learn"} <= set(told["versions"])
    assert "cores" in told["machine"][0]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_child_has_so_many_threads(threads):
    pools = json.loads("".join(child(["threadpoolctl", "-i", "numpy"], threads)))
    assert {pool["num_threads"] for pool in pools} == {threads}


def test_rows_are_trained_once_whatever_the_jobs(tmp_path, monkeypatch):
    dataset, trained = load("digits", progress=False), []

    def run(config, dataset, n_jobs, progress):
        trained.append((config.seed, config.n_units, n_jobs))
        return SimpleNamespace(metrics={"n_jobs": n_jobs, "peak_memory_mib": 1.0})

    monkeypatch.setattr(ledger, "run", run)
    rows = {"a": {"recipe": "tiny", "n_units": 3}, "b": {"recipe": "tiny", "n_units": 3, "seed": 5}}
    for n_jobs in (2, 1):
        args = SimpleNamespace(output=tmp_path / "rows.jsonl", seed=4, n_jobs=n_jobs)
        found = dict(ledger.run_rows(rows, dataset, args))
        assert found == {"a": {"n_jobs": 2}, "b": {"n_jobs": 2}}
    assert trained == [(4, 3, 2), (5, 3, 2)]


@pytest.mark.parametrize(
    "wrong", [["--seed", "-1"], ["--n-jobs", "0"], ["--n-jobs", "two"], ["--output", "."]]
)
def test_options_are_refused_before_anything_is_measured(wrong, capsys):
    with pytest.raises(SystemExit, match="2"):
        ledger.parser("A table.").parse_args(wrong)
    said = capsys.readouterr().err.splitlines()[-1]
    assert wrong[0] in said
    assert "must be" in said
    assert repr(wrong[1]) in said


def test_ctrl_c_is_told_in_a_line():
    code = "from experiments.ledger import parser; parser('A table.'); raise KeyboardInterrupt"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stderr == "interrupted: rows that are kept in a file stay there\n"
    assert done.returncode != 0


def test_rows_are_named_by_what_makes_them():
    config = {"recipe": "bilinear", "n_units": 20, "seed": 3, **dict.fromkeys("abcdefghijkl", 0)}
    assert ledger.described({"entry": config, "data": "x"}) == "recipe bilinear, n_units 20, seed 3"
    assert ledger.described({"entry": {"units": "dense", "columns": 9}, "config": config}) == (
        "units dense, columns 9, recipe bilinear, n_units 20, seed 3"
    )
    assert ledger.described({"entry": "softmax", "seed": 0}) == "softmax, seed 0"


def test_child_tells_of_its_end():
    assert child(["platform"])[0]
    with pytest.raises(SystemExit, match="ended with status 2"):
        child(["json.tool", "--no-such-option"])


def test_mean_and_error():
    assert mean_and_error([0.9], 100) == pytest.approx((0.9, 0.03))
    shares = [0.90, 0.92, 0.97]
    mean, error = mean_and_error(shares, 100)
    assert mean == pytest.approx(0.93)
    # Three seeds of one accuracy are as uncertain as their one sample of images.
    assert mean_and_error([0.9] * 3, 100) == pytest.approx(mean_and_error([0.9], 100))
    of_images, of_seeds = (0.09 + 0.0736 + 0.0291) / 3 / 100, np.var(shares, ddof=1) / 3
    assert error == pytest.approx(np.sqrt(of_images + of_seeds))
    # Each seed may have had images of its own number.
    of_images = (0.09 / 50 + 0.0736 / 100 + 0.0291 / 200) / 3
    error = mean_and_error(shares, [50, 100, 200])[1]
    assert error == pytest.approx(np.sqrt(of_images + of_seeds))


def test_print_table(capsys):
    print_table([{"a": "1", "b": "2"}, {"a": "3", "b": "4"}], "Title")
    assert capsys.readouterr().out.splitlines() == [
        "", "**Title**", "", "| a | b |", "| --- | --- |", "| 1 | 2 |", "| 3 | 4 |",
    ]  # fmt: skip
    print_table([{"a": "1"}], "Title", "What a is.")
    assert capsys.readouterr().out.splitlines() == [
        "", "**Title**", "", "What a is.", "", "| a |", "| --- |", "| 1 |",
    ]  # fmt: skip
