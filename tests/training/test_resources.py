import subprocess
import sys

import numpy as np
import pytest

from varpro_nn.training import resources
from varpro_nn.training.resources import peak_memory_mib


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere nothing is handed on")
def test_peak_memory_is_not_that_of_the_parent():
    held = np.ones(400 * 2**17)  # 400 MiB
    code = "from varpro_nn.training.resources import peak_memory_mib; print(peak_memory_mib())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert peak_memory_mib() > held.nbytes / 2**20
    assert float(done.stdout) < 300


@pytest.mark.parametrize("text", [None, "", "VmPeak:\t 1 kB\n", "VmHWM:\n", "VmHWM:\tmany kB\n"])
def test_peak_memory_where_the_system_does_not_tell_it(text, tmp_path, monkeypatch):
    """A run does not end, after all its training, for want of a figure."""
    path = tmp_path / "status"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(resources, "_STATUS", path)
    assert 10 < peak_memory_mib() < 100_000


def test_peak_memory_is_read_from_the_line_of_linux(tmp_path, monkeypatch):
    (tmp_path / "status").write_text("VmPeak:\t9 kB\nVmHWM:\t 999999488 kB\n", encoding="utf-8")
    monkeypatch.setattr(resources, "_STATUS", tmp_path / "status")
    assert peak_memory_mib() == 976562
