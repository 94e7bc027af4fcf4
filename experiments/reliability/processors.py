"""How far results differ between processors: OpenBLAS kernels, ONNX Runtime and C.

``python -m experiments.reliability.processors`` trains ``default`` on MNIST and ``tiny`` on
CIFAR-10, once with each kernel that this processor runs, in a separate process with one job. It
compares the outputs for the test images with those of the default kernel. The network of the
default kernel then predicts with the other kernels, in ONNX Runtime and in C. ``Prescott+plain`` is
the oldest kernel with NumPy's loops for the oldest processor
(:mod:`experiments.reliability.kernels`).

``--n-jobs N`` trains with N kernels at a time. ``--output FILE`` keeps the rows of a data set as
soon as they are measured. ``--quick`` takes slices of MNIST and two kernels. A message names each
kernel that the processor lacks, and ONNX Runtime or C if they are not installed. The last line is
JSON.
"""

import argparse
import importlib.util
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.exports import QUICK, run_c, run_onnx
from experiments.reliability import kernels
from experiments.shared.ledger import Ledger, print_last_line, settings_of
from experiments.shared.options import parser
from experiments.shared.processes import child
from experiments.shared.tables import print_table
from varpro_nn import Network, TrainConfig, configure, load, train_network
from varpro_nn.data import Dataset

RUNS = (("mnist", "default"), ("cifar10", "tiny"))
"""Data sets and recipes."""
KERNELS = (*kernels.KERNELS, f"{kernels.KERNELS[0]}{kernels.PLAIN}")
FLAGS = {"C, -O2": "-O2", "C, -O3 -march=native": "-O3 -march=native"}
Answers = dict[str, Any]
"""Probabilities (n, k), and outputs (n, k) if there are any."""


def settings(data: str, recipe: str, args: argparse.Namespace) -> tuple[Dataset, TrainConfig]:
    """Load a data set and configure its run."""
    dataset = load(data, args.data_dir)
    if args.quick:
        assert dataset.test is not None
        train, test = dataset.train.take(slice(1000)), dataset.test.take(slice(200))
        dataset = replace(dataset, train=train, test=test)
    few = QUICK if args.quick else {}
    return dataset, configure(recipe, data=dataset, seed=args.seed, **few)


def answer(network: Network, images: Any) -> Answers:
    """Compute the outputs and probabilities of images."""
    return {
        "outputs": network.decision_function(images),
        "probabilities": network.predict_proba(images),
    }


def train_and_answer(task: dict[str, str], args: argparse.Namespace) -> None:
    """Train with the kernel of this process, and write the answers of two networks.

    One is the network trained here. The other is in the folder that ``task`` names; the first of
    these processes writes it there.
    """
    kernels.check(task["kernel"])
    dataset, config = settings(task["data"], task["recipe"], args)
    assert dataset.test is not None
    train, folder = dataset.train, Path(task["folder"])
    network = train_network(config, train.images, train.labels, dataset.classes, n_jobs=1)[0]
    if not (folder / "model.npz").exists():
        network.save(folder / "model.npz")
    both = {"trained": network, "predicted": Network.load(folder / "model.npz")}
    for name, each in both.items():
        np.savez(folder / f"{name}-{task['kernel']}.npz", **answer(each, dataset.test.images))


def difference(ours: Answers, first: Answers, labels: Any) -> dict[str, Any]:
    """Compare answers with those of the first kernel, and with the true labels."""
    codes, others = (each["probabilities"].argmax(axis=1) for each in (ours, first))
    row = {"test_accuracy": float((codes == labels).mean()),
           "labels_that_differ": int((codes != others).sum())}  # fmt: skip
    for name, values in ours.items():
        row[f"largest_difference_of_{name}"] = float(np.abs(values - first[name]).max())
    return row


