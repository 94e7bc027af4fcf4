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


@pytest.mark.parametrize("option", [{"label_column": 0}, {"image_size": (8, 8)}])
def test_data_sets_with_a_name_need_none(option):
    with pytest.raises(ValueError, match="has no effect on digits, got"):
        load("digits", **option)
