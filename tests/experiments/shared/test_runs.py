from types import SimpleNamespace

from experiments.shared import runs


def test_rows_are_trained_once_whatever_the_jobs(digits, tmp_path, monkeypatch):
    trained = []

    def run(config, dataset, n_jobs, progress):
        trained.append((config.seed, config.units.n_units, n_jobs))
        return SimpleNamespace(metrics={"n_jobs": n_jobs, "peak_memory_mib": 1.0})

    monkeypatch.setattr(runs, "run", run)
    rows = {"a": {"recipe": "tiny", "n_units": 3}, "b": {"recipe": "tiny", "n_units": 3, "seed": 5}}
    for n_jobs in (2, 1):
        args = SimpleNamespace(output=tmp_path / "rows.jsonl", seed=4, n_jobs=n_jobs)
        found = dict(runs.run_rows(rows, digits, args))
        assert found == {"a": {"n_jobs": 2}, "b": {"n_jobs": 2}}
    assert trained == [(4, 3, 2), (5, 3, 2)]
