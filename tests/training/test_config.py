import json
from dataclasses import FrozenInstanceError, asdict

import numpy as np
import pytest

from varpro_nn.data.augmentation import Augmentation
from varpro_nn.training.config import (
    BootstrapSettings,
    OutputSettings,
    SubnetworkSettings,
    TrainConfig,
    UnitSettings,
)

BASE = TrainConfig().with_options
PATCH = {"units": "patch"}
WITH_ALL = {**PATCH, "whitening": 0.1, "n_subnetworks": 1, "scheme": "stages", "shift": 1}
"""Settings with which every other is allowed, except those of a first layer."""
FIRST = {**PATCH, "window": 1, "whitening": 0.1, "n_components": 4, "first_units": 3}
"""Settings with which those of a first layer are allowed."""
MIDDLE = {**FIRST, "middle_units": 2}
"""Settings with which those of a middle layer are allowed."""

CHOICES = {
    "units": ("patch", "quadratic", "bilinear", "tensor", "dense"),
    "scalarisation": ("quadratic", "bilinear", "tensor", "dense"),
    "activation": ("logistic", "tanh", "rectifier", "two-sided"),
    "first_activation": ("logistic", "tanh", "rectifier", "two-sided"),
    "draw": ("gaussian", "windows"),
    "scheme": ("independent", "stages", "untrained"),
    "loss": ("squares", "cross-entropy"),
    "output_layer": ("ridge", "softmax", "hinge"),
    "views": ("single", "flip"),
    "class_weight": ("balanced",),
    "solver": ("lsmr", "exact", "lm", "l-bfgs-b", "powell", "nelder-mead", "kfac"),
    "form": ("auto", "operator", "reduced", "array"),
    "jacobian": ("kaufman", "full"),
    "bootstrap_rule": ("margin", "margin-logistic", "argmax"),
}
WHOLE = {
    "rank": 1, "window": 1, "stride": 1, "grid": 1, "training_stride": 1, "n_components": 1,
    "training_grid": 1,
    "n_units": 1, "n_subnetworks": 1, "n_stages": 1, "images_per_subnetwork": 1, "n_rounds": 1,
    "n_train": 1, "max_nfev": 0, "shift": 0, "n_copies": 0, "seed": 0, "cells_below": 0,
    "first_units": 1, "first_window": 1, "first_grid": 1, "batch_size": 1,
    "middle_units": 1, "middle_cells": 1, "middle_grid": 1, "middle_components": 1,
}  # fmt: skip
"""Least values of whole numbers."""
FRACTIONS = (
    *("threshold", "ridge", "weight_decay", "rotation", "scale", "shear", "elastic"),
    *("output_penalty", "bootstrap_ridge", "first_threshold"),
)
"""Numbers of 0 or more."""
POSITIVE = ("gain", "contrast", "whitening", "first_contrast", "first_whitening")
BOOLEAN = ("flip", "standardise", "bootstrap", "refit")
OPEN = (
    *("training_stride", "contrast", "whitening", "n_components", "n_train", "output_penalty"),
    *("first_units", "first_contrast", "middle_units", "training_grid"),
)
SMALLEST = {**WHOLE, **dict.fromkeys(FRACTIONS, 0)}


def beside(name, others):
    """Settings beside ``name``: ``others``, or those that it needs itself."""
    if name == "batch_size":
        return {"units": "patch", "solver": "kfac"}
    if name.startswith("middle_"):
        return MIDDLE
    return FIRST if name.startswith("first_") else others


def value_of(config, option):
    return config.options()[option]


def test_every_setting_is_tested_here():
    assert {"recipe", *CHOICES, *SMALLEST, *POSITIVE, *BOOLEAN} == set(TrainConfig().options())


@pytest.mark.parametrize("name", CHOICES)
def test_choices(name):
    with pytest.raises(ValueError, match=f"{name} must be one of {CHOICES[name][0]}.*got 'x'"):
        BASE(**{**beside(name, PATCH), name: "x"})
    for choice in CHOICES[name]:
        assert value_of(BASE(**{**beside(name, PATCH), name: choice}), name) == choice


@pytest.mark.parametrize("name", SMALLEST)
def test_ranges(name):
    least = SMALLEST[name]
    assert value_of(BASE(**{**beside(name, WITH_ALL), name: least}), name) == least
    for value in (least - 1, -5, float("nan"), float("inf")):
        range_of = "at least" if name in WHOLE else "finite and at least"
        with pytest.raises(ValueError, match=f"{name} must be ({range_of}|of type int)"):
            BASE(**{**beside(name, WITH_ALL), name: value})
    for value in ("1", True):
        with pytest.raises(ValueError, match=f"{name} must be of type"):
            BASE(**{**beside(name, WITH_ALL), name: value})


