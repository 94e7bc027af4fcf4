import io
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from varpro_nn.data import load
from varpro_nn.errors import DatasetError

FIXED = settings(derandomize=True, deadline=None, max_examples=200, database=None)
RNG = np.random.default_rng(0)
X_TRAIN = RNG.integers(256, size=(6, 4, 5), dtype=np.uint8)
X_TEST = RNG.integers(256, size=(3, 4, 5), dtype=np.uint8)
GOOD = {
    "x_train": X_TRAIN,
    "y_train": np.array([7, 3, 7, 3, -1, 7]),
    "x_test": X_TEST,
    "y_test": np.array([3, -1, 7]),
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "some.npz"


def save(path, *, compressed=False, **changes):
    arrays = {name: array for name, array in (GOOD | changes).items() if array is not None}
    (np.savez_compressed if compressed else np.savez)(path, **arrays)


def with_header(array, shape):
    """The .npy bytes of an array under the header of another shape."""
    buffer = io.BytesIO()
    header = {"descr": array.dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue() + array.tobytes()


@pytest.mark.parametrize("compressed", [False, True], ids=["stored", "deflated"])
@pytest.mark.parametrize("shape", [(4, 5), (1, 4, 5), (2, 2, 5)])
def test_round_trip(path, compressed, shape):
    images = {"x_train": X_TRAIN.reshape(6, *shape), "x_test": X_TEST.reshape(3, *shape)}
    save(path, compressed=compressed, **images)
    data = load(path)
    assert_array_equal(data.train.images, images["x_train"], strict=True)
    assert_array_equal(data.test.images, images["x_test"], strict=True)
    assert_array_equal(data.classes, [-1, 3, 7])
    assert_array_equal(data.classes[data.train.labels], GOOD["y_train"])
    assert_array_equal(data.classes[data.test.labels], GOOD["y_test"])
    assert data.name == str(path)
    assert data.image_shape == shape


def test_floats_and_no_test_set(path):
    images = (X_TRAIN / 255).astype(np.float32)
    save(path, x_train=np.asfortranarray(images), x_test=None, y_test=None)
    data = load(str(path))
    assert_array_equal(data.train.images, images, strict=True)
    assert data.test is None


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (np.array([True, False, True, True, True, False]), [0, 1]),
        (np.array([2, 0, 2, 0, 2, 0], dtype=np.uint8), [0, 2]),
        (np.array([2.0, -1.0, 2.0, -1.0, 2.0, 2.0], dtype=np.float16), [-1, 2]),
        (np.array(["ü", "cat", "", "cat", "ü", "ü"]), ["", "cat", "ü"]),
    ],
    ids=["bool", "uint8", "float", "string"],
)
def test_label_types(path, labels, classes):
    save(path, y_train=labels, y_test=labels[[1, 0, 2]])
    data = load(path)
    assert data.classes.dtype.kind in "iU"
    assert_array_equal(data.classes, classes)
    assert_array_equal(data.classes[data.test.labels], labels[[1, 0, 2]])


@pytest.mark.parametrize(
    "labels",
    [GOOD["y_train"][:, None], np.array([["a"], ["b"]] * 3), np.eye(3)[[2, 0, 2, 0, 1, 2]]],
    ids=["column", "column of strings", "one-hot"],
)
def test_labels_of_two_axes(path, labels):
    flat = labels.argmax(axis=1) if labels.shape[1] > 1 else labels[:, 0]
    save(path, y_train=labels, y_test=labels[[1, 0, 2]])
    data = load(path)
    assert_array_equal(data.classes[data.train.labels], flat)
    assert_array_equal(data.classes[data.test.labels], flat[[1, 0, 2]])


def test_channels_may_come_last(path):
    images = RNG.integers(256, size=(9, 3, 7, 6), dtype=np.uint8)
    last = np.moveaxis(images, 1, -1)
    save(path, x_train=last[:6], x_test=last[6:])
    data = load(path)
    assert_array_equal(data.train.images, images[:6])
    assert_array_equal(data.test.images, images[6:])


def test_text_is_text(path):
    save(path, y_train=np.array(["a", "b\ud800"] * 3), x_test=None, y_test=None)
    with pytest.raises(DatasetError, match=r"y_train must be text, got .* do not exist in entry 1"):
        load(path)


def test_test_strings_may_be_longer(path):
    save(path, y_train=np.array(["a", "b"] * 3), y_test=np.array(["a", "b", "bbb"]))
    with pytest.raises(DatasetError, match="got bbb in y_test only"):
        load(path)


