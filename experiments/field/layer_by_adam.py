"""A second layer by variable projection and by Adam: equal CPU time, the same images and copies.

``python -m experiments.field.layer_by_adam DATASET --output FILE`` draws a first layer, and trains
the units on its maps twice from the same initial weights:

- *Variable projection*: the training of the package (``--solver kfac``), with squared loss and the
  penalties of the recipe.
- *Adam*: the optimiser of PyTorch, with a trained linear layer, cross-entropy and no penalties.
  Batches have 128 images. The learning rate falls linearly to zero with CPU time. Each distorted
  copy of the images is used for three passes. Each starting rate in ``RATES`` is one row.

Adam has the CPU time that variable projection took, including maps and distortions. ``--times N``
gives it N times as much. All rows then fit the same output layer, so only the unit weights differ.
Accuracy is measured on the last 10,000 training images (at most a third). The test set is not used.
``--n-train`` limits the training images. Both trainings use one thread. ``--quick`` uses part of
the digits. Prints a Markdown table; the last line is JSON.
"""

import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from experiments.shared.held_out import held_out
from experiments.shared.ledger import Ledger, print_last_line, settings_of
from experiments.shared.options import parser, whole_number
from experiments.shared.tables import print_table, rounded_seconds
from varpro_nn import Dataset, TrainConfig, configure, load
from varpro_nn._typing import FloatArray
from varpro_nn.compute.compute import Compute
from varpro_nn.data.augmentation import distort
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.linalg.blas_limit import single_threaded_blas
from varpro_nn.training.layers import train_classifier
from varpro_nn.training.plan import make_units, streams, units_in_training
from varpro_nn.training.subnetwork import SubnetworkPlan, train_one
from varpro_nn.units import UnitsOnMaps

SETTINGS: dict[str, dict[str, Any]] = {
    "cifar10": {"first_units": 64, "middle_units": None, "n_units": 128, "cells_below": 0},
    "digits": {"first_units": 8, "n_units": 12},
}
"""Settings of the network by data set, beside those of ``default``."""
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
"""Rates of Adam at the start."""
BATCH = 128
PASSES = 3
"""Passes over each distorted copy of the images."""
VARPRO, ADAM, UNTRAINED = "variable projection", "Adam", "untrained"


@dataclass(frozen=True)
class Problem:
    """A network with an untrained second layer, and the held-out images.

    Attributes
    ----------
    config : TrainConfig
    data : Dataset
        Its test images are the held-out ones.
    training : TrainingSet
    units : UnitsOnMaps
        Of the network.
    plan : SubnetworkPlan
        Of the training, with the units as they train.
    """

    config: TrainConfig
    data: Dataset
    training: TrainingSet
    units: UnitsOnMaps
    plan: SubnetworkPlan

    @classmethod
    def of(cls, config: TrainConfig, data: Dataset) -> "Problem":
        """Draw the first layer, and learn the projection of its maps."""
        training, seeds = TrainingSet.of(data), streams(config)
        with single_threaded_blas():
            rng = np.random.default_rng(seeds["whitening"])
            units = make_units(config, training.images, rng)
        assert isinstance(units, UnitsOnMaps)
        plan = SubnetworkPlan(
            units_in_training(config, units), config.subnetworks, config.distortion,
            seeds["training"],
        )  # fmt: skip
        return cls(config, data, training, units, plan)

    def start(self) -> FloatArray:
        """Draw the weights that both trainings start from, (h, p)."""
        settings = replace(self.plan.settings, max_nfev=0)
        return self._trained(replace(self.plan, settings=settings))

    def by_variable_projection(self, start: FloatArray) -> FloatArray:
        """Train all units of the layer as the package does."""
        return self._trained(self.plan, start)

    def _trained(self, plan: SubnetworkPlan, start: FloatArray | None = None) -> FloatArray:
        found = train_one(self.training, plan, 0, start)
        assert found.W is not None, found.error
        return found.W

    def held_out(self, W: FloatArray) -> dict[str, Any]:
        """Fit the output layer to units with weights ``W`` (h, p), and measure."""
        config = self.config.with_options(scheme="untrained")
        with Compute(1) as compute:
            network, _, _ = train_classifier(
                config, self.training, self.data.classes, compute, units=self.units, start=W[None]
            )
        assert self.data.test is not None
        right = network.predict_codes(self.data.test.images) == self.data.test.labels
        accuracy = float(right.mean())
        error = (accuracy * (1 - accuracy) / len(right)) ** 0.5
        return {"held_out_accuracy": accuracy, "error": error}


