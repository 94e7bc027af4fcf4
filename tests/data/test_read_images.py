import gzip

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from tiny_files import idx_bytes

from varpro_nn.data import read_images
from varpro_nn.errors import DatasetError

IMAGES = np.random.default_rng(0).integers(256, size=(3, 4, 5), dtype=np.uint8)
COLOURS = np.random.default_rng(1).integers(256, size=(3, 3, 4, 5), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(4, 5), (1, 4, 5)])
@pytest.mark.parametrize(
    "arrays",
    [
        {"x_test": IMAGES, "images": IMAGES[:1], "y_test": np.arange(3)},
        {"images": IMAGES, "labels": np.arange(3)},
        {"whatever": IMAGES[:, None]},
    ],
    ids=["x_test", "images", "only array"],
)
def test_npz(tmp_path, arrays, shape):
    np.savez(tmp_path / "some.npz", **arrays)
    read = read_images(tmp_path / "some.npz", shape)
    assert_array_equal(read, IMAGES.reshape(3, *shape), strict=True)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["raw", "gz"])
def test_idx(tmp_path, pack):
    (tmp_path / "some").write_bytes(pack(idx_bytes(IMAGES)))
    assert_array_equal(read_images(str(tmp_path / "some"), [4, 5]), IMAGES, strict=True)


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"a": IMAGES, "b": IMAGES}, "must contain x_test, images, or one array only, got a, b"),
        ({}, "one array only, got no array"),
        ({"a": IMAGES[:, :3]}, r"images must have shape \(4, 5\), got \(3, 5\)"),
        ({"a": COLOURS}, r"must have shape \(4, 5\), got \(3, 4, 5\)"),
        ({"a": IMAGES[0]}, r"images must be \(n, rows.* got shape \(4, 5\)"),
        ({"a": np.where(IMAGES > 9, np.nan, 0)}, "must be finite"),
        ({"a": np.array([["x"]], object)}, "must hold numbers"),
    ],
    ids=["two arrays", "none", "size", "channels", "2-D", "NaN", "object"],
)
def test_unsuitable_npz(tmp_path, arrays, match):
    path = tmp_path / "some.npz"
    np.savez(path, **arrays)
    with pytest.raises(DatasetError, match=match) as caught:
        read_images(path, (4, 5))
    assert str(path) in str(caught.value)


def test_not_images(tmp_path):
    (tmp_path / "some.txt").write_text("hello")
    with pytest.raises(DatasetError, match=r"some.txt: not an IDX file"):
        read_images(tmp_path / "some.txt", (4, 5))
    with pytest.raises(DatasetError, match="absent: there is no such file or folder"):
        read_images(tmp_path / "absent", (4, 5))
    with pytest.raises(DatasetError, match="must contain PNG or other pictures, got a folder"):
        read_images(tmp_path, (4, 5))


@pytest.mark.parametrize("shape", [(), (4,), (1, 1, 4, 5), (0, 5)])
def test_wrong_image_shape(tmp_path, shape):
    with pytest.raises(ValueError, match="image_shape must be"):
        read_images(tmp_path, shape)


def save_png(path, array, **options):
    from PIL import Image

    Image.fromarray(array).save(path, format="PNG", **options)
    return path


def test_png_round_trip(tmp_path):
    for i in (2, 0, 1):
        save_png(tmp_path / f"{i}.PNG", IMAGES[i])
        save_png(tmp_path / f".hidden{i}.png", IMAGES[i])
    assert_array_equal(read_images(tmp_path, (4, 5)), IMAGES, strict=True)
    assert_array_equal(read_images(tmp_path / "1.PNG", (1, 4, 5)), IMAGES[None, 1:2], strict=True)


def test_png_colours(tmp_path):
    path = save_png(tmp_path / "some.png", np.moveaxis(COLOURS[0], 0, -1))
    assert_array_equal(read_images(path, (3, 4, 5)), COLOURS[:1], strict=True)
    gray = read_images(path, (4, 5))[0]
    luma = np.tensordot([0.299, 0.587, 0.114], COLOURS[0], axes=1)
    assert np.abs(gray - luma).max() <= 1
    path = save_png(tmp_path / "gray.png", IMAGES[0])
    assert_array_equal(read_images(path, (3, 4, 5))[0], np.stack([IMAGES[0]] * 3))


def test_png_opaque_alpha_is_no_fault_but_transparency_is(tmp_path):
    pixels = np.concatenate(
        [np.moveaxis(COLOURS[0], 0, -1), np.full((4, 5, 1), 255, np.uint8)], axis=-1
    )
    path = save_png(tmp_path / "some.png", pixels)
    assert_array_equal(read_images(path, (3, 4, 5)), COLOURS[:1])
    pixels[0, 0, 3] = 0
    save_png(path, pixels)
    with pytest.raises(DatasetError, match=r"some.png: must be opaque, got transparent pixels"):
        read_images(path, (3, 4, 5))
    save_png(path, IMAGES[0], transparency=int(IMAGES[0, 0, 0]))
    with pytest.raises(DatasetError, match="must be opaque"):
        read_images(path, (4, 5))


def test_unsuitable_png(tmp_path):
    path = save_png(tmp_path / "some.png", IMAGES[0])
    with pytest.raises(
        DatasetError, match=r"some.png: images must have shape \(5, 4\), got \(4, 5"
    ):
        read_images(tmp_path, (5, 4))
    with pytest.raises(DatasetError, match="can be read for 1 or 3 channels"):
        read_images(path, (2, 4, 5))
    content = path.read_bytes()
    for length in range(4, len(content) - 30, 3):
        path.write_bytes(content[:length])
        with pytest.raises(DatasetError, match=r"some.png: cannot be read as a picture"):
            read_images(path, (4, 5))
    save_png(path, IMAGES[0].astype(np.uint16))
    with pytest.raises(DatasetError, match="must have 8 bits a channel, got 16"):
        read_images(path, (4, 5))
