from dataclasses import asdict

import numpy as np
import pytest

from experiments.benchmarks import estimates
from varpro_nn import configure


def test_random_settings_are_allowed_and_the_same_each_time(digits):
    kinds = set()
    for seed in range(40):
        data, settings = estimates.random_settings(np.random.default_rng(seed))
        assert (data, settings) == estimates.random_settings(np.random.default_rng(seed))
        config = configure(data=digits if data == "digits" else data, **settings)
        kinds.add((config.units.kind, config.output.layer))
    assert len(kinds) > 8


def test_long_runs_are_not_drawn(monkeypatch, digits):
    monkeypatch.setattr(estimates, "load", lambda *_: digits)
    monkeypatch.setattr(
        estimates, "random_settings",
        lambda rng: ("digits", {"recipe": "bilinear", "n_units": int(rng.choice([10, 2000]))}),
    )  # fmt: skip
    drawn = list(estimates.drawn(4, 0, 5.0, None))
    assert [name for name, _, _ in drawn] == [f"random {number}" for number in range(1, 5)]
    assert {config.units.n_units for _, _, config in drawn} == {10}


def test_shares_count_both_sides():
    rows = [
        {"measured": {"cpu_seconds": 2.0}, "estimate": {"cpu_seconds": seconds}}
        for seconds in (1.0, 1.4, 2.9, 4.0)
    ]
    share, mean = estimates.shares(rows, "cpu_seconds")
    assert share == 0.5
    assert mean == pytest.approx((1.0 * 1.4 * 2.9 * 4.0) ** 0.25 / 2)


def test_the_table(monkeypatch, run_script):
    monkeypatch.setattr(
        estimates, "in_child",
        lambda what, run_, _: {"cpu_seconds": 3.0, "memory_mib": 100.0 + 100 * (what == "run")},
    )  # fmt: skip
    settings = {"recipe": "bilinear", "n_units": 4, "n_subnetworks": 1}
    monkeypatch.setattr(estimates, "random_settings", lambda rng: ("digits", settings))
    printed, told = run_script(estimates, "--quick")
    assert told["cpu_seconds"] == {"share_within": 1.0, "mean_ratio": pytest.approx(1.0)}
    assert told["memory_mib"]["share_within"] == 0
    assert [row["name"] for row in told["rows"]][-2:] == ["random 1", "random 2"]
    assert "0.50 * |" in "".join(printed)


def test_a_run_and_its_estimate_are_measured():
    config = configure("bilinear", data="digits", n_units=4, n_subnetworks=1, n_train=200)
    task = {"config": asdict(config), "data": "digits", "data_dir": None}
    for what in ("run", "estimate"):
        found = estimates.in_this_process({**task, "what": what})
        assert 0 < found["cpu_seconds"] < 100
        assert 10 < found["memory_mib"] < 10_000
