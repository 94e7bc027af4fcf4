"""What a user says about files."""

import numpy as np
import pytest

from varpro_nn import load
from varpro_nn.data.reading import Reading


@pytest.mark.parametrize("size", [(8, 9), [8, 9], np.array([8, 9])])
def test_sizes(size):
    assert Reading(image_size=size).image_size == (8, 9)


@pytest.mark.parametrize("size", [28, "28", "88", (28,), (28, 28, 3), (0, 5), (-1, 5), (2.0, 3)])
def test_sizes_that_are_none(size):
    with pytest.raises(ValueError, match=r"image_size must be two positive integers .*, got"):
        Reading(image_size=size)


@pytest.mark.parametrize("column", [True, 1.5, ("a",)])
def test_columns_that_are_none(column):
    with pytest.raises(ValueError, match="label_column must be the name of a column or its pos"):
        Reading(label_column=column)


@pytest.mark.parametrize("links", [1, None, "yes"])
def test_answers_that_are_none(links):
    with pytest.raises(ValueError, match="follow_links must be True or False, got"):
        Reading(follow_links=links)


@pytest.mark.parametrize(
    "option",
    [{"label_column": 0}, {"image_size": (8, 8)}, {"follow_links": True}, {"images_on_disk": "."}],
)
def test_data_sets_with_a_name_need_none(option):
    with pytest.raises(ValueError, match="has no effect on digits, got"):
        load("digits", **option)


def test_options_of_pictures_need_pictures(tmp_path):
    path = tmp_path / "some.npz"
    np.savez(path, x=np.zeros((4, 3, 3), np.uint8), y=[0, 1, 0, 1])
    for option in ({"follow_links": True}, {"images_on_disk": tmp_path}):
        for data in (path, [(np.zeros((3, 3), np.uint8), 0)] * 2):
            with pytest.raises(ValueError, match=r"has no effect on .*leave it out"):
                load(data, **option)