@pytest.mark.parametrize("value", [10.0, 1.5])
@pytest.mark.parametrize("name", WHOLE)
def test_whole_numbers(name, value):
    with pytest.raises(ValueError, match=f"{name} must be of type int.*got {value}"):
        BASE(**{**beside(name, WITH_ALL), name: value})


@pytest.mark.parametrize("name", FRACTIONS)
def test_fractions(name):
    assert value_of(BASE(**{**beside(name, {}), name: 0.25}), name) == 0.25


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", POSITIVE)
def test_positive_numbers(name, value):
    with pytest.raises(ValueError, match=f"{name} must be finite and more than 0, got"):
        BASE(**{**beside(name, WITH_ALL), name: value})


@pytest.mark.parametrize("value", ["no", 1, 0.0, None])
@pytest.mark.parametrize("name", BOOLEAN)
def test_booleans(name, value):
    """The word "no" would count as yes."""
    with pytest.raises(ValueError, match=f"{name} must be of type bool, got {value!r}"):
        BASE(**{name: value})
    for choice in (True, False):
        assert value_of(BASE(**{name: choice}), name) is choice


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"units": "bilinear"}, "window=1 needs units='patch'"),
        ({"scalarisation": "bilinear", "n_components": None}, "needs scalarisation='dense'"),
        ({"contrast": 0.1}, "needs contrast=None, .* got 0.1"),
        ({"stride": 2}, "needs stride=1, .* got 2"),
        ({"training_stride": 2}, "needs training_stride=None, .* got 2"),
        ({"n_components": None}, "needs n_components, to project the windows of maps"),
        ({"n_components": None, "whitening": None}, "needs whitening, to project"),
        ({"window": 15}, "window must be at most first_grid, 14, the side of the maps, got 15"),
        ({"first_units": None, "first_grid": 3}, "first_grid=3 needs first_units"),
        ({"first_units": None, "middle_units": 3}, "middle_units needs first_units, got 3 without"),
        ({"first_units": None, "cells_below": 2}, "cells_below=2 needs first_units, got None"),
        ({"cells_below": 15}, r"at most 14, the side of the maps \(first_grid\), got 15"),
        (
            {"middle_units": 3, "middle_grid": 3, "cells_below": 4},
            r"at most 3, the side of the maps \(middle_grid\), got 4",
        ),
        ({"middle_grid": 3}, "middle_grid=3 needs middle_units"),
        (
            {"middle_units": 3, "window": 4, "middle_grid": 3},
            "window must be at most middle_grid, 3, .* got 4",
        ),
        (
            {"middle_units": 3, "window": 2, "first_grid": 7, "middle_grid": 7},
            "middle_grid must be at most 6, the places of a window of 2 pixels .* got 7",
        ),
        (
            {"middle_units": 3, "window": 2, "first_grid": 4, "middle_grid": 3, "middle_cells": 4},
            "middle_cells must be at most 3, .* got 4",
        ),
    ],
    ids=lambda given: given if isinstance(given, str) else None,
)  # fmt: skip
def test_units_that_can_see_maps(changed, said):
    with pytest.raises(ValueError, match=said):
        BASE(**{**FIRST, **changed})


def test_scalars_of_numpy_are_those_of_python():
    settings = {"n_units": 500, "max_nfev": 3, "ridge": 0.5, "standardise": False, "flip": True}
    of_numpy = {name: np.array([value])[0] for name, value in settings.items()}
    config = BASE(**of_numpy)
    assert config == BASE(**settings)
    kinds = [type(value_of(config, name)) for name in settings]
    assert kinds == [int, int, float, bool, bool]
    with pytest.raises(ValueError, match="n_units must be of type int, got"):
        BASE(n_units=np.bool_(True))


@pytest.mark.parametrize("name", sorted({*SMALLEST, *POSITIVE}))
def test_what_may_be_left_open(name):
    if name in OPEN:
        assert value_of(BASE(**{**beside(name, {}), name: None}), name) is None
    else:
        with pytest.raises(ValueError, match=f"{name} must be of type"):
            BASE(**{name: None})


