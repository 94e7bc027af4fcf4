"""Tables with a column of picture files."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from varpro_nn import load
from varpro_nn.errors import DatasetError

pytest.importorskip("pandas")

NAMES = ["images/a.png", "images/b.png", "images/deeper/c.png", "d.png"]
CLASSES = ["cat", "dog", "cat", "dog"]


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    for name in NAMES:
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (6, 5)).astype(np.uint8)).save(path)
    return tmp_path / "data"


def write(path: Path, *columns: list, header: str = "", separator: str = ",") -> Path:
    rows = [header] if header else []
    rows += [separator.join(map(str, row)) for row in zip(*columns, strict=True)]
    path.write_text("\n".join(rows) + "\n")
    return path


def pixels(folder: Path, names: list[str]) -> list[np.ndarray]:
    return [np.asarray(Image.open(folder / name)) for name in names]


@pytest.mark.parametrize(
    "header", ["filename,label", "Image_Path,class", "photo,breed", "anything,else", ""]
)
@pytest.mark.parametrize("end", ["csv", "tsv"])
def test_files_and_labels(folder, header, end):
    separator = "," if end == "csv" else "\t"
    header = header.replace(",", separator)
    table = write(folder / f"t.{end}", NAMES, CLASSES, header=header, separator=separator)
    data = load(table, progress=False)
    np.testing.assert_array_equal(data.train.images, pixels(folder, NAMES))
    assert data.classes[data.train.labels].tolist() == CLASSES
    assert data.test is None
    assert data.origin is None
    assert not data.cropped


def test_labels_before_files_and_names_without_an_ending(folder):
    for name in NAMES:
        (folder / name).rename((folder / name).with_suffix(""))
    bare = [name.removesuffix(".png") for name in NAMES]
    table = write(folder / "t.csv", [7, 3, 7, 3], bare, header="label,path")
    data = load(table)
    assert data.classes.tolist() == [3, 7]
    assert data.train.labels.tolist() == [1, 0, 1, 0]


def test_a_column_divides_the_data(folder):
    splits = ["train", "Train", "test", "valid"]
    table = write(
        folder / "t.csv", NAMES, splits, ["cat", "dog", "cat", "dog"], [1, 2, 3, 4],
        header="file,split,label,size",
    )  # fmt: skip
    with pytest.warns(UserWarning, match="ignored columns 'size'"):
        data = load(table)
    assert [len(part) for part in (data.train, data.test, data.validation)] == [2, 1, 1]
    np.testing.assert_array_equal(data.test.images, pixels(folder, NAMES[2:3]))
    assert data.classes[data.validation.labels].tolist() == ["dog"]


@pytest.mark.parametrize(
    ("splits", "match"),
    [
        (["train", "train", "more", "test"], r"'split' must say train, test or valid.*got 'more'"),
        (["test"] * 4, "train once.*got 'test'"),
    ],
)
def test_columns_that_divide_wrongly(folder, splits, match):
    table = write(folder / "t.csv", NAMES, CLASSES, splits, header="file,label,split")
    with pytest.raises(DatasetError, match=match):
        load(table)


def test_folds_that_are_numbers_divide_nothing(folder):
    table = write(folder / "t.csv", NAMES, CLASSES, [1, 2, 1, 2], header="file,label,fold")
    with pytest.warns(UserWarning, match="ignored columns 'fold'"):
        assert len(load(table).train) == 4


def test_two_tables_in_a_folder(folder):
    write(folder / "train.csv", NAMES[:3], ["cat", "dog", "cat"], header="file,label")
    write(folder / "test.csv", NAMES[3:], ["dog"], header="file,label")
    data = load(folder)
    assert (len(data.train), len(data.test)) == (3, 1)
    write(folder / "test.csv", [1, 2], [3, 4], header="label,pixel")
    with pytest.raises(DatasetError, match=r"test\.csv: must have a column of file names like tr"):
        load(folder)


def test_options(folder):
    table = write(folder / "t.csv", NAMES, CLASSES, ["x", "x", "y", "y"], header="file,label,kind")
    with pytest.warns(UserWarning, match="ignored columns 'label'"):
        data = load(table, label_column="kind", image_size=(3, 3))
    assert data.classes.tolist() == ["x", "y"]
    assert data.image_shape == (3, 3)
    assert data.cropped


def test_missing_files_are_named(folder):
    names = [NAMES[0], *(f"no{i}.png" for i in range(5))]
    table = write(folder / "t.csv", names, list("aabbab"), header="file,label")
    match = (
        r"5 of 6 files are missing: no0.png in row 2, no1.png in row 3, no2.png in row 4, \.\.\."
    )
    with pytest.raises(DatasetError, match=match):
        load(table)


def test_a_name_that_no_file_can_have_is_missing(folder):
    table = write(folder / "t.csv", [NAMES[0], "no\0.png"], ["a", "b"], header="file,label")
    with pytest.raises(DatasetError, match=r"1 of 2 files are missing: .* in row 2"):
        load(table)


def test_files_outside_are_refused(folder, tmp_path):
    Image.open(folder / "d.png").save(tmp_path / "secret.png")
    for outside in ("../secret.png", str(tmp_path / "secret.png"), "images/../../secret.png"):
        names = [NAMES[0], outside]
        table = write(folder / "t.csv", names, ["a", "b"], header="file,label")
        with pytest.raises(DatasetError, match=r"1 of 2 files are outside .*row 2.*follow_links"):
            load(table)
        assert len(load(table, follow_links=True).train) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_links_out_of_the_folder_are_refused(folder, tmp_path):
    Image.open(folder / "d.png").save(tmp_path / "secret.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "within.png").symlink_to(folder / "d.png")
    table = write(folder / "t.csv", ["d.png", "within.png"], ["a", "b"], header="file,label")
    assert len(load(table).train) == 2
    table = write(folder / "t.csv", ["d.png", "link.png"], ["a", "b"], header="file,label")
    with pytest.raises(DatasetError, match=r"outside .*link\.png in row 2"):
        load(table)


@pytest.mark.parametrize(
    ("columns", "header", "match"),
    [
        ([NAMES, NAMES, CLASSES], "file,image,label", "one column of file names, got file, image"),
        ([NAMES, CLASSES, CLASSES], "file,a,b", "a column of labels beside .*'file'.*got a, b"),
        ([NAMES, ["cat", "", "cat", "dog"]], "file,label", "no missing values, got one in row 2"),
        ([["a.png", "", "d.png", "d.png"], CLASSES], "file,label", "no missing values"),
        ([NAMES, ["cat"] * 4], "file,label", "two classes or more"),
        (
            [NAMES, CLASSES, ["train"] * 4, ["test"] * 4], "file,label,split,set",
            "one column that divides the data, got split, set",
        ),
    ],
)  # fmt: skip
def test_unsuitable(folder, columns, header, match):
    with pytest.raises(DatasetError, match=match):
        load(write(folder / "t.csv", *columns, header=header))


def test_a_bomb_is_refused(folder):
    Image.new("1", (9000, 9000)).save(folder / "d.png")
    table = write(folder / "t.csv", NAMES, CLASSES, header="file,label")
    with pytest.raises(DatasetError, match=r"d\.png: must have at most"):
        load(table)


def test_parquet(folder):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.DataFrame({"path": NAMES, "label": [4, 2, 4, 2]})
    frame.to_parquet(folder / "t.parquet")
    assert load(folder / "t.parquet").train.labels.tolist() == [1, 0, 1, 0]
