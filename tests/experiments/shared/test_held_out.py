import numpy as np
import pytest
from numpy.testing import assert_array_equal

from experiments.shared import held_out as module
from experiments.shared.held_out import held_out
from varpro_nn.data import Dataset, ImageSet


@pytest.mark.parametrize(
    ("n_train", "quick", "n_kept"), [(None, False, 60), (20, False, 20), (70, False, 60),
                                     (None, True, 30), (20, True, 20)],
)  # fmt: skip
def test_the_last_images_measure(n_train, quick, n_kept, monkeypatch):
    monkeypatch.setattr(module, "N_QUICK", 30)
    images = np.arange(90, dtype=np.uint8).reshape(90, 1, 1)
    of_test = ImageSet(images + 100, np.zeros(90, int))
    data = Dataset("made", np.arange(2), ImageSet(images, np.arange(90) % 2), of_test)
    found = held_out(data, n_train, quick=quick)
    assert_array_equal(found.train.images, images[:n_kept])
    assert_array_equal(found.test.images, images[60:])


def test_of_many_images_a_fixed_number_is_held_out(monkeypatch):
    monkeypatch.setattr(module, "N_HELD", 10)
    images = np.zeros((90, 1, 1), np.uint8)
    data = Dataset("made", np.arange(2), ImageSet(images, np.arange(90) % 2), None)
    found = held_out(data, None, quick=False)
    assert (len(found.train), len(found.test)) == (80, 10)
