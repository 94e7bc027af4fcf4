import pytest

from experiments.benchmarks import iteration


@pytest.mark.usefixtures("mnist")
def test_each_path_starts_at_one_cost_and_lowers_it(run_script):
    small = ["--n-images", "150", "--n-units", "4", "--max-nfev", "4"]
    result = run_script(iteration, *small)[1]
    paths = {"default", "full", "reduced", "dense_lsmr", "exact", "minpack", "joint"}
    assert set(result["rows"]) == paths
    cost = {name: row["cost"] for name, row in result["rows"].items()}
    assert result["ratio_minpack_to_default"] > 0
    evaluations = {name: row["evaluations"] for name, row in result["rows"].items()}
    assert evaluations == dict.fromkeys(paths, 4) | {"minpack": 2}
    start = result["rows"]["default"]["start"]
    assert all(each < start for each in cost.values())
    # Without projection, with the full Jacobian or an exact solve other steps are taken.
    others = [cost[name] for name in ("full", "exact", "joint", "minpack")]
    assert len({round(each, 6) for each in [cost["default"], *others]}) == 5
    # The capped solves are the same method on three forms of one problem.
    assert cost["reduced"] == pytest.approx(cost["dense_lsmr"], rel=0.01)
    assert cost["default"] == pytest.approx(cost["dense_lsmr"], rel=0.01)
