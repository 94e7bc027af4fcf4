"""A small convolutional network of PyTorch for images of any size: a peer of ``own_methods``.

Three convolutions of 3 x 3 (32, 64 and 64 channels, rectifiers), the largest of 2 x 2 pixels after
the first two, means over at most 4 x 4 cells, a linear layer. Adam with its default rate, batches
of 64, 30 epochs or 1,000 steps, whichever is more; nothing tuned. With ``shift``, each epoch sees
every image moved by up to so many pixels, as :mod:`varpro_nn.data.augmentation` moves it.
"""

import io
from typing import Any

import numpy as np
import torch
import torch._dynamo  # Adam imports it when it is first made, which takes seconds
from torch import nn

from varpro_nn._typing import LabelArray, RealArray

EPOCHS = 30
STEPS = 1000
"""Least numbers of both."""
BATCH = 64


class SmallCNN:
    """The network, with the methods of an estimator of scikit-learn.

    Parameters
    ----------
    shift : int
        Largest shift in pixels of training images; 0 for none.
    random_state : int
        Of the first weights, the order of the images and their shifts.
    """

    def __init__(self, shift: int = 0, random_state: int = 0) -> None:
        self.shift, self.random_state = shift, random_state

    def fit(self, X: RealArray, labels: LabelArray) -> "SmallCNN":
        """Train on images (n, rows, columns) or (n, channels, rows, columns) from 0 to 1."""
        torch.manual_seed(self.random_state)
        rng = np.random.default_rng(self.random_state)
        images = _with_channels(X)
        self.network_ = _network(images.shape[1:], int(labels.max()) + 1)
        optimiser = torch.optim.Adam(self.network_.parameters())
        loss, y = nn.CrossEntropyLoss(), torch.tensor(labels)
        self.network_.train()
        for _ in range(max(EPOCHS, -(-STEPS // -(-len(y) // BATCH)))):
            x = torch.tensor(shifted(images, self.shift, rng))
            for own in torch.split(torch.randperm(len(x)), BATCH):
                optimiser.zero_grad()
                loss(self.network_(x[own]), y[own]).backward()
                optimiser.step()
        return self

    def predict(self, X: RealArray) -> LabelArray:
        """Predict class numbers."""
        self.network_.eval()
        with torch.no_grad():
            parts: Any = torch.tensor(_with_channels(X))  # its split has no types
            blocks = parts.split(1000)
            codes: LabelArray = torch.cat([self.network_(x).argmax(1) for x in blocks]).numpy()
        return codes

    def n_bytes(self) -> int:
        """Size of the saved weights."""
        file = io.BytesIO()
        torch.save(self.network_.state_dict(), file)
        return len(file.getvalue())


def shifted(images: RealArray, shift: int, rng: np.random.Generator) -> RealArray:
    """Move each image by up to ``shift`` pixels; the border has the nearest pixel's value."""
    if not shift:
        return images
    n, _, height, width = images.shape
    rows, columns = (
        np.clip(np.arange(side) + rng.integers(-shift, shift + 1, (n, 1)), 0, side - 1)
        for side in (height, width)
    )
    by_rows = np.take_along_axis(images, rows[:, None, :, None], axis=2)
    return np.take_along_axis(by_rows, columns[:, None, None, :], axis=3)


def _with_channels(X: RealArray) -> RealArray:
    return X[:, None] if X.ndim == 3 else X


def _network(shape: tuple[int, ...], n_classes: int) -> Any:
    cells = min(4, *(side // 4 for side in shape[1:]))
    return nn.Sequential(
        nn.Conv2d(shape[0], 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(cells),
        nn.Flatten(), nn.Linear(64 * cells**2, n_classes),
    )  # fmt: skip
