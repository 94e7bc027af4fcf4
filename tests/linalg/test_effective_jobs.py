"""Numbers of workers, as joblib counts them."""

import numpy as np
import pytest

from varpro_nn.linalg import threads
from varpro_nn.linalg.threads import effective_jobs


def test_numbers_of_workers(monkeypatch):
    monkeypatch.setattr(threads.joblib, "cpu_count", lambda: 4)
    numbers = {1: 1, 3: 3, 9: 9, -1: 4, -2: 3, -4: 1, -9: 1, np.int64(2): 2}
    assert {n_jobs: effective_jobs(n_jobs) for n_jobs in numbers} == numbers


def test_what_is_no_number_of_workers():
    with pytest.raises(ValueError, match=r"n_jobs must be -1 .*or at least 1, got 0"):
        effective_jobs(0)
    for n_jobs in (2.0, None, "2"):
        with pytest.raises(TypeError, match=f"n_jobs must be an integer, got {n_jobs!r}"):
            effective_jobs(n_jobs)
