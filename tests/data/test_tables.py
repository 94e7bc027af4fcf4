"""Tables of pixels: CSV and Parquet."""

import gzip
import sys

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from varpro_nn import load
from varpro_nn.data import read_images, table_files
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.errors import DatasetError

pandas = pytest.importorskip("pandas")

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(256, size=(7, 9))
LABELS = np.array([7, 3, 7, 3, -1, 7, 3])
NAMES = [f"pixel{i}" for i in range(9)]
IMAGES = PIXELS.astype(np.uint8).reshape(7, 3, 3)


def frame(label="label", labels=LABELS, pixels=PIXELS, names=NAMES):
    return pandas.DataFrame(pixels, columns=names).assign(**{label: labels})


def check(dataset, images=IMAGES, labels=LABELS):
    assert_array_equal(dataset.train.images, images, strict=True)
    assert_array_equal(dataset.classes[dataset.train.labels], labels)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "some.csv"


@pytest.mark.parametrize("label", ["label", "Label", "labels", "CLASS", "target", "y"])
@pytest.mark.parametrize("place", [0, 4, 9])
def test_the_label_has_a_name(place, label, path):
    table = frame(label)
    table.insert(place, label, table.pop(label))
    table.to_csv(path, index=False)
    check(load(path))


@pytest.mark.parametrize("end", [".csv", ".csv.gz", ".tsv", ".tsv.gz", ".CSV"])
def test_separators_and_packing(end, tmp_path):
    path = tmp_path / f"some{end}"
    table = frame("label")
    table.to_csv(path, index=False, sep="\t" if "tsv" in end else ";")
    check(load(path))


def test_without_names_the_first_column_is_the_label(path):
    """As in the files of MNIST that go round."""
    np.savetxt(path, np.column_stack([LABELS, PIXELS]), fmt="%d", delimiter=",")
    check(load(path))
    for column in (0, -10, "0"):
        check(load(path, label_column=column))
    np.savetxt(path, np.column_stack([PIXELS, LABELS]), fmt="%d", delimiter=", ")
    for column in (9, -1, "-1"):
        check(load(path, label_column=column))


def test_without_names_the_label_may_be_text(path):
    path.write_text("cat,1,2,3,0\nNA,5,6,7,8\ncat,9,255,11,12\n")
    dataset = load(path)
    assert dataset.classes.tolist() == ["NA", "cat"]
    assert_array_equal(dataset.train.images[2], [[9, 255], [11, 12]])


@pytest.mark.parametrize("label", ["number", "12"])
def test_the_label_is_named_by_the_user(label, path):
    frame(label).to_csv(path, index=False)
    check(load(path, label_column=label))
    check(load(path, label_column=label.upper()))


def test_names_that_are_numbers_and_a_column_that_numbers_the_rows(path):
    """What pandas writes by itself."""
    for start in (0, 1):
        frame(names=range(start, 9 + start)).to_csv(path)
        check(load(path))
    table = frame("digit")
    table.insert(0, "digit", table.pop("digit"))
    table.to_csv(path)
    check(load(path))


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["b", "a"] * 3 + ["b"], ["a", "b"]),
        (["NA", "None"] * 3 + ["NA"], ["NA", "None"]),
        ([1.0, 2.0] * 3 + [1.0], [1, 2]),
        (["01", "1"] * 3 + ["x"], ["01", "1", "x"]),
        ([True, False] * 3 + [True], ["False", "True"]),
    ],
)
def test_label_types(labels, classes, path):
    frame(labels=labels).to_csv(path, index=False)
    assert load(path).classes.tolist() == classes


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (PIXELS.astype(float), IMAGES),
        (PIXELS / 256, (IMAGES / 256).astype(np.float32)),
        (PIXELS > 99, (IMAGES > 99).astype(np.float32)),
        ((PIXELS > 99).astype(int), (IMAGES > 99).astype(np.float32)),
        (np.where(PIXELS > 99, 1, -1), np.where(IMAGES > 99, 1, -1).astype(np.float32)),
    ],
    ids=["whole", "fraction", "boolean", "black and white", "signs"],
)
def test_pixels(pixels, expected, path):
    frame(pixels=pixels).to_csv(path, index=False)
    check(load(path), expected)


