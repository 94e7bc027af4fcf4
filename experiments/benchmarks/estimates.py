"""Estimates before the start, against what runs took.

``python -m experiments.benchmarks.estimates`` trains recipes and random settings, each in a
separate process with one thread, and estimates each in a separate process too
(:func:`varpro_nn.training.estimate.estimate`). The table has CPU seconds and peak memory of each
run beside the estimates, and the share of runs whose estimate is right within a factor of 1.5.

Recipes are trained on fewer images, where all of them would take too long. Random settings are
drawn with ``--seed``: units, activation, sizes, scheme, images, output layer, copies, and data
(MNIST, CIFAR-10 and digits, of the first two 500 to 20,000 training images). Settings that would
take more than ``--longest`` CPU seconds, by a first look at their sizes, are drawn again.
``--n-random`` says how many to measure. Each estimate is made right before its run, on a machine
that is as busy. The last line is JSON.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from experiments.shared.ledger import Ledger, print_last_line, settings_of
from experiments.shared.options import parser, whole_number
from experiments.shared.processes import child
from experiments.shared.tables import print_table
from varpro_nn import TrainConfig, configure, load, run
from varpro_nn.training.estimate import estimate, first_look

FACTOR = 1.5
"""An estimate is right if it is within this factor, either way."""
NAMES = {"cpu_seconds": "CPU s", "memory_mib": "MiB"}
"""What is estimated."""
RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "default": ("mnist", {"recipe": "default", "n_train": 20_000}),
    "default, cifar10": ("cifar10", {"recipe": "default", "first_units": None, "n_train": 5000}),
    "default, digits": ("digits", {"recipe": "default"}),
    "tiny, mnist": ("mnist", {"recipe": "tiny", "n_train": 10_000}),
    "tiny, cifar10": ("cifar10", {"recipe": "tiny", "n_train": 10_000}),
    "accurate, mnist": ("mnist", {"recipe": "accurate", "n_train": 5000}),
    "bilinear, mnist": ("mnist", {"recipe": "bilinear"}),
    "paper, mnist": ("mnist", {"recipe": "paper", "n_train": 10_000}),
}
"""Recipes that are measured, each with its data."""
QUICK = {
    "tiny, digits": ("digits", {"recipe": "tiny", "n_train": 500}),
    "bilinear, digits": ("digits", {"recipe": "bilinear", "n_units": 40, "n_subnetworks": 2}),
}
Row = dict[str, Any]
Run = tuple[str, str, TrainConfig]
"""Name, data and settings."""


def random_settings(rng: np.random.Generator) -> tuple[str, dict[str, Any]]:
    """Draw data, and settings that suit them."""

    def between(low: float, high: float) -> int:
        """Draw a whole number, its logarithm uniform."""
        return round(float(np.exp(rng.uniform(np.log(low), np.log(high)))))

    data = str(rng.choice(["mnist", "cifar10", "digits"], p=[0.45, 0.35, 0.2]))
    settings: dict[str, Any] = {"n_train": 1500 if data == "digits" else between(500, 20_000)}
    units = str(rng.choice(["patch", "bilinear", "quadratic", "dense"], p=[0.55, 0.2, 0.15, 0.1]))
    most = {"patch": 12, "dense": 10}.get(units, 80)
    n_subnetworks = between(1, 6)
    settings |= {
        "units": units, "n_subnetworks": n_subnetworks,
        "n_units": n_subnetworks * between(2, most),
        "activation": str(rng.choice(["logistic", "tanh", "rectifier", "two-sided"])),
        "scheme": str(rng.choice(["independent", "stages", "untrained"], p=[0.45, 0.45, 0.1])),
        "images_per_subnetwork": between(300, 5000), "n_rounds": int(rng.integers(1, 4)),
        "max_nfev": int(rng.integers(2, 9)), "n_copies": int(rng.integers(0, 3)),
        "output_layer": str(rng.choice(["ridge", "hinge", "softmax"])), "shift": 1,
        "elastic": float(rng.choice([0.0, 0.4])), "n_stages": 1, "threshold": 0.0,
    }  # fmt: skip
    if settings["activation"] == "two-sided":
        settings["threshold"] = 0.5
    if settings["scheme"] == "stages":
        settings["n_stages"] = int(rng.integers(1, n_subnetworks + 1))
    if units == "patch":
        settings |= {
            "window": 3 if data == "digits" else int(rng.choice([3, 5, 7])),
            "grid": int(rng.integers(1, 5)),
            "stride": 1 if data == "digits" else int(rng.integers(1, 3)),
            "training_stride": None,
        }  # fmt: skip
        if data == "cifar10":
            settings["first_units"] = None
            settings["n_components"] = 20  # of windows of 27 numbers or more
    return data, settings


def drawn(n_random: int, seed: int, longest: float, data_dir: str | None) -> Iterator[Run]:
    """Draw settings of runs that are short enough."""
    rng, number = np.random.default_rng(seed), 0
    while number < n_random:
        data, settings = random_settings(rng)
        dataset = load(data, data_dir)
        config = configure(data=dataset, **{"seed": seed, **settings})
        if first_look(config, dataset, n_jobs=1).cpu_seconds <= longest:
            number += 1
            yield f"random {number}", data, config


def runs_of(args: argparse.Namespace) -> Iterator[Run]:
    """Give the name, the data and the settings of each run."""
    for name, (data, settings) in (QUICK if args.quick else RECIPES).items():
        dataset = load(data, args.data_dir)
        yield name, data, configure(data=dataset, **{"seed": args.seed, **settings})
    n_random, longest = (2, 1.0) if args.quick else (args.n_random, args.longest)
    yield from drawn(n_random, args.seed, longest, args.data_dir)


def in_this_process(task: Mapping[str, Any]) -> Row:
    """Train, or estimate, as a task asks for."""
    dataset = load(task["data"], task["data_dir"])
    config = TrainConfig.from_dict(task["config"])
    if task["what"] == "estimate":
        found = estimate(config, dataset, n_jobs=1)
        steps = {step.name: [step.cpu_seconds, step.memory_mib] for step in found.steps}
        return {"cpu_seconds": found.cpu_seconds, "memory_mib": found.memory_mib, "steps": steps}
    metrics = run(config, dataset, n_jobs=1).metrics
    return {
        "cpu_seconds": metrics["cpu_seconds"], "memory_mib": metrics["peak_memory_mib"],
        "training_cpu_seconds": metrics["training_cpu_seconds"],
    }  # fmt: skip


def in_child(what: str, run_: Run, data_dir: str | None) -> Row:
    """Train, or estimate, in a separate process."""
    _, data, config = run_
    task = {"what": what, "config": asdict(config), "data": data, "data_dir": data_dir}
    lines = child(["experiments.benchmarks.estimates", "--task", json.dumps(task)])
    return dict(json.loads(lines[-1]))


def on_both(run_: Run, data_dir: str | None) -> Row:
    """Estimate, then train at once: a busy machine makes both slower."""
    what = {"estimate": "estimate", "measured": "run"}
    return {name: in_child(task, run_, data_dir) for name, task in what.items()}


def described(config: TrainConfig) -> str:
    """Name the settings that decide on time and memory."""
    units, subnetworks, output = config.units, config.subnetworks, config.output
    staged = subnetworks.scheme == "stages"
    scheme = f"{subnetworks.n_stages} stages" if staged else subnetworks.scheme
    n_train = "all" if config.n_train is None else f"{config.n_train:,}"
    return (
        f"{units.n_units:,} {units.kind} in {subnetworks.n_subnetworks}, {scheme}, "
        f"{subnetworks.n_rounds} x {subnetworks.max_nfev} evaluations on "
        f"{subnetworks.images_per_subnetwork:,}; {output.layer} on {n_train}, "
        f"{output.n_copies} copies"
    )


def shares(rows: Sequence[Row], name: str) -> tuple[float, float]:
    """Share of estimates within the factor, and the geometric mean of estimate over measured."""
    ratios = np.log([row["estimate"][name] / row["measured"][name] for row in rows])
    return float(np.mean(np.abs(ratios) <= np.log(FACTOR))), float(np.exp(ratios.mean()))


def print_rows(rows: Sequence[Row]) -> None:
    """Print a table of all runs."""
    told = []
    for row in rows:
        measured, estimated = row["measured"], row["estimate"]
        cells = {"run": row["name"], "data": row["data"], "settings": row["settings"]}
        for name, unit in NAMES.items():
            ratio = estimated[name] / measured[name]
            star = "" if 1 / FACTOR <= ratio <= FACTOR else " *"
            cells[unit] = f"{measured[name]:.3g}"
            cells[f"estimate, {unit}"] = f"{estimated[name]:.3g}"
            cells[f"ratio, {unit}"] = f"{ratio:.2f}{star}"
        told.append(cells)
    print_table(
        told, "Runs and their estimates",
        f"CPU seconds of the run and its peak memory. A star: not within a factor of {FACTOR}.",
    )  # fmt: skip


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--n-random", type=whole_number(0), default=30, metavar="N")
    made.add_argument("--longest", type=float, default=45.0, metavar="S", help="CPU seconds (45)")
    made.add_argument("--task", help=argparse.SUPPRESS)
    args = made.parse_args()
    if args.task is not None:
        print(json.dumps(in_this_process(json.loads(args.task))))
        return
    ledger, rows = Ledger(args.output), []
    for each in runs_of(args):
        name, data, config = each
        both = ledger.get(settings_of(config), partial(on_both, each, args.data_dir), data=data)
        rows.append({"name": name, "data": data, "settings": described(config), **both})
    print_rows(rows)
    told = {}
    for name, unit in NAMES.items():
        share, mean = shares(rows, name)
        told[name] = {"share_within": share, "mean_ratio": mean}
        print(
            f"\n{unit}: {share:.0%} of {len(rows)} estimates within a factor of {FACTOR}; "
            f"estimate over measured {mean:.2f} (geometric mean)."
        )
    print_last_line({"rows": rows, "factor": FACTOR, **told})


if __name__ == "__main__":
    main()
