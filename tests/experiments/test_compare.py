import json
import sys

import pytest

from experiments import compare


def lines(path, *pairs):
    text = [
        json.dumps(
            {"key": {"entry": name, "seed": seed, "versions": {"numpy": str(seed)}}, "result": r}
        )
        for seed, (name, r) in enumerate(pairs)
    ]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    return str(path)


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
    first = lines(tmp_path / "a", ("one", {"test_accuracy": 0.9}), ("two", 1))
    second = lines(tmp_path / "b", ("three", 2), ("one", {"test_accuracy": accuracy}))
    monkeypatch.setattr(sys, "argv", ["compare", first, second])
    if status is None:
        compare.main()
    else:
        with pytest.raises(SystemExit) as ended:
            compare.main()
        assert ended.value.code == status
    assert "| 1 of 2 and 2 | 1 |" in capsys.readouterr().out


def test_nothing_in_common(tmp_path, monkeypatch):
    first = lines(tmp_path / "a", ("one", 1))
    second = lines(tmp_path / "b", ("two", 1))
    monkeypatch.setattr(sys, "argv", ["compare", first, second])
    with pytest.raises(SystemExit, match="2"):
        compare.main()
