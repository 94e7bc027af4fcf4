"""The words in a name."""

import pytest

from varpro_nn.data.naming import choose, meaning


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("x_train", ("x", "train", ())),
        ("XTrain", ("x", "train", ())),
        ("trainX", ("x", "train", ())),
        ("ytest", ("y", "test", ())),
        ("testy", ("y", "test", ())),
        ("t10k-labels.idx1-ubyte.gz", ("y", "test", ())),
        ("X_dig_MNIST-idx3-ubyte", ("x", "", ("dig", "mnist"))),
        ("val_images", ("x", "validation", ())),
        ("image_labels", ("y", "", ())),
        ("target_names", ("y", "", ("names",))),
        ("testIdx", ("", "test", ())),
        ("", ("", "", ())),
    ],
)
def test_meaning(name, expected):
    assert meaning(name) == expected


def test_choose():
    both = {"x_train": "X", "y_train": "y"}
    assert choose(["X", "y", "names"]) == both
    validation = {"x_validation": "x_val", "y_validation": "y_val"}
    assert choose(["X", "y", "x_val", "y_val"]) == {**both, **validation}
    assert choose(["y_test", "x_test"]) == {"x_train": "x_test", "y_train": "y_test"}
    assert choose(["X", "y", "x_test", "y_test"]) == both | {"x_test": "x_test", "y_test": "y_test"}


def test_the_test_set_has_the_other_words_of_the_training_set():
    names = ["a_train_x", "a_train_y", "a_test_x", "a_test_y", "b_test_x", "b_test_y"]
    assert choose(names)["x_test"] == "a_test_x"
    with pytest.raises(ValueError, match="one test set, got 2: a_test_x with a_test_y; b_test_x"):
        choose(["x_train", "y_train", *names[2:]])
    with pytest.raises(ValueError, match="a_test_x seems to be the images of the test set"):
        choose([*names[:3], *names[4:]])
