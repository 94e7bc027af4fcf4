from dataclasses import asdict, fields

import pytest

from varpro_nn.recipes import CHOICES, RECIPES, TrainConfig, configure


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


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_its_name_and_is_rebuilt_from_its_values(name):
    config = configure(name)
    assert config.recipe == name
    values = asdict(config)
    assert configure(values.pop("recipe"), **values) == config
    assert TrainConfig(**asdict(config)) == config


def test_unknown_recipe():
    with pytest.raises(ValueError, match=r"recipe must be one of default, paper.*got 'fast'"):
        configure("fast")


def test_unknown_fields_are_named():
    with pytest.raises(ValueError, match="unknown settings colour, n_unit"):
        configure(n_unit=3, seed=1, colour="red")


@pytest.mark.parametrize("name", CHOICES)
def test_choices(name):
    with pytest.raises(ValueError, match=f"{name} must be one of {CHOICES[name][0]}.*got 'x'"):
        configure(**{name: "x"})
    for choice in CHOICES[name]:
        assert getattr(configure(**{name: choice}), name) == choice


SMALLEST = {
    "rank": 1,
    "n_units": 1,
    "n_subnetworks": 1,
    "images_per_subnetwork": 1,
    "n_train": 1,
    "max_nfev": 0,
    "ridge": 0,
    "weight_decay": 0,
    "glue_ridge": 0,
    "patience": 1,
    "bootstrap_ridge": 0,
    "seed": 0,
}


def test_every_field_is_tested_here():
    others = {"recipe", "bootstrap", "gain"}
    assert {field.name for field in fields(TrainConfig)} == others | set(CHOICES) | set(SMALLEST)


@pytest.mark.parametrize("name", SMALLEST)
def test_ranges(name):
    least = SMALLEST[name]
    assert getattr(configure(**{name: least}), name) == least
    for value in (least - 1, -5):
        with pytest.raises(ValueError, match=f"{name} must be finite and at least {least}, got"):
            configure(**{name: value})
    for value in (float("nan"), float("inf"), "1", True):
        with pytest.raises(ValueError, match=f"{name} must be "):
            configure(**{name: value})


@pytest.mark.parametrize("name", ["seed", "n_subnetworks", "max_nfev", "n_train"])
def test_whole_numbers(name):
    with pytest.raises(ValueError, match=f"{name} must be of type int"):
        configure(**{name: 10.0})


def test_the_form_must_fit_the_solver():
    with pytest.raises(ValueError, match="form must be auto or one that lm can use, got 'operator"):
        configure(solver="lm", form="operator")


def test_a_number_of_units_that_has_no_fitting_divisor_is_refused_not_made_something_else():
    with pytest.raises(ValueError, match="1999 cannot be cut into equal sub-networks of about 200"):
        configure(n_units=1999)
    assert configure(n_units=1999, n_subnetworks=1).units_per_subnetwork == 1999


@pytest.mark.parametrize("gain", [0, -1.0, float("nan"), float("inf")])
def test_gain(gain):
    with pytest.raises(ValueError, match="gain must be"):
        configure(gain=gain)


@pytest.mark.parametrize("name", ["n_train", "glue_ridge", "patience"])
def test_what_may_be_left_open(name):
    assert getattr(configure("paper", **{name: None}), name) is None


def test_units_are_cut_into_equal_parts():
    with pytest.raises(ValueError, match=r"n_units must be a multiple of n_subnetworks.*100 and 7"):
        configure(n_units=100, n_subnetworks=7)
    with pytest.raises(ValueError, match="n_units must be a multiple of n_subnetworks"):
        configure(n_subnetworks=41)
    assert configure(n_units=100, n_subnetworks=4).units_per_subnetwork == 25


@pytest.mark.parametrize(
    ("n_units", "n_subnetworks"), [(2000, 40), (4000, 80), (5200, 104), (300, 6), (40, 1), (1, 1)]
)
def test_the_number_of_subnetworks_follows_the_number_of_units(n_units, n_subnetworks):
    assert configure("paper", n_units=n_units).n_subnetworks == n_subnetworks


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("times", [1, 3, 20])
def test_subnetworks_keep_the_size_of_the_recipe(times, recipe):
    size = configure(recipe).units_per_subnetwork
    assert configure(recipe, n_units=times * size).n_subnetworks == times


@pytest.mark.parametrize("n_units", [997, 1009, 1999, 2018, 5003])
def test_subnetworks_keep_about_the_size_of_the_recipe_or_it_is_an_error(n_units):
    """A prime number of units has no part of about 50: not one sub-network of thousands then."""
    try:
        config = configure("paper", n_units=n_units)
    except ValueError as error:
        assert "n_units" in str(error)  # noqa: PT017
    else:
        assert 10 <= config.units_per_subnetwork <= 250


def test_a_config_cannot_be_changed():
    with pytest.raises(AttributeError):
        configure().seed = 3
