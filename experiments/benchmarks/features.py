"""Feature extraction of patch units against its matrix products alone.

``python -m experiments.benchmarks.features`` makes the features of 60,000 MNIST images with 320
units of 7 x 7 windows (4 x 4 cells) on one thread, and runs the bare products of filters and
windows of the same shapes in the same order. Prints CPU seconds of both for each activation; the
last line is JSON. The count: 484 places x 320 units x 50 numbers x 2 operations, 0.93 Tflop in all.
"""

import argparse
import time

import numpy as np

from experiments.shared.ledger import print_last_line
from experiments.shared.tables import print_table
from varpro_nn import load, patch_units
from varpro_nn.linalg.threads import thread_pool
from varpro_nn.output.features import feature_blocks
from varpro_nn.units import ACTIVATIONS
from varpro_nn.units.patches import IMAGES, TILE, PatchUnits


def products_alone(units: PatchUnits, n_images: int) -> float:
    """CPU seconds of the products that :meth:`PatchUnits.features` does, and nothing else."""
    rows, columns = units.windows.places
    rng = np.random.default_rng(0)
    filters = rng.standard_normal((units.n_units, units.windows.n_pixels + 1)).astype(np.float32)
    P = rng.standard_normal((filters.shape[1], columns * IMAGES)).astype(np.float32)
    z = np.empty((TILE, P.shape[1]), dtype=np.float32)
    start = time.process_time()
    for _ in range(rows * (n_images // IMAGES)):
        for first in range(0, units.n_units, TILE):
            tile = filters[first : first + TILE]
            np.matmul(tile, P, out=z[: len(tile)])
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-images", type=int, default=60_000)
    parser.add_argument("--n-units", type=int, default=320)
    parser.add_argument("--data-dir")
    args = parser.parse_args()
    images = load("mnist", args.data_dir).train.images[: args.n_images]
    rng = np.random.default_rng(0)
    found: dict[str, dict[str, float]] = {}
    for activation in ACTIVATIONS:
        units = patch_units("dense", (28, 28), args.n_units, window=7, activation=activation)
        W = units.init(images, rng).astype(np.float32)
        with thread_pool(1) as threads:
            alone = products_alone(units, len(images))
            start = time.process_time()
            for _ in feature_blocks(units, W, images, threads):
                pass
            features = time.process_time() - start
        found[activation] = {"features": features, "products": alone, "ratio": features / alone}
    cells = [
        {
            "activation": activation,
            "features, CPU s": f"{row['features']:.2f}",
            "products alone": f"{row['products']:.2f}",
            "ratio": f"{row['ratio']:.2f}",
        }
        for activation, row in found.items()
    ]
    print_table(cells, f"Features of {len(images):,} images by {args.n_units} patch units")
    print_last_line({"n_images": len(images), "activations": found})


if __name__ == "__main__":
    main()
