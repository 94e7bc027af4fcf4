from types import SimpleNamespace

import numpy as np
import pytest

from experiments.benchmarks import glue_memory
from varpro_nn.training.resources import peak_memory_mib

pytestmark = pytest.mark.usefixtures("mnist")


def test_each_count_has_a_process_of_its_own(run_script):
    small = ["--images", "400", "800", "--n-units", "40", "--n-jobs", "1"]
    result = run_script(glue_memory, *small)[1]
    assert [row["n_images"] for row in result["rows"]] == [400, 800]
    for row in result["rows"]:
        assert row["peak_mib"] >= row["before_mib"] > 20


def test_peak_memory_is_that_of_the_glue(monkeypatch):
    peak, already = peak_memory_mib(), np.ones(0)

    def glue(units, W, images, labels, n_classes, n_jobs):
        nonlocal already
        already = np.ones((round(peak) + 300) * 2**17)  # eight bytes each
        return SimpleNamespace(ridge=1.0, loo_error=[0.5])

    monkeypatch.setattr(glue_memory, "glue", glue)
    row = glue_memory.measure(100, 5, 1)
    assert row["peak_mib"] - row["before_mib"] > 200