def test_sides_and_colours(path):
    wide = RNG.integers(256, size=(7, 60))
    frame(pixels=wide, names=range(60)).to_csv(path, index=False)
    check(load(path, image_size=(6, 10)), wide.astype(np.uint8).reshape(7, 6, 10))
    check(load(path, image_size=(4, 5)), wide.astype(np.uint8).reshape(7, 3, 4, 5))
    with pytest.raises(DatasetError, match=r"pixels must be .* got 60 per row.*--image-size"):
        load(path)


def test_another_process_reads_the_same_images(path):
    """A worker of a cluster loads the data by their name."""
    wide = RNG.integers(256, size=(7, 60))
    frame("digit", pixels=wide, names=range(60)).to_csv(path, index=False)
    training = TrainingSet.of(load(path, label_column="digit", image_size=(6, 10)))
    assert training.origin.read().digest == training.digest


def test_pieces(path, monkeypatch):
    """A fraction in a late piece makes intensities of all."""
    monkeypatch.setattr(table_files, "_CELLS", 25)
    frame().to_csv(path, index=False)
    check(load(path))
    pixels = np.where(np.arange(63).reshape(7, 9) == 60, 0.5, PIXELS)
    frame(pixels=pixels).to_csv(path, index=False)
    check(load(path), pixels.astype(np.float32).reshape(7, 3, 3))
    frame(labels=["1", "2"] * 3 + ["late"]).to_csv(path, index=False)
    assert load(path).classes.tolist() == ["1", "2", "late"]
    pixels = np.where(np.arange(63).reshape(7, 9) == 60, np.nan, PIXELS)
    frame(pixels=pixels).to_csv(path, index=False)
    with pytest.raises(DatasetError, match="missing values, got one in row 7 of column 'pixel6'"):
        load(path)


@pytest.mark.parametrize(
    ("table", "match"),
    [
        (frame(pixels=PIXELS[:, :8], names=NAMES[:8]), "the pixels must be .* got 8 per row"),
        (frame(labels=[1] * 7), r"labels in column 'label' .*two classes or more, got \[1\] only"),
        (frame(labels=LABELS + 0.5), "labels in column 'label' .* must be integers.* got 7.5"),
        (frame(labels=[1, None, *[2] * 5]), "missing .* row 2 of column 'label'"),
        (frame(labels=["a" * 1001, *"bbbbbb"]), "at most 1000 characters each, got one of 1001"),
        (frame().assign(CLASS=1), r"one column of labels, got label, CLASS; label_column \(--lab"),
        (frame(pixels=PIXELS * 300), r"the pixels must be whole .* up to \d+; divide them"),
        (frame().assign(pixel3="x"), "numbers, got 'x' in row 1 of column 'pixel3'.*'label'; lab"),
        (
            frame().assign(pixel3=["1"] * 6 + ["a.png"]),
            "'a.png' in row 7 .* a column of file names must",
        ),
        (
            frame().assign(pixel3=[1] * 6 + [np.inf]),
            "the pixels must be finite, got NaN or inf",
        ),
        (frame()[:0], "must have a row for each image, got none"),
    ],
)
def test_unsuitable(table, match, path):
    table.to_csv(path, index=False)
    with pytest.raises(DatasetError, match=match) as caught:
        load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("column", ["digit", 10, "-11", ""])
