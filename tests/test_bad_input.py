"""What people get wrong ends in one clear error: the argument, what was expected, what came."""

import numpy as np
import pytest

from varpro_nn import configure, load, run, train_network
from varpro_nn.data import Dataset, ImageSet, read_idx
from varpro_nn.errors import ClassSizeWarning, DatasetError, TrainingError

CONFIG = configure("bilinear", n_units=8, n_subnetworks=2, images_per_subnetwork=40, max_nfev=2)


@pytest.fixture
def images():
    return np.random.default_rng(0).random((60, 5, 5))


LABELS = np.arange(60) % 3
CLASSES = np.arange(3)


def train(images, labels=LABELS, classes=CLASSES, config=CONFIG):
    return train_network(config, images, labels, classes)


def test_sound_input_is_no_error(images):
    network, subnetworks, _ = train(images)
    assert len(subnetworks) == 2
    assert np.isfinite(network.A).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_images_that_are_not_finite(value, images):
    images[17, 2, 2] = value
    match = r"images must be finite, got NaN or infinity in 1 of 60 images \(first: image 17\)"
    with pytest.raises(ValueError, match=match):
        train(images)
    with pytest.raises(ValueError, match=match):
        ImageSet(images, LABELS)


def test_pixels_beyond_single_precision(images):
    """Finite in double precision, infinite in that of the features."""
    with pytest.raises((ValueError, DatasetError, TrainingError), match=r"images|pixels"):
        train(images * 1e300)


@pytest.mark.parametrize("images", [np.zeros((60, 25)), np.zeros((0, 5, 5)), np.zeros(60)])
def test_images_of_the_wrong_shape(images):
    with pytest.raises(ValueError, match=r"images must be \(n, rows, columns\).*got shape"):
        train(images)


def test_images_of_the_wrong_type():
    with pytest.raises(ValueError, match=r"images must be uint8.*got int64"):
        train(np.zeros((60, 5, 5), dtype=np.int64))


@pytest.mark.parametrize(
    "labels",
    [
        LABELS[:59],
        np.arange(61) % 3,
        np.arange(600) % 3,
        LABELS - 1,
        LABELS + 1,
        LABELS.astype(float),
        LABELS.astype(str),
        np.tile(LABELS, (2, 1)).T,
    ],
    ids=["short", "one more", "long", "negative", "too large", "float", "text", "two columns"],
)
def test_labels_that_do_not_match(labels, images):
    with pytest.raises(ValueError, match=r"labels must|same length|images and labels"):
        train(images, labels)
    if labels.dtype.kind == "i" and labels.max() > 2:
        with pytest.raises(ValueError, match="train labels must be 0 to 2 for 3 classes, got 3"):
            Dataset("made", CLASSES, ImageSet(images, labels), None)
    else:
        with pytest.raises(ValueError, match=r"must.*got"):
            Dataset("made", CLASSES, ImageSet(images, labels), None)


@pytest.mark.parametrize("label", [0, 2])
def test_one_class(label, images):
    with pytest.raises(DatasetError, match="images of two classes at least, got 1"):
        train(images, np.full(60, label))


def test_one_class_left_by_n_train():
    labels = np.repeat([0, 1], 30)
    dataset = Dataset(
        "made", np.arange(2), ImageSet(np.random.default_rng(0).random((60, 5, 5)), labels), None
    )
    with pytest.raises(DatasetError, match="two classes at least, got 1"):
        run(CONFIG.with_options(n_train=30), dataset, n_jobs=1)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("value", [0, 1])
def test_constant_images(value, dtype):
    with pytest.raises(DatasetError, match="images that differ, got the same pixels in all"):
        train(np.full((60, 5, 5), value, dtype=dtype))


def test_images_that_are_the_same_in_some_subsets_are_no_fault():
    """All but two images are alike, so most sub-networks see constant images."""
    images = np.zeros((60, 5, 5))
    images[0, 2, 2] = images[1, 1, 1] = 1
    network, subnetworks, _ = train(
        images, config=CONFIG.with_options(n_units=40, n_subnetworks=10, images_per_subnetwork=5)
    )
    assert all(np.isfinite(s.W).all() for s in subnetworks)
    assert np.isfinite(network.A).all()


PATCHES = configure(
    "tiny", data="digits",
    n_units=8, n_subnetworks=2, images_per_subnetwork=40, max_nfev=2,
)  # fmt: skip


