"""What each sub-network adds: ridge layers on the first sub-networks of a run, and on random units.

The report shows their accuracies as a curve. They read the test set after training and choose no
setting. Both are fitted on the same random part of the training images, so that they can be
compared. The sums from the training cannot be used, because they are of other images.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from varpro_nn._typing import FloatArray, RealArray
from varpro_nn.data import Dataset, ImageSet
from varpro_nn.linalg import RidgePath
from varpro_nn.linalg.threads import thread_pool
from varpro_nn.model.network import Network
from varpro_nn.output.features import feature_blocks
from varpro_nn.output.ridge_layer import RidgeLayer
from varpro_nn.training.config import TrainConfig
from varpro_nn.training.subnetwork import Subnetwork
from varpro_nn.units import Units
from varpro_nn.units.maps import seeing

MOST_IMAGES = 10_000
"""Training images that ridge layers are fitted on."""
MOST_COLUMNS = 3000
"""Columns that they are fitted to: the time goes with the cube of them."""
MOST_POINTS = 12
"""Numbers of sub-networks that are measured."""


@dataclass(frozen=True, slots=True, eq=False)
class Growth:
    """Ridge layers on the first sub-networks.

    Attributes
    ----------
    sizes : list of int
        Numbers of sub-networks; none without test images, or if one has too many columns.
    accuracies : list of list of float
        On the test images: of the trained units, then of the random ones if there are any.
    path : RidgePath
        Of all columns of the trained units, or the first ones, standardised.
    units_per_subnetwork : int
    n_images : int
        Training images of the ridge layers.
    """

    sizes: list[int]
    accuracies: list[list[float]]
    path: RidgePath
    units_per_subnetwork: int
    n_images: int


def growth_of(
    config: TrainConfig,
    dataset: Dataset,
    network: Network,
    subnetworks: Sequence[Subnetwork],
    *,
    n_jobs: int = 1,
) -> Growth:
    """Measure accuracy by number of sub-networks, and with random units if they are trained."""
    rng = np.random.default_rng(config.seed)
    n_train = len(dataset.train) if config.n_train is None else config.n_train
    chosen = np.sort(rng.permutation(min(n_train, len(dataset.train)))[:MOST_IMAGES])
    trained = any(s.report is not None for s in subnetworks)
    each = next(len(s.W) for s in subnetworks if s.W is not None)
    return grown(
        network, each, dataset.train.take(chosen), dataset.test, rng if trained else None,
        n_jobs=n_jobs,
    )  # fmt: skip


def grown(
    network: Network,
    units_per_subnetwork: int,
    train: ImageSet,
    test: ImageSet | None,
    rng: np.random.Generator | None = None,
    *,
    n_jobs: int = 1,
) -> Growth:
    """Fit ridge layers to the first sub-networks and measure them.

    Sums are computed once, for all units; fits of fewer units drop columns. With ``rng``, random
    units are measured in the same way. These ridge layers do not see the maps of lower layers.
    """
    units, each = seeing(network.units, 0), units_per_subnetwork
    n_fitted = max(1, MOST_COLUMNS // units.n_cells)
    W, most = network.W[:n_fitted], min(n_fitted, len(network.W)) // each
    sizes: list[int] = []
    if most and test is not None:
        sizes = sorted({round(size) for size in np.geomspace(1, most, MOST_POINTS).tolist()})
    layers = [W]
    if sizes and rng is not None:
        of_one: Any = replace(units, n_units=each)
        drawn = [of_one.init(train.images[:2000], rng) for _ in range(most)]
        layers.append(np.concatenate(drawn, dtype=np.float32))
    paths, accuracies = [], []
    for own in layers:
        layer = RidgeLayer(units, own, len(network.classes), n_jobs=n_jobs)
        layer.add_images(train.images, train.labels)
        paths.append(layer.path(standardise=True))
        solved: list[FloatArray] = []
        for size in reversed(sizes):
            layer.drop_units(np.arange(size * each, len(layer.W)))
            solved.insert(0, layer.solve(standardise=True))
        if test is not None and sizes:
            accuracies.append(_accuracies(units, own, solved, test, n_jobs))
    return Growth(sizes, accuracies, paths[0], each, len(train))


def _accuracies(
    units: Units, W: RealArray, layers: list[FloatArray], test: ImageSet, n_jobs: int
) -> list[float]:
    """Accuracy of each linear layer, on the first units of ``W``."""
    m = units.n_cells
    right = np.zeros(len(layers), dtype=int)
    with thread_pool(n_jobs) as threads:
        for rows, Phi in feature_blocks(units, W, test.images, threads):
            by_cell = Phi.reshape(len(Phi), m, -1)
            for number, A in enumerate(layers):
                of_first = by_cell[:, :, : (len(A) - 1) // m].reshape(len(Phi), -1)
                codes = np.argmax(of_first @ A[:-1] + A[-1], axis=1)
                right[number] += np.count_nonzero(codes == test.labels[rows])
    return (right / len(test)).tolist()
