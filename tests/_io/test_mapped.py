import re
import sys
from pathlib import Path

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


def kib(name):
    return int(re.search(rf"{name}:\s*(\d+) kB", Path("/proc/self/status").read_text())[1])


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count otherwise")
@pytest.mark.parametrize("released", ["none", "all", "few", "few, one part"])
def test_memory_is_that_of_the_rows_in_use(released, in_child, tmp_path):
    """100 MiB in all, 6.25 MiB at a time; or every eighth row, 12.5 MiB, in parts."""
    mapped(tmp_path, (6400, 4096)).flush()

    def most():
        """Peak of a process that begins with what this one has."""
        array = np.memmap(tmp_path / "rows", np.float32, "r", shape=(6400, 4096))
        before = kib("VmRSS")
        if released.startswith("few"):  # the system reads more of each 128 KiB than the row
            module._SPAN = 2**40 if released == "few, one part" else 5 * 2**20
            with rows_in_use(array, np.arange(0, 6400, 8)):
                pass
        else:
            for start in range(0, 6400, 400):
                array[start : start + 400].sum()
                if released == "all":
                    release_rows(array[100:], slice(start - 100 if start else 0, start + 300))
        return kib("VmHWM") - before

    assert (in_child(most, 60) < 35 * 2**10) == (released in ("all", "few"))
