"""A data set as a folder: the same run as from memory, without the images in memory."""

import gzip
import struct
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from tiny_files import idx_bytes

from varpro_nn import configure, load, run
from varpro_nn.data import Dataset, ImageSet
from varpro_nn.data.images_on_disk import ImagesOnDisk
from varpro_nn.errors import DatasetError
from varpro_nn.train import main

SMALL = {"n_units": 24, "n_subnetworks": 2, "images_per_subnetwork": 200, "max_nfev": 3}


@pytest.fixture(params=["npy", "idx"])
def folder(request, tmp_path):
    """Digits as bytes, with labels that are words."""
    digits = load("digits")
    words = np.array(["zero", "one", "two", "three", "four", "five", "six", "7", "8", "9"])
    for part, name in ((digits.train, "train"), (digits.test, "test")):
        images = (part.images * 255).astype(np.uint8)
        if request.param == "npy":
            np.save(tmp_path / f"x_{name}.npy", images)
        else:
            header = bytes([0, 0, 8, 3]) + struct.pack(">3I", *images.shape)
            (tmp_path / f"x_{name}.idx").write_bytes(header + images.tobytes())
        np.save(tmp_path / f"y_{name}.npy", words[part.labels])
    return tmp_path


def in_memory(dataset):
    return Dataset(
        dataset.name, dataset.classes,
        ImageSet(dataset.train.images[:], dataset.train.labels), dataset.test,
    )  # fmt: skip


def test_training_images_stay_on_disk(folder):
    dataset = load(folder)
    assert isinstance(dataset.train.images, ImagesOnDisk)
    assert isinstance(dataset.test.images, np.ndarray)
    digits = load("digits")
    assert_array_equal(dataset.train.images[:], (digits.train.images * 255).astype(np.uint8))
    assert dataset.classes.tolist() == sorted(dataset.classes.tolist())
    assert dataset.classes[dataset.train.labels[:4]].tolist() == ["zero", "one", "two", "three"]
    assert dataset.digest == in_memory(dataset).digest


@pytest.mark.parametrize(
    ("folder", "n_jobs", "settings"),
    [
        ("npy", 2, {"recipe": "bilinear"}),
        (
            "idx",
            1,
            {
                "recipe": "tiny",
                "n_units": 8,
                "n_copies": 0,
                "whitening": 0.1,
                "images_per_subnetwork": 100,
                "n_rounds": 1,
                "n_train": 400,
            },
        ),
    ],
    indirect=["folder"],
)
def test_no_bit_depends_on_where_the_images_are(settings, n_jobs, folder):
    dataset = load(folder)
    config = configure(data=dataset, **SMALL | settings)
    disk = run(config, dataset, n_jobs=n_jobs)
    memory = run(config, in_memory(dataset), n_jobs=1)
    assert_array_equal(disk.network.W, memory.network.W)
    assert_array_equal(disk.network.A, memory.network.A)
    assert disk.metrics["train_accuracy"] == memory.metrics["train_accuracy"]


def test_a_part_of_the_images_is_on_disk_too(folder):
    dataset = load(folder)
    assert isinstance(dataset.train.take(slice(5, 20)).images, ImagesOnDisk)
    assert_array_equal(
        dataset.train.take(slice(5, 20)).images[:], dataset.train.take(np.arange(5, 20)).images
    )


def test_images_that_are_held_out_stay_on_disk_and_change_no_bit(folder):
    dataset = load(folder).hold_out(0.2)
    for part in (dataset.train, dataset.validation):
        assert isinstance(part.images, ImagesOnDisk)
    memory = in_memory(load(folder)).hold_out(0.2)
    assert dataset.digest == memory.digest
    merged = dataset.merged()
    assert isinstance(merged.train.images, ImagesOnDisk)
    assert merged.digest == load(folder).digest
    assert_array_equal(dataset.merged(20).train.images[:], memory.merged(20).train.images)
    with pytest.raises(ValueError, match="cannot be merged with those of another file"):
        replace(dataset, validation=memory.validation).merged()
    config = configure("bilinear", data=memory, **SMALL)
    networks = [run(config, data, n_jobs=2).network for data in (dataset, memory)]
    assert_array_equal(networks[0].A, networks[1].A)


@pytest.mark.parametrize("folder", ["npy"], indirect=True)
def test_command_line(folder, tmp_path, capsys):
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    out = str(tmp_path / "run")
    options += ["--recipe", "bilinear", "--n-jobs", "1", "--no-report", "--quiet"]
    assert main([str(folder), *options, "--output", out]) == 0
    assert '"n_train": 1500' in capsys.readouterr().out


