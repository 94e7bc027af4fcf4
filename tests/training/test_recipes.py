import re
from dataclasses import asdict, replace

import numpy as np
import pytest

from varpro_nn import load
from varpro_nn.data import Dataset, ImageSet
from varpro_nn.training.config import OutputSettings, TrainConfig
from varpro_nn.training.plan import make_units, units_in_training
from varpro_nn.training.recipes import (
    DATA,
    NAMED,
    RECIPES,
    STACKS,
    VARIANTS,
    configure,
    kind_of_data,
)

SHAPES = {"mnist": (28, 28), "fashion-mnist": (28, 28), "cifar10": (3, 32, 32), "digits": (8, 8)}


@pytest.fixture(autouse=True)
def _few_windows(monkeypatch):
    """Learn whitening from 2,000 windows, not 100,000: only shapes are looked at here."""
    monkeypatch.setattr("varpro_nn.units.whitening.N_WINDOWS", 2000)


def test_the_paper_recipe_is_table_3():
    """104 sub-networks of 50 units w'Xw, 2,000 images each, out of 50,000 training images."""
    config = configure("paper")
    units, how = config.units, config.subnetworks
    assert (units.kind, units.rank, units.n_units) == ("quadratic", 1, 5200)
    assert (how.n_subnetworks, config.units_per_subnetwork) == (104, 50)
    assert (how.images_per_subnetwork, config.n_train, how.max_nfev) == (2000, 50_000, 15)
    assert (how.solver, how.jacobian, config.bootstrap.rule) == ("lsmr", "kaufman", "margin")
    # and nothing that the paper does not have
    assert (how.scheme, config.output) == ("independent", OutputSettings())
    assert not config.distortion


def test_the_whole_image_recipe_is_the_plain_configuration():
    assert configure("bilinear") == TrainConfig()


def test_the_first_recipe_is_the_default():
    assert next(iter(RECIPES)) == "default"
    assert configure() == configure("default") == RECIPES["default"]
    assert configure().units.kind == "patch"


def test_recipes_of_patch_units_have_the_same_windows_and_output_layer():
    default = configure()
    for name in ("tiny", "accurate"):
        config = configure(name)
        assert replace(config.units, n_units=1) == replace(default.units, n_units=1)
        assert replace(config.output, n_copies=1) == replace(default.output, n_copies=1)
    n_units = [configure(name).units.n_units for name in ("tiny", "default", "accurate")]
    assert n_units == sorted(set(n_units))
    losses = [configure(name).subnetworks.loss for name in ("tiny", "default", "accurate")]
    assert losses == ["cross-entropy", "squares", "squares"]


@pytest.mark.parametrize(("k", "loss"), [(20, "cross-entropy"), (21, "squares")])
def test_the_loss_follows_the_number_of_classes(k, loss):
    with pytest.raises(ValueError, match="n_classes must be a positive integer or None, got 0"):
        configure("tiny", n_classes=0)
    images = ImageSet(np.zeros((2 * k, 28, 28), np.uint8), np.arange(2 * k) % k)
    data = Dataset("own", np.arange(k), images, None)
    config = configure("tiny", data=data)
    assert config.subnetworks.loss == loss
    assert configure("tiny", n_classes=k) == config
    given = configure("tiny", data=data, loss="cross-entropy").subnetworks
    assert given == configure("tiny").subnetworks


@pytest.mark.parametrize("data", NAMED)
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_its_name_and_is_rebuilt_from_its_values(name, data):
    config = configure(name, data=data)
    assert config.recipe == name
    values = config.options()
    # which do not say for what kind of data they were
    assert configure(values.pop("recipe"), **values) == config
    assert configure(name, data="cifar10", **values) == config
    assert TrainConfig.from_dict(asdict(config)) == config


def test_unknown_recipe():
    match = r"recipe must be one of default, tiny, accurate, bilinear, paper, got 'fast'"
    with pytest.raises(ValueError, match=match):
        configure("fast")


def test_unknown_fields_are_named():
    with pytest.raises(ValueError, match="unknown settings colour, n_unit"):
        configure("bilinear", n_unit=3, seed=1, colour="red")


def test_the_old_name_of_a_setting_still_works_and_says_so():
    with pytest.warns(FutureWarning, match="glue_ridge is now named output_penalty"):
        config = configure("bilinear", glue_ridge=3.0)
    assert config == configure("bilinear", output_penalty=3.0)
    with pytest.raises(ValueError, match="glue_ridge is the old name of output_penalty"):
        configure("bilinear", glue_ridge=3.0, output_penalty=3.0)


