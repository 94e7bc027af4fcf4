from experiments.claims import matrix_equality


def test_both_forms_agree_and_rows_are_kept(tmp_path, run_script, in_this_process):
    """Both forms give the same outputs; rows in the file are not measured again."""
    in_this_process(matrix_equality)
    file = tmp_path / "rows.jsonl"
    small = ["--quick", "--output", str(file)]
    result = run_script(matrix_equality, *small)[1]
    at = {(row["form"], row["n_images"], row["n_layers"]): row for row in result["rows"]}
    assert set(at) == {
        ("primal", 1500, 0), ("primal", 1500, 1), ("dual", 400, 0), ("primal", 400, 0),
        *(("dual", 400, k) for k in (1, 2, 4)), *(("primal", 400, k) for k in (1, 2)),
    }  # fmt: skip
    assert at["primal", 400, 0]["largest_difference"] < 1e-10
    assert at["primal", 400, 2]["largest_difference"] < 1e-2
    assert [at["dual", 400, k]["predicted_cheaper"] for k in (1, 2)] == ["primal", "dual"]
    assert at["dual", 400, 2]["n_parameters"] == 2 * 64 * 10 + (512 + 1) * 10
    text = file.read_text(encoding="utf-8")
    again = run_script(matrix_equality, *small)[1]
    assert again["rows"] == result["rows"]
    assert file.read_text(encoding="utf-8") == text
