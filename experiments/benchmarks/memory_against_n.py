"""Peak memory against the number of training images, which stay on disk.

``python -m experiments.benchmarks.memory_against_n`` writes MNIST with random shifts to
``x_train.npy``, as many images as asked for, and trains whole-image units on it by the command
line, in a process whose address space is limited. Prints the peak memory of each; the last line is
JSON.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from experiments.shared.ledger import print_last_line
from varpro_nn import load

SETTINGS = (
    "--recipe", "bilinear", "--n-units", "400", "--n-subnetworks", "2", "--max-nfev", "5",
    "--images-per-subnetwork", "4000", "--n-jobs", "1", "--quiet",
)  # fmt: skip
BLOCK = 10_000
"""Images that are shifted at a time."""


def write_images(folder: Path, n: int, data_dir: str | None) -> None:
    """Write ``n`` images of MNIST, each shifted by up to two pixels, and the test set."""
    mnist = load("mnist", data_dir)
    rng = np.random.default_rng(0)
    images = open_memmap(folder / "x_train.npy", mode="w+", dtype=np.uint8, shape=(n, 28, 28))
    labels = np.empty(n, dtype=np.int64)
    for start in range(0, n, BLOCK):
        chosen = rng.integers(len(mnist.train), size=min(BLOCK, n - start))
        padded = np.pad(mnist.train.images[chosen], ((0, 0), (2, 2), (2, 2)))
        row, column = rng.integers(5, size=(2, len(chosen), 1, 1))
        side = np.arange(28)
        at = np.arange(len(chosen))[:, None, None], row + side[:, None], column + side
        images[start : start + len(chosen)] = padded[at]
        labels[start : start + len(chosen)] = mnist.train.labels[chosen]
    images.flush()
    assert mnist.test is not None
    for name, array in (
        ("y_train", labels), ("x_test", mnist.test.images), ("y_test", mnist.test.labels)
    ):  # fmt: skip
        np.save(folder / f"{name}.npy", array)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--counts", type=int, nargs="+", default=[6000, 60_000, 600_000, 2_000_000], metavar="N"
    )
    parser.add_argument("--limit", type=float, default=2.0, metavar="GIB", help="address space")
    parser.add_argument("--folder", help="where the images are written, for a while")
    parser.add_argument("--data-dir")
    args = parser.parse_args()
    n_bytes = int(args.limit * 2**30)
    rows = []
    for n in args.counts:
        with tempfile.TemporaryDirectory(dir=args.folder) as text:
            folder = Path(text)
            write_images(folder, n, args.data_dir)
            done = subprocess.run(
                [sys.executable, "-m", "varpro_nn.train", text, "--no-report", *SETTINGS,
                 "--output", str(folder / "run")],
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True,
                preexec_fn=partial(resource.setrlimit, resource.RLIMIT_AS, (n_bytes, n_bytes)),
            )  # fmt: skip
        if done.returncode:
            msg = f"{n} images: the run ended with status {done.returncode}"
            raise SystemExit(msg)
        metrics = json.loads(done.stdout)
        names = ("n_train", "peak_memory_mib", "test_accuracy", "cpu_seconds", "wall_seconds")
        rows.append({name: metrics[name] for name in names})
        print(
            f"{n:>9,} images: peak {metrics['peak_memory_mib']:.0f} MiB, "
            f"{metrics['wall_seconds']:.0f} s, accuracy {metrics['test_accuracy']:.4f}",
            flush=True,
        )
    peaks = [row["peak_memory_mib"] for row in rows]
    print_last_line({"runs": rows, "ratio": max(peaks) / min(peaks)})


if __name__ == "__main__":
    main()
