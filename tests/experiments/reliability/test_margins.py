import ast
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.reliability import kernels, margins
from experiments.reliability import recorded_assertions as recorded
from experiments.shared.provenance import ROOT


@pytest.fixture
def row_of(monkeypatch):
    """Run an assertion as the plugin compiles it; what is recorded of it."""
    recorder = recorded.Recorder()
    recorder.item = SimpleNamespace(
        nodeid="tests/test_x.py::test_x[seed3]", callspec=SimpleNamespace(params={"rng": 3})
    )
    monkeypatch.setattr(recorded, "recorder", recorder)

    def run(source, passes=True, **names):
        recorder.rows.clear()
        tree = recorded.Watched().visit(ast.parse(f"\n{source}"))
        path = str(recorded.TESTS / "test_x.py")
        code = compile(ast.fix_missing_locations(tree), path, "exec")
        names = {"np": np, "approx": pytest.approx, "_recorder": recorder} | names
        if passes:
            exec(code, names)
        else:
            with pytest.raises(AssertionError):
                exec(code, names)
        rows = list(recorder.rows.values())
        assert all((row["file"], row["line"]) == ("tests/test_x.py", 2) for row in rows)
        return rows

    return run


@pytest.mark.parametrize(
    ("source", "ratio"),
    [
        ("assert 2e-8 * y < 1e-7", 0.4),
        ("assert 1e-7 > x", 0.2),
        ("assert y * x < 1e-7", 0.4),
        ("assert np.float32(0.25) <= 0.5e-2 * np.float32(100)", 0.5),
        ("assert x < tolerance * y", 0.01),
        ("assert y + 5e-13 * y <= (1 + 1e-12) * y", 0.5),
        ("assert 4 * y - 1 < y * (1 + 1e-3)", 2500),
        ("assert y < 2.0 * (1 + 1e-3)", 0),
        ("assert y <= 1.9995 + 1e-3", 0.5),
        ("assert y >= 2.000001 - 1e-5", 0.1),
        ("assert (np.array([-2e-9, 5.0]) > -1e-8).all()", 0.2),
        ("assert all(x < 1e-6 for x in (2e-7, 3e-7))", 0.3),
        ("assert True and x < 1e-7", 0.2),
    ],
)
def test_error_by_bound_of_a_tolerance(source, ratio, row_of):
    (row,) = row_of(source, ratio <= 1, x=2e-8, y=2.0, tolerance=1e-6)
    assert row["kind"] == "tolerance"
    assert row["seed"] == 3
    assert row["ratio"] == pytest.approx(ratio, rel=1e-3)


@pytest.mark.parametrize(
    ("source", "kind", "ratio"),
    [
        ("assert 0.5 < 0.8", "threshold", 0.625),
        ("assert np.float64(0.95) > 0.9", "threshold", 0.9 / 0.95),
        ("assert np.float64(4e-3) > 1e-3", "threshold", 0.25),
        ("assert -2.0 < -1.0", "threshold", 0.5),
        ("assert 3 < 4", "count", 0.75),
    ],
)
def test_what_is_no_tolerance(source, kind, ratio, row_of):
    (row,) = row_of(source)
    assert row["kind"] == kind
    assert row["ratio"] == pytest.approx(ratio)


@pytest.mark.parametrize(
    "source",
    [
        "assert 0 < 0.5",
        "assert {1} < {1, 2}",
        "assert np.mean(np.array([0.2, 0.6, 0.8]) > 0.5)",
        "x = 1.0 < 2.0",
        "assert 'a' < 'b'",
    ],
)
def test_what_has_no_bound(source, row_of):
    assert row_of(source) == []


def test_pairs_of_a_chain(row_of):
    rows = row_of("assert 1e-6 < np.float64(1e-3) < 4e-3")
    assert {row["kind"]: row["ratio"] for row in rows} == pytest.approx(
        {"threshold": 1e-3, "tolerance": 0.25}
    )


def test_what_fails_is_recorded(row_of):
    (row,) = row_of("assert np.float64(3e-7) < 1e-7", passes=False)
    assert row["ratio"] == pytest.approx(3)


def test_allclose_and_approx(row_of, monkeypatch):
    close = recorded._recorded_allclose(np.testing.assert_allclose)
    (row,) = row_of("close([1 + 5e-8, np.inf, 0], [1, np.inf, 0], rtol=1e-7)", close=close)
    assert row["ratio"] == pytest.approx(0.5, rel=1e-6)
    (row,) = row_of("close(np.float32(2), 1, atol=0.5)", passes=False, close=close)
    assert row["ratio"] == pytest.approx(2)
    assert (row["kind"], row["atol"], row["rtol"]) == ("threshold", 0.5, 1e-7)
    (row,) = row_of("close([1000.0, 0.0], [999.0, 0.0], atol=5)", close=close)
    assert row["kind"] == "tolerance"
    assert row_of("close([1.0, 2.0], 1)", passes=False, close=close)[0]["ratio"] > 1e6
    assert row_of("close([1.0, 1], [1.0, 1, 1])", passes=False, close=close) == []
    assert row_of("close([1.0], [1.0], rtol=0)", close=close) == []
    (row,) = row_of("close([1], [1])", close=close)
    assert row["kind"] == "count"

    approx = type(pytest.approx(0.0))
    monkeypatch.setattr(approx, "__eq__", recorded._recorded_approx(approx.__eq__))
    (row,) = row_of("assert 1.25 == approx(1.0, abs=0.5)")
    half = row["ratio"]
    (row,) = row_of("assert [1.0, 3.5] == approx([1.0, 3.0], abs=1)")
    vector = row["ratio"]
    (row,) = row_of("assert np.array([2.0]) == approx(np.array([1.0]), abs=0.1)", passes=False)
    assert (half, vector) == (0.5, 0.5)
    assert 9 < row["ratio"] < 11
    (row,) = row_of("assert 1.0 == approx(1.0 + 1e-7)")
    assert row["kind"] == "tolerance"


