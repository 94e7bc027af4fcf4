from experiments.benchmarks import reading_pictures


def test_each_way_reads_all_pictures(run_script, in_this_process):
    in_this_process(reading_pictures)
    lines, result = run_script(reading_pictures, "--pictures", "20", "--n-jobs", "1")
    assert [row["way"] for row in result["rows"]] == ["Pillow", "load", "to disk"]
    assert len(lines) == 4
    for row in result["rows"]:
        assert row["n_read"] == 20
        assert row["cpu"] > 0
        assert row["peak_mib"] > 20
    assert result["rows"][0]["ratio"] == 1
