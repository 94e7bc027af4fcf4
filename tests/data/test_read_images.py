import gzip
import struct
import zlib

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
        {"train_images": IMAGES[:1], "test_images": IMAGES, "test_labels": np.arange(3)},
        {"X": IMAGES, "y": np.arange(3)},
        {"whatever": IMAGES[:, None]},
    ],
    ids=["x_test", "images", "test_images", "X", "only array"],
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
        ({"a": IMAGES[:, :3]}, r"images must have shape \(n, 4, 5\), got \(3, 3, 5\)"),
        ({"a": COLOURS}, r"must have shape \(n, 4, 5\), got \(3, 3, 4, 5\)"),
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
    with pytest.raises(
        DatasetError, match=r"some.txt: cannot be read as a picture: .*expected a picture, or"
    ):
        read_images(tmp_path / "some.txt", (4, 5))
    with pytest.raises(DatasetError, match="absent: there is no such file or folder"):
        read_images(tmp_path / "absent", (4, 5))
    with pytest.raises(DatasetError, match="must contain PNG or other pictures, got a folder"):
        read_images(tmp_path, (4, 5))


def test_files_of_matlab_are_refused_with_a_remedy(tmp_path):
    (tmp_path / "some.MAT").write_bytes(b"MATLAB 5.0 MAT-file")
    with pytest.raises(DatasetError, match=r"some.MAT: .mat files .* save the images as .npy"):
        read_images(tmp_path / "some.MAT", (4, 5))


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


def test_opaque_alpha_changes_nothing(tmp_path):
    pixels = np.concatenate(
        [np.moveaxis(COLOURS[0], 0, -1), np.full((4, 5, 1), 255, np.uint8)], axis=-1
    )
    path = save_png(tmp_path / "some.png", pixels)
    assert_array_equal(read_images(path, (3, 4, 5)), COLOURS[:1])
    grey = np.stack([IMAGES[0], np.full((4, 5), 255, np.uint8)], axis=-1)
    assert_array_equal(read_images(save_png(path, grey), (4, 5)), IMAGES[:1])


@pytest.mark.parametrize(("ink", "ground"), [(0, 255), (255, 0), (90, 255), (160, 0)])
def test_a_transparent_ground_is_unlike_what_is_on_it(ink, ground, tmp_path):
    """Transparent pixels may have the colour of the ink: both were black without the alpha."""
    alpha = np.where(IMAGES[0] > 127, 255, 0).astype(np.uint8)
    path = save_png(tmp_path / "some.png", np.stack([np.full_like(alpha, ink), alpha], axis=-1))
    expected = np.where(alpha > 0, ink, ground).astype(np.uint8)
    assert_array_equal(read_images(path, (4, 5))[0], expected)
    assert_array_equal(read_images(path, (3, 4, 5))[0], np.stack([expected] * 3))


def test_half_transparent_pixels_are_mixed_with_the_ground(tmp_path):
    pixels = np.zeros((4, 5, 2), np.uint8)
    pixels[..., 1] = IMAGES[0]
    read = read_images(save_png(tmp_path / "some.png", pixels), (4, 5))
    assert np.abs(read[0].astype(int) - (255 - IMAGES[0].astype(int))).max() <= 1


def test_a_grey_level_that_stands_for_transparency(tmp_path):
    level = int(IMAGES[0, 0, 0])
    path = save_png(tmp_path / "some.png", IMAGES[0], transparency=level)
    expected = np.where(IMAGES[0] == level, 255, IMAGES[0])
    assert_array_equal(read_images(path, (4, 5))[0], expected)
    deep = IMAGES[0].astype(np.uint16) * 257
    path.write_bytes(png(deep, colour_type=0, transparent=level * 257))
    assert_array_equal(read_images(path, (4, 5))[0], expected)


STORED = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE",
          6: "ROTATE_90", 7: "TRANSVERSE", 8: "ROTATE_270"}  # fmt: skip
"""How pixels are turned that are stored with each orientation of EXIF."""


@pytest.mark.parametrize("orientation", STORED)
def test_pictures_are_turned_as_their_metadata_say(orientation, tmp_path):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = Image.fromarray(IMAGES[0]).transpose(Image.Transpose[STORED[orientation]])
    for name in ("some.png", "some.tif"):
        turned.save(tmp_path / name, exif=exif)
        assert_array_equal(read_images(tmp_path / name, (4, 5)), IMAGES[:1])  # 5 columns
    large = Image.fromarray(np.kron(IMAGES[0], np.ones((8, 8), np.uint8)))
    large = large.transpose(Image.Transpose[STORED[orientation]])
    large.save(tmp_path / "some.jpg", exif=exif, quality=100)
    read = read_images(tmp_path / "some.jpg", (32, 40))[0].astype(int)
    assert np.abs(read[4::8, 4::8] - IMAGES[0]).max() <= 3


