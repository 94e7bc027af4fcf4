"""All tables: ``python -m experiments.all [--quick] [--only NAME ...] [--n-jobs N]``.

Each table runs in a separate process with one thread of BLAS, so that memory and CPU seconds are
those of the table. Tables run one after the other; ``--n-jobs N`` runs N at a time. That is
quicker, but memory-bound work then takes more CPU seconds, so pages give the load of the machine.

In the folder ``--output``, results go to ``NAME.jsonl`` as soon as they are measured, so that a
stopped run can resume. The output of the table goes to ``NAME.md``, with the command, the dates and
commits of the measurements, the machine and the versions at the top. A table that fails does not
stop the others; the exit status is then not 0.

``--quick`` measures digits and slices of MNIST, minutes in all, and keeps nothing unless
``--output`` is given. The full run takes about 17 hours, six of them for the field: with
``--n-jobs 2`` a night on two cores.
"""

import argparse
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from experiments.shared.options import end_quietly, whole_number
from experiments.shared.processes import child
from varpro_nn._io.atomic import write_atomically

RESULTS = Path(__file__).parent / "results"


class Table(NamedTuple):
    """A script with its options.

    Attributes
    ----------
    module : str
        In ``experiments``: folder and name.
    options : sequence of str
        Of the full run.
    quick : sequence of str or None
        Of the quick run; None where another table of the same script stands for it.
    keeps : bool
        Whether it keeps its results in a file (``--output``).
    """

    module: str
    options: Sequence[str] = ()
    quick: Sequence[str] | None = ("--quick",)
    keeps: bool = True


_LONGEST = ("accurate", "accurate-untrained", "patches-logistic-LM")
ONCE = {"mnist": (), "fashion-mnist": _LONGEST, "cifar10": (*_LONGEST, "SVC-first-10000")}
"""Rows of the field that take longest, and are not repeated."""
TABLES: dict[str, Table] = {
    "paper": Table("claims.paper"),
    "iterations": Table("claims.iterations"),
    "projection": Table("claims.projection"),
    "search_methods": Table("claims.search_methods"),
    "iteration": Table(
        "benchmarks.iteration",
        quick=("--n-images", "150", "--n-units", "4", "--max-nfev", "4"),
        keeps=False,
    ),
    "bootstrap": Table("claims.bootstrap", ("--large",)),
    "random_units": Table("claims.random_units"),
    "matrix_equality": Table(
        "claims.matrix_equality", ("--images", "4000", "--test-images", "4000")
    ),
    "matrix_equality_10000": Table(
        "claims.matrix_equality",
        ("--images", "10000", "--test-images", "4000", "--ks", "1", "4", "25", "--skip-all-images"),
        None,
    ),
    "linear_classifiers": Table("claims.linear_classifiers", ("--updates", "50000")),
    "templates": Table("claims.templates", ("--figure", "docs/templates.png")),
    "regularisation": Table("claims.regularisation"),
    "patch_operator": Table("claims.patch_operator"),
    "accuracy_mnist": Table("field.accuracy", ("mnist",), ("mnist", "--quick")),
    "accuracy_fashion-mnist": Table("field.accuracy", ("fashion-mnist",), None),
    "accuracy_cifar10": Table("field.accuracy", ("cifar10",), None),
    "validation_mnist": Table("field.validation_split", ("mnist",), ("mnist", "--quick")),
    "validation_cifar10": Table("field.validation_split", ("cifar10",), None),
    **{
        f"field_{data}": Table(
            "field.table",
            (data, *(["--once", *once] if once else []), "--figure", f"docs/field_{data}.svg"),
            ("--quick",) if data == "mnist" else None,
        )
        for data, once in ONCE.items()
    },
    "scaling_laws": Table("benchmarks.scaling_laws", ("--figure", "docs/scaling_laws.svg")),
    "features": Table(
        "benchmarks.features", quick=("--n-images", "64", "--n-units", "3"), keeps=False
    ),
    "calibration": Table("field.calibration"),
    "calibration_cifar10": Table(
        "field.calibration", ("--data", "cifar10", "--recipes", "default"), None
    ),
    "processors": Table("reliability.processors"),
    "growth": Table("benchmarks.growth"),
    "estimates": Table("benchmarks.estimates"),
    "auto_limits": Table("field.auto_limits"),
    "overrides": Table("reliability.overrides"),
    "stages": Table("field.stages", ("mnist",), ("mnist", "--quick")),
    "stages_cross_entropy": Table(
        "field.stages", ("mnist", "--loss", "cross-entropy", "--widths", "36", "72"), None
    ),
    "stages_cifar10": Table("field.stages", ("cifar10",), None),
    "two_layers": Table("field.two_layers", ("cifar10",), ("digits", "--quick")),
    "two_layers_mnist": Table("field.two_layers", ("mnist",), None),
    "layer_by_adam": Table(
        "field.layer_by_adam", ("cifar10", "--n-train", "20000"), ("digits", "--quick")
    ),
}
"""The tables by name; the README has the scripts on killed processes and speed of whole runs."""