@pytest.mark.parametrize(
    ("setting", "instead"),
    [({"patience": 2}, "with the callback of varpro_nn.fit"), ({"n_parts": 4}, "leave")],
    ids=str,
)
def test_a_setting_that_is_no_more_says_what_to_do(setting, instead):
    (name,) = setting
    with pytest.raises(ValueError, match=f"{name} was removed; .*{instead}"):
        configure("bilinear", **setting)


def test_a_field_that_is_given_takes_the_place_of_the_recipes():
    config = configure("default", data="digits", window=5, seed=3, views="flip")
    assert (config.units.window, config.seed, config.output.views) == (5, 3, "flip")
    assert config.units.grid == configure("default", data="digits").units.grid


@pytest.mark.parametrize(
    "values", [{"window": 5}, {"stride": 2}, {"grid": 1}, {"scalarisation": "bilinear"}]
)
def test_what_concerns_windows_is_refused_where_there_are_none(values):
    ((name, value),) = values.items()
    needs = f"{name}={value!r} needs units='patch', got units="
    with pytest.raises(ValueError, match=f"{needs}'bilinear'"):
        configure("bilinear", **values)
    with pytest.raises(ValueError, match=f"{needs}'dense'"):
        configure("default", units="dense", **values)
    assert configure("default", **values) != configure("default")