def by_adam(
    problem: Problem, start: FloatArray, rate: float, budget: float
) -> tuple[FloatArray, int]:
    """Train the units and a linear layer by Adam until ``budget`` CPU seconds are used.

    Returns
    -------
    W : ndarray of float64, shape (h, p)
    n_passes : int
        Passes over the images that were begun.
    """
    import torch
    from torch.nn.functional import cross_entropy

    began = time.process_time()
    units, training = problem.plan.units, problem.training
    assert isinstance(units, UnitsOnMaps)
    rng = np.random.default_rng(streams(problem.config)["training"])
    order = torch.Generator().manual_seed(problem.config.seed)
    W = torch.tensor(start, dtype=torch.float32, requires_grad=True)
    means = torch.tensor(means_of_cells(units), dtype=torch.float32)
    A = torch.zeros((units.n_units * units.n_cells + 1, training.n_targets), requires_grad=True)
    optimiser = torch.optim.Adam([W, A], lr=rate)
    codes = torch.tensor(np.asarray(training.targets))
    X, n_passes = None, 0
    while time.process_time() - began < budget:
        if X is None or problem.plan.distortion:
            images: Any = training.images[:]
            if problem.plan.distortion:
                images = distort(images, problem.plan.distortion, rng)
            del X  # the old maps, before there are new ones
            with single_threaded_blas():
                maps = torch.from_numpy(units.below(images)).flatten(2)
            X = maps.transpose(1, 2).contiguous()  # faster than products with the maps as they are
            del maps
        for _ in range(PASSES):
            n_passes += 1
            for own in torch.split(torch.randperm(len(X), generator=order), BATCH):
                share = (time.process_time() - began) / budget
                if share >= 1:
                    return W.detach().numpy().astype(np.float64), n_passes
                for group in optimiser.param_groups:
                    group["lr"] = rate * (1 - share)
                Phi = features(W, X[own], means, units.units.threshold)
                optimiser.zero_grad()
                loss: Any = cross_entropy(Phi @ A[:-1] + A[-1], codes[own])  # backward is untyped
                loss.backward()
                optimiser.step()
    return W.detach().numpy().astype(np.float64), n_passes


def features(W: Any, X: Any, means: Any, threshold: float) -> Any:
    """Compute the features of two-sided units (b, sides * h * cells) by PyTorch.

    Parameters
    ----------
    W : tensor, shape (h, p)
    X : tensor, shape (b, places, p - 1)
        Projected maps.
    means : tensor, shape (cells, places)
    threshold : float
    """
    import torch
    from torch.nn.functional import relu

    z = X @ W[:, :-1].T + W[:, -1]  # (b, places, h)
    sides = (relu(z - threshold), relu(-z - threshold))
    return torch.cat([(means @ side).flatten(1) for side in sides], 1)


def means_of_cells(units: UnitsOnMaps) -> FloatArray:
    """Weights of the means over cells, (cells, places)."""
    windows = units.units.windows
    of_axes = []
    for axis in (0, 1):
        sizes = np.diff(windows.bounds(axis))
        of_axes.append(np.repeat(np.diag(1 / sizes), sizes, axis=1))
    return np.kron(*of_axes).astype(np.float64, copy=False)


def measure(problem: Problem, what: str, budget: float, rate: float) -> dict[str, Any]:
    """Train the layer in one way and measure it; ``budget`` and ``rate`` are Adam's."""
    if what == ADAM:  # before the clock starts: import time is not training time
        import torch
        import torch._dynamo  # Adam imports it when it is first made, which takes seconds

        torch.set_num_threads(1)
    W, n_passes = problem.start(), 0
    began = time.process_time()
    if what == VARPRO:
        W = problem.by_variable_projection(W)
    elif what == ADAM:
        W, n_passes = by_adam(problem, W, rate, budget)
    seconds = time.process_time() - began
    return {"units_cpu_seconds": seconds, "n_passes": n_passes, **problem.held_out(W)}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("dataset", choices=tuple(SETTINGS))
    options.add_argument(
        "--n-train",
        type=whole_number(1),
        help="number of training images; default: all that are not held out",
    )
    options.add_argument(
        "--times", type=whole_number(1), nargs="+", default=[1], metavar="N",
        help="CPU time of Adam, as multiples of the CPU time of variable projection",
    )  # fmt: skip
    args = options.parse_args()
    data = held_out(load(args.dataset, args.data_dir), args.n_train, quick=args.quick)
    assert data.test is not None  # the images that are held out
    n_train, n_held = len(data.train), len(data.test)
    config = configure(data=args.dataset, seed=args.seed, **SETTINGS[args.dataset])
    assert config.units.activation == "two-sided"
    problem = Problem.of(config, data)
    ledger = Ledger(args.output, data=data.digest, n_train=n_train)

    def row(what: str, times: int = 1, budget: float = 0.0, rate: float = 0.0) -> dict[str, Any]:
        entry = {"training": what, "times": times, "rate": rate}
        found = ledger.get(
            entry, partial(measure, problem, what, budget, rate), config=settings_of(config)
        )
        return {**entry, **found}

    rows = [row(UNTRAINED), row(VARPRO)]
    budget = rows[1]["units_cpu_seconds"]
    rows += [
        row(ADAM, times, times * budget, rate)
        for times in args.times
        for rate in (RATES[:1] if args.quick else RATES)
    ]
    cells = [
        {
            "training": found["training"],
            "rate": f"{found['rate']:g}" if found["rate"] else "",
            "passes": str(found["n_passes"] or ""),
            "CPU s of the units": rounded_seconds(found["units_cpu_seconds"]),
            "held-out accuracy": f"{found['held_out_accuracy']:.4f} ± {found['error']:.4f}",
        }
        for found in rows
    ]
    print_table(cells, f"{args.dataset}, {n_train:,} training images, the last {n_held:,} held out")
    print_last_line({"rows": rows})


if __name__ == "__main__":
    main()