def exports(network: Network, images: Any, folder: Path) -> dict[str, Answers]:
    """Compute the answers of the exported network; print the names of runtimes not installed."""
    ways: dict[str, tuple[bool, Callable[[], tuple[Any, float]]]] = {
        "ONNX Runtime": (
            all(map(importlib.util.find_spec, ("onnx", "onnxruntime"))),
            partial(run_onnx, network, images, folder),
        )
    }
    for name, flags in FLAGS.items():
        run = partial(run_c, network, images, folder, int8=False, flags=flags)
        ways[name] = (shutil.which("gcc") is not None, run)
    found: dict[str, Answers] = {}
    for name, (there, way) in ways.items():
        if there:
            found[name] = {"probabilities": way()[0]}
        else:
            print(f"\nLeft out: {name} is not installed.")
    return found


def measure(
    data: str, recipe: str, names: Sequence[str], dataset: Dataset, args: argparse.Namespace
) -> dict[str, Any]:
    """Train with each kernel and predict; rows for each trained network and for the first one."""
    assert dataset.test is not None
    labels, images = dataset.test.labels, np.ascontiguousarray(dataset.test.images)
    options = ["--seed", str(args.seed), *(["--quick"] if args.quick else [])]
    options += ["--data-dir", args.data_dir] if args.data_dir else []
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)

        def run(kernel: str) -> None:
            task = {"data": data, "recipe": recipe, "kernel": kernel, "folder": text}
            command = ["experiments.reliability.processors", *options, "--task", json.dumps(task)]
            child(command, environment=kernels.environment(kernel))

        run(names[0])  # it writes the network with which the others predict, too
        with ThreadPoolExecutor(args.n_jobs) as executor:  # of threads that wait for processes
            list(executor.map(run, names[1:]))
        answers: dict[str, dict[str, Answers]] = {
            kind: {kernel: dict(np.load(folder / f"{kind}-{kernel}.npz")) for kernel in names}
            for kind in ("trained", "predicted")
        }
        network = Network.load(folder / "model.npz")
        answers["predicted"] |= exports(network, images, folder)
    first = names[0]
    return {
        kind: {name: difference(each, of_kind[first], labels) for name, each in of_kind.items()}
        for kind, of_kind in answers.items()
    } | {"n_test": len(labels)}


def cells_of(name: str, row: dict[str, Any]) -> dict[str, str]:
    """Make the cells of a table row."""
    output = row.get("largest_difference_of_outputs")
    return {
        "": name,
        "labels that differ": f"{row['labels_that_differ']:,}",
        "test accuracy": f"{row['test_accuracy']:.4f}",
        "largest difference of an output": "" if output is None else f"{output:.1e}",
        "of a probability": f"{row['largest_difference_of_probabilities']:.1e}",
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--kernels", nargs="+", metavar="NAME",
                         help=f"besides the default kernel ({' '.join(KERNELS)})")  # fmt: skip
    options.add_argument("--task", help=argparse.SUPPRESS)
    args = options.parse_args()
    if args.task is not None:
        train_and_answer(json.loads(args.task), args)
        return
    names, left_out = kernels.split(args.kernels or KERNELS)
    here = kernels.default()
    if here is None:
        options.error("NumPy does not use OpenBLAS here, so there are no kernels to compare")
    names = list(dict.fromkeys([here, *names]))
    for reason in left_out:
        print(f"\nLeft out: {reason}.")
    names = names[:2] if args.quick else names
    packages = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name)]
    results = {}
    for data, recipe in (("mnist", "tiny"),) if args.quick else RUNS:
        dataset, config = settings(data, recipe, args)
        n_train = len(dataset.train)
        ledger = Ledger(args.output, data=dataset.digest, images=n_train, kernels=names)
        make = partial(measure, data, recipe, names, dataset, args)
        result = ledger.get(f"{recipe}, {data}", make, packages, config=settings_of(config))
        results[data] = result
        n = f"{result['n_test']:,} test images of {dataset.name}"
        note = f"Compared with {names[0]}, the kernel of this processor."
        for kind, title in (
            ("trained", f"`{recipe}` trained with each kernel, {n}"),
            ("predicted", f"One `model.npz` (`{recipe}`), {n}"),
        ):
            rows = [cells_of(name, row) for name, row in result[kind].items()]
            print_table(rows, title, note)
    print_last_line({"kernels": names, "results": results}, packages)


if __name__ == "__main__":
    main()
