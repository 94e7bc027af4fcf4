"""PyTorch networks to compare with, and their training: Adam, as it comes, nothing tuned.

``python -m experiments.torch_networks NAME DATASET --epochs 1 3 10`` trains one network in this
process and prints one JSON line for each of the epochs listed, all of one training run. It is the
child process of ``experiments.time_to_accuracy``, and the only module that needs PyTorch.

``LeNet-5``
    61,706 parameters: the published widths, average pooling; rectifiers, which Adam trains
    faster than the sigmoids of 1998.
``MLP-800``
    636,010 parameters: one hidden layer of 800 rectifiers.
``patches-logistic``, ``patches-rectifier``
    3,370 parameters: 16 units on all windows of 7 x 7 pixels, averaged over 4 x 4 cells that are
    cut as in :mod:`varpro_nn.units.patches`, then a linear layer. The same network as one layer
    of dense units on windows, trained by gradient steps.
``CNN-3``
    66,570 parameters, for CIFAR-10: three convolutions of 3 x 3 (32, 64 and 64 channels), largest
    of 2 x 2 pixels after the first two, then a linear layer.

CPU seconds are those of all threads of this process in the epochs, shuffling included; loading
the data and measuring the accuracy are left out, as they are in ``training_cpu_seconds`` of
``varpro_nn.train``.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from varpro_nn import load
from varpro_nn.datasets import Dataset
from varpro_nn.images import intensities
from varpro_nn.metrics import standard_error
from varpro_nn.units.windows import Windows

try:
    import torch
    from torch import nn
except ImportError:
    NEEDS_TORCH = "error: PyTorch is missing: pip install -e '.[experiments]'"
    raise SystemExit(NEEDS_TORCH) from None

BATCH = 64
LEARNING_RATE = 1e-3
"""Both the usual ones; the rate is the default of Adam."""


def lenet5() -> Any:
    """LeNet-5 with rectifiers, for 28 x 28 pixels."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


def perceptron() -> Any:
    """One hidden layer of 800 rectifiers."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 800), nn.ReLU(), nn.Linear(800, 10))


def convolutions() -> Any:
    """Three convolutions and a linear layer, for 3 x 32 x 32 pixels."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10),
    )  # fmt: skip


def patches(activation: Any) -> Any:
    """16 units on windows of 7 x 7 pixels, mean over each of 4 x 4 cells, linear layer."""
    return nn.Sequential(*patch_units(activation), nn.Flatten(), nn.Linear(256, 10))


def patch_units(activation: Any) -> list[Any]:
    """All but the linear layer: from images (n, 1, 28, 28) to (n, units, cells)."""
    windows = Windows((28, 28), 7, 1, 4)
    pool = cell_means(windows)
    pooling = nn.Linear(pool.shape[1], pool.shape[0], bias=False)
    pooling.weight = nn.Parameter(torch.tensor(pool, dtype=torch.float32), requires_grad=False)
    return [nn.Conv2d(1, 16, 7), activation, nn.Flatten(2), pooling]


def cell_means(windows: Windows) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Matrix of the means over the windows of each cell, (cells, windows), both row by row."""
    by_axis = []
    for axis, n_places in enumerate(windows.places):
        bounds = windows.bounds(axis)
        cell = np.searchsorted(bounds, np.arange(n_places), side="right") - 1
        member = cell == np.arange(windows.grid)[:, None]
        by_axis.append(member / np.diff(bounds)[:, None])
    return np.kron(*by_axis)


NETWORKS: dict[str, Callable[[], Any]] = {
    "LeNet-5": lenet5,
    "MLP-800": perceptron,
    "patches-logistic": lambda: patches(nn.Sigmoid()),
    "patches-rectifier": lambda: patches(nn.ReLU()),
    "CNN-3": convolutions,
}
"""The networks by name."""


def n_parameters(network: Any) -> int:
    """Parameters that are trained."""
    return sum(weight.numel() for weight in network.parameters() if weight.requires_grad)


def train(
    name: str, dataset: Dataset, epochs: Sequence[int], *, seed: int = 0
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
    seed : int
        Of the first weights and the order of the images.

    Yields
    ------
    dict
        ``epochs`` and what ``docs/metrics.md`` tells of the others, the times since the start.
    """
    assert dataset.test is not None  # the data sets here have one
    torch.manual_seed(seed)
    network = NETWORKS[name]()
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    optimiser = torch.optim.Adam(weights, lr=LEARNING_RATE)
    loss = nn.CrossEntropyLoss()
    x, y = _tensors(dataset.train)
    x_test, y_test = _tensors(dataset.test)
    cpu = wall = 0.0
    for epoch in range(1, max(epochs) + 1):
        start = time.process_time(), time.perf_counter()
        network.train()
        for batch in torch.split(torch.randperm(len(x)), BATCH):
            optimiser.zero_grad()
            loss(network(x[batch]), y[batch]).backward()
            optimiser.step()
        cpu += time.process_time() - start[0]
        wall += time.perf_counter() - start[1]
        if epoch in epochs:
            share = _accuracy(network, x_test, y_test)
            yield {
                "epochs": epoch,
                "n_parameters": n_parameters(network),
                "test_accuracy": share,
                "test_accuracy_standard_error": standard_error(share, len(y_test)),
                "training_cpu_seconds": cpu,
                "training_wall_seconds": wall,
            }


def _tensors(part: Any) -> tuple[Any, Any]:
    """Intensities with an axis of channels, and class numbers."""
    images = torch.tensor(intensities(part.images))
    if images.ndim == 3:
        images = images[:, None]
    return images, torch.tensor(part.labels)


def _accuracy(network: Any, x: Any, y: Any) -> float:
    network.eval()
    with torch.no_grad():
        hits = [
            int((network(images).argmax(1) == labels).sum())
            for images, labels in zip(x.split(1000), y.split(1000), strict=True)
        ]
    return sum(hits) / len(y)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", choices=tuple(NETWORKS))
    parser.add_argument("dataset")
    parser.add_argument("--epochs", type=int, nargs="+", default=[1, 3, 10])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-dir")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    dataset = load(args.dataset, args.data_dir)
    for metrics in train(args.network, dataset, args.epochs, seed=args.seed):
        print(json.dumps(metrics), flush=True)


if __name__ == "__main__":
    main()
