from dataclasses import asdict, fields

import pytest

from varpro_nn.data.augmentation import Augmentation
from varpro_nn.training.config import CHOICES, TrainConfig


@pytest.mark.parametrize("name", CHOICES)
def test_choices(name):
    with pytest.raises(ValueError, match=f"{name} must be one of {CHOICES[name][0]}.*got 'x'"):
        TrainConfig(**{name: "x"})
    for choice in CHOICES[name]:
        assert getattr(TrainConfig(**{name: choice}), name) == choice


SMALLEST = {
    "rank": 1,
    "threshold": 0,
    "window": 1,
    "stride": 1,
    "grid": 1,
    "training_stride": 1,
    "n_components": 1,
    "n_units": 1,
    "n_subnetworks": 1,
    "n_stages": 1,
    "images_per_subnetwork": 1,
    "n_rounds": 1,
    "n_parts": 1,
    "n_train": 1,
    "max_nfev": 0,
    "ridge": 0,
    "weight_decay": 0,
    "shift": 0,
    "rotation": 0,
    "scale": 0,
    "shear": 0,
    "elastic": 0,
    "n_copies": 0,
    "glue_ridge": 0,
    "patience": 1,
    "bootstrap_ridge": 0,
    "seed": 0,
}
POSITIVE = ("gain", "contrast", "whitening")
BOOLEAN = ("flip", "standardise", "bootstrap")
WITH_ALL = {"units": "patch", "whitening": 0.1, "n_subnetworks": 1, "scheme": "stages"}
"""Settings with which every other is allowed."""


def test_every_field_is_tested_here():
    names = {"recipe", *CHOICES, *SMALLEST, *POSITIVE, *BOOLEAN}
    assert {field.name for field in fields(TrainConfig)} == names


@pytest.mark.parametrize("name", SMALLEST)
def test_ranges(name):
    least = SMALLEST[name]
    assert getattr(TrainConfig(**{**WITH_ALL, name: least}), name) == least
    for value in (least - 1, -5):
        with pytest.raises(ValueError, match=f"{name} must be finite and at least {least}, got"):
            TrainConfig(**{**WITH_ALL, name: value})
    for value in (float("nan"), float("inf"), "1", True):
        with pytest.raises(ValueError, match=f"{name} must be "):
            TrainConfig(**{**WITH_ALL, name: value})


WHOLE = (
    *("rank", "window", "stride", "grid", "training_stride", "n_components", "n_units"),
    *("n_subnetworks", "n_stages", "images_per_subnetwork", "n_rounds", "n_parts"),
    *("n_train", "max_nfev"),
    *("shift", "n_copies", "patience", "seed"),
)


@pytest.mark.parametrize("value", [10.0, 1.5])
@pytest.mark.parametrize("name", WHOLE)
def test_whole_numbers(name, value):
    with pytest.raises(ValueError, match=f"{name} must be of type int.*got {value}"):
        TrainConfig(**{**WITH_ALL, name: value})


@pytest.mark.parametrize("name", sorted(set(SMALLEST) - set(WHOLE)))
def test_fractions(name):
    assert getattr(TrainConfig(**{name: 0.25}), name) == 0.25


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", POSITIVE)
def test_positive_numbers(name, value):
    with pytest.raises(ValueError, match=f"{name} must be positive and finite, got"):
        TrainConfig(**{**WITH_ALL, name: value})


@pytest.mark.parametrize("value", ["no", 1, 0.0, None])
@pytest.mark.parametrize("name", BOOLEAN)
def test_booleans(name, value):
    """The word "no" would count as yes."""
    with pytest.raises(ValueError, match=f"{name} must be of type bool, got {value!r}"):
        TrainConfig(**{name: value})
    for choice in (True, False):
        assert getattr(TrainConfig(**{name: choice}), name) is choice


OPEN = (
    *("training_stride", "contrast", "whitening", "n_components", "n_train", "glue_ridge"),
    "patience",
)


@pytest.mark.parametrize("name", OPEN)
def test_what_may_be_left_open(name):
    assert getattr(TrainConfig(**{name: None}), name) is None


@pytest.mark.parametrize("name", sorted({*SMALLEST, *POSITIVE} - set(OPEN)))
def test_what_may_not_be_left_open(name):
    with pytest.raises(ValueError, match=f"{name} must be of type"):
        TrainConfig(**{name: None})


