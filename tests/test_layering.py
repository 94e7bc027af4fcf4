"""Imports point downwards, and the heavy libraries are each behind one door."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import varpro_nn

PACKAGE = Path(varpro_nn.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
EVERY_MODULE = pytest.mark.parametrize(
    "path", MODULES, ids=[str(path.relative_to(PACKAGE).with_suffix("")) for path in MODULES]
)

RANK = {
    "_typing": 0,
    "errors": 0,
    "tables": 0,
    "npy_header": 0,
    "images_on_disk": 0,
    "command": 1,
    "files": 1,
    "images": 1,
    "jobs": 1,
    "metrics": 1,
    "resources": 1,
    "datasets": 2,
    "linalg": 2,
    "model_file": 2,
    "units": 2,
    "design": 3,
    "features": 3,
    "feature_store": 4,
    "jacobian": 4,
    "augmentation": 2,
    "pool": 3,
    "training_data": 3,
    "cluster": 4,
    "accumulation": 4,
    "convex": 3,
    "reduced": 5,
    "functional": 6,
    "partitioned": 7,
    "cross_entropy": 6,
    "history": 7,
    "network": 7,
    "folded": 5,
    "calibration": 1,
    "c_source": 6,
    "onnx_graph": 6,
    "page": 6,
    "fit": 8,
    "subnetwork": 9,
    "subnetworks": 10,
    "glue": 9,
    "glue_file": 9,
    "glue_state": 10,
    "linear_fits": 4,
    "output_layer": 10,
    "shards": 10,
    "schemes": 11,
    "bootstrap": 11,
    "config": 12,
    "plan": 13,
    "recipes": 13,
    "training": 14,
    "pipeline": 15,
    "estimators": 15,
    "predict": 16,
    "export": 16,
    "pictures": 16,
    "report": 17,
    "run_folder": 18,
    "train": 19,
    "__init__": 99,
}
"""A module, or a subpackage with all that is in it, may import what has a lower rank."""

DOORS = {
    "scipy.optimize": {"calibration", "convex", "fit"},
    "joblib": {"jobs", "pool"},
    "distributed": {"cluster"},
}
"""Who alone may import a library."""


def rank_name(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


NAMES = {rank_name(path) for path in MODULES}


def imported(source: str) -> Iterator[str]:
    """Dotted names of all that a module imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def internal(name: str) -> str | None:
    """The module or subpackage of ``varpro_nn`` that a dotted name is in."""
    first, *rest = name.split(".")
    if first != "varpro_nn":
        return None
    return rest[0] if rest and rest[0] in NAMES else "__init__"


def test_the_walk_sees_every_spelling():
    source = """
import varpro_nn.fit
import varpro_nn.fit as f
from varpro_nn import fit
from varpro_nn.fit import fit
def later():
    from varpro_nn.fit import fit
from varpro_nn import __version__
import numpy
"""
    assert [internal(name) for name in imported(source)].count("fit") == 5
    others = {"varpro_nn.__version__": "__init__", "numpy": None}
    assert {name: internal(name) for name in imported(source) if "fit" not in name} == others


def test_every_module_has_a_rank():
    """A new module says where it stands, in ``RANK``."""
    assert set(RANK) >= NAMES


@EVERY_MODULE
def test_imports_point_downwards(path):
    name = rank_name(path)
    for dotted in imported(path.read_text(encoding="utf-8")):
        other = internal(dotted)
        if other is None or (other == name and path.parent != PACKAGE):
            continue  # another library, or a sibling in the same subpackage
        if other == "__init__":
            assert dotted == "varpro_nn.__version__", f"{name} imports {dotted}"
            continue
        assert RANK[other] < RANK[name], f"{name} imports {dotted}"


@pytest.mark.parametrize(("library", "doors"), DOORS.items(), ids=DOORS)
@EVERY_MODULE
def test_libraries_are_behind_one_door(path, library, doors):
    if rank_name(path) not in doors:
        for dotted in imported(path.read_text(encoding="utf-8")):
            assert not f"{dotted}.".startswith(f"{library}."), f"{path.name} imports {dotted}"


def test_the_package_alone_loads_no_optional_library():
    """In a fresh interpreter, since this one has loaded half the world."""
    heavy = ["sklearn", "pooch", "tqdm", "matplotlib", "onnx", "distributed"]
    code = f"import sys, varpro_nn; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    assert result.stdout.strip() == "[]"
