"""Mutation testing of the numerics: how many wrong signs, numbers and comparisons tests notice.

``python -m experiments.reliability.mutation`` changes one place of a module at a time (an
operator, a number, a comparison, a truth value, a loop, a statement; ``pip install cosmic-ray``
first) and runs the tests of that module against the changed package. A mutant that a test fails
on, or that runs for longer than ``--patience`` times the unchanged module, is killed. The sample
of places and changes depends on the text of the module and on ``--seed`` alone, so that two
versions of the tests can be compared on the same mutants: give the other version as ``--root``.
Nothing below ``--root`` is written to.

Prints a table, and the survivors with their line. Not every survivor is a gap of the tests: a
change of a size of blocks, of ``<`` where equality never comes, or of the -1 of ``reshape`` into
another negative number changes no result.
"""

import argparse
import contextlib
import importlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TESTS = {
    "varpro/jacobian": (
        "varpro/test_jacobian.py",
        "varpro/test_functional.py",
        "varpro/test_reduced.py",
    ),
    "varpro/functional": ("varpro/test_functional.py", "varpro/test_jacobian.py"),
    "linalg/ridge": ("linalg/test_ridge.py", "output/test_ridge_fit.py"),
    "units/windows": ("units/test_windows.py", "units/test_patches.py"),
    "units/patches": ("units/test_patches.py", "units/test_whitening.py"),
}
"""Test files of each module: those most likely to fail come first."""

IMPORTED_ONCE = (
    "numpy", "scipy.linalg", "scipy.optimize", "scipy.sparse.linalg", "scipy.special",
    "scipy.stats", "sklearn.linear_model", "joblib", "threadpoolctl", "pytest",
)  # fmt: skip
"""What takes seconds to import and is not under test; a child has it by the fork."""

CHANGES = ("ReplaceBinaryOperator", "ReplaceComparisonOperator", "ReplaceUnaryOperator")
SINGLE_CHANGES = (
    "AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr",
    "ReplaceOrWithAnd", "NumberReplacer", "ZeroIterationForLoop", "ReplaceBreakWithContinue",
    "ReplaceContinueWithBreak",
)  # fmt: skip
BITWISE = ("BitOr", "BitAnd", "BitXor", "LShift", "RShift")
"""Operators that raise for floats: mutants that die at once say nothing of the tests."""


@dataclass(frozen=True)
class Mutant:
    """A module with one change: the new text, and the line in its old and new form."""

    text: str
    line: int
    before: str
    after: str


def _operators() -> list[Any]:
    """Cosmic-ray's operators, and the removal of a statement, which it has not."""
    from cosmic_ray.ast import get_ast
    from cosmic_ray.operators.operator import Operator
    from cosmic_ray.operators.provider import OperatorProvider

    class DeleteStatement(Operator):  # type: ignore[misc]
        """Put ``pass`` in the place of ``x += y`` and of calls whose result is not used."""

        def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
            call = node.type == "atom_expr" and node.parent.type == "simple_stmt"
            # An assignment of a name that is used later would only raise.
            sign = getattr(node.children[1], "value", "=") if node.type == "expr_stmt" else "="
            if call or sign != "=":
                yield node.start_pos, node.end_pos

        def mutate(self, node: Any, index: int) -> Any:
            return get_ast(node.get_first_leaf().prefix + "pass")

        @classmethod
        def examples(cls) -> tuple[()]:
            return ()

    provider = OperatorProvider()
    chosen = [
        name
        for name in provider
        if name in SINGLE_CHANGES
        or (name.startswith(CHANGES) and not any(bit in name for bit in BITWISE))
    ]
    return [provider[name]() for name in chosen] + [DeleteStatement()]


