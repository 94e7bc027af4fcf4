import numpy as np
import pytest
from numpy.testing import assert_array_equal

from experiments.field import auto_limits
from experiments.shared.numbers_of_mnist import numbers


def test_a_contest_and_its_training_at_a_limit(run_script, in_this_process, mnist, monkeypatch):
    in_this_process(auto_limits)
    monkeypatch.setattr(auto_limits, "load", lambda *_: mnist)
    found = run_script(auto_limits, "--quick", "--only", "20 images")[1]["20 images"]
    assert found["test_accuracy"] > 0.8  # zeros and ones
    assert found["contest_cpu_seconds"] > 0 < found["training_cpu_seconds"]


@pytest.mark.parametrize("side", [8, 28, 56, 40])
def test_digits_of_a_number_stand_side_by_side(mnist, side):
    labels = np.array([7, 420, 999])
    images = numbers(mnist.train, labels, n_digits=3, side=side, n_channels=2).images
    assert images.shape == (3, 2, side, 3 * side)
    assert not np.array_equal(images[:, 0], images[:, 1])  # each channel is drawn
    as_drawn = numbers(mnist.train, labels, n_digits=3, n_channels=2).images
    if side == 56:
        assert_array_equal(images, np.kron(as_drawn, np.ones((2, 2), np.uint8)))
    else:  # of about the ink of the same place
        share = np.arange(4) * side // 4, np.arange(4) * 7
        for rows, of in zip(*share, strict=True):
            mine = images[:, :, rows : rows + side // 4].mean(dtype=float)
            theirs = as_drawn[:, :, of : of + 7].mean(dtype=float)
            assert abs(mine - theirs) < 0.1 * as_drawn.mean(dtype=float)


def test_test_images_are_made_of_test_images(mnist, monkeypatch):
    monkeypatch.setattr(auto_limits, "load", lambda *_: mnist)
    data = auto_limits.data_of(auto_limits.BASE | {"images": 20, "test": 20}, 0, None)
    for part, source in ((data.train, mnist.train), (data.test, mnist.test)):
        known = {image.tobytes() for image in source.images}
        assert all(image.tobytes() in known for image in part.images)


def test_digits_are_of_the_class_that_is_asked(mnist):
    source = mnist.train
    found = numbers(source, np.array([4, 1]), n_digits=2).images
    for image, (left, right) in zip(found, [(0, 4), (0, 1)], strict=True):
        for part, digit in ((image[:, :28], left), (image[:, 28:], right)):
            assert any(np.array_equal(part, own) for own in source.images[source.labels == digit])