def page(name: str, command: Sequence[str], lines: Sequence[str]) -> str:
    """Make the Markdown page of a table from what its script printed."""
    *printed, last = lines
    told = json.loads(last)
    days = " to ".join(dict.fromkeys((told["date"][0], told["date"][-1])))
    loads = [load for load in told["load"] if load is not None]
    span = " to ".join(dict.fromkeys(str(f(loads)) for f in (min, max))) if loads else ""
    load = f"load of the machine {span}" if loads else "load not recorded"
    commits = ", ".join(map(str, told["commit"]))
    versions = ", ".join(f"{package} {version}" for package, version in told["versions"].items())
    head = [
        f"# {name}",
        "",
        f"`{shlex.join(command)}`, {days}, commit {commits}. "
        f"{', '.join(map(str, told['machine']))}; "
        f"{load}. {versions}.",
    ]
    return "\n".join([*head, *printed]).rstrip() + "\n"


def measure(name: str, folder: Path, quick: bool) -> str | None:
    """Run a table and write its page; what went wrong, if something did."""
    table = TABLES[name]
    options = list((table.quick or ()) if quick else table.options)
    if folder != RESULTS:  # figures go there too
        options = [str(folder / o[5:]) if o.startswith("docs/") else o for o in options]
    command = [f"experiments.{table.module}", *options]
    kept = ["--output", str(folder / f"{name}.jsonl")] if table.keeps else []
    start = time.perf_counter()
    print(f"{name} ...", file=sys.stderr, flush=True)
    try:
        lines = child([*command, *kept])
        text = page(name, ["python", "-m", *command], lines)
        write_atomically(folder / f"{name}.md", text.encode())
    except SystemExit as error:
        return str(error)
    except (OSError, ValueError, KeyError) as error:  # a full disk, a last line that is no JSON
        return f"error: {name}: {error}"
    print(f"{text}\n{name}: {time.perf_counter() - start:.0f} s\n", flush=True)
    return None


def measure_all(names: Sequence[str], folder: Path, quick: bool, n_jobs: int) -> list[str]:
    """Run tables, ``n_jobs`` at a time; what went wrong."""
    executor = ThreadPoolExecutor(n_jobs)  # of threads that wait for processes
    try:
        done = [executor.submit(measure, name, folder, quick) for name in names]
        bar = tqdm(as_completed(done), total=len(names), desc="tables", unit="table")
        found = [future.result() for future in bar]
    finally:
        executor.shutdown(cancel_futures=True)  # Ctrl-C starts no other table
    return [text for text in found if text is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="digits and slices of MNIST")
    parser.add_argument("--only", nargs="+", choices=tuple(TABLES), metavar="NAME",
                        help=f"these alone: {', '.join(TABLES)}")  # fmt: skip
    parser.add_argument("--output", type=Path, metavar="DIR",
                        help="of the results (experiments/results; none with --quick)")  # fmt: skip
    parser.add_argument("--n-jobs", type=whole_number(1), default=1, metavar="N",
                        help="tables at a time, one thread each (1)")  # fmt: skip
    args = parser.parse_args()
    if args.output is not None and args.output.exists() and not args.output.is_dir():
        parser.error(f"--output must be a folder, got the file {args.output}")
    known = [name for name, table in TABLES.items() if not args.quick or table.quick is not None]
    if without := sorted(set(args.only or []) - set(known)):
        among = f"{', '.join(known)} have: theirs stand for these"
        parser.error(f"--only: {', '.join(without)} has no quick form; {among}")
    names = [name for name in known if name in (args.only or known)]
    end_quietly()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.output or (Path(scratch) if args.quick else RESULTS)
        folder.mkdir(parents=True, exist_ok=True)
        failed = measure_all(names, folder, args.quick, args.n_jobs)
    if failed:
        raise SystemExit("\n".join(failed))


if __name__ == "__main__":
    main()