@pytest.mark.parametrize(
    ("recipe", "units", "start"),
    [
        ("default", "bilinear", "bilinear"), ("tiny", "dense", "bilinear"),
        ("accurate", "quadratic", "bilinear"), ("bilinear", "patch", "default"),
        ("paper", "patch", "default"), ("paper", "bilinear", "paper"), ("tiny", "patch", "tiny"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("data", ["mnist", "digits", "cifar10"])
def test_units_of_another_kind_start_from_the_recipe_that_has_them(recipe, units, start, data):
    config = configure(recipe, data=data, units=units, seed=3)
    assert config == configure(start, data=data).with_options(units=units, seed=3)
    assert (config.recipe, config.units.kind) == (start, units)
    few = configure(recipe, data=data, units=units, n_units=30, output_layer="softmax")
    assert (few.units.n_units, few.output.layer) == (30, "softmax")


def test_a_value_out_of_range_is_refused():
    with pytest.raises(ValueError, match="ridge must be finite and at least 0, got -1"):
        configure("paper", ridge=-1)


# --- kinds of data -----------------------------------------------------------------------


def test_unknown_kind_of_data():
    match = "data must be one of mnist, fashion-mnist, cifar10, digits, colour, got 'letters'"
    with pytest.raises(ValueError, match=match):
        configure("default", data="letters")


def test_recipes_without_a_kind_of_data_are_those_of_mnist():
    for name, recipe in RECIPES.items():
        assert configure(name) == configure(name, data="mnist") == recipe


def test_variants_are_of_recipes_and_of_fields_that_there_are():
    names = set(TrainConfig().options()) - {"recipe"}
    for variants in VARIANTS.values():
        assert set(variants) <= set(RECIPES)
        assert all(set(changes) <= names for changes in variants.values())


@pytest.mark.parametrize("data", NAMED)
@pytest.mark.parametrize("name", RECIPES)
def test_a_variant_differs_in_what_it_says(name, data):
    config, plain = configure(name, data=data).options(), RECIPES[name].options()
    said = VARIANTS.get(data, {}).get(name, {})
    stack = STACKS.get(data, {}).get(name)
    if stack is not None:
        assert {option: config[option] for option in stack} == stack
        config = configure(name, data=data, first_units=None).options()
    assert config == {**plain, **said}


def test_what_is_given_wins_over_the_variant():
    assert configure("default", data="digits").units.window == 3
    assert configure("default", data="digits", window=4).units.window == 4
    assert configure("default", data="digits", training_stride=2).units.training_stride == 2


@pytest.mark.parametrize("data", NAMED)
@pytest.mark.parametrize("name", RECIPES)
def test_units_of_every_recipe_fit_the_images_of_every_kind(name, data, rng):
    stack = STACKS.get(data, {}).get(name, {})
    small = {"first_units": 6, "middle_units": 6, "n_units": 8, "n_components": 20}
    config = configure(name, data=data, **{n: size for n, size in small.items() if n in stack})
    images = rng.integers(0, 256, (20, *SHAPES[data]), dtype=np.uint8)
    units = make_units(config, images, rng, _random)
    assert units.image_shape == SHAPES[data]
    W = units.init(images, rng).astype(np.float32)
    assert units.features(W, images).shape == (20, config.units.n_units * units.n_cells)
    part = units_in_training(config, units)
    assert part.n_units == config.units_per_subnetwork
    stride = config.units.training_stride
    assert stride is None or part.stride == stride


def _random(units):
    """Weights of a middle layer."""
    return np.random.default_rng(0).normal(size=(units.n_units, units.n_weights)).astype("f")


def n_parameters(config, shape, rng):
    """Unit weights, what was learnt of the windows before, and linear weights of ten classes."""
    units = make_units(config, rng.integers(0, 256, (20, *shape), dtype=np.uint8), None)
    learnt = sum(array.size for array in getattr(units, "arrays", {}).values())
    return config.units.n_units * (units.n_weights + 10 * units.n_cells) + 10 + learnt


@pytest.mark.parametrize("data", ["mnist", "fashion-mnist", "cifar10", "digits"])
def test_the_tiny_recipe_has_at_most_5000_parameters(data, rng):
    total = n_parameters(configure("tiny", data=data), SHAPES[data], rng)
    assert total <= 5000
    if data == "mnist":
        assert total == 3370


@pytest.mark.parametrize("data", NAMED)
def test_networks_grow_from_tiny_to_accurate(data, rng):
    totals = [
        n_parameters(configure(name, data=data), SHAPES[data], rng)
        for name in ("tiny", "default", "accurate")
    ]
    assert totals == sorted(set(totals))
    assert totals[0] < totals[1] / 4


@pytest.mark.parametrize("units", ["bilinear", "quadratic", "tensor", "dense"])
@pytest.mark.parametrize("data", NAMED)
@pytest.mark.parametrize("name", ["default", "tiny", "accurate"])
def test_whole_image_units_drop_what_the_recipe_says_of_windows(name, data, units, rng):
    config = configure(name, data=data, units=units)
    made = make_units(config, rng.integers(0, 256, (5, *SHAPES[data]), dtype=np.uint8), rng)
    assert (made.kind, made.image_shape) == (units, SHAPES[data])
    for field, value in {"training_stride": 2, "contrast": 0.1, "whitening": 0.1}.items():
        with pytest.raises(ValueError, match=f"{field}={value} needs units='patch'"):
            configure(name, data=data, units=units, **{field: value})


@pytest.mark.parametrize("data", NAMED)
def test_patch_units_that_are_asked_for_keep_it(data):
    for name in ("default", "tiny", "accurate"):
        assert configure(name, data=data, units="patch") == configure(name, data=data)


@pytest.mark.parametrize("name", NAMED)
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
        ((3, 32, 32), "colour"),
        ((1, 64, 48), "mnist"),
        ((2, 64, 48), "colour"),
        ((3, 16, 16), "colour"),
        ((3, 8, 8), "digits"),
        ((1, 15, 32), "digits"),
        ((3, 32, 15), "digits"),
    ],
)
def test_the_kind_of_other_data_is_by_the_shape_of_the_images(shape, kind):
    for name in ("mine.npz", "colour"):  # "colour" is no data set, but may be a folder
        assert kind_of_data(name, shape) == kind


@pytest.mark.parametrize("name", RECIPES)
def test_colour_images_of_ones_own_are_not_mirrored(name):
    """Nothing says whether left and right matter in them."""
    own, cifar10 = (
        configure(name, data=data, first_units=None).options() for data in ("colour", "cifar10")
    )
    assert (own["flip"], own["views"]) == (False, "single")
    mirrored = {"flip": True, "views": "flip"} if name in VARIANTS["cifar10"] else {}
    assert cifar10 == {**own, **mirrored}
    assert set(DATA) - set(NAMED) == {"colour"}


# --- numbers of units --------------------------------------------------------------------


def test_a_number_of_units_that_has_no_fitting_divisor_is_refused_not_made_something_else():
    with pytest.raises(ValueError, match="1999 cannot be cut into equal sub-networks of about 200"):
        configure("bilinear", n_units=1999)
    assert configure("bilinear", n_units=1999, n_subnetworks=1).units_per_subnetwork == 1999


@pytest.mark.parametrize(
    ("recipe", "options", "name"),
    [("paper", {"n_units": 1999}, "n_units"), ("default", {"n_units": 97}, "n_units"),
     ("default", {"n_subnetworks": 5}, "n_units"), ("default", {"n_subnetworks": 99}, "n_units"),
     ("bilinear", {"n_copies": 2}, "shift")],
)  # fmt: skip
def test_what_a_refusal_suggests_is_taken(recipe, options, name):
    with pytest.raises(ValueError, match=r"take|set") as refusal:
        configure(recipe, **options)
    (suggested,) = re.findall(rf"(?:take (?:{name}=)?|set {name}=)(\d+)", str(refusal.value))
    configure(recipe, **options | {name: int(suggested)})


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
    config = configure("paper", n_units=n_units)
    assert config.subnetworks.n_subnetworks == n_subnetworks
    assert configure("paper", n_units=np.int64(n_units)) == config


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("times", [1, 3, 20])
def test_subnetworks_keep_the_size_of_the_recipe(times, recipe):
    size = configure(recipe).units_per_subnetwork
    config = configure(recipe, n_units=times * size)
    assert config.subnetworks.n_subnetworks == times
    n_stages = RECIPES[recipe].subnetworks.n_stages if times < 20 else 1
    assert config.subnetworks.n_stages == min(times, n_stages)


@pytest.mark.parametrize(
    ("scheme", "options"),
    [
        ("stages", {}),
        ("stages", {"n_units": 84}),
        ("independent", {"n_units": 96}),
        ("stages", {"n_units": 144, "images_per_subnetwork": 5000}),
        ("stages", {"n_units": 144, "grid": 2}),
        ("independent", {"grid": 6}),
        ("independent", {"activation": "two-sided", "threshold": 0.5}),  # twice the columns
        ("stages", {"n_train": 2500}),
        ("independent", {"n_train": 1000}),
        ("independent", {"images_per_subnetwork": 1000}),
        ("independent", {"loss": "cross-entropy"}),
        ("stages", {"n_units": 144, "scheme": "stages"}),
        ("stages", {"n_units": 144, "n_stages": 2}),
    ],
)
def test_stages_end_where_fixed_columns_crowd(scheme, options):
    config = configure("default", **options)
    assert config.subnetworks.scheme == scheme
    assert (config.subnetworks.n_stages == 1) == (scheme == "independent")


def test_stages_end_where_the_data_have_few_images():
    few = load("digits")
    assert configure("default", data=few).subnetworks.scheme == "stages"
    few = replace(few, train=few.train.take(slice(200)))
    assert configure("default", data=few).subnetworks.scheme == "independent"
    assert configure("default", n_images=60_000).subnetworks.scheme == "stages"
    assert configure("default", n_images=600).subnetworks.scheme == "independent"
    for wrong in (0, 1.5):
        with pytest.raises(ValueError, match="n_images must be a positive integer or None, got"):
            configure("default", n_images=wrong)


def test_what_depends_on_a_setting_follows_it():
    """Stages on the scheme, copies on distortions, unless they are given themselves."""
    assert configure("default").subnetworks.n_stages > 1
    for scheme in ("independent", "untrained"):
        assert configure("default", scheme=scheme).subnetworks.n_stages == 1
    with pytest.raises(ValueError, match="n_stages"):
        configure("default", scheme="independent", n_stages=2)
    assert configure("tiny").output.n_copies > 0
    assert configure("tiny", shift=0).output.n_copies == 0
    assert configure("tiny", shift=0, elastic=0.5).output.n_copies > 0
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


@pytest.mark.parametrize(
    ("data", "name"), [(data, name) for data, stacks in STACKS.items() for name in stacks]
)
class TestStacks:
    """Recipes of several layers, and what becomes of them with other settings."""

    def test_one_layer_is_taken_where_it_is_given_or_implied(self, data, name):
        one = configure(name, data=data, first_units=None)
        assert one.first.n_units is None
        others = [{"contrast": 0.1}, {"stride": 2}, {"training_stride": 2}, {"scheme": "stages"}]
        others += [{"loss": "cross-entropy"}, {"n_components": None}, {"form": "reduced"}]
        others += [{"whitening": None, "n_components": None}, {"jacobian": "full"}]
        for given in (*others, {"n_subnetworks": one.subnetworks.n_subnetworks}):
            config = configure(name, data=data, **given)
            assert config.first.n_units is None
            assert config.units.window == one.units.window
        assert configure(name, data=data, window=7).first.n_units is None
        bilinear = configure(name, data=data, units="bilinear")
        assert (bilinear.first.n_units, bilinear.recipe) == (None, "bilinear")

    def test_its_settings_are_kept_beside_those_that_are_given(self, data, name):
        config = configure(name, data=data)
        more = configure(name, data=data, first_units=70, n_units=100)
        assert (more.first.n_units, more.units.n_units) == (70, 100)
        assert more.subnetworks == config.subnetworks
        assert more.middle == config.middle
        untrained = configure(name, data=data, scheme="untrained")
        assert (untrained.units, untrained.first) == (config.units, config.first)
        for given in ({}, {"n_units": 128}):
            apart = configure(name, data=data, solver="lsmr", **given)
            assert apart.units_per_subnetwork == 16
            assert apart.first == config.first

    def test_no_more_directions_than_there_are(self, data, name):
        small = {"middle_units": 6} if "middle_units" in STACKS[data][name] else {"first_units": 6}
        assert configure(name, data=data, **small).units.n_components == 6 * 2 * 9

    def test_two_of_three_layers(self, data, name):
        if "middle_units" not in STACKS[data][name]:
            pytest.skip("it has two")
        config = configure(name, data=data, middle_units=None)
        assert config.first.n_units == STACKS[data][name]["first_units"]
        assert config.units.n_components == 100


def test_a_first_layer_changes_the_settings_of_the_units():
    """Those of a recipe are for windows of the image."""
    for recipe, data in (("default", "mnist"), ("tiny", "cifar10"), ("bilinear", "mnist")):
        config = configure(recipe, data=data, first_units=64)
        units = config.units
        assert (units.kind, units.window, units.n_components) == ("patch", 3, 100)
        assert (units.training_stride, units.contrast, units.grid) == (None, None, 3)
        assert config.subnetworks.scheme == "independent"
        assert config.recipe == ("default" if recipe == "bilinear" else recipe)
        assert units.n_units < 200
    small = {"first_units": 3, "window": 2, "grid": 2}
    assert configure(**small).units.n_components == 24
    assert configure(**small, first_activation="tanh").units.n_components == 12
    assert configure(**small, n_components=5).units.n_components == 5
    of_digits = configure(data="digits", first_units=8)
    assert (of_digits.first.grid, of_digits.units.window) == (6, 2)
    assert configure(**small, solver="lsmr").subnetworks.images_per_subnetwork == 5000
    trained = configure("tiny", data="cifar10", first_units=8).subnetworks  # cross-entropy, alone
    assert (trained.solver, trained.loss, trained.n_subnetworks) == ("kfac", "squares", 1)
    for n_units in (100, 400, 576):  # all units of a layer together, however many
        settings = configure("default", data="cifar10", first_units=8, n_units=n_units).subnetworks
        assert settings.n_subnetworks == 1
    with pytest.raises(ValueError, match="first_units needs units='patch', got 'bilinear'"):
        configure(first_units=8, units="bilinear")
    for name, value in (("first_units", "x"), ("first_activation", "x"), ("window", 2.5)):
        with pytest.raises(ValueError, match=f"{name} must be"):
            configure(**{**small, name: value})


def test_a_middle_layer_has_settings_of_its_own():
    """Directions are at most those that there are; the last layer trains with one cell."""
    config = configure("default", data="colour", first_units=64, middle_units=32)
    assert (config.middle.n_components, config.units.n_components) == (100, 400)
    of_recipe = configure("default", data="cifar10", first_units=64, middle_units=32)
    assert of_recipe.units.n_components == 200
    assert (config.middle.cells, config.middle.grid, config.units.grid) == (2, 6, 2)
    assert config.units.training_grid == 1
    few = configure("default", data="cifar10", first_units=4, middle_units=4)
    assert (few.middle.n_components, few.units.n_components) == (72, 72)
    one_sided = configure(
        "default", data="cifar10", first_units=4, middle_units=4, activation="rectifier"
    )
    assert (one_sided.middle.n_components, one_sided.units.n_components) == (72, 36)
    assert configure(data="digits", first_units=8, middle_units=8).middle.grid == 4
    with pytest.raises(ValueError, match="middle_units must be"):
        configure("default", data="cifar10", first_units=4, middle_units="x")
