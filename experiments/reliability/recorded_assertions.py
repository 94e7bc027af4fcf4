"""A pytest plugin that records how near to its bound each comparison of numbers comes.

``python -m pytest -p experiments.reliability.recorded_assertions --assert=plain --record FILE``
writes a JSON object with the assertions, the failures, and the seconds of each test. An assertion
is a place in a test: a file and line below ``tests``. It has the largest ratio of error and bound,
and the seed of that ratio. :mod:`experiments.reliability.margins` runs the plugin.

The plugin records ``assert_allclose``, ``pytest.approx``, and ``<``, ``<=``, ``>``, ``>=`` in an
``assert``. For the comparison operators it compiles the modules below ``tests`` from a changed
syntax tree. So it records whole arrays, and also assertions that fail. An assertion has one of
these kinds:

- ``tolerance``: floating-point numbers that must agree within at most :data:`SMALL`, alone or as a
  factor: ``assert_allclose``, ``pytest.approx``, ``x < 1e-7``, ``x < 1e-5 * y``,
  ``x <= y * (1 + 1e-12)``, ``x > -1e-9 * y``, ``x < y + 1e-9``. In the last three the error is the
  amount by which ``x`` exceeds ``y``.
- ``threshold``: other floating-point numbers, such as accuracies, rates, seconds, or numbers that
  must differ. With a comparison operator, the ratio is that of the smaller and the larger number.
- ``count``: whole numbers.

A comparison of exactly equal numbers has no bound, and is not recorded.
"""

import ast
import importlib.abc
import importlib.machinery
import importlib.util
import json
import linecache
import operator
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest

from experiments.shared.provenance import ROOT

TESTS = ROOT / "tests"
SMALL = 0.01
"""A bound of at most this, alone or as a factor, is one of rounding or of convergence."""

OPERATORS: dict[type[ast.cmpop], str] = {ast.Lt: "lt", ast.LtE: "le", ast.Gt: "gt", ast.GtE: "ge"}


class Bound(NamedTuple):
    """A side of a comparison that contains a literal number: ``value = base + slack``.

    Attributes
    ----------
    value : number or array
    base : number or array
        What the other side is compared with.
    slack : number or array
        How far the other side may be beyond it.
    small : bool
        Whether the slack is a small number, alone or as a factor.
    rank : int
        If both sides contain numbers, the side of higher rank is the bound.
    """

    value: Any
    base: Any
    slack: Any
    small: bool
    rank: int = 2


class Recorder:
    """The largest ratio of error and bound at each place in each test."""

    def __init__(self) -> None:
        self.item: pytest.Item | None = None
        self.rows: dict[tuple[str, int, str, str], dict[str, Any]] = {}
        self.failures: list[dict[str, str]] = []
        self.tests: dict[str, dict[str, Any]] = {}

    def record(self, kind: str, ratios: Any, **more: Any) -> None:
        """Keep the largest of ``ratios`` for the line below ``tests`` that makes this call."""
        ratios = np.asarray(ratios, dtype=np.float64)
        if self.item is None or ratios.size == 0 or np.isnan(ratios).all():
            return
        ratio = float(np.nanmax(ratios))
        file, line = _place()
        test = _test(self.item.nodeid)
        row = self.rows.setdefault(
            (file, line, test, kind),
            {"file": file, "line": line, "test": test, "kind": kind, "n": 0, "ratio": -1.0},
        )
        row["n"] += 1
        if ratio > row["ratio"]:
            row.update(ratio=ratio, node=self.item.nodeid, seed=_seed(self.item), **more)

    # :class:`Watched` puts calls of these methods into the modules below ``tests``.

    def number(self, value: Any) -> Bound:
        """Bound ``x < 1e-7``: the number itself."""
        return Bound(value, 0.0, value, abs(value) <= SMALL, 4)

    def scaled(self, left: Any, right: Any, rank: int) -> Bound:
        """Bound ``x < 1e-5 * y``."""
        small = any(np.ndim(factor) == 0 and abs(factor) <= SMALL for factor in (left, right))
        return Bound(left * right, 0.0, left * right, small, rank)

    def stretched(self, base: Any, by: Any) -> Bound:
        """Bound ``x <= y * (1 + 1e-12)``; ``by`` is the sum."""
        value = base * by
        return Bound(value, base, value - base, abs(by - 1) <= SMALL, 3)

    def shifted(self, base: Any, slack: Any, sign: int) -> Bound:
        """Bound ``x < y + 1e-9 * z``."""
        value = base + slack if sign > 0 else base - slack
        small = bool(np.all(np.abs(slack) <= SMALL * np.abs(base)) or np.all(base == 0))
        return Bound(value, base, value - base, small)

    def compare(self, operators: Sequence[str], *sides: Any) -> Any:
        """Compare sides in a chain as Python does, and record each pair."""
        values = [side.value if isinstance(side, Bound) else side for side in sides]
        result: Any = True
        for i, name in enumerate(operators):
            pair = sides[i : i + 2]
            low, high = pair if name in ("lt", "le") else pair[::-1]
            self._record_pair(low, high)
            outcome = getattr(operator, name)(values[i], values[i + 1])
            if len(operators) == 1:
                return outcome
            result = result and outcome
        return result

    def _record_pair(self, low: Any, high: Any) -> None:
        values = [
            np.asarray(side.value if isinstance(side, Bound) else side) for side in (low, high)
        ]
        kinds = {value.dtype.kind for value in values}
        if not kinds <= set("fiub"):  # sets, strings
            return
        kind, error, slack = ("threshold" if "f" in kinds else "count"), *values
        ranks = [side.rank if isinstance(side, Bound) else 0 for side in (low, high)]
        if ranks[0] != ranks[1]:
            if ranks[1] > ranks[0]:
                bound, beyond = high, values[0] - np.asarray(high.base)
                room = np.asarray(high.slack)
            else:
                bound, beyond = low, np.asarray(low.base) - values[1]
                room = -np.asarray(low.slack)
            if kind == "threshold" and bound.small and np.all(room > 0):
                kind, error, slack = "tolerance", beyond, room
        if kind != "tolerance" and np.all(slack < 0):  # -2 < -1: -1 is the smaller number
            error, slack = -slack, -error
        if np.all(slack == 0) or (kind != "tolerance" and np.all(error == 0)):
            return
        with np.errstate(all="ignore"):
            self.record(kind, np.maximum(error / slack, 0.0))