@pytest.mark.parametrize(
    ("setting", "without", "with_it", "needed"),
    [
        ({"n_components": 3}, PATCH, {**PATCH, "whitening": 1}, "whitening, got whitening=None"),
        (
            {"n_components": 3},
            {**PATCH, "whitening": 1, "scalarisation": "tensor"},
            {**PATCH, "whitening": 1},
            "scalarisation='dense', got scalarisation='tensor'",
        ),
        ({"n_copies": 1}, {}, {"shift": 1}, "a distortion"),
        ({"n_copies": 1}, {"shift": 0, "flip": False}, {"flip": True}, "a distortion"),
        ({"n_stages": 2}, {}, {"scheme": "stages"}, "scheme='stages', got scheme='independent'"),
        *(
            (setting, {"units": "tensor"}, PATCH, "units='patch', got units='tensor'")
            for setting in (
                *({"whitening": 0.1}, {"contrast": 0.1}, {"training_stride": 2}, {"window": 5}),
                *({"stride": 2}, {"grid": 3}, {"scalarisation": "bilinear"}, {"draw": "windows"}),
            )
        ),
    ],
    ids=str,
)
def test_what_would_have_no_effect_is_refused(setting, without, with_it, needed):
    ((name, value),) = setting.items()
    with pytest.raises(ValueError, match=f"{name}={value!r} needs {needed}"):
        BASE(**setting, **without)
    assert value_of(BASE(**setting, **with_it), name) == value


@pytest.mark.parametrize("units", [{"units": "dense"}, {**PATCH, "scalarisation": "dense"}])
def test_dense_units_have_one_term(units):
    with pytest.raises(ValueError, match="rank must be 1 with dense units, got 2"):
        BASE(**units, rank=2)
    assert BASE(units="bilinear", rank=2).units.rank == 2
    assert BASE(**PATCH, scalarisation="bilinear", rank=2).units.rank == 2


def test_the_form_must_fit_the_solver():
    with pytest.raises(ValueError, match="form must be auto or reduced or array for sol"):
        BASE(solver="lm", form="operator")


@pytest.mark.parametrize("layer", ["softmax", "hinge"])
def test_only_the_ridge_layer_does_without_a_penalty(layer):
    with pytest.raises(ValueError, match=f"output_penalty must be positive with the {layer} layer"):
        BASE(output_layer=layer, output_penalty=0)
    assert BASE(output_layer=layer, output_penalty=1e-3).output.penalty == 1e-3
    assert BASE(output_layer=layer).output.penalty is None
    assert BASE(output_layer="ridge", output_penalty=0).output.penalty == 0


def test_there_are_no_more_stages_than_subnetworks():
    parts = {"n_units": 12, "n_subnetworks": 4, "scheme": "stages"}
    with pytest.raises(ValueError, match="n_subnetworks, got n_stages=5 and n_subnetworks=4"):
        BASE(**parts, n_stages=5)
    assert BASE(**parts, n_stages=4).subnetworks.n_stages == 4


@pytest.mark.parametrize(
    ("change", "needed"),
    [
        ({"ridge": 0}, "a positive ridge, got 0"),
        ({"form": "operator"}, "form auto or reduced, and Kaufman's Jacobian, got operator"),
        ({"form": "array", "solver": "lm"}, "form auto or reduced, and Kaufman's Jacobian"),
        ({"jacobian": "full"}, "form auto or reduced, and Kaufman's Jacobian, got auto and full"),
    ],
    ids=str,
)
def test_cross_entropy_needs(change, needed):
    with pytest.raises(ValueError, match=f"loss='cross-entropy' needs {needed}"):
        BASE(loss="cross-entropy", **change)
    ((name, value), *_) = change.items()
    assert value_of(BASE(**change), name) == value  # the loss of squares does not
    for form in ("auto", "reduced"):
        assert BASE(loss="cross-entropy", form=form).subnetworks.form == form


def test_units_are_cut_into_equal_parts():
    with pytest.raises(ValueError, match=r"n_units must be a multiple of n_subnetworks.*100 and 7"):
        BASE(n_units=100, n_subnetworks=7)
    assert BASE(n_units=100, n_subnetworks=4).units_per_subnetwork == 25


def test_the_distortions_are_those_of_the_settings():
    assert not TrainConfig().distortion
    amounts = {"shift": 2, "rotation": 10, "scale": 0.1, "shear": 0.2, "elastic": 2, "flip": True}
    assert asdict(BASE(**amounts).distortion) == amounts
    for name, amount in amounts.items():
        assert BASE(**{name: amount}).distortion == Augmentation(**{name: amount})