@pytest.mark.parametrize(
    "names",
    [
        ("X_train", "y_train", "X_TEST", "Y_TEST"),
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("xtrain", "ytrain", "xtest", "ytest"),
        ("TrainImages", "TrainLabels", "TestImages", "TestLabels"),
        ("training_data", "training_targets", "testing_data", "testing_targets"),
        ("images", "labels", "test_images", "test_labels"),
        ("arr_0", "arr_1", "arr_2", "arr_3"),
        ("arr_0", "arr_2", "arr_1", "arr_3"),
        ("arr_1", "arr_0", "arr_3", "arr_2"),
    ],
    ids=str,
)
def test_names_that_others_use(path, names):
    """Other arrays are left out."""
    others = {"val_images": X_TEST[:1], "val_labels": GOOD["y_test"][:1]}
    others["class_names"] = np.array(["a"])
    arrays = dict(zip(names, GOOD.values(), strict=True))
    np.savez(path, **arrays, **({} if "arr_0" in names else others))
    data = load(path)
    assert_array_equal(data.train.images, X_TRAIN)
    assert_array_equal(data.test.images, X_TEST)
    assert_array_equal(data.classes[data.train.labels], GOOD["y_train"])
    assert_array_equal(data.classes[data.test.labels], GOOD["y_test"])
    if "arr_0" in names or names == tuple(GOOD):
        assert data.validation is None
    else:
        assert_array_equal(data.validation.images, X_TEST[:1])
        assert_array_equal(data.classes[data.validation.labels], GOOD["y_test"][:1])


@pytest.mark.parametrize(
    "names",
    [
        *(("images", "labels"), ("data", "target"), ("X", "y"), ("X", "Y"), ("fea", "gnd")),
        *(("arr_0", "arr_1"), ("arr_1", "arr_0"), ("test_images", "test_labels")),
    ],
    ids=str,
)
def test_one_pair_is_the_training_set(path, names):
    np.savez(path, **dict(zip(names, (X_TRAIN, GOOD["y_train"]), strict=True)))
    data = load(path)
    assert_array_equal(data.train.images, X_TRAIN)
    assert_array_equal(data.classes[data.train.labels], GOOD["y_train"])
    assert data.test is None


@pytest.mark.parametrize(
    ("names", "match"),
    [
        (("pictures", "numbers"), "needs images and labels .*got numbers, pictures.* numpy.savez"),
        (("arr_0",), "needs images and labels .* got arr_0"),
        (("x_train", "X_train", "train_images", "y_train"), None),
        (
            ("X_train", "train_images", "y_train"),
            "one name for the images .* X_train, train_images",
        ),
        (
            ("x", "y", "x_mnist", "y_mnist"),
            "one training set, got 2: x with y; x_mnist with y_mnist",
        ),
    ],
)
def test_names_that_are_in_doubt(path, names, match):
    arrays = {name: GOOD["y_train" if name[0] in "yn" else "x_train"] for name in names}
    np.savez(path, **dict(sorted(arrays.items())))
    if match is None:  # the names of this package win
        assert_array_equal(load(path).train.images, X_TRAIN)
        return
    with pytest.raises(DatasetError, match=match):
        load(path)


def test_rows_of_pixels(path):
    """Squares, or of a size that is told; in colour with the channels in either place."""
    save(path, x_train=X_TRAIN.reshape(6, 20), x_test=X_TEST.reshape(3, 20))
    data = load(path, image_size=(4, 5))
    assert_array_equal(data.train.images, X_TRAIN)
    assert_array_equal(data.test.images, X_TEST)
    with pytest.raises(DatasetError, match=r"got 20 per row.*image_size=\(rows, columns\)"):
        load(path)
    square = RNG.integers(256, size=(9, 25), dtype=np.uint8)
    save(path, x_train=square[:6], x_test=square[6:])
    assert_array_equal(load(path).test.images, square[6:].reshape(3, 5, 5))
    save(path, x_train=square[:6], x_test=square[6:, :16])
    with pytest.raises(DatasetError, match=r"x_test must have 25 numbers .* got 16"):
        load(path)


def test_options_that_say_nothing(path):
    save(path)
    assert load(path, image_size=(4, 5)).image_shape == (4, 5)
    with pytest.raises(DatasetError, match=r"image_size=\(5, 4\), got shape \(6, 4, 5\)"):
        load(path, image_size=(5, 4))
    with pytest.raises(ValueError, match=r"label_column has no effect on .*some.npz, got 'y'"):
        load(path, label_column="y")


