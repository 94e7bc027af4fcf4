import numpy as np
import pytest

from experiments.field import contest_margin
from varpro_nn.training import contest


def test_a_margin_is_judged_by_the_other_draws():
    """A change with one lucky draw does harm; one that always helps does not."""
    lucky = [[0.03, 0.01], [-0.02, 0.01], [-0.02, 0.01]]
    good = [[0.02, 0.01]] * 3
    rows = contest_margin.by_margin({("a", "x"): lucky, ("a", "y"): good})
    (first, second) = (next(r for r in rows if r["margin"] == m) for m in (0.0, 2.0))
    assert (first["taken"], first["harmful"]) == (4 / 6, 1 / 4)
    assert first["gain"] == pytest.approx((3 * 0.02 - 0.02) / 6)
    assert (second["taken"], second["harmful"], second["gain"]) == (1 / 6, 1.0, -0.02 / 6)


def test_quick_run(tmp_path, run_script, monkeypatch, digits):
    monkeypatch.setattr(contest, "N_IMAGES", dict.fromkeys((1, 2, 3, 4), 60))
    monkeypatch.setattr(contest, "SHARE", 1 / 6)
    pixels = (digits.train.images[:200] * 255).astype(np.uint8)
    (tmp_path / "sets").mkdir()
    np.savez(tmp_path / "sets/own.npz", x_train=pixels, y_train=digits.train.labels[:200])
    options = [str(tmp_path / "sets"), "--only", "own", "--seeds", "2", "--output",
               str(tmp_path / "rows.jsonl")]  # fmt: skip
    lines, told = run_script(contest_margin, *options)
    assert told["n_trials"] == 8
    assert [row["margin"] for row in told["rows"]] == list(contest_margin.MARGINS)
    monkeypatch.setattr(contest_margin, "differences", lambda *_: pytest.fail("measured twice"))
    assert run_script(contest_margin, *options)[0] == lines
