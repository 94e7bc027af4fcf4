import json

import pytest

from experiments.shared import ledger
from experiments.shared.ledger import Ledger, print_last_line, settings_of
from varpro_nn import configure


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


def test_rows_are_named_by_what_makes_them():
    config = {"recipe": "bilinear", "n_units": 20, "seed": 3, **dict.fromkeys("abcdefghijkl", 0)}
    assert ledger.described({"entry": config, "data": "x"}) == "recipe bilinear, n_units 20, seed 3"
    assert ledger.described({"entry": {"units": "dense", "columns": 9}, "config": config}) == (
        "units dense, columns 9, recipe bilinear, n_units 20, seed 3"
    )
    assert ledger.described({"entry": "softmax", "seed": 0}) == "softmax, seed 0"


def test_settings_that_came_later_leave_kept_rows_valid(tmp_path):
    """At their defaults they are as if they were not there; with another value they count."""
    plain, other = configure("tiny"), configure("tiny", class_weight="balanced")
    kept = settings_of(plain)
    assert not {"class_weight", "batch_size", "first_units", "middle_units"} & set(kept)
    assert settings_of(other)["class_weight"] == "balanced"
    assert set(settings_of(configure(first_units=8))) > {"first_units", "training_grid"}
    table = Ledger(tmp_path / "table.jsonl")
    assert table.get({"config": kept}, lambda: 1) == 1
    assert table.get({"config": settings_of(other)}, lambda: 2) == 2
    text = table.path.read_text()
    written = text.replace('"rank": 1', '"batch_size": 1000, "rank": 1')  # by a version that had it
    assert written != text
    table.path.write_text(written)
    assert table.get({"config": kept}, lambda: 3) == 1