def test_recipes_make_no_copies_of_images_on_disk(folder):
    dataset = load(folder)
    assert configure("tiny", data=dataset).output.n_copies == 0
    assert configure("tiny", data=in_memory(dataset)).output.n_copies == 1


@pytest.mark.filterwarnings("ignore::varpro_nn.errors.ClassSizeWarning")
def test_more_columns_than_images(folder):
    """The dual form of the ridge layer takes all images at a time."""
    dataset = load(folder)
    config = configure(
        "bilinear", data=dataset, n_units=120, n_subnetworks=1, n_train=60, max_nfev=2
    )
    A = [run(config, each, n_jobs=1).network.A for each in (dataset, in_memory(dataset))]
    assert_array_equal(*A)


def test_copies_need_memory(folder):
    dataset = load(folder)
    with pytest.raises(ValueError, match="n_copies must be 0 for images on disk, got 1"):
        run(configure("tiny", data=dataset, n_copies=1), dataset)


IMAGES = np.random.default_rng(0).integers(256, size=(8, 6, 7, 3), dtype=np.uint8)
LABELS = np.array([3, 1, 3, 1, 1, 3, 1, 1], dtype=np.uint8)
FIRST = np.moveaxis(IMAGES, -1, 1)


@pytest.mark.parametrize(
    ("images", "expected", "on_disk"),
    [
        (np.asfortranarray(FIRST), FIRST, False),
        (FIRST.astype(np.float16), FIRST.astype(np.float32), True),
        (FIRST.astype(">f4"), FIRST.astype(np.float32), True),
        (IMAGES, FIRST, True),
        (IMAGES.astype(np.float16)[..., :1], FIRST[:, :1].astype(np.float32), True),
    ],
    ids=["Fortran", "half", "big-endian", "channels last", "grey last"],
)
def test_arrays_of_any_layout(images, expected, on_disk, tmp_path):
    np.save(tmp_path / "x_train.npy", images)
    np.save(tmp_path / "y_train.npy", np.asfortranarray(np.eye(4)[LABELS]))
    train = load(tmp_path).train
    assert isinstance(train.images, ImagesOnDisk) == on_disk
    assert_array_equal(train.images[:], expected, strict=True)
    assert_array_equal(train.images[[5, 0]], expected[[5, 0]], strict=True)
    assert_array_equal(train.take(slice(2, 5)).images[:], expected[2:5])
    assert train.digest == ImageSet(expected, train.labels).digest
    assert_array_equal(load(tmp_path).classes[train.labels], LABELS)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["raw", "gz"])
@pytest.mark.parametrize(
    "names",
    [
        ("x_train.idx", "y_train.idx"),
        ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
        ("train-images.idx3-ubyte", "train-labels.idx1-ubyte"),
        ("emnist-letters-train-images-idx3-ubyte", "emnist-letters-train-labels-idx1-ubyte"),
        ("X_dig_MNIST-idx3-ubyte", "y_dig_MNIST-idx1-ubyte"),
        ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
    ],
    ids=str,
)
def test_idx_files_of_images_and_labels(names, pack, tmp_path):
    for name, array in zip(names, (IMAGES[..., 0], LABELS), strict=True):
        end = ".gz" if pack is gzip.compress else ""
        (tmp_path / f"{name}{end}").write_bytes(pack(idx_bytes(array)))
    dataset = load(tmp_path)
    assert isinstance(dataset.train.images, ImagesOnDisk) == (pack is bytes)
    assert_array_equal(dataset.train.images[:], IMAGES[..., 0])
    assert_array_equal(dataset.classes[dataset.train.labels], LABELS)
    assert dataset.test is None


def write_pair(folder, images, labels, n, end=""):
    pack = gzip.compress if end else bytes
    (folder / f"{images}{end}").write_bytes(pack(idx_bytes(IMAGES[:n, ..., 0])))
    (folder / f"{labels}{end}").write_bytes(pack(idx_bytes(LABELS[:n])))


@pytest.mark.parametrize("test", ["t10k", "test"])
def test_idx_files_of_a_test_set(test, tmp_path):
    write_pair(tmp_path, "X_kannada_train-idx3-ubyte", "y_kannada_train-idx1-ubyte", 8, ".gz")
    write_pair(tmp_path, f"X_kannada_{test}-idx3-ubyte", f"y_kannada_{test}-idx1-ubyte", 5)
    write_pair(tmp_path, "X_dig-idx3-ubyte", "y_dig-idx1-ubyte", 3)  # is neither
    (tmp_path / "labels.txt").write_text("of no interest")
    dataset = load(tmp_path)
    assert (len(dataset.train), len(dataset.test)) == (8, 5)
    assert_array_equal(dataset.test.images, IMAGES[:5, ..., 0])


