from dataclasses import asdict, fields, replace

import numpy as np
import pytest

from varpro_nn import load
from varpro_nn.training.config import TrainConfig
from varpro_nn.training.plan import make_units
from varpro_nn.training.recipes import DATA, RECIPES, VARIANTS, configure, kind_of_data

SHAPES = {"mnist": (28, 28), "fashion-mnist": (28, 28), "cifar10": (3, 32, 32), "digits": (8, 8)}


def test_the_paper_recipe_is_table_3():
    """104 sub-networks of 50 units w'Xw, 2,000 images each, out of 50,000 training images."""
    config = configure("paper")
    assert (config.units, config.rank, config.n_units, config.n_subnetworks) == (
        "quadratic",
        1,
        5200,
        104,
    )
    assert config.units_per_subnetwork == 50
    assert config.images_per_subnetwork == 2000
    assert config.n_train == 50_000
    assert config.max_nfev == 15
    assert config.solver == "lsmr"
    assert config.jacobian == "kaufman"
    assert config.bootstrap_rule == "margin"
    # and nothing that the paper does not have
    assert (config.scheme, config.output_layer, config.views) == ("independent", "ridge", "single")
    assert not config.augmentation


def test_the_whole_image_recipe_is_the_plain_configuration():
    assert configure("bilinear") == TrainConfig()


def test_the_first_recipe_is_the_default():
    assert next(iter(RECIPES)) == "default"
    assert configure() == configure("default") == RECIPES["default"]
    assert configure().units == "patch"


def test_recipes_of_patch_units_have_the_same_windows_and_output_layer():
    same = (
        *("units", "scalarisation", "rank", "activation", "threshold", "gain", "window", "stride"),
        *("grid", "training_stride", "contrast", "whitening", "n_components", "draw"),
        *("output_layer", "standardise", "glue_ridge", "solver", "form", "jacobian", "seed"),
    )
    default = configure()
    for name in ("tiny", "accurate"):
        assert [getattr(configure(name), field) for field in same] == [
            getattr(default, field) for field in same
        ]
    n_units = [configure(name).n_units for name in ("tiny", "default", "accurate")]
    assert n_units == sorted(set(n_units))
    losses = [configure(name).loss for name in ("tiny", "default", "accurate")]
    assert losses == ["cross-entropy", "squares", "squares"]


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_its_name_and_is_rebuilt_from_its_values(name, data):
    config = configure(name, data=data)
    assert config.recipe == name
    values = asdict(config)
    # as from config.json, which does not say for what kind of data it was
    assert configure(values.pop("recipe"), **values) == config
    assert configure(name, data="cifar10", **values) == config
    assert TrainConfig(**asdict(config)) == config


def test_unknown_recipe():
    match = r"recipe must be one of default, tiny, accurate, bilinear, paper, got 'fast'"
    with pytest.raises(ValueError, match=match):
        configure("fast")


def test_unknown_fields_are_named():
    with pytest.raises(ValueError, match="unknown settings colour, n_unit"):
        configure("bilinear", n_unit=3, seed=1, colour="red")


def test_a_field_that_is_given_takes_the_place_of_the_recipes():
    config = configure("default", data="digits", window=5, seed=3, views="shifts")
    assert (config.window, config.seed, config.views) == (5, 3, "shifts")
    assert config.grid == configure("default", data="digits").grid


@pytest.mark.parametrize(
    "values", [{"window": 5}, {"stride": 2}, {"grid": 1}, {"scalarisation": "bilinear"}]
)
def test_what_concerns_windows_is_refused_where_there_are_none(values):
    (name,) = values
    with pytest.raises(ValueError, match=f"{name} needs units 'patch', got units 'bilinear'"):
        configure("bilinear", **values)
    with pytest.raises(ValueError, match=f"{name} needs units 'patch', got units 'dense'"):
        configure("default", units="dense", **values)
    assert configure("default", **values) != configure("default")


def test_a_value_out_of_range_is_refused():
    with pytest.raises(ValueError, match="ridge must be finite and at least 0, got -1"):
        configure("paper", ridge=-1)


