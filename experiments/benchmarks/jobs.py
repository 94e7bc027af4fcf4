"""Wall time of the sub-networks: one job, two jobs, and two workers of Dask on this machine.

``python -m experiments.benchmarks.jobs`` trains the same sub-networks in turn, ``--repeats`` times
round, and compares the shortest times: from the first task to the last sub-network, in which the
processes of the pool start too. All must give the same bits. The last line is JSON.
``--n-subnetworks 1 --images 60000 --n-units 32``: one, whose sums two threads share.
"""

import argparse
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import numpy as np

from experiments.shared.ledger import print_last_line
from varpro_nn import load, whole_image_units
from varpro_nn.compute import cluster
from varpro_nn.compute.compute import Compute
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.training.config import SubnetworkSettings
from varpro_nn.training.subnetwork import SubnetworkPlan
from varpro_nn.training.subnetworks import train_subnetworks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-subnetworks", type=int, default=24)
    parser.add_argument("--images", type=int, default=4000, help="of each sub-network")
    parser.add_argument("--n-units", type=int, default=100, help="of each sub-network")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data-dir")
    args = parser.parse_args()
    training = TrainingSet.of(load("mnist", args.data_dir))
    units = whole_image_units("bilinear", (28, 28), args.n_units)
    settings = SubnetworkSettings(
        n_subnetworks=args.n_subnetworks, images_per_subnetwork=args.images, max_nfev=10
    )
    plan = SubnetworkPlan(units, settings)
    dask = partial(cluster.executor, "dask", None, 2)
    ways: dict[str, tuple[int, Callable[[], AbstractContextManager[Executor | None]]]] = {
        "1 job": (1, nullcontext),
        "2 jobs": (2, nullcontext),
        "2 workers of Dask": (1, dask),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    first = None
    for _ in range(args.repeats):
        for name, (n_jobs, make) in ways.items():
            with make() as executor, Compute(n_jobs, executor=executor) as compute:
                start = time.perf_counter()
                found = train_subnetworks(plan, training, compute)
                seconds[name].append(time.perf_counter() - start)
            W = np.stack([subnetwork.W for subnetwork in found if subnetwork.W is not None])
            first = W if first is None else first
            assert np.array_equal(W, first), "the bits depend on the executor"
            print(f"{name:<18} {seconds[name][-1]:6.1f} s", flush=True)
    best = {name: min(values) for name, values in seconds.items()}
    ratios = {
        "1 job / 2 jobs": best["1 job"] / best["2 jobs"],
        "Dask / 2 jobs": best["2 workers of Dask"] / best["2 jobs"],
    }
    print(ratios)
    print_last_line({"seconds": seconds, "ratios": ratios})


if __name__ == "__main__":
    main()