def assertion(ratio, **more):
    row = {"file": "tests/a.py", "line": 7, "test": "tests/a.py::test_a", "kind": "tolerance"}
    return {**row, "n": 2, "ratio": ratio, "seed": 1, "source": "x | y", "kernel": "A", **more}


def test_rows_are_joined_by_their_largest_ratio():
    rows = [assertion(0.5), assertion(0.7, kernel="B", seed=4), assertion(0.6)]
    (row,) = margins.merged(rows)
    assert (row["ratio"], row["kernel"], row["seed"], row["n"]) == (0.7, "B", 4, 6)
    assert row["by_kernel"] == {"A": 0.6, "B": 0.7}
    assert margins.merged([*margins.merged(rows[:2]), rows[2]]) == [row]
    assert len(margins.merged([*rows, assertion(0.1, line=8), assertion(0.2, kind="count")])) == 3


def test_units_are_those_of_tests_that_compare_numbers(tmp_path):
    found = {
        "assertions": [assertion(0.5), assertion(0.5, test="tests/a.py::test_b", kind="count")],
        "failures": [{"failed": "tests/a.py::test_c[seed0]", "message": "no number"}],
        "tests": {
            f"tests/a.py::test_{name}": {"seconds": seconds, "seeded": seeded}
            for name, seconds, seeded in [("a", 6.0, True), ("b", 99.0, True), ("c", 7.0, False)]
        },
    }
    made = margins.units(tmp_path, found, ["A", "B"], 20)
    assert {unit.tests for _, unit in made} == {("tests/a.py::test_a", "tests/a.py::test_c")}
    # 120 seconds of seeds in parts of 30.
    assert [(unit.part, unit.n_parts, unit.kernel) for _, unit in made] == [
        (part, 4, kernel) for part in range(4) for kernel in "AB"
    ]
    assert [seconds for seconds, _ in made] == [37, 37, 30, 30, 30, 30, 30, 30]


def test_seeds_of_a_file_in_a_process():
    """Two of four seeds, by the kernel that is used here."""
    if (kernel := next(iter(kernels.in_use().values()), None)) is None:
        pytest.skip("NumPy does not use OpenBLAS")
    file = "tests/linalg/test_reference.py"
    found = margins.run(margins.Unit(ROOT / file, kernel, 1, 2), 4)
    assert found["failures"] == []
    assert {row["file"] for row in found["assertions"]} == {file}
    assert {row["seed"] for row in found["assertions"]} <= {1, 3}
    # Tests without seeds are in part 0.
    assert found["tests"]
    assert all(test["seeded"] for test in found["tests"].values())


def test_tables(tmp_path, monkeypatch, capsys):
    """Files are seen once with one seed, and again for what compares numbers; results are shown."""
    ran = []

    def run(unit, n_seeds):
        ran.append((unit.file.name, unit.kernel, unit.tests, n_seeds))
        if unit.file.name == "test_dual.py":
            msg = "test_dual.py: no disk"
            raise RuntimeError(msg)
        ratio = 0.8 if unit.kernel == "B" else 0.4
        rows = [assertion(ratio), assertion(0.1, line=8), assertion(0.9, line=9, kind="threshold")]
        failure = {"failed": "tests/a.py::test_a[seed0]", "message": "a | b\nc"}
        tests = {"tests/a.py::test_a": {"seconds": 2.0, "seeded": True}}
        failures = [failure] if unit.kernel == "B" else []
        return {"assertions": rows, "failures": failures, "tests": tests}

    monkeypatch.setattr(margins, "run", run)
    monkeypatch.setattr(kernels, "lacking", lambda kernel: "no C" if kernel == "C" else None)
    output = tmp_path / "rows.jsonl"
    files = ["tests/linalg/test_qr.py", "tests/linalg/test_dual.py"]
    options = ["--output", str(output), "--seeds", "3", "--kernels", "A", "B", "C"]
    monkeypatch.setattr(sys, "argv", ["margins", *files, *options])
    with pytest.raises(SystemExit, match="no disk"):
        margins.main()
    kept = ("tests/a.py::test_a",)
    assert sorted(ran, key=lambda row: (row[3], row)) == [
        ("test_dual.py", "A", None, 1), ("test_qr.py", "A", None, 1),
        ("test_qr.py", "A", kept, 3), ("test_qr.py", "B", kept, 3),
    ]  # fmt: skip
    printed = capsys.readouterr().out
    assert "left out: C: no C" in printed
    near = "| a.py:7 | test_a | `x \\| y` | 0.8 | B | 1 | B 0.8, A 0.4 |"
    assert near in printed
    assert "a.py:8" not in printed
    assert "| tests/a.py::test_a[seed0] | B | a \\| b c |" in printed
    assert len(output.read_text().splitlines()) == 4
    monkeypatch.setattr(sys, "argv", ["margins", "--show", str(output), "--factor", "11"])
    margins.main()
    printed = capsys.readouterr().out
    assert near in printed
    assert "a.py:8" in printed