# --- kinds of data -----------------------------------------------------------------------


def test_unknown_kind_of_data():
    match = "data must be one of mnist, fashion-mnist, cifar10, digits, got 'letters'"
    with pytest.raises(ValueError, match=match):
        configure("default", data="letters")


def test_recipes_without_a_kind_of_data_are_those_of_mnist():
    for name, recipe in RECIPES.items():
        assert configure(name) == configure(name, data="mnist") == recipe


def test_variants_are_of_recipes_and_of_fields_that_there_are():
    names = {field.name for field in fields(TrainConfig)} - {"recipe"}
    for variants in VARIANTS.values():
        assert set(variants) <= set(RECIPES)
        assert all(set(changes) <= names for changes in variants.values())


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("name", RECIPES)
def test_a_variant_differs_in_what_it_says(name, data):
    config, plain = asdict(configure(name, data=data)), asdict(RECIPES[name])
    said = VARIANTS.get(data, {}).get(name, {})
    assert config == {**plain, **said}


def test_what_is_given_wins_over_the_variant():
    assert configure("default", data="digits").window == 3
    assert configure("default", data="digits", window=4).window == 4
    assert configure("default", data="digits", training_stride=2).training_stride == 2


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("name", RECIPES)
def test_units_of_every_recipe_fit_the_images_of_every_kind(name, data, rng):
    config = configure(name, data=data)
    images = rng.integers(0, 256, (20, *SHAPES[data]), dtype=np.uint8)
    units = make_units(config, images, rng)
    assert units.image_shape == SHAPES[data]
    W = units.init(images, rng).astype(np.float32)
    assert units.features(W, images).shape == (20, config.units_per_subnetwork * units.n_cells)


def n_parameters(config, shape, rng):
    """Unit weights, what was learnt of the windows before, and linear weights of ten classes."""
    units = make_units(config, rng.integers(0, 256, (20, *shape), dtype=np.uint8), rng)
    learnt = sum(array.size for array in getattr(units, "arrays", {}).values())
    return config.n_units * (units.n_weights + 10 * units.n_cells) + 10 + learnt


@pytest.mark.parametrize("data", ["mnist", "fashion-mnist", "cifar10", "digits"])
def test_the_tiny_recipe_has_at_most_5000_parameters(data, rng):
    total = n_parameters(configure("tiny", data=data), SHAPES[data], rng)
    assert total <= 5000
    if data == "mnist":
        assert total == 3370


@pytest.mark.parametrize("data", DATA)
def test_networks_grow_from_tiny_to_accurate(data, rng):
    totals = [
        n_parameters(configure(name, data=data), SHAPES[data], rng)
        for name in ("tiny", "default", "accurate")
    ]
    assert totals == sorted(set(totals))
    assert totals[0] < totals[1] / 4


@pytest.mark.parametrize("units", ["bilinear", "quadratic", "tensor", "dense"])
@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("name", ["default", "tiny", "accurate"])
def test_whole_image_units_drop_what_the_recipe_says_of_windows(name, data, units, rng):
    plain, config = configure(name, data=data), configure(name, data=data, units=units)
    dropped = {"training_stride", "contrast", "whitening", "n_components"}
    assert all(getattr(config, field) is None for field in dropped)
    assert {**asdict(config), **dict.fromkeys({"units", *dropped})} == {
        **asdict(plain),
        **dict.fromkeys({"units", *dropped}),
    }
    made = make_units(config, rng.integers(0, 256, (5, *SHAPES[data]), dtype=np.uint8), rng)
    assert (made.kind, made.image_shape) == (units, SHAPES[data])
    for field, value in {"training_stride": 2, "contrast": 0.1, "whitening": 0.1}.items():
        with pytest.raises(ValueError, match=f"{field}={value} needs patch units"):
            configure(name, data=data, units=units, **{field: value})


@pytest.mark.parametrize("data", DATA)
def test_patch_units_that_are_asked_for_keep_it(data):
    for name in ("default", "tiny", "accurate"):
        assert configure(name, data=data, units="patch") == configure(name, data=data)


