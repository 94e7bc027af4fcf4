import numpy as np
import pytest

from experiments.field import contest_margin
from varpro_nn import configure
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


def test_half_and_twice_as_many_units(digits):
    found = {}
    config = configure("default", data=digits, n_units=24, n_subnetworks=4, scheme="independent")
    for name, change in contest_margin.sizes_of(contest.Candidate("", config)).items():
        units = config.with_options(**change)
        found[name] = units.units.n_units, units.units_per_subnetwork
    assert found == {"half as many units": (12, 6), "twice as many units": (48, 6)}


def test_differences_by_change():
    draws = {("a", "x"): [[0.1, 0.0], [-0.3, 0.0]], ("b", "x"): [[0.0, 0.0]]}
    (row,) = contest_margin.by_change(draws)
    assert (row["trials"], row["better"], row["worse"]) == (3, 1, 1)
    assert row["mean"] == pytest.approx(-0.2 / 3)


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
    assert [row["trials"] for row in told["changes"]] == [2, 2, 2, 2]
    other = run_script(contest_margin, *options, "--units")[1]
    assert [row["change"] for row in other["changes"]] == list(contest_margin.UNITS)
    assert [row["margin"] for row in told["rows"]] == list(contest_margin.MARGINS)
    monkeypatch.setattr(
        contest_margin, "differences", lambda *_, **__: pytest.fail("measured twice")
    )
    assert run_script(contest_margin, *options)[0] == lines