@pytest.mark.parametrize(
    ("layer", "loss", "whitening", "n_rounds"),
    [
        ("ridge", "squares", None, 3), ("softmax", "cross-entropy", None, 1),
        ("hinge", "squares", 0.1, 1), ("ridge", "cross-entropy", 0.1, 1),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::varpro_nn.errors.ClassSizeWarning")
def test_what_is_no_fault_is_none_to_patch_units(layer, loss, whitening, n_rounds, images):
    config = PATCHES.with_options(
        output_layer=layer, loss=loss, whitening=whitening, n_rounds=n_rounds
    )
    few = config.with_options(n_units=20, n_subnetworks=5, images_per_subnetwork=5)
    alike = np.zeros((60, 5, 5))  # most sub-networks see constant images
    alike[0, 2, 2] = alike[1, 1, 1] = 1
    for pixels, labels, classes, settings in (
        (images, LABELS, CLASSES, config),
        (images, LABELS, np.arange(5), config),  # two classes without images
        (images[:12], LABELS[:12], CLASSES, config),  # fewer images than columns
        (images[:3], LABELS[:3], CLASSES, config),
        (images[:2], LABELS[:2], CLASSES[:2], config),
        (alike, LABELS, CLASSES, few),
    ):
        network, subnetworks, _ = train(pixels, labels, classes, settings)
        assert all(np.isfinite(s.W).all() for s in subnetworks)
        assert np.isfinite(network.A).all()
        assert set(network.predict(images)) <= {0, 1, 2}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"window": 6}, r"window must be at most the sides of the image, \(5, 5\), got 6"),
        ({"grid": 4}, r"grid must be at most the places of a window, \(3, 3\), got 4"),
        ({"training_stride": 2}, r"grid must be at most the places of a window, \(2, 2\), got 3"),
        ({"scalarisation": "dense", "rank": 2}, "rank must be 1 with dense units, got 2"),
        (
            {"scalarisation": "bilinear", "draw": "windows"},
            "draw='windows' needs scalarisation='dense'",
        ),
        ({"whitening": 0.1, "n_components": 10}, "n_components must be 1 to 9, for dense units"),
        (
            {"whitening": 0.1, "n_components": 4, "scalarisation": "bilinear"},
            "n_components=4 needs scalarisation='dense'",
        ),
        ({"scheme": "stages", "n_stages": 3}, "n_subnetworks, got n_stages=3 and n_subnetworks=2"),
        ({"form": "operator"}, "loss='cross-entropy' needs form auto or reduced"),
        ({"ridge": 0}, "loss='cross-entropy' needs a positive ridge"),
        ({"output_penalty": 0}, "output_penalty must be positive with the hinge layer, got 0"),
    ],
)
def test_settings_of_patch_units_that_do_not_fit_the_images(changes, match, images):
    with pytest.raises(ValueError, match=match):
        train(images, config=PATCHES.with_options(**changes))


def test_one_pixel_images():
    images = np.random.default_rng(0).random((60, 1, 1))
    network = train(images)[0]
    assert np.isfinite(network.decision_function(images)).all()


@pytest.mark.filterwarnings("ignore::varpro_nn.errors.ClassSizeWarning")
def test_fewer_images_than_columns(images):
    network = train(images[:12], LABELS[:12], config=CONFIG.with_options(n_units=80))[0]
    assert np.isfinite(network.A).all()
    assert np.mean(network.predict(images[:12]) == LABELS[:12]) > 0.9


def test_a_class_without_any_image_is_never_predicted_and_no_fault(images):
    with pytest.warns(ClassSizeWarning, match=r"2 classes .*\(class 3 has 0 training images\)"):
        network = train(images, classes=np.arange(5))[0]
    assert set(network.predict(images)) <= {0, 1, 2}


def test_quadratic_units_need_squares():
    with pytest.raises(ValueError, match=r"need square images, got image_shape=\(5, 6\)"):
        train(
            np.random.default_rng(0).random((60, 5, 6)),
            config=CONFIG.with_options(units="quadratic"),
        )


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"units": "dense", "rank": 2}, "rank must be 1 with dense units, got 2"),
        ({"solver": "lm", "form": "operator"}, "form must be auto or reduced or array for solver"),
    ],
)
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_settings_that_do_not_go_together(changes, match, n_jobs, images):
    with pytest.raises(ValueError, match=match):
        train_network(CONFIG.with_options(**changes), images, LABELS, CLASSES, n_jobs=n_jobs)


def test_number_of_jobs():
    with pytest.raises(ValueError, match=r"n_jobs must be -1 .*or at least 1, got 0"):
        run(CONFIG, load("digits"), n_jobs=0)


def test_all_subnetworks_fail(images, monkeypatch):
    def broken(self, W, inputs):
        return np.full((len(inputs), len(W)), np.nan)

    monkeypatch.setattr("varpro_nn.units.WholeImageUnits.features", broken)
    with pytest.raises(TrainingError, match="all 2 sub-networks failed; the first: NonFiniteError"):
        train(images)


def test_arguments_are_not_changed(images):
    before = images.copy()
    train(images)
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"\x00\x00\x08\x03" + bytes(12), None),
        (b"\x00\x00\x08\x03\x00\x00\x00\x02\x00\x00\x00\x02\x00\x00\x00\x02" + bytes(7), "got 7"),
        (b"\x00\x00\x0d\x01\x00\x00\x00\x01\x00", "must be 0x08"),
        (b"\x89PNG\r\n", "must begin with 00 00 08"),
        (b"", "must begin with 00 00 08"),
    ],
    ids=["empty", "truncated", "float", "magic", "nothing"],
)
def test_idx_files(content, match, tmp_path):
    path = tmp_path / "images"
    path.write_bytes(content)
    if match is None:
        assert read_idx(path).size == 0
    else:
        with pytest.raises(DatasetError, match=match) as caught:
            read_idx(path)
        assert str(path) in str(caught.value)