@pytest.mark.parametrize("scale", [1, 1.0, 2.5])
def test_an_image_cannot_shrink_to_nothing(scale):
    with pytest.raises(ValueError, match=f"scale must be .* less than 1, got {scale}"):
        BASE(scale=scale)
    assert BASE(scale=0.99).distortion.scale == 0.99


@pytest.mark.parametrize(
    ("option", "value", "instead"),
    [("scheme", "refine", "use stages or independent"), ("views", "shifts", "use flip or single")],
)
def test_a_choice_that_is_no_more_says_what_to_do(option, value, instead):
    with pytest.raises(ValueError, match=f"{option}='{value}' was removed: .*{instead}"):
        BASE(**{option: value})


def test_a_config_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        TrainConfig().seed = 3
    with pytest.raises(FrozenInstanceError):
        TrainConfig().units.kind = "patch"


def test_unknown_settings_are_named_with_the_nearest():
    with pytest.raises(ValueError, match=r"unknown settings n_unit; did you mean n_units\?"):
        BASE(n_unit=3)


# --- groups and flat names ---------------------------------------------------------------

NAMES = {
    ("units", "kind"): "units",
    ("output", "layer"): "output_layer",
    **{
        ("first", "n_units" if name == "units" else name): f"first_{name}"
        for name in (
            "units",
            "window",
            "grid",
            "activation",
            "threshold",
            "contrast",
            "whitening",
        )
    },
    ("middle", "n_units"): "middle_units",
    **{("middle", name): f"middle_{name}" for name in ("cells", "grid")},
    ("middle", "n_components"): "middle_components",
    ("output", "penalty"): "output_penalty",
    ("bootstrap", "enabled"): "bootstrap",
    ("bootstrap", "rule"): "bootstrap_rule",
    ("bootstrap", "ridge"): "bootstrap_ridge",
}
"""Settings whose option is not the name of their field."""


def test_a_setting_has_one_flat_name_and_a_name_is_of_one_setting():
    nested = asdict(TrainConfig())
    flat = {NAMES.get((group, name), name): value
            for group, values in nested.items() if isinstance(values, dict)
            for name, value in values.items()}  # fmt: skip
    flat |= {name: value for name, value in nested.items() if not isinstance(value, dict)}
    assert flat == TrainConfig().options()
    n_values = sum(len(v) if isinstance(v, dict) else 1 for v in nested.values())
    assert len(flat) == n_values


def test_settings_are_changed_where_they_stand():
    made = TrainConfig(
        seed=3,
        units=UnitSettings(kind="patch", n_units=12),
        subnetworks=SubnetworkSettings(n_subnetworks=2, ridge=0.5),
        distortion=Augmentation(flip=True),
        output=OutputSettings(layer="hinge", penalty=2.0, n_copies=1),
        bootstrap=BootstrapSettings(enabled=True, ridge=0.1),
    )
    assert made == BASE(
        seed=3, units="patch", n_units=12, n_subnetworks=2, ridge=0.5, flip=True,
        output_layer="hinge", output_penalty=2.0, n_copies=1, bootstrap=True, bootstrap_ridge=0.1,
    )  # fmt: skip
    assert made.with_options() == made
    assert TrainConfig().with_options(**made.options()) == made


def test_a_config_is_rebuilt_from_its_json():
    config = BASE(**{**WITH_ALL, "n_components": 5, "contrast": 0.1, "output_penalty": 2.0})
    assert TrainConfig.from_dict(json.loads(json.dumps(asdict(config)))) == config


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values.pop("units"),
        lambda values: values["units"].pop("grid"),
        lambda values: values.update(colour="red"),
        lambda values: values["output"].update(ridge=3),
        lambda values: values.update(units="patch"),  # as before there were groups
        lambda values: values["units"].update(grid="4"),
    ],
    ids=["no group", "no field", "another", "another in a group", "flat", "a wrong type"],
)
def test_what_is_no_config_is_refused(change):
    values = asdict(TrainConfig())
    change(values)
    with pytest.raises(ValueError, match=r"needs values of|must be of type"):
        TrainConfig.from_dict(values)


def test_the_docstring_names_every_field_once():
    for group in (TrainConfig, UnitSettings, SubnetworkSettings, OutputSettings, Augmentation):
        lines = group.__doc__.splitlines()
        for name in asdict(group()):
            assert sum(line.startswith(f"{name} : ") for line in lines) == 1
    assert "The option is ``output_layer``" in OutputSettings.__doc__
    assert "At least 0." in OutputSettings.__doc__