def sample(text: str, n_mutants: int, seed: int) -> list[Mutant]:
    """Draw places of a module without replacement, and one change at each."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.mutating import mutate_code

    places: dict[tuple[int, int], list[tuple[Any, int]]] = {}
    for operator in _operators():
        occurrence = 0
        for node in ast_nodes(get_ast(text)):
            for start, _ in operator.mutation_positions(node):
                places.setdefault(start, []).append((operator, occurrence))
                occurrence += 1
    rng = random.Random(seed)
    mutants: list[Mutant] = []
    for place in rng.sample(sorted(places), len(places)):
        operator, occurrence = rng.choice(places[place])
        mutated = mutate_code(text, operator, occurrence)
        lines, new = text.splitlines(), mutated.splitlines()
        number = next(i for i, pair in enumerate(zip(lines, new, strict=False)) if len({*pair}) > 1)
        with contextlib.suppress(SyntaxError):  # the star of keyword arguments is no product
            compile(mutated, "mutant", "exec")
            mutants.append(Mutant(mutated, number + 1, lines[number].strip(), new[number].strip()))
        if len(mutants) == n_mutants:
            break
    return mutants


def _child(folder: Path, tests: Iterable[str], select: str, seconds: int) -> None:
    """Run the tests below ``folder`` in this process, and exit with the status of pytest."""
    import pytest

    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    # This package is that of the tree under test from here on.
    for name in [name for name in sys.modules if name.split(".")[0] == "experiments"]:
        del sys.modules[name]
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:faulthandler", "-k", select]
    os._exit(pytest.main([*options, *(f"tests/{name}" for name in tests)]))


def run_tests(
    folder: Path, tests: Iterable[str], select: str, seconds: int
) -> tuple[int | None, float]:
    """Exit status of pytest, and the processor time that it took.

    A negative status is that of a signal: SIGXCPU after ``seconds`` of processor time, which does
    not depend on what else the machine does.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    child = multiprocessing.get_context("fork").Process(
        target=_child, args=(folder, tests, select, seconds)
    )
    child.start()
    child.join()
    return child.exitcode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


def score(root: Path, module: str, args: argparse.Namespace) -> dict[str, Any]:
    """Kill what can be killed of one module's mutants; survivors go to stderr as they come."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        for name in ("varpro_nn", "tests", "experiments", "docs"):
            shutil.copytree(
                root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        shutil.copy(root / "pyproject.toml", folder)
        path = folder / "varpro_nn" / f"{module}.py"
        source = path.read_text(encoding="utf-8")
        status, seconds = run_tests(folder, TESTS[module], args.select, args.seconds)
        if status != 0:
            msg = f"the tests of {module} must pass as they are, got exit status {status}."
            raise SystemExit(msg)
        limit = int(10 + args.patience * seconds)
        found: dict[str, Any] = {
            "module": module, "mutants": 0, "killed": 0, "by_time": 0,
            "seconds_unchanged": seconds, "seconds": 0.0, "survivors": [],
        }  # fmt: skip
        for mutant in sample(source, args.mutants, args.seed):
            path.write_text(mutant.text, encoding="utf-8")
            status, used = run_tests(folder, TESTS[module], args.select, limit)
            found["mutants"] += 1
            found["seconds"] += used
            found["killed"] += status != 0
            found["by_time"] += status == -signal.SIGXCPU
            if status == 0:
                found["survivors"].append([mutant.line, mutant.before, mutant.after])
                print(f"{module}:{mutant.line}  {mutant.before}  ->  {mutant.after}",
                      file=sys.stderr, flush=True)  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path(), metavar="DIR", help="checkout to test")
    parser.add_argument("--modules", nargs="+", choices=TESTS, default=list(TESTS))
    parser.add_argument("--mutants", type=int, default=40, metavar="N", help="per module")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the sample")
    parser.add_argument(
        "--select", default="", metavar="EXPR", help="tests to run, as pytest -k; else all"
    )
    parser.add_argument(
        "--seconds", type=int, default=600, metavar="S", help="limit of the unchanged module"
    )
    parser.add_argument(
        "--patience", type=float, default=3, metavar="X",
        help="a mutant runs at most X times as long as the unchanged module",
    )  # fmt: skip
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
    sys.dont_write_bytecode = True  # else a mutant of the same second and size is not seen
    for name in IMPORTED_ONCE:
        importlib.import_module(name)
    results = []
    print("| module | mutants | killed | survived | of the killed, by time | processor time (s) |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for module in args.modules:
        found = score(args.root.resolve(), module, args)
        results.append(found)
        n, killed = found["mutants"], found["killed"]
        print(
            f"| `{module}` | {n} | {killed} | {n - killed} | {found['by_time']} | "
            f"{found['seconds']:.0f} |",
            flush=True,
        )
    for found in results:
        for line, before, after in found["survivors"]:
            print(f"{found['module']}:{line}: `{before}` -> `{after}`")
    print(json.dumps({"seed": args.seed, "results": results}))


if __name__ == "__main__":
    main()
