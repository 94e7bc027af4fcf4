import json

import numpy as np

from experiments.field import accuracy


def test_five_seeds_trained_and_untrained_and_none_again(tmp_path, monkeypatch, run_script):
    """Five seeds of trained and untrained units, their means, and nothing run twice."""
    small = {"recipe": "tiny", "n_units": 2, "n_subnetworks": 1, "n_train": 300, "max_nfev": 1}
    monkeypatch.setitem(accuracy.ROWS, "digits", {"tiny": small})
    file = tmp_path / "rows.jsonl"
    printed, last = run_script(accuracy, "digits", "--output", str(file))
    text = file.read_text(encoding="utf-8")
    rows = [json.loads(line)["result"] for line in text.splitlines()]
    assert len(rows) == 10
    trained = [row["test_accuracy"] for row in rows if row["scheme"] == "independent"]
    assert len(trained) == 5
    assert f"{np.mean(trained):.4f} ±" in printed[-1]
    assert run_script(accuracy, "digits", "--output", str(file)) == (printed, last)
    assert file.read_text(encoding="utf-8") == text
