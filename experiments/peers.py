"""The obvious peer on MNIST: a multilayer perceptron of scikit-learn, by the number of parameters.

``python -m experiments.peers`` trains ``MLPClassifier`` with one hidden layer of 100 and of 150
rectifiers (10 epochs of Adam, batches of 256, all else the library's defaults, nothing tuned) on
all training images of MNIST with three seeds, and prints a Markdown table.
"""

import argparse
import time
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from varpro_nn import load
from varpro_nn.images import intensities


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    mnist = load("mnist", args.data_dir)
    assert mnist.test is not None  # this data set has one
    train = intensities(mnist.train.images).reshape(len(mnist.train), -1)
    test = intensities(mnist.test.images).reshape(len(mnist.test), -1)
    print("| network | parameters | test accuracy, each seed | CPU s | wall s |")
    print("| --- | --- | --- | --- | --- |")
    for n_hidden in (100, 150):
        shares, cpu, wall = [], time.process_time(), time.perf_counter()
        for seed in range(args.seeds):
            peer = MLPClassifier((n_hidden,), batch_size=256, max_iter=10, random_state=seed)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # ten epochs are the setting
                peer.fit(train, mnist.train.labels)
            shares.append(float(np.mean(peer.predict(test) == mnist.test.labels)))
        n_parameters = sum(a.size for a in (*peer.coefs_, *peer.intercepts_))
        print(
            f"| MLPClassifier, {n_hidden} hidden | {n_parameters:,} | "
            f"{' / '.join(f'{share:.4f}' for share in shares)} | "
            f"{(time.process_time() - cpu) / args.seeds:.1f} | "
            f"{(time.perf_counter() - wall) / args.seeds:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
