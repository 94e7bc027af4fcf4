"""Nystroem features and a ridge classifier of scikit-learn on MNIST, as a baseline.

``python -m experiments.nystroem`` tries the library's ``gamma`` and the one of a grid that does
best on the last 10,000 training images, each with three seeds on all training images. Prints the
test accuracies and CPU seconds; the last line is JSON.
"""

import argparse
import json
import time
from typing import Any

import numpy as np
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline

from varpro_nn import load
from varpro_nn.images import intensities

N_HELD_OUT = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--columns", type=int, default=1000)
    parser.add_argument("--gammas", type=float, nargs="+", default=[0.003, 0.01, 0.03, 0.1])
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    mnist = load("mnist")
    assert mnist.test is not None
    train, test = (
        intensities(part.images).reshape(len(part), -1) for part in (mnist.train, mnist.test)
    )
    labels = mnist.train.labels
    n, d = train.shape

    def fitted(rows: slice, gamma: float, seed: int = 0) -> Any:
        kernel = Nystroem(n_components=args.columns, gamma=gamma, random_state=seed)
        return make_pipeline(kernel, RidgeClassifier()).fit(train[rows], labels[rows])

    first, last = slice(n - N_HELD_OUT), slice(n - N_HELD_OUT, None)
    held_out = {}
    for gamma in (1 / d, *args.gammas):  # the first is the library's choice
        held_out[gamma] = fitted(first, gamma).score(train[last], labels[last])
        print(f"gamma {gamma:.4f}: {held_out[gamma]:.4f} of the images held out", flush=True)
    rows = []
    for gamma in dict.fromkeys((1 / d, max(held_out, key=lambda gamma: held_out[gamma]))):
        start = time.process_time()
        models = [fitted(slice(None), gamma, seed) for seed in range(args.seeds)]
        seconds = (time.process_time() - start) / len(models)
        shares = [float(model.score(test, mnist.test.labels)) for model in models]
        k = len(np.unique(labels))
        parameters = args.columns * (d + args.columns + k) + k
        rows.append({"gamma": gamma, "test_accuracy": shares, "cpu_seconds": seconds,
                     "n_parameters": parameters})  # fmt: skip
        print(f"gamma {gamma:.4f}: test {shares}, {seconds:.1f} CPU s a model", flush=True)
    print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