def _place() -> tuple[str, int]:
    """Find the innermost line below ``tests`` of this call."""
    frame = sys._getframe(2)
    while True:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(TESTS):
            return path.relative_to(ROOT).as_posix(), frame.f_lineno
        if frame.f_back is None:
            return "", 0
        frame = frame.f_back


def _test(nodeid: str) -> str:
    """Name a test without its parameters."""
    return nodeid.split("[")[0]


def _seed(item: pytest.Item) -> int | None:
    call = getattr(item, "callspec", None)
    seed = None if call is None else call.params.get("rng")
    return seed if isinstance(seed, int) else None


recorder = Recorder()


class Watched(ast.NodeTransformer):
    """Replaces the comparisons of an ``assert`` by calls of the recorder.

    It leaves masks alone, as the inner comparison of ``np.mean(x > 0.5) > 0.9``.
    """

    def visit_Assert(self, node: ast.Assert) -> ast.Assert:
        """Replace the comparisons of the condition."""
        node.test = self._watched(node.test)
        return node

    def _watched(self, node: ast.expr) -> ast.expr:
        match node:
            case ast.BoolOp(op=ast.And()):
                node.values = [self._watched(value) for value in node.values]
            case ast.Call(func=ast.Attribute(attr="all", value=ast.Compare()), args=[]):
                assert isinstance(node.func, ast.Attribute)
                node.func.value = self._watched(node.func.value)
            case ast.Call(func=ast.Name(id="all"), args=[ast.GeneratorExp() as each]):
                each.elt = self._watched(each.elt)
            case ast.Compare() if all(type(op) in OPERATORS for op in node.ops):
                names = [ast.Constant(OPERATORS[type(op)]) for op in node.ops]
                sides = map(_side, (node.left, *node.comparators))
                return _call("compare", ast.Tuple(list(names), ast.Load()), *sides)
        return node


def _call(name: str, *arguments: ast.expr) -> ast.expr:
    """Make a call of a recorder method; ``fix_missing_locations`` adds the line later."""
    method = ast.Attribute(ast.Name("_recorder", ast.Load()), name, ast.Load())
    return ast.Call(method, list(arguments), [])


def _side(node: ast.expr) -> ast.expr:
    """Make a :class:`Bound` of a side that contains a literal number."""
    if _is_number(node):
        return _call("number", node)
    if isinstance(node, ast.BinOp):
        left, right = node.left, node.right
        if isinstance(node.op, ast.Add | ast.Sub) and _has_number(right):
            sign = 1 if isinstance(node.op, ast.Add) else -1
            return _call("shifted", left, right, ast.Constant(sign))
        if isinstance(node.op, ast.Mult):
            for base, by in ((left, right), (right, left)):
                if isinstance(by, ast.BinOp) and isinstance(by.op, ast.Add | ast.Sub):
                    return _call("stretched", base, by)
            numbers = any(map(_is_number, (left, right)))
            if numbers or any(isinstance(each, ast.Name) for each in (left, right)):
                return _call("scaled", left, right, ast.Constant(2 if numbers else 1))
    return node


def _is_number(node: ast.expr) -> bool:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return _is_number(node.operand)
    return isinstance(node, ast.Constant) and type(node.value) in (int, float)


