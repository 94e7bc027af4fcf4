import subprocess
import sys

import numpy as np
import pytest

from varpro_nn._io import mapped as module
from varpro_nn._io.mapped import release_rows, rows_in_use


def mapped(tmp_path, shape):
    return np.memmap(tmp_path / "rows", np.float32, "w+", shape=shape)


@pytest.mark.parametrize("rows", [slice(None), slice(3, 900), slice(5, 5)], ids=str)  # fmt: skip
@pytest.mark.parametrize("view", [slice(None), slice(10, None)], ids=["whole", "part"])
@pytest.mark.parametrize("mode", ["r+", "c"])  # c: what is written stays in memory alone
def test_nothing_is_lost(mode, view, rows, tmp_path, rng):
    mapped(tmp_path, (1100, 7)).flush()
    array = np.memmap(tmp_path / "rows", np.float32, mode, shape=(1100, 7))
    expected = rng.standard_normal(array.shape).astype(np.float32)
    array[:] = expected
    release_rows(array[view], rows)
    np.testing.assert_array_equal(array, expected)


def test_other_arrays_are_left_alone():
    array = np.ones((5, 3))
    release_rows(array, slice(None))
    assert array.sum() == 15


@pytest.mark.parametrize("rows", [
    slice(3, 900), np.array([1, 7, 999]), np.array([5]), np.array([], int), np.arange(0, 1090, 3),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("kind", ["r+", "c", "memory"])
def test_rows_are_those_of_the_array(kind, rows, tmp_path, rng, monkeypatch):
    monkeypatch.setattr(module, "_SPAN", 2000)
    expected = rng.standard_normal((1100, 7)).astype(np.float32)
    mapped(tmp_path, expected.shape)[:] = expected
    array = (
        expected
        if kind == "memory"
        else np.memmap(tmp_path / "rows", np.float32, kind, shape=expected.shape)
    )
    with rows_in_use(array[10:], rows) as found:
        np.testing.assert_array_equal(found, expected[10:][rows])
    np.testing.assert_array_equal(array, expected)


PROGRAM = """
import re, sys
import numpy as np
from varpro_nn._io import mapped

array = np.memmap(sys.argv[1], np.float32, "r", shape=(6400, 4096))


def resident():
    return int(re.search(r"VmRSS:\\s*(\\d+) kB", open("/proc/self/status").read())[1])


before = most = resident()
if sys.argv[2] == "few":  # of each 256 KiB, the system reads more than one page
    mapped._SPAN = 5 * 2**20
    with mapped.rows_in_use(array, np.arange(0, 6400, 16)):
        most = max(most, resident())
else:
    for start in range(0, 6400, 400):
        array[start : start + 400].sum()
        most = max(most, resident())
        if sys.argv[2] == "all":
            mapped.release_rows(array[100:], slice(start - 100 if start else 0, start + 300))
print(most - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count otherwise")
@pytest.mark.parametrize("released", ["none", "all", "few"])
def test_memory_is_that_of_the_rows_in_use(released, tmp_path):
    """100 MiB in all, 6.25 MiB at a time."""
    mapped(tmp_path, (6400, 4096)).flush()
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "rows"), released]
    kib = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert (kib < 25 * 2**10) == (released != "none")