def test_of_a_file_and_its_gzipped_copy_the_file_is_read(tmp_path):
    for end in ("", ".gz"):
        write_pair(tmp_path, "train-images-idx3-ubyte", "train-labels-idx1-ubyte", 8, end)
    assert isinstance(load(tmp_path).train.images, ImagesOnDisk)


def test_several_training_sets(tmp_path):
    for name in ("letters", "digits"):
        write_pair(tmp_path, f"{name}-train-images-idx3-ubyte", f"{name}-train-labels-idx1", 8)
    with pytest.raises(DatasetError, match=r"training set, got 2: digits-.* with .*; letters-"):
        load(tmp_path)


def test_two_names_for_the_same_images(tmp_path):
    write_pair(tmp_path, "train-images-idx3-ubyte", "train-labels-idx1-ubyte", 8)
    write_pair(tmp_path, "x_train.idx", "train_labels.idx", 8)
    with pytest.raises(DatasetError, match="one name for the images of the training set, got"):
        load(tmp_path)


def test_rows_of_pixels_stay_on_disk(tmp_path):
    rows = IMAGES[:, :, :6].reshape(8, -1)
    np.save(tmp_path / "X.npy", rows)
    np.save(tmp_path / "Y.npy", LABELS)
    images = load(tmp_path).train.images
    assert isinstance(images, ImagesOnDisk)
    assert images.shape == (8, 3, 6, 6)
    assert_array_equal(images[:], rows.reshape(8, 3, 6, 6))
    with pytest.raises(DatasetError, match=r"rows of 42 numbers per image, .* got 108 per row"):
        load(tmp_path, image_size=(6, 7))


def test_a_folder_without_data(tmp_path):
    (tmp_path / "cats").mkdir()
    with pytest.raises(
        DatasetError, match=r"arrays \(x_train.npy .*train.csv, or a sub-folder .*, got cats\."
    ):
        load(tmp_path)


def rewrite(folder, name, content):
    (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (
            lambda f: (f / "x_train.npy").unlink(),
            r"y_train.npy .*has no images beside it.*x_test.npy",
        ),
        (
            lambda f: (f / "y_train.npy").unlink(),
            r"x_train.npy .*has no labels beside it.* x_train.npy",
        ),
        (lambda f: rewrite(f, "x_train.npy", b"no"), r"x_train.npy: not a .npy file"),
        (
            lambda f: rewrite(f, "x_train.npy", (f / "x_train.npy").read_bytes()[:-1]),
            r"x_train.npy: should have \d+ bytes for shape",
        ),
        (lambda f: np.save(f / "x_train.npy", np.zeros((3, 4, 4), int)), "must be uint8 .* int64"),
        (lambda f: np.save(f / "x_train.npy", np.zeros((3, 4, 4))), "the same length"),
        (
            lambda f: np.save(f / "x_train.npy", np.full((1500, 8, 8), np.nan)),
            "x_train.npy must be",
        ),
        (lambda f: np.save(f / "y_train.npy", np.zeros(1500)), "two classes or more"),
        (lambda f: np.save(f / "y_train.npy", np.full(1500, 0.5)), "without a fraction"),
        (lambda f: (f / "y_test.npy").unlink(), "x_test.npy .*has no labels beside it"),
        (lambda f: (f / "x_test.npy").unlink(), "y_test.npy .*has no images beside it"),
        (
            lambda f: rewrite(
                f, "y_test.npy", (f / "y_test.npy").read_bytes()[:-4] + b"\xff\xff\xff\x7f"
            ),
            "characters that do not exist",
        ),
        (
            lambda f: np.save(f / "y_train.npy", np.array([{}] * 1500)),
            "must hold numbers, booleans or",
        ),
        (lambda f: np.save(f / "y_test.npy", np.full(297, "ten")), "ten in y_test.npy only"),
        (lambda f: np.save(f / "x_test.npy", np.zeros((297, 9, 9))), "x_test.npy must have shape"),
    ],
)
@pytest.mark.parametrize("folder", ["npy"], indirect=True)
def test_damage_is_named(damage, match, folder):
    damage(folder)
    with pytest.raises(DatasetError, match=match):
        load(folder)