NAN = np.where(np.arange(6)[:, None, None] == 2, np.nan, X_TRAIN / 255)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"x_train": None}, "y_train .* has no images beside it, got y_train, x_test, y_test"),
        ({"y_train": None}, "x_train .* has no labels beside it, got x_train, x_test, y_test"),
        ({"y_test": None}, "x_test .* has no labels beside it, got x_train, y_train, x_test"),
        ({"x_test": None}, "y_test .* has no images beside it.*savez.path, x_train=images, y_tr"),
        ({"x_train": X_TRAIN[:5]}, "x_train and y_train .* got 5 images and 6 labels"),
        ({"y_test": np.array([3])}, "x_test and y_test .* got 3 images and 1 labels"),
        ({"x_test": X_TEST[:, :3]}, r"x_test must have shape \(n, 4, 5\), got \(3, 3, 5\)"),
        ({"x_train": X_TRAIN[:, 0]}, "x_train must be images, or rows of N x N .* got 5 per row"),
        ({"x_test": X_TEST.reshape(3, -1)}, r"x_test must be \(n, rows, .* got shape \(3, 20\)"),
        ({"x_train": X_TRAIN[:0], "y_train": np.array([], int)}, "x_train must be .* no empty"),
        ({"x_train": X_TRAIN.astype(np.int64)}, "x_train must be uint8 .* got int64"),
        ({"x_train": X_TRAIN.astype(complex)}, "array x_train must hold numbers"),
        ({"x_train": NAN}, "x_train must be finite, got NaN or infinity in 1 of 6 images"),
        ({"x_train": np.where(np.isnan(NAN), np.inf, NAN)}, "x_train must be finite"),
        (
            {"y_train": np.tile(GOOD["y_train"], (2, 1)).T},
            r"y_train must be \(n,\).*shape \(6, 2\)",
        ),
        ({"y_train": GOOD["y_train"] + 0.5}, "y_train must be integers.* got 7.5"),
        ({"y_train": np.where(GOOD["y_train"] > 3, np.nan, 0)}, "y_train must be .* got nan"),
        ({"y_train": np.array([2**63] * 6, np.uint64)}, r"at most 2\*\*63 - 1, got 92233"),
        ({"y_train": np.array([b"a", b"b"] * 3)}, "y_train must hold numbers"),
        (
            {"y_train": np.array(["a", "b"] * 3, object)},
            r"y_train must hold .*got type object, which is a pickle .*\.astype\(str\)",
        ),
        ({"x_train": np.array([[["a"]]] * 6, object)}, "x_train must hold numbers"),
        ({"y_train": np.full(6, 3)}, r"two classes or more, got \[3\] only"),
        ({"y_test": np.array([3, 9, 8])}, "label of y_test must occur in y_train, got 8, 9"),
        ({"y_test": np.array(["a", "b", "c"])}, "both be numbers or both be strings"),
    ],
    ids=[
        *("no x", "no y", "x_test only", "y_test only", "lengths", "test lengths", "shapes"),
        *(
            "2-D images",
            "2-D test images",
            "no images",
            "int64 images",
            "complex",
            "NaN",
            "infinity",
            "2-D labels",
        ),
        *("fraction", "NaN label", "uint64", "bytes", "object labels", "object images"),
        *("one class", "new test label", "strings against numbers"),
    ],
)
def test_unsuitable(path, changes, match):
    save(path, **changes)
    with pytest.raises(DatasetError, match=match) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_pickles_are_not_opened(path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    save(path, y_train=np.array([Trap()] * 6, object))
    with pytest.raises(DatasetError, match="got type object"):
        load(path)


def test_missing_or_no_zip(path, tmp_path):
    with pytest.raises(DatasetError, match=r"some.npz: cannot be read: No such file"):
        load(path)
    path.write_bytes(b"not a zip")
    with pytest.raises(DatasetError, match=r"must be a .npz file .* not a zip"):
        load(path)
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(DatasetError, match=r"cannot be read: Is a directory"):
        load(tmp_path / "folder.npz")


@pytest.mark.parametrize("compressed", [False, True], ids=["stored", "deflated"])
def test_every_truncation_is_refused(path, compressed):
    save(path, compressed=compressed)
    content = path.read_bytes()
    for length in range(0, len(content), 37):
        path.write_bytes(content[:length])
        with pytest.raises(DatasetError, match=str(path)):
            load(path)


@pytest.mark.parametrize(
    "shape",
    [(6, 4, 6), (6, 4), (10**9, 10**9, 10**9), (0, 2**62, 2**62), (-6, -4, 5), (2**80, 1, 1)],
)
def test_lying_header(path, shape):
    save(path, x_train=None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x_train.npy", with_header(X_TRAIN, shape))
    with pytest.raises(
        DatasetError, match=r"array x_train .*(of shape .* must have .* bytes|negative)"
    ):
        load(path)


def test_empty_strings_of_no_width(path):
    """A type of no bytes would let a header claim any length."""
    save(path, y_train=None)
    labels = with_header(np.array([], dtype=np.uint8), (2**60,)).replace(b"'|u1'", b"'<U0'")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("y_train.npy", labels)
    with pytest.raises(DatasetError, match="array y_train must hold numbers"):
        load(path)


def test_lying_zip_directory(path):
    """Header and directory agree on a petabyte, the file has a kilobyte: nothing is allocated."""
    size = 1 << 50
    save(path, x_train=None)
    with zipfile.ZipFile(path, "a") as archive:
        header = with_header(np.array([], dtype=np.uint8), (size, 1, 1))
        archive.writestr("x_train.npy", header)
        member = archive.getinfo("x_train.npy")
        member.file_size = member.compress_size = size + len(header)
    with pytest.raises(DatasetError, match=r"array x_train claims 11258999068427.. bytes"):
        load(path)


def test_strange_compression(path):
    save(path, x_train=None)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("x_train.npy", with_header(X_TRAIN, X_TRAIN.shape))
    with pytest.raises(DatasetError, match="x_train must be stored or deflated"):
        load(path)


@FIXED
@given(st.data())
def test_mutations_are_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("mutated") / "some.npz"
    save(path, compressed=data.draw(st.booleans()))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        read = load(path)
    except DatasetError:
        return
    # zip checks the arrays with a CRC: what is read is what was written
    assert_array_equal(read.train.images, X_TRAIN)