def test_no_such_column(column, path):
    frame().to_csv(path, index=False)
    match = rf"must have a column '?{column}'? \(label_column\), got pixel0, .*pixel8, label\."
    with pytest.raises(DatasetError, match=match):
        load(path, label_column=column)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "must begin with the names of columns or with numbers"),
        (b"\n1,2\n", "must begin with the names of columns"),
        (b"label,a\n1,2,3\n", "cannot be read as a table: Length of header"),
        (b"label,a\n1\n", "missing values, got one in row 1 of column 'a'"),
        (b"label,a\n1,2\n1,2,3\n", "cannot be read as a table: .* line 3, saw 3"),
        (b'label,a\n1,"2\n', "cannot be read as a table: .* EOF inside string"),
        (b"label,a\n\xff,2\n", "cannot be read as a table: 'utf-8' codec"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\0", "cannot be read as a table: 'utf-8' codec"),
        (
            gzip.compress(b"label,a\n" + 99 * b"1,2\n", mtime=0)[:-20],
            "cannot be read: Compressed file",
        ),
    ],
)
def test_damage(content, match, path):
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=match) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_text_without_end(path, monkeypatch):
    monkeypatch.setattr(table_files, "_MOST_BYTES", 10_000)
    path.write_bytes(gzip.compress(b"label,a,b,c,d\n" + 2000 * b"1,2,3,4,5\n"))
    with pytest.raises(DatasetError, match="at most 10000 bytes of text, got more"):
        load(path)


def test_no_such_file(path):
    with pytest.raises(DatasetError, match=r"some.csv: cannot be read: .*No such file"):
        load(path)


@pytest.mark.parametrize("module", ["pandas", "pyarrow"])
def test_libraries_that_are_missing(module, tmp_path, monkeypatch):
    path = tmp_path / "some.parquet"
    path.write_bytes(b"")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DatasetError, match=rf"need {module}: pip install 'varpro-nn\[tables\]'"):
        load(path)


# --- folders -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "test"),
    [("train.csv", "test.csv"), ("mnist_train.csv.gz", "mnist_test.csv"), ("Train.tsv", None)],
)
def test_folder(train, test, tmp_path):
    frame().to_csv(tmp_path / train, index=False)
    if test is not None:
        frame()[3:5].to_csv(tmp_path / test, index=False)
    (tmp_path / "sample_submission.csv").write_text("ImageId,Label\n1,0\n")
    dataset = load(tmp_path)
    check(dataset)
    if test is None:
        assert dataset.test is None
        return
    assert_array_equal(dataset.test.images, IMAGES[3:5])
    assert_array_equal(dataset.classes[dataset.test.labels], LABELS[3:5])


def test_training_and_test_set_are_on_one_scale(tmp_path):
    """Black and white bytes are bytes if the training set has others."""
    frame().to_csv(tmp_path / "train.csv", index=False)
    frame(pixels=PIXELS > 99).astype(int).to_csv(tmp_path / "test.csv", index=False)
    assert load(tmp_path).test.images.dtype == np.uint8


@pytest.mark.parametrize(
    ("files", "match"),
    [
        ({"test.csv": frame().drop(columns="label")}, r"test.csv: must have a column 'label'"),
        (
            {"test.csv": frame(names=NAMES[::-1])},
            "test.csv: must have the columns of train.csv, got 'pixel8' in place of 'pixel0'",
        ),
        (
            {"test.csv": frame().drop(columns="pixel8")},
            "test.csv: must have the columns of train.csv, got 8 columns of pixels, not 9",
        ),
        ({"test.csv": frame(labels=[5] * 7)}, "labels of test.csv must occur in .* got 5 in"),
        ({"train.tsv": frame()}, "must have one table of the train set, got train.csv, train.tsv"),
    ],
)
def test_folders_that_do_not_fit(files, match, tmp_path):
    for name, table in ({"train.csv": frame()} | files).items():
        table.to_csv(tmp_path / name, index=False)
    with pytest.raises(DatasetError, match=match):
        load(tmp_path)


def test_a_table_without_a_training_set(tmp_path):
    frame().to_csv(tmp_path / "test.csv", index=False)
    with pytest.raises(DatasetError, match=r"train.csv, or a sub-folder of .*, got test.csv\."):
        load(tmp_path)


# --- Parquet -----------------------------------------------------------------------------


@pytest.fixture
def parquet(tmp_path):
    pytest.importorskip("pyarrow")
    return tmp_path / "some.parquet"


@pytest.mark.parametrize("index", [None, list("abcdefg")])
def test_parquet(index, parquet, monkeypatch):
    monkeypatch.setattr(table_files, "_CELLS", 25)
    frame().set_axis(index or range(7)).astype({"pixel0": np.uint8}).to_parquet(parquet)
    check(load(parquet))
    words = ["no", "yes"] * 3 + ["no"]
    frame(pixels=PIXELS / 256, labels=pandas.Categorical(words)).to_parquet(parquet)
    check(load(parquet), (IMAGES / 256).astype(np.float32), words)


