"""One thread of BLAS: the limit is that of the whole process, and of every library in it."""

import json
import os
import subprocess
import sys

SCRIPT = """
from varpro_nn.linalg.threads import thread_pool
with thread_pool(1):
    import scipy.linalg, scipy.optimize, scipy.sparse.linalg, scipy.special
    from threadpoolctl import threadpool_info
    print([pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"])
"""


def test_what_is_imported_later_has_one_thread_too():
    """NumPy and SciPy bring a BLAS each; a limit does not hold for one that is loaded after it."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "2"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert set(json.loads(done.stdout)) == {1}