def _has_number(node: ast.expr) -> bool:
    factors = (node.left, node.right) if isinstance(node, ast.BinOp) else (node,)
    return any(map(_is_number, factors))


class _Loader(importlib.machinery.SourceFileLoader):
    """Compiles a module from the changed syntax tree, without a bytecode cache."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        tree = Watched().visit(ast.parse(self.get_data(path)))
        return compile(ast.fix_missing_locations(tree), path, "exec")

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["_recorder"] = recorder
        super().exec_module(module)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds modules below ``tests``, including helper modules."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.origin is None or not Path(spec.origin).is_relative_to(TESTS):
            return None
        loader = _Loader(fullname, spec.origin)
        return importlib.util.spec_from_file_location(fullname, spec.origin, loader=loader)


def _recorded_allclose(original: Callable[..., None]) -> Callable[..., None]:
    def assert_allclose(
        actual: Any, desired: Any, rtol: float = 1e-7, atol: float = 0, *args: Any, **more: Any
    ) -> None:
        __tracebackhide__ = True
        a, d = np.asarray(actual), np.asarray(desired)
        if (np.any(rtol) or np.any(atol)) and a.dtype.kind in "fiubc" and d.dtype.kind in "fiubc":
            whole = not {a.dtype.kind, d.dtype.kind} & set("fc")
            kind = "count" if whole else _kind(rtol, atol, d)
            with np.errstate(all="ignore"):
                try:
                    error = np.where(a == d, 0.0, np.abs(np.subtract(a, d, dtype=_wide(a, d))))
                    ratios = np.where(error == 0, 0.0, error / (atol + rtol * np.abs(d)))
                    recorder.record(
                        kind, ratios, rtol=float(np.max(rtol)), atol=float(np.max(atol))
                    )
                except ValueError:  # the shapes do not fit, so the assertion fails
                    pass
        original(actual, desired, rtol, atol, *args, **more)

    return assert_allclose


def _kind(rtol: Any, atol: Any, desired: Any) -> str:
    """Choose the kind of a bound, relative to the largest desired number."""
    sizes = np.abs(desired)[np.isfinite(desired)]
    scale = max(1.0, np.max(sizes, initial=0.0))
    small = np.max(rtol) <= SMALL and np.max(atol) <= SMALL * scale
    return "tolerance" if small else "threshold"


def _wide(a: Any, d: Any) -> Any:
    return np.complex128 if "c" in (a.dtype.kind, d.dtype.kind) else np.float64


def _recorded_approx(original: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def equal(self: Any, actual: Any) -> bool:
        try:
            error, tolerance = abs(float(actual) - float(self.expected)), float(self.tolerance)
        except (TypeError, ValueError):  # an array, whose entries come here one by one
            return original(self, actual)
        if tolerance:
            whole = isinstance(actual, int) and isinstance(self.expected, int)
            kind = "count" if whole else _kind(0, tolerance, float(self.expected))
            recorder.record(kind, error / tolerance, rtol=self.rel, atol=self.abs)
        return original(self, actual)

    return equal


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", type=Path, metavar="FILE", help="JSON file to write")
    parser.addoption("--only-tests", type=Path, metavar="FILE", help="tests to run, one per line")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("assertmode") != "plain":
        msg = "recorded_assertions compiles the tests itself: add --assert=plain"
        raise pytest.UsageError(msg)
    # At this time no module below ``tests`` with a numerical assertion has been imported.
    np.testing.assert_allclose = _recorded_allclose(np.testing.assert_allclose)
    approx: Any = type(pytest.approx(0.0))
    approx.__eq__ = _recorded_approx(approx.__eq__)
    sys.meta_path.insert(0, _Finder())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    path = config.getoption("only_tests")
    if path is not None:
        names = set(path.read_text(encoding="utf-8").splitlines())
        items[:] = [item for item in items if _test(item.nodeid) in names]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    recorder.item = item
    try:
        return (yield)
    finally:
        recorder.item = None


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    test = recorder.tests.setdefault(_test(report.nodeid), {"seconds": 0.0, "seeded": False})
    test["seconds"] += report.duration
    test["seeded"] |= recorder.item is not None and _seed(recorder.item) is not None
    if report.failed:
        crash = getattr(report.longrepr, "reprcrash", None)
        message = str(report.longrepr)
        if crash is not None:
            message = f"{Path(crash.path).name}:{crash.lineno}: {crash.message}"
        recorder.failures.append({"failed": report.nodeid, "message": message[:300]})


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("record")
    if path is None:
        return
    rows = list(recorder.rows.values())
    for row in rows:
        row["source"] = linecache.getline(str(ROOT / row["file"]), row["line"]).strip()
    found = {"assertions": rows, "failures": recorder.failures, "tests": recorder.tests}
    path.write_text(json.dumps(found), encoding="utf-8")