def test_parquet_that_is_no_table_of_pixels(parquet, monkeypatch):
    pictures = pandas.DataFrame({"image": [{"bytes": b"", "path": "a.png"}] * 7, "label": LABELS})
    pictures.to_parquet(parquet)
    with pytest.raises(DatasetError, match=r"got dict in row 1 of column 'image'; load .*"):
        load(parquet)
    frame(labels=[[1], [2]] * 3 + [[1]]).to_parquet(parquet)
    with pytest.raises(DatasetError, match="labels must be numbers or text, got ndarray"):
        load(parquet)
    frame(labels=[1, None] * 3 + [1]).to_parquet(parquet)
    with pytest.raises(DatasetError, match="missing values, got one in row 2 of column 'label'"):
        load(parquet)
    monkeypatch.setattr(table_files, "_MOST_CELLS", 69)
    with pytest.raises(DatasetError, match="at most 69 cells, got 7 rows of 10"):
        load(parquet)


def test_damaged_parquet(parquet):
    frame().to_parquet(parquet)
    content = parquet.read_bytes()
    for length in range(0, len(content), 97):
        parquet.write_bytes(content[:length])
        with pytest.raises(DatasetError, match=r"some.parquet: cannot be read as a table"):
            load(parquet)


# --- images without labels ---------------------------------------------------------------


@pytest.mark.parametrize("end", ["csv", "csv.gz", "tsv", "parquet"])
@pytest.mark.parametrize("column", [None, "label", "id"])
def test_images_to_be_classified(column, end, tmp_path):
    path = tmp_path / f"some.{end}"
    table = pandas.DataFrame(PIXELS, columns=NAMES)
    if column is not None:
        table.insert(0 if column == "id" else 4, column, list("abcdefg"))
    if end == "parquet":
        pytest.importorskip("pyarrow")
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False, sep="\t" if end == "tsv" else ",")
    assert_array_equal(read_images(path, (3, 3)), IMAGES, strict=True)
    assert_array_equal(read_images(path, (1, 3, 3)), IMAGES[:, None], strict=True)


def test_intensities_and_colours_to_be_classified(path):
    colours = RNG.random((5, 3, 2, 3)).astype(np.float32)
    pandas.DataFrame(colours.reshape(5, -1)).to_csv(path)  # with a column that numbers the rows
    assert_array_equal(read_images(path, (3, 2, 3)), colours, strict=True)


@pytest.mark.parametrize(
    ("table", "match"),
    [
        (
            ",".join([*NAMES, "kind"]) + "\n1,2,3,4,5,6,7,8,9,0",
            "9 pixels, and at most one more, named label or id .* got 10",
        ),
        ("1,2,3,4,5,6,7,8,9,77\n", "named label or id in the first line, got 10 columns"),
        ("a,b\n1,2\n", "a column for each of 9 pixels, and at most one more, .* got 2 columns"),
        (",".join(NAMES), "a row for each image, got none"),
        (",".join(NAMES) + "\n1,2,3,4,x.png,6,7,8,9", "got 'x.png' in row 1 of .*give pictures"),
        (",".join(NAMES) + "\n1,2,3,4,,6,7,8,9", "no missing values, got one in row 1 of column"),
        (",".join(NAMES) + "\n" + "999," * 8 + "1", "whole numbers up to 999; divide them"),
    ],
    ids=["other", "nameless", "columns", "rows", "text", "missing", "999"],
)
def test_tables_that_cannot_be_classified(table, match, path):
    path.write_text(table)
    with pytest.raises(DatasetError, match=rf"some.csv: .*{match}"):
        read_images(path, (3, 3))


def test_tables_of_images_have_one_channel_or_three(path):
    path.write_text(",".join(NAMES[:8]) + "\n1,2,3,4,5,6,7,8")
    with pytest.raises(DatasetError, match=r"tables can be read for 1 or 3 .* shape \(2, 2, 2\)"):
        read_images(path, (2, 2, 2))
