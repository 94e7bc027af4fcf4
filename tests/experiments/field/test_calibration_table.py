import pytest

from experiments.field import calibration


@pytest.mark.usefixtures("briefly")
def test_sets_and_probabilities_hold_what_they_say(monkeypatch, run_script, tmp_path):
    kept = ["--data", "digits", "--recipes", "tiny", "--output", str(tmp_path / "rows.jsonl")]
    (row,) = run_script(calibration, *kept)[1]["rows"]
    assert row["recipe"] == "tiny"
    assert row["calibration_error"] < row["calibration_error_without"]
    missed, sizes = zip(*((s["missed"], s["mean_size"]) for s in row["sets"]), strict=True)
    assert missed[0] <= missed[1] <= missed[2] <= 0.1
    assert sizes[0] >= sizes[1] >= sizes[2] >= 1
    monkeypatch.setattr(calibration, "measure", lambda *_: pytest.fail("measured twice"))
    assert run_script(calibration, *kept)[1]["rows"] == [row]