def test_damaged_metadata_are_no_reason_to_refuse_sound_pixels(tmp_path):
    path = save_png(tmp_path / "some.png", IMAGES[0], exif=b"Exif\0\0XX*nonsense")
    assert_array_equal(read_images(path, (4, 5)), IMAGES[:1])


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm", "a.jp2"])
def test_sixteen_bits_are_scaled_to_eight(name, tmp_path):
    from PIL import Image

    deep = np.random.default_rng(2).integers(65536, size=(16, 17), dtype=np.uint16)
    if name == "a.pgm":  # which older Pillow does not write
        (tmp_path / name).write_bytes(b"P5 17 16 65535\n" + deep.astype(">u2").tobytes())
    else:
        Image.fromarray(deep).save(tmp_path / name)
    read = read_images(tmp_path / name, (16, 17))
    assert_array_equal(read[0], np.round(deep / 257))


def test_sixteen_bits_of_several_channels(tmp_path):
    """Pillow keeps the upper 8 of the 16 bits: at most one level below the nearest."""
    deep = np.random.default_rng(2).integers(65536, size=(4, 5, 3), dtype=np.uint16)
    (tmp_path / "a.ppm").write_bytes(b"P6 5 4 65535\n" + deep.astype(">u2").tobytes())
    (tmp_path / "a.png").write_bytes(png(deep, colour_type=2))
    for name in ("a.ppm", "a.png"):
        read = np.moveaxis(read_images(tmp_path / name, (3, 4, 5))[0], 0, -1)
        assert np.abs(read - deep / 257).max() <= 1


def png(pixels, colour_type, transparent=None):
    """A PNG of 16 bits a channel, by the letter of the format: Pillow writes none."""

    def chunk(kind, content):
        code = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", code)

    rows, columns = pixels.shape[:2]
    header = struct.pack(">2I5B", columns, rows, 16, colour_type, 0, 0, 0)
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    level = b"" if transparent is None else chunk(b"tRNS", struct.pack(">H", transparent))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + level
        + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    )  # fmt: skip


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.tif", "a.bmp", "a.tga", "a.pcx", "a.bin"])
def test_what_pillow_reads_is_read(name, tmp_path):
    from PIL import Image

    options = {"lossless": True} if name == "a.webp" else {}
    form = "PNG" if name == "a.bin" else None  # what a file is, its bytes say
    Image.fromarray(IMAGES[0]).save(tmp_path / name, format=form, **options)
    assert_array_equal(read_images(tmp_path / name, (4, 5)), IMAGES[:1])


def test_of_several_pages_the_first_is_read_and_they_are_counted(tmp_path):
    from PIL import Image

    pages = [Image.fromarray(image) for image in IMAGES]
    for name in ("a.tif", "a.gif"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
    with pytest.warns(UserWarning, match=r"a.tif: read the first of 3 pages; save the others"):
        assert_array_equal(read_images(tmp_path / "a.tif", (4, 5)), IMAGES[:1])
    assert_array_equal(read_images(tmp_path / "a.gif", (4, 5)), IMAGES[:1])  # an animation


def test_formats_that_pillow_does_not_decode_itself_are_left_out(tmp_path):
    """For EPS it starts Ghostscript."""
    from PIL import Image

    Image.fromarray(IMAGES[0]).save(tmp_path / "a.eps")
    with pytest.raises(DatasetError, match=r"a.eps: cannot be read as a picture"):
        read_images(tmp_path / "a.eps", (4, 5))
    with pytest.raises(DatasetError, match="got a folder without any"):
        read_images(tmp_path, (4, 5))


@pytest.mark.parametrize(
    ("pixels", "match"),
    [
        (np.full((4, 5), 70_000, np.int32), "up to 16 bits per channel, got 32"),
        (np.full((4, 5), 1.5, np.float32), "pixels from 0 to 1, got 1.5 to 1.5"),
    ],
)
def test_numbers_without_a_known_white(pixels, match, tmp_path):
    from PIL import Image

    Image.fromarray(pixels).save(tmp_path / "a.tif")
    with pytest.raises(DatasetError, match=f"a.tif: must have {match}"):
        read_images(tmp_path / "a.tif", (4, 5))


def test_unsuitable_png(tmp_path):
    path = save_png(tmp_path / "some.png", IMAGES[0])
    with pytest.raises(
        DatasetError, match=r"some.png: images must have shape \(5, 4\), got \(4, 5"
    ):
        read_images(tmp_path, (5, 4))
    with pytest.raises(DatasetError, match="pictures can be read for 1 or 3 channels"):
        read_images(path, (2, 4, 5))
    content = path.read_bytes()
    for length in range(4, len(content) - 30, 3):
        path.write_bytes(content[:length])
        with pytest.raises(DatasetError, match=r"some.png: cannot be read as a picture"):
            read_images(path, (4, 5))
