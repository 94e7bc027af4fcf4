"""PyTorch networks to compare with, trained by Adam or by Levenberg and Marquardt's method.

``python -m experiments.field.torch_networks NAME DATASET --epochs 1 3 10`` trains one network in
this process and prints one JSON line for each of the epochs listed, all of one training run. It is
a child process of ``experiments.field.table``, and the only module that needs PyTorch.

``LeNet-5``
    61,706 parameters (62,006 for 3 x 32 x 32 pixels): the published widths, average pooling;
    rectifiers, which Adam trains faster than the sigmoids of 1998. It sees 32 x 32 pixels:
    smaller images have a border of zeros.
``MLP-800``
    636,010 (2,466,410): one hidden layer of 800 rectifiers.
``patches-logistic``
    3,370 parameters for MNIST and Fashion-MNIST: the network of the recipe ``tiny``, 16 logistic
    units on all windows of 7 x 7 pixels, averaged over 4 x 4 cells that are cut as in
    :mod:`varpro_nn.units.patches`, then a linear layer. For CIFAR-10 3,838: 33 logistic units on
    windows of 5 x 5, 2 x 2 cells, as the recipe has them, but for its whitening and its two-sided
    units.
``CNN-3``
    66,570, for CIFAR-10: three convolutions of 3 x 3 (32, 64 and 64 channels), largest of 2 x 2
    pixels after the first two, then a linear layer.
``CNN-5``
    1,026 (1,482): five small convolutions with ELU and a linear layer, the example for MNIST of
    the package ``torch-levenberg-marquardt``.

Images are intensities from 0 to 1, nothing else is done to them. ``--optimiser adam`` is Adam as
it comes. ``lm`` is ``LevenbergMarquardtModule`` of ``torch-levenberg-marquardt`` with the settings
of its example for MNIST: cross-entropy by the square root of the loss of each image, at most ten
attempts a step, QR, batches of 5,000, learning rate 0.05. It ends by itself once no damping makes
the loss of a batch smaller; epochs after that are told as they then are. The Jacobian is taken for
200 images at a time, which bounds the memory and changes nothing else.

CPU seconds are those of all threads of this process in the epochs, shuffling included; loading
the data and measuring the accuracy are left out, as they are in ``training_cpu_seconds`` of
``varpro_nn.train``.
"""

import argparse
import importlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any

import numpy as np

from varpro_nn import configure, load
from varpro_nn.data import Dataset
from varpro_nn.data.images import intensities
from varpro_nn.training.recipes import kind_of_data
from varpro_nn.units.windows import Windows

try:
    import torch
    from torch import nn
except ImportError:
    NEEDS_TORCH = "error: PyTorch is missing: pip install -e '.[experiments]'"
    raise SystemExit(NEEDS_TORCH) from None

Shape = tuple[int, int, int]
"""Channels, rows, columns."""


def lenet5(shape: Shape) -> Any:
    """LeNet-5 with rectifiers."""
    return nn.Sequential(
        nn.Conv2d(shape[0], 6, 5, padding=(32 - shape[1]) // 2), nn.ReLU(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


def perceptron(shape: Shape) -> Any:
    """One hidden layer of 800 rectifiers."""
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), 800), nn.ReLU(), nn.Linear(800, 10))


def convolutions(shape: Shape) -> Any:
    """Three convolutions and a linear layer, for 32 x 32 pixels."""
    return nn.Sequential(
        nn.Conv2d(shape[0], 32, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10),
    )  # fmt: skip


def small_convolutions(shape: Shape) -> Any:
    """Five convolutions of few channels and a linear layer."""
    layers = []
    channels, side = shape[:2]
    for width, window, stride in ((8, 4, 2), (4, 4, 2), (4, 2, 1), (4, 2, 1), (4, 2, 1)):
        layers += [nn.Conv2d(channels, width, window, stride), nn.ELU()]
        channels, side = width, (side - window) // stride + 1
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * side**2, 10))


def patches(shape: Shape) -> Any:
    """Units on windows as in the recipe ``tiny``, mean over each cell, linear layer."""
    tiny = configure("tiny", data=kind_of_data("", shape)).units
    units = patch_units(Windows(shape, tiny.window, 1, tiny.grid), tiny.n_units, nn.Sigmoid())
    return nn.Sequential(*units, nn.Flatten(), nn.Linear(tiny.n_units * tiny.grid**2, 10))


def patch_units(windows: Windows, n_units: int, activation: Any) -> list[Any]:
    """All but the linear layer: from images (n, channels, rows, columns) to (n, units, cells)."""
    pool = cell_means(windows)
    pooling = nn.Linear(pool.shape[1], pool.shape[0], bias=False)
    pooling.weight = nn.Parameter(torch.tensor(pool, dtype=torch.float32), requires_grad=False)
    convolution = nn.Conv2d(windows.image_shape[0], n_units, windows.window)
    return [convolution, activation, nn.Flatten(2), pooling]