@pytest.mark.parametrize(
    ("setting", "without", "with_it", "needed"),
    [
        ({"n_components": 3}, {"units": "patch"}, {"units": "patch", "whitening": 1}, "whitening"),
        ({"n_copies": 1}, {}, {"shift": 1}, "a distortion"),
        ({"n_copies": 1}, {"shift": 0, "flip": False}, {"flip": True}, "a distortion"),
        ({"n_stages": 2}, {}, {"scheme": "stages"}, "the scheme stages"),
        ({"n_stages": 2}, {"scheme": "independent"}, {"scheme": "stages"}, "the scheme"),
        ({"whitening": 0.1}, {"units": "tensor"}, {"units": "patch"}, "patch units"),
        ({"contrast": 0.1}, {"units": "dense"}, {"units": "patch"}, "patch units"),
        ({"training_stride": 2}, {"units": "bilinear"}, {"units": "patch"}, "patch units"),
    ],
)
def test_what_would_have_no_effect_is_refused(setting, without, with_it, needed):
    ((name, value),) = setting.items()
    with pytest.raises(ValueError, match=f"{name}={value} needs {needed}"):
        TrainConfig(**setting, **without)
    assert getattr(TrainConfig(**setting, **with_it), name) == value


def test_the_form_must_fit_the_solver():
    with pytest.raises(ValueError, match="form must be auto or one that lm can use, got 'operator"):
        TrainConfig(solver="lm", form="operator")


@pytest.mark.parametrize("layer", ["softmax", "hinge"])
def test_only_the_ridge_layer_does_without_a_penalty(layer):
    with pytest.raises(ValueError, match=f"glue_ridge must be positive with the {layer} layer"):
        TrainConfig(output_layer=layer, glue_ridge=0)
    assert TrainConfig(output_layer=layer, glue_ridge=1e-3).glue_ridge == 1e-3
    assert TrainConfig(output_layer=layer).glue_ridge is None
    assert TrainConfig(output_layer="ridge", glue_ridge=0).glue_ridge == 0


@pytest.mark.parametrize("scheme", ["stages"])
def test_there_are_no_more_stages_than_subnetworks(scheme):
    parts = {"n_units": 12, "n_subnetworks": 4, "scheme": scheme}
    with pytest.raises(ValueError, match="n_stages must be at most n_subnetworks, got 5 and 4"):
        TrainConfig(**parts, n_stages=5)
    assert TrainConfig(**parts, n_stages=4).n_stages == 4


@pytest.mark.parametrize(
    ("change", "needed"),
    [
        ({"ridge": 0}, "a positive ridge, and no patience"),
        ({"patience": 3}, "a positive ridge, and no patience"),
        ({"form": "operator"}, "form auto or reduced, and Kaufman's Jacobian"),
        ({"form": "array", "solver": "lm"}, "form auto or reduced, and Kaufman's Jacobian"),
        ({"jacobian": "full"}, "form auto or reduced, and Kaufman's Jacobian"),
    ],
    ids=str,
)
def test_cross_entropy_needs(change, needed):
    with pytest.raises(ValueError, match=f"loss='cross-entropy' needs {needed}"):
        TrainConfig(loss="cross-entropy", **change)
    ((name, value), *_) = change.items()
    assert getattr(TrainConfig(**change), name) == value  # the loss of squares does not
    for form in ("auto", "reduced"):
        assert TrainConfig(loss="cross-entropy", form=form).form == form


def test_units_are_cut_into_equal_parts():
    with pytest.raises(ValueError, match=r"n_units must be a multiple of n_subnetworks.*100 and 7"):
        TrainConfig(n_units=100, n_subnetworks=7)
    assert TrainConfig(n_units=100, n_subnetworks=4).units_per_subnetwork == 25


def test_the_distortions_are_those_of_the_settings():
    assert not TrainConfig().augmentation
    amounts = {"shift": 2, "rotation": 10, "scale": 0.1, "shear": 0.2, "elastic": 2, "flip": True}
    assert {field.name for field in fields(Augmentation)} == set(amounts)
    assert asdict(TrainConfig(**amounts).augmentation) == amounts
    for name, amount in amounts.items():
        assert TrainConfig(**{name: amount}).augmentation == Augmentation(**{name: amount})


@pytest.mark.parametrize("scale", [1, 1.0, 2.5])
def test_an_image_cannot_shrink_to_nothing(scale):
    with pytest.raises(ValueError, match=f"scale must be less than 1, got {scale}"):
        TrainConfig(scale=scale)
    assert TrainConfig(scale=0.99).augmentation.scale == 0.99


def test_a_config_cannot_be_changed():
    with pytest.raises(AttributeError):
        TrainConfig().seed = 3


def test_a_config_is_rebuilt_from_its_values():
    config = TrainConfig(**{**WITH_ALL, "n_components": 5, "contrast": 0.1, "glue_ridge": 2.0})
    assert TrainConfig(**asdict(config)) == config
