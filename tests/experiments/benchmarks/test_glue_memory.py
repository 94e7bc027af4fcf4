from types import SimpleNamespace

import pytest

from experiments.benchmarks import glue_memory

pytestmark = pytest.mark.usefixtures("mnist")


def test_each_count_is_measured(run_script, in_this_process):
    in_this_process(glue_memory)
    small = ["--images", "400", "800", "--n-units", "40", "--n-jobs", "1"]
    result = run_script(glue_memory, *small)[1]
    assert [row["n_images"] for row in result["rows"]] == [400, 800]
    for row in result["rows"]:
        assert row["peak_mib"] >= row["before_mib"] > 20


def test_peak_memory_is_taken_before_and_after_the_glue(monkeypatch):
    peaks = [100.0]

    def fit_ridge(units, W, training, compute):
        assert len(training) == 100
        peaks.append(350.0)
        return SimpleNamespace(penalty=1.0, error_rates=[0.5])

    monkeypatch.setattr(glue_memory, "fit_ridge", fit_ridge)
    monkeypatch.setattr(glue_memory, "peak_memory_mib", lambda: peaks[-1])
    row = glue_memory.measure(100, 5, 1)
    assert (row["before_mib"], row["peak_mib"]) == (100.0, 350.0)
