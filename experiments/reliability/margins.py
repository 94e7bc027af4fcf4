"""How near to its bound each comparison of floating-point numbers in the tests comes.

``python -m experiments.reliability.margins --output FILE`` runs the numerical tests with
``--seeds N`` seeds and each OpenBLAS kernel that this processor runs. For every assertion it keeps
the largest ratio of error and bound, with its kernel and seed
(:mod:`experiments.reliability.recorded_assertions` says what an assertion is). It prints a table of
the assertions whose error comes within a factor of ``--factor`` (3) of the bound, and a table of
the tests that failed. Neither stops the run. Files or folders on the command line replace
:data:`TESTS`.

A first pass runs each file with one seed and one kernel, to find the tests that compare numbers and
their times. Only these tests run afterwards. Each process then runs some seeds of one file with one
kernel and one thread of BLAS; ``--n-jobs`` processes run at a time. FILE has JSON lines and is
rewritten after each process. The first seeds of all files run first, so a run that is stopped has
seen every file. ``--show FILE ...`` runs no test and prints the joined tables of these files.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from experiments.reliability import kernels
from experiments.shared.options import end_quietly, file_name, whole_number
from experiments.shared.provenance import ROOT
from experiments.shared.tables import print_table
from varpro_nn._io.atomic import write_atomically

TESTS = (
    "tests/linalg", "tests/varpro", "tests/output", "tests/units", "tests/exporters",
    "tests/model", "tests/data", "tests/training", "tests/estimators",
)  # fmt: skip
"""Folders and files with tests that compare floating-point numbers."""
SECONDS_OF_A_PROCESS = 30.0
"""Approximate test time of one process, whose start takes 3 s."""
Row = dict[str, Any]


class Unit(NamedTuple):
    """What one process runs: seeds ``part``, ``part + n_parts`` and so on of a file.

    ``tests`` are the names of its tests; None for all of them.
    """

    file: Path
    kernel: str
    part: int
    n_parts: int
    tests: tuple[str, ...] | None = None


def test_files(paths: Iterable[Path]) -> list[Path]:
    """List the test files of folders and of files themselves."""
    found = [path.rglob("test_*.py") if path.is_dir() else (path,) for path in paths]
    return sorted({file for files in found for file in files})


def units(file: Path, found: Row, names: Sequence[str], n_seeds: int) -> list[tuple[float, Unit]]:
    """List the processes of a file, each with its expected seconds.

    Parameters
    ----------
    file : Path
    found : dict
        The record of the first pass.
    names : sequence of str
        Kernels.
    n_seeds : int
    """
    kept = {row["test"] for row in found["assertions"] if row["kind"] != "count"}
    kept |= {row["failed"].split("[")[0] for row in found["failures"]}
    seconds = {True: 0.0, False: 0.0}  # with seeds, without
    for test in kept:
        told = found["tests"][test]
        seconds[told["seeded"]] += told["seconds"]
    n_parts = min(math.ceil(n_seeds * seconds[True] / SECONDS_OF_A_PROCESS) or 1, n_seeds)
    tests = tuple(sorted(kept))
    return [
        (n_seeds / n_parts * seconds[True] + (part == 0) * seconds[False],
         Unit(file, kernel, part, n_parts, tests))
        for part in range(n_parts) for kernel in names if tests
    ]  # fmt: skip


def run(unit: Unit, n_seeds: int) -> Row:
    """Run the tests of a unit, and return what the plugin wrote.

    Raises
    ------
    RuntimeError
        Pytest ended before it ran the tests.
    """
    libraries = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = os.environ | dict.fromkeys(libraries, "1") | kernels.environment(unit.kernel)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
            "-p", "experiments.reliability.kernels",
            "-p", "experiments.reliability.recorded_assertions", "--assert=plain",
            "--record", str(folder / "record.json"), "--basetemp", str(folder / "tmp"),
            "--seeds", str(n_seeds), "--part", f"{unit.part}/{unit.n_parts}", str(unit.file),
        ]  # fmt: skip
        if unit.tests is not None:
            (folder / "tests").write_text("\n".join(unit.tests), encoding="utf-8")
            command += ["--only-tests", str(folder / "tests")]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode not in (0, 1, 5):  # passed, some failed, none there
            told = (done.stdout + done.stderr).strip().splitlines()[-3:]
            msg = f"{unit.file}, {unit.kernel}: pytest ended with status {done.returncode}: {told}"
            raise RuntimeError(msg)
        found: Row = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    return found


def rows_of(unit: Unit, found: Row) -> list[Row]:
    """Add the kernel to the assertions and failures of a unit."""
    return [{**row, "kernel": unit.kernel} for row in found["assertions"] + found["failures"]]


def merged(rows: Iterable[Row]) -> list[Row]:
    """Join the rows of each assertion: largest ratio, largest ratio by kernel, number of rows."""
    found: dict[Any, Row] = {}
    for row in rows:
        if "failed" in row:
            key: tuple[Any, ...] = (row["failed"], row["kernel"])
            found.setdefault(key, row)
            continue
        by_kernel = row.get("by_kernel", {row["kernel"]: row["ratio"]})
        key = tuple(row[name] for name in ("file", "line", "test", "kind"))
        if key not in found:
            found[key] = {**row, "by_kernel": dict(by_kernel)}
            continue
        kept = found[key]
        n, both = kept["n"] + row["n"], kept["by_kernel"]
        for kernel, ratio in by_kernel.items():
            both[kernel] = max(ratio, both.get(kernel, ratio))
        if row["ratio"] > kept["ratio"]:
            kept.update(row)
        kept.update(n=n, by_kernel=both)
    return list(found.values())


def print_tables(rows: Sequence[Row], factor: float) -> None:
    """Print the assertions near their bound, largest ratio first, and the failures."""
    assertions = [row for row in rows if "failed" not in row]
    failures = [row for row in rows if "failed" in row]
    numbers = [sum(row["kind"] == kind for row in assertions) for kind in KINDS]
    told = ", ".join(f"{n:,} of kind {kind}" for kind, n in zip(KINDS, numbers, strict=True))
    print(f"\n{len(assertions):,} assertions: {told}.")
    for kind in KINDS[:2]:
        near = [row for row in assertions if row["kind"] == kind and row["ratio"] * factor > 1]
        near.sort(key=lambda row: -row["ratio"])
        title = f"Kind {kind}: {len(near)} assertions with a ratio above 1/{factor:g}"
        if near:
            print_table(list(map(cells_of, near)), title)
        else:
            print(f"\n**{title}**")
    if failures:
        cells = [
            {"test": row["failed"], "kernel": row["kernel"], "message": _cell(row["message"])}
            for row in sorted(failures, key=lambda row: (row["failed"], row["kernel"]))
        ]
        print_table(cells, f"{len(failures)} failures")


KINDS = ("tolerance", "threshold", "count")


def cells_of(row: Row) -> dict[str, str]:
    """Make the cells of a table row."""
    others = sorted(row["by_kernel"].items(), key=lambda item: -item[1])
    seed = "" if row.get("seed") is None else str(row["seed"])
    return {
        "place": f"{row['file'].removeprefix('tests/')}:{row['line']}",
        "test": row["test"].split("::")[-1],
        "assertion": f"`{_cell(row['source'])[:90]}`",
        "ratio": f"{row['ratio']:.4g}",
        "kernel": row["kernel"],
        "seed": seed,
        "by kernel": ", ".join(f"{kernel} {ratio:.2g}" for kernel, ratio in others),
        "compared": f"{row['n']:,}",
    }


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


class Runner:
    """Runs units, ``n_jobs`` at a time; ``broken`` has messages about units that could not run."""

    def __init__(self, n_jobs: int) -> None:
        self.n_jobs = n_jobs
        self.broken: list[str] = []

    def run(self, todo: Sequence[Unit], n_seeds: int, title: str) -> Iterator[tuple[Unit, Row]]:
        """Yield each unit and its record when it ends."""
        executor = ThreadPoolExecutor(self.n_jobs)  # of threads that wait for processes
        try:
            futures = {executor.submit(run, unit, n_seeds): unit for unit in todo}
            for future in tqdm(as_completed(futures), title, len(todo), unit="process"):
                try:
                    yield futures[future], future.result()
                except RuntimeError as error:
                    self.broken.append(str(error))
                    print(error, file=sys.stderr, flush=True)
        finally:
            executor.shutdown(cancel_futures=True)  # Ctrl-C starts no other process


def measure(
    runner: Runner, files: Sequence[Path], names: Sequence[str], n_seeds: int, output: Path
) -> list[Row]:
    """Run the tests of all files, and return the joined rows, which ``output`` has too."""
    by_size = sorted(files, key=lambda file: -file.stat().st_size)  # long ones first
    once = [Unit(file, names[0], 0, 1) for file in by_size]
    seen = list(runner.run(once, 1, "one seed"))
    rows = merged(row for unit, found in seen for row in rows_of(unit, found))
    todo = [pair for unit, found in seen for pair in units(unit.file, found, names, n_seeds)]
    todo.sort(key=lambda pair: (pair[1].part, -pair[0]))
    for unit, found in runner.run([unit for _, unit in todo], n_seeds, "all seeds"):
        rows = merged([*rows, *rows_of(unit, found)])
        text = "".join(f"{json.dumps(row)}\n" for row in rows)
        write_atomically(output, text.encode())
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tests", nargs="*", help=f"files or folders ({' '.join(TESTS)})")
    parser.add_argument("--output", type=file_name, metavar="FILE", help="write all ratios here")
    parser.add_argument("--seeds", type=whole_number(1), default=20, metavar="N")
    parser.add_argument(
        "--kernels", nargs="+", default=list(kernels.KERNELS), metavar="NAME",
        help=f"values of OPENBLAS_CORETYPE ({' '.join(kernels.KERNELS)})",
    )  # fmt: skip
    parser.add_argument(
        "--factor", type=float, default=3.0, metavar="X",
        help="list errors within this factor of their bound (%(default)g)",
    )  # fmt: skip
    parser.add_argument("--n-jobs", type=whole_number(1), default=1, metavar="N")
    parser.add_argument("--show", nargs="+", type=Path, metavar="FILE", help="print old results")
    args = parser.parse_args()
    if (args.output is None) == (args.show is None):
        parser.error("give either --output FILE or --show FILE ...")
    if args.show is not None:
        lines = [line for path in args.show for line in path.read_text("utf-8").splitlines()]
        print_tables(merged(map(json.loads, lines)), args.factor)
        return
    paths = [ROOT / path for path in args.tests or TESTS]
    if missing := [str(path) for path in paths if not path.exists()]:
        parser.error(f"there is no {', '.join(missing)}")
    end_quietly()
    names, left_out = kernels.split(args.kernels)
    for reason in left_out:
        print(f"left out: {reason}", flush=True)
    if not names:
        parser.error("this processor runs none of the kernels")
    start = time.perf_counter()
    runner = Runner(args.n_jobs)
    rows = measure(runner, test_files(paths), names, args.seeds, args.output)
    print(f"{args.seeds} seeds, kernels {', '.join(names)}: {time.perf_counter() - start:.0f} s")
    print_tables(rows, args.factor)
    if runner.broken:
        raise SystemExit("\n".join(runner.broken))


if __name__ == "__main__":
    main()
