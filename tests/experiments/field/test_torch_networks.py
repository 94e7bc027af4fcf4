import numpy as np
import pytest

from experiments.field import table
from varpro_nn import configure
from varpro_nn.data.images import intensities
from varpro_nn.units.patches import PatchUnits


@pytest.fixture
def networks():
    """Import the networks; a test that asks for them is left out where PyTorch is missing."""
    pytest.importorskip("torch")
    from experiments.field import torch_networks

    return torch_networks


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((1, 28, 28), {"LeNet-5": 61_706, "MLP-800": 636_010, "patches-logistic": 3_370,
                       "CNN-5": 1_026}),
        ((3, 32, 32), {"LeNet-5": 62_006, "MLP-800": 2_466_410, "patches-logistic": 3_838,
                       "CNN-3": 66_570, "CNN-5": 1_482}),
        ((1, 8, 8), {"MLP-800": 60_010, "patches-logistic": 1_610}),
    ],
)  # fmt: skip
def test_networks_have_the_parameters_that_they_are_said_to_have(networks, shape, expected):
    import torch

    for name, count in expected.items():
        network = networks.NETWORKS[name](shape)
        assert networks.n_parameters(network) == count, name
        assert network(torch.zeros(2, *shape)).shape == (2, 10)


def test_networks_of_the_table_are_there(networks):
    for by_dataset in (table.BY_ADAM, table.BY_LM):
        assert {name for names in by_dataset.values() for name in names} <= set(networks.NETWORKS)


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 8, 8)])
def test_patch_network_has_the_features_of_the_recipe(networks, shape):
    import torch

    tiny = configure("tiny", data="mnist" if shape[1] > 8 else "digits").units
    network = networks.patches(shape)
    units = PatchUnits(
        "dense", shape[1:], tiny.n_units,
        window=tiny.window, grid=tiny.grid, activation=tiny.activation,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    W = rng.standard_normal((tiny.n_units, tiny.window**2 + 1)).astype(np.float32)
    images = rng.integers(0, 256, (5, *shape[1:]), dtype=np.uint8)
    with torch.no_grad():
        weight = network[0].weight
        weight.copy_(torch.tensor(W[:, :-1]).reshape(weight.shape))
        network[0].bias.copy_(torch.tensor(W[:, -1]))
        pooled = network[:4](torch.tensor(intensities(images)[:, None]))
    theirs = pooled.numpy().swapaxes(1, 2).reshape(5, -1)
    np.testing.assert_allclose(theirs, units.features(W, images), rtol=1e-5, atol=1e-5)


def test_networks_are_measured_at_the_epochs_asked_for(networks, first_digits):
    small = first_digits(300, 200)
    first, last = networks.train("MLP-800", small, [1, 3])
    assert (first["epochs"], last["epochs"]) == (1, 3)
    assert 0 < first["training_cpu_seconds"] < last["training_cpu_seconds"]
    assert first["n_parameters"] == 60_010
    (alone,) = networks.train("MLP-800", small, [3])
    assert alone["test_accuracy"] == last["test_accuracy"]
    (other,) = networks.train("MLP-800", small, [3], seed=1)
    assert other["test_accuracy"] != last["test_accuracy"]


def test_training_that_ends_by_itself_is_told_as_it_then_is(networks, first_digits, monkeypatch):
    """The second step of the second epoch is the last one."""
    steps = []

    def optimiser(network, learning_rate):
        return lambda x, y: steps.append(len(x)) or len(steps) == 5

    monkeypatch.setitem(networks.OPTIMISERS, "adam", optimiser)
    results = list(networks.train("MLP-800", first_digits(300, 200), [1, 3, 4], batch=100))
    assert steps == [100] * 5
    assert [result["ended_after_steps"] for result in results] == [None, 5, 5]
    assert results[1]["test_accuracy"] == results[2]["test_accuracy"]


@pytest.mark.filterwarnings("ignore")  # of what the package imports
def test_levenberg_and_marquardt(networks, first_digits):
    pytest.importorskip("torch_levenberg_marquardt")
    small = first_digits(200, 100)
    of_lm = {"optimiser": "lm", "batch": 200, "learning_rate": 0.5}
    first, last = networks.train("patches-logistic", small, [1, 8], **of_lm)
    assert last["test_accuracy"] > max(0.5, first["test_accuracy"])
    assert last["n_parameters"] == 1_610