def cell_means(windows: Windows) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Matrix of the means over the windows of each cell, (cells, windows), both row by row."""
    by_axis = []
    for axis, n_places in enumerate(windows.places):
        bounds = windows.bounds(axis)
        cell = np.searchsorted(bounds, np.arange(n_places), side="right") - 1
        member = cell == np.arange(windows.grid)[:, None]
        by_axis.append(member / np.diff(bounds)[:, None])
    return np.kron(*by_axis)


NETWORKS: dict[str, Callable[[Shape], Any]] = {
    "LeNet-5": lenet5,
    "MLP-800": perceptron,
    "patches-logistic": patches,
    "CNN-3": convolutions,
    "CNN-5": small_convolutions,
}
"""The networks by name; each is made for images of a shape."""


def n_parameters(network: Any) -> int:
    """Parameters that are trained."""
    return sum(weight.numel() for weight in network.parameters() if weight.requires_grad)


def adam(network: Any, learning_rate: float) -> Callable[[Any, Any], bool]:
    """Make a step of Adam on one batch; it never wants to end."""
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    optimiser = torch.optim.Adam(weights, lr=learning_rate)
    loss = nn.CrossEntropyLoss()

    def step(x: Any, y: Any) -> bool:
        optimiser.zero_grad()
        loss(network(x), y).backward()
        optimiser.step()
        return False

    return step


def levenberg_marquardt(network: Any, learning_rate: float) -> Callable[[Any, Any], bool]:
    """Make a step of Levenberg and Marquardt's method on one batch; it tells when to end."""
    package = importlib.import_module("torch_levenberg_marquardt")
    module = package.training.LevenbergMarquardtModule(
        network, package.loss.CrossEntropyLoss(), learning_rate=learning_rate, attempts_per_step=10,
        solve_method="qr", max_batch_size=200,
    )  # fmt: skip
    return lambda x, y: bool(module.training_step(x, y)[2])


OPTIMISERS = {"adam": adam, "lm": levenberg_marquardt}


def train(
    name: str,
    dataset: Dataset,
    epochs: Sequence[int],
    *,
    optimiser: str = "adam",
    batch: int = 64,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> Iterator[dict[str, Any]]:
    """Train a network and measure it after some epochs.

    Parameters
    ----------
    name : str
        A key of ``NETWORKS``.
    dataset : Dataset
        With test images.
    epochs : sequence of int
        Epochs after which to measure; the last one ends the training.
    optimiser : str
        A key of ``OPTIMISERS``.
    batch : int
        Images in a batch.
    learning_rate : float
    seed : int
        Of the first weights and the order of the images.

    Yields
    ------
    dict
        ``epochs``, ``ended_after_steps`` if it ended by itself, CPU seconds of the training since
        its start and of labelling the test images.
    """
    assert dataset.test is not None  # the data sets here have one
    torch.manual_seed(seed)
    x, y = _tensors(dataset.train)
    x_test, y_test = _tensors(dataset.test)
    network = NETWORKS[name](tuple(x.shape[1:]))
    step = OPTIMISERS[optimiser](network, learning_rate)
    cpu, n_steps, ended = 0.0, 0, False
    for epoch in range(1, max(epochs) + 1):
        start = time.process_time()
        network.train()
        for own in () if ended else torch.split(torch.randperm(len(x)), batch):
            ended = step(x[own], y[own])
            n_steps += 1
            if ended:
                break
        cpu += time.process_time() - start
        if epoch in epochs:
            start = time.process_time()
            labels = _labels(network, x_test)
            yield {
                "epochs": epoch,
                "ended_after_steps": n_steps if ended else None,
                "n_parameters": n_parameters(network),
                "test_accuracy": float((labels == y_test).double().mean()),
                "training_cpu_seconds": cpu,
                "labelling_cpu_seconds": time.process_time() - start,
            }


def _tensors(part: Any) -> tuple[Any, Any]:
    """Intensities with an axis of channels, and class numbers."""
    images = torch.tensor(intensities(part.images))
    if images.ndim == 3:
        images = images[:, None]
    return images, torch.tensor(part.labels)


def _labels(network: Any, x: Any) -> Any:
    network.eval()
    with torch.no_grad():
        return torch.cat([network(images).argmax(1) for images in x.split(1000)])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("network", choices=tuple(NETWORKS))
    parser.add_argument("dataset")
    parser.add_argument("--epochs", type=int, nargs="+", default=[1, 3, 10])
    parser.add_argument("--optimiser", choices=tuple(OPTIMISERS), default="adam")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-dir")
    args = parser.parse_args()
    torch.set_num_threads(1)
    dataset = load(args.dataset, args.data_dir)
    for metrics in train(
        args.network, dataset, args.epochs,
        optimiser=args.optimiser, batch=args.batch, learning_rate=args.learning_rate,
        seed=args.seed,
    ):  # fmt: skip
        print(json.dumps(metrics), flush=True)


if __name__ == "__main__":
    main()
