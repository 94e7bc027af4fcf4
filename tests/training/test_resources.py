import subprocess
import sys

import numpy as np
import pytest

from varpro_nn.training.resources import peak_memory_mib


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere nothing is handed on")
def test_peak_memory_is_not_that_of_the_parent():
    held = np.ones(400 * 2**17)  # 400 MiB
    code = "from varpro_nn.training.resources import peak_memory_mib; print(peak_memory_mib())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert peak_memory_mib() > held.nbytes / 2**20
    assert float(done.stdout) < 300
