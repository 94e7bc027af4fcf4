import numpy as np
import pytest

from experiments.benchmarks import growth


def test_runs_of_a_size(run_script, in_this_process, mnist, monkeypatch):
    in_this_process(growth)
    monkeypatch.setattr(growth, "load", lambda *_: mnist)
    result = run_script(growth, "--quick")[1]
    assert [row["value"] for row in result["rows"]] == [12, 24]
    assert all(row["cpu_seconds"] > 0 < row["estimated_cpu_seconds"] for row in result["rows"])
    assert [row["size"] for row in result["slopes"]] == ["units"]


@pytest.mark.usefixtures("mnist")
def test_numbers_of_three_digits_side_by_side():
    few = growth.BASE | {"digits": 3, "classes": 1000, "images": 40, "side": 56, "channels": 2}
    data = growth.data_of(few, None)
    images = data.train.images
    assert images.shape == (40, 2, 56, 168)
    assert len(data.classes) == 1000
    assert np.array_equal(images[:, :, ::2, ::2], images[:, :, 1::2, 1::2])
    single = growth.data_of(growth.BASE | {"images": 40}, None)
    assert single.train.images.shape == (40, 28, 28)


def test_every_point_varies_its_size():
    for size, points in growth.SIZES.items():
        values = [growth.value_of(size, point) for point in points]
        assert values == sorted(set(values)), size
