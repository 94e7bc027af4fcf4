import json
import os

import pytest

from experiments.shared.processes import ProcessFailed, child


@pytest.mark.parametrize("threads", [1, 2])
def test_a_child_has_so_many_threads(threads):
    if threads > len(os.sched_getaffinity(0)):
        pytest.skip("OpenBLAS starts no more threads than the process has processors")
    pools = json.loads("".join(child(["threadpoolctl", "-i", "numpy"], threads)))
    assert {pool["num_threads"] for pool in pools} == {threads}


def test_child_tells_of_its_end():
    assert child(["platform"])[0]
    with pytest.raises(ProcessFailed, match="ended with status 2") as failed:
        child(["json.tool", "--no-such-option"])
    assert failed.value.status == 2
