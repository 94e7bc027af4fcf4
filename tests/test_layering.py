"""Imports point downwards, and the heavy libraries are each behind one door."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import varpro_nn

PACKAGE = Path(varpro_nn.__file__).parent

RANK = {
    "_arrays": 0,
    "_typing": 0,
    "_warn": 0,
    "_version": 0,
    "errors": 0,
    "_settings": 0,
    "_io": 0,
    "linalg": 1,
    "data": 2,
    "units": 3,
    "compute": 3,
    "varpro": 4,
    "output": 5,
    "model": 6,
    "training": 7,
    "exporters": 7,
    "report": 8,
    "estimators": 8,
    "_cli": 8,
    "train": 9,
    "predict": 9,
    "export": 9,
    "__init__": 99,
    "__main__": 99,
}
"""A module at the top, or a package with all that is in it, may import what has a lower rank."""

DOORS = {
    "scipy.optimize": {"linalg/convex", "output/calibration", "varpro/fit"},
    # Pictures are decoded in processes below the packages that train.
    "joblib": {"compute/pool", "data/picture_set", "linalg/threads"},
    "distributed": {"compute/cluster"},
    "filelock": {"_io/atomic", "_io/temporary"},
    "jinja2": {"_io/pages"},
    "pooch": {"data/fetch/sources", "data/loading"},
    "pandas": {"data/table_files"},
    "pyarrow": {"data/table_files"},
}
"""Who alone may import a library."""

SAME_RANK = {"_io": {"errors"}}
"""Packages of the lowest rank that may import modules of the same."""


def imported(source: str) -> list[str]:
    """Dotted names of all that a module imports, wherever in it the import stands."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            assert node.module is not None
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def internal(name: str) -> str | None:
    """The package, or module at the top, of ``varpro_nn`` that a dotted name is in."""
    first, *rest = name.split(".")
    if first != "varpro_nn":
        return None
    return rest[0] if rest and rest[0] in PACKAGES else "__init__"


MODULES = {
    path.relative_to(PACKAGE).with_suffix("").as_posix(): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
PACKAGES = {name.split("/")[0] for name in MODULES}


@cache
def imports() -> dict[str, list[str]]:
    """What each module imports; parsed once, and not by each process that collects the tests."""
    return {name: imported(path.read_text("utf-8")) for name, path in MODULES.items()}


def test_the_walk_sees_every_spelling():
    source = """
import varpro_nn.varpro.fit
import varpro_nn.varpro.fit as f
from varpro_nn import varpro
from varpro_nn.varpro.fit import fit
def later():
    from varpro_nn.varpro.fit import fit
from varpro_nn import VarProFunctional
import numpy
"""
    found = {name: internal(name) for name in imported(source)}
    assert list(map(internal, imported(source))).count("varpro") == 5
    assert found["varpro_nn.VarProFunctional"] == "__init__"
    assert found["numpy"] is None


def test_every_package_has_a_rank():
    assert set(RANK) >= PACKAGES


def test_imports_point_downwards():
    upwards = []
    for name, dotted_names in imports().items():
        package = name.split("/")[0]
        for dotted in dotted_names:
            other = internal(dotted)
            if other is None or other == package or other in SAME_RANK.get(package, ()):
                continue
            if package == "_io" and other == "_typing":
                continue
            if RANK[other] >= RANK[package]:
                upwards.append(f"{name} imports {dotted}")
    assert upwards == []


def test_libraries_are_behind_their_doors():
    strays = [
        f"{name} imports {dotted}"
        for name, dotted_names in imports().items()
        for dotted in dotted_names
        for library, doors in DOORS.items()
        if f"{dotted}.".startswith(f"{library}.") and name not in doors
    ]
    assert strays == []


def test_the_package_alone_loads_no_optional_library():
    """In a fresh interpreter, since this one has loaded half the world."""
    heavy = ["sklearn", "pooch", "filelock", "jinja2", "tqdm", "matplotlib", "onnx", "distributed"]
    heavy += ["pandas", "pyarrow"]
    code = f"import sys, varpro_nn; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    assert result.stdout.strip() == "[]"