@pytest.mark.parametrize("name", DATA)
def test_a_data_set_of_a_known_name_is_its_own_kind(name):
    assert kind_of_data(name, SHAPES[name]) == name
    assert kind_of_data(name, (9, 9)) == name  # whatever its images are


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ((28, 28), "mnist"),
        ((16, 16), "mnist"),
        ((16, 15), "digits"),
        ((8, 40), "digits"),
        ((5, 6), "digits"),
        ((3, 32, 32), "cifar10"),
        ((1, 64, 48), "mnist"),
        ((2, 64, 48), "cifar10"),
        ((3, 16, 16), "cifar10"),
        ((3, 8, 8), "digits"),
        ((1, 15, 32), "digits"),
        ((3, 32, 15), "digits"),
    ],
)
def test_the_kind_of_other_data_is_by_the_shape_of_the_images(shape, kind):
    assert kind_of_data("mine.npz", shape) == kind


# --- numbers of units --------------------------------------------------------------------


def test_a_number_of_units_that_has_no_fitting_divisor_is_refused_not_made_something_else():
    with pytest.raises(ValueError, match="1999 cannot be cut into equal sub-networks of about 200"):
        configure("bilinear", n_units=1999)
    assert configure("bilinear", n_units=1999, n_subnetworks=1).units_per_subnetwork == 1999


def test_a_number_of_subnetworks_that_is_given_must_divide_the_units():
    with pytest.raises(ValueError, match=r"n_units must be a multiple of n_subnetworks.*100 and 7"):
        configure("bilinear", n_units=100, n_subnetworks=7)
    with pytest.raises(ValueError, match="n_units must be a multiple of n_subnetworks"):
        configure("bilinear", n_subnetworks=41)
    assert configure("bilinear", n_units=100, n_subnetworks=4).units_per_subnetwork == 25


@pytest.mark.parametrize(
    ("n_units", "n_subnetworks"), [(2000, 40), (4000, 80), (5200, 104), (300, 6), (40, 1), (1, 1)]
)
def test_the_number_of_subnetworks_follows_the_number_of_units(n_units, n_subnetworks):
    assert configure("paper", n_units=n_units).n_subnetworks == n_subnetworks


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("times", [1, 3, 20])
def test_subnetworks_keep_the_size_of_the_recipe(times, recipe):
    size = configure(recipe).units_per_subnetwork
    config = configure(recipe, n_units=times * size)
    assert config.n_subnetworks == times
    assert config.n_stages == min(times, RECIPES[recipe].n_stages)


def test_what_depends_on_a_setting_follows_it():
    """Stages on the scheme, copies on distortions, unless they are given themselves."""
    assert configure("default").n_stages > 1
    for scheme in ("independent", "untrained"):
        assert configure("default", scheme=scheme).n_stages == 1
    with pytest.raises(ValueError, match="n_stages"):
        configure("default", scheme="independent", n_stages=2)
    assert configure("tiny").n_copies > 0
    assert configure("tiny", shift=0).n_copies == 0
    assert configure("tiny", shift=0, elastic=0.5).n_copies > 0
    with pytest.raises(ValueError, match="n_copies"):
        configure("tiny", shift=0, n_copies=2)


@pytest.mark.parametrize("n_units", [997, 1009, 1999, 2018, 5003])
def test_subnetworks_keep_about_the_size_of_the_recipe_or_it_is_an_error(n_units):
    """A prime number of units has no part of about 50: not one sub-network of thousands then."""
    try:
        config = configure("paper", n_units=n_units)
    except ValueError as error:
        assert "n_units" in str(error)  # noqa: PT017
    else:
        assert 10 <= config.units_per_subnetwork <= 250


def test_a_data_set_says_its_kind_itself():
    digits = load("digits")
    assert configure("tiny", data=digits) == configure("tiny", data="digits")
    own = replace(digits, name="letters")
    assert configure("tiny", data=own) == configure("tiny", data="digits")
