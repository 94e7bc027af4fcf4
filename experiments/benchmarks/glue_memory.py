"""Peak memory of the glue against the number of images, for one network.

``python -m experiments.benchmarks.glue_memory`` glues the same 2,000 untrained bilinear units on
the first 6,000 and on all 60,000 training images of MNIST, each in a separate process, and prints
the peak resident memory of the process before the glue (Python, libraries, images) and after it.
The last line is one JSON object.
"""

import argparse
import json

import numpy as np

from experiments.shared.ledger import print_last_line
from experiments.shared.processes import child
from varpro_nn._io.memory import peak_memory_mib
from varpro_nn.compute.compute import Compute
from varpro_nn.data import load
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.output.ridge_fit import fit_ridge
from varpro_nn.units import whole_image_units


def measure(n_images: int, n_units: int, n_jobs: int) -> dict[str, float]:
    """Glue in this process."""
    train = TrainingSet.of(load("mnist"), n_images)
    units = whole_image_units("bilinear", train.images.shape[1:], n_units)
    W = units.init(train.images[:2000], np.random.default_rng(0)).astype(np.float32)
    before = peak_memory_mib()
    layer = fit_ridge(units, W, train, Compute(n_jobs))
    return {
        "n_images": n_images,
        "before_mib": before,
        "peak_mib": peak_memory_mib(),
        "ridge": layer.penalty,
        "loo_error": min(layer.error_rates),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[6000, 60000])
    parser.add_argument("--n-units", type=int, default=2000)
    parser.add_argument("--n-jobs", type=int, default=2)
    args = parser.parse_args()
    if len(args.images) == 1:
        print(json.dumps(measure(args.images[0], args.n_units, args.n_jobs)))
        return
    rows = []
    print(f"{'images':>8}{'before, MiB':>14}{'peak, MiB':>12}")
    for n_images in args.images:
        command = [
            "experiments.benchmarks.glue_memory", "--images", str(n_images),
            "--n-units", str(args.n_units), "--n-jobs", str(args.n_jobs),
        ]  # fmt: skip
        rows.append(json.loads(child(command)[-1]))
        print(f"{n_images:>8}{rows[-1]['before_mib']:>14.0f}{rows[-1]['peak_mib']:>12.0f}")
    print_last_line({"rows": rows, "ratio": rows[-1]["peak_mib"] / rows[0]["peak_mib"]})


if __name__ == "__main__":
    main()
