"""CPU time and memory of each phase of training against images, units, classes and side.

``python -m experiments.benchmarks.scaling_laws`` runs every phase by itself on made images (noise
around a mean image of each class, ``uint8``), in a separate process with one thread, and varies one
quantity at a time around a base point:

* features: whole-image bilinear units, and units on windows of 5 x 5 pixels in 4 x 4 cells;
* one evaluation of a sub-network with its Jacobian and 20 inner iterations of LSMR: bilinear
  units in operator form and in reduced form, units on windows in reduced form;
* the glue: Gram matrix, factorisation with the weights of all 15 ridges, leave-one-out errors (no
  features in the times of these three); and the prediction of the finished network.

Each phase is repeated, three times and a fifth of a CPU second at least, the smallest time taken.
Beside it stands that of its bare matrix products (:mod:`experiments.benchmarks.scaling_counts`),
which numpy does on shapes and types of the same kind, and the ratio of the two. Slopes on log-log
axes are fitted by least squares to the last half of the points: of the measured time with its
standard error (of the fit: three points, one degree of freedom), of the products alone, and of the
operation count at the same points, the prediction. A star: measured and predicted differ by more
than 0.1 and two standard errors. Where the slope of the products alone follows the measured one,
products that run slower an operation when they are small or thin are the reason; where it follows
the count, it is work that is no product.

Memory is the peak of resident memory less that of the process with its images and nothing done; for
the glue it includes the features and sums that the phase starts from. Jobs: CPU and wall seconds of
six sub-networks in this process and on a pool of two workers (wall times of more:
``experiments.benchmarks.jobs``). ``--figure FILE`` draws time against each quantity, the predicted
slopes dashed. The last line is JSON.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from experiments.benchmarks.scaling_counts import Point
from experiments.benchmarks.scaling_phases import PHASES, QUICK, QUICK_BASE, made_data, units_of
from experiments.shared.figures import add_figure, drawn, legend, log_log
from experiments.shared.ledger import Ledger, print_last_line
from experiments.shared.options import parser
from experiments.shared.processes import child
from experiments.shared.slopes import slope
from experiments.shared.tables import print_table
from varpro_nn._io.memory import peak_memory_mib
from varpro_nn.compute.compute import Compute
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.training.config import SubnetworkSettings
from varpro_nn.training.resources import Clock
from varpro_nn.training.subnetwork import SubnetworkPlan
from varpro_nn.training.subnetworks import train_subnetworks

QUANTITIES = {"n": "images", "h": "units", "k": "classes", "side": "side of the images, pixels"}
REPEATS, LONG_ENOUGH = 3, 0.2
"""Times that each point is repeated at least; short ones more often, up to so many CPU seconds."""
Row = dict[str, Any]


def smallest(once: Callable[[], float], long_enough: float) -> float:
    """Repeat what tells its seconds; the smallest of them."""
    start, times = time.process_time(), [once() for _ in range(REPEATS)]
    while time.process_time() - start < long_enough:
        times.append(once())
    return min(times)


def measure(name: str, point: Point, seed: int, long_enough: float) -> Row:
    """Run a phase and its products at one point."""
    phase = PHASES[name]
    images, labels = made_data(point, seed)
    before = peak_memory_mib()
    with threadpool_limits(1, user_api="blas"):
        once = phase.prepare(point, images, labels)
        seconds = smallest(once, long_enough)
        extra = peak_memory_mib() - before
        products = phase.products(point)
        alone = smallest(lambda: sum(product.cpu_seconds() for product in products), long_enough)
    return {
        "cpu_seconds": seconds,
        "products_cpu_seconds": alone,
        "gflop": sum(p.flop for p in products) / 1e9,
        "extra_mib": extra,
    }


def measure_jobs(n_jobs: int, point: Point, seed: int) -> Row:
    """Train six sub-networks with a number of jobs."""
    training = TrainingSet(*made_data(point, seed), point.k)
    settings = SubnetworkSettings(n_subnetworks=6, images_per_subnetwork=point.n // 2, max_nfev=6)
    plan, times = SubnetworkPlan(units_of(point, False), settings, seed=seed), []
    for _ in range(REPEATS):
        clock = Clock()
        with Compute(n_jobs) as compute:
            train_subnetworks(plan, training, compute)
        times.append(clock.read())
    wall, cpu = (min(seconds) for seconds in zip(*times, strict=True))
    return {"n_jobs": n_jobs, "cpu_seconds": cpu, "wall_seconds": wall}


def base_of(name: str, quick: bool) -> Point:
    """Point around which a phase is measured."""
    return QUICK_BASE if quick else PHASES[name].base


def run_task(task: str) -> Row:
    """Do what a task, as JSON, asks for: a phase at a point, or the sub-networks with jobs."""
    what, point, seed, long_enough = json.loads(task)
    if isinstance(what, int):
        return measure_jobs(what, Point(*point), seed)
    return measure(what, Point(*point), seed, long_enough)


def in_child(task: str) -> Row:
    """Do a task in a separate process."""
    return dict(json.loads(child(["experiments.benchmarks.scaling_laws", "--task", task])[-1]))


def fit_slopes(rows: list[Row]) -> Row:
    """Slopes of one phase along one quantity."""
    x = [float(row["value"]) for row in rows]
    columns = ("cpu_seconds", "products_cpu_seconds", "gflop")
    (measured, error), (alone, _), (predicted, _) = (
        slope(x, [row[column] for row in rows]) for column in columns
    )
    extra = [row["extra_mib"] for row in rows]
    return {
        "phase": rows[0]["phase"], "quantity": rows[0]["quantity"],
        "slope": measured, "error": error, "slope_of_products": alone, "predicted": predicted,
        # Under a few MiB it is what libraries set aside, and no law.
        "slope_of_memory": slope(x, extra)[0] if min(extra[len(x) // 2 :]) > 4 else None,
        "departs": abs(measured - predicted) > max(0.1, 2 * error),
    }  # fmt: skip


def by_phase(rows: list[Row], quantity: str) -> dict[str, list[Row]]:
    """Rows of one quantity, by phase, each in the order of its values."""
    chosen = [row for row in rows if row["quantity"] == quantity]
    return {
        name: sorted((r for r in chosen if r["phase"] == name), key=lambda r: int(r["value"]))
        for name in dict.fromkeys(row["phase"] for row in chosen)
    }


def print_quantity(rows: list[Row], quantity: str) -> None:
    """Print times and memory along one quantity."""
    told = []
    for name, of_phase in by_phase(rows, quantity).items():
        for row in of_phase:
            seconds, alone = row["cpu_seconds"], row["products_cpu_seconds"]
            told.append(
                {
                    "phase": name, QUANTITIES[quantity]: f"{row['value']:,}",
                    "Gflop": f"{row['gflop']:.3g}", "CPU s": f"{seconds:.3g}",
                    "of its products": f"{alone:.3g}", "ratio": f"{seconds / alone:.2f}",
                    "memory, MiB": f"{row['extra_mib']:.0f}",
                }
            )  # fmt: skip
    print_table(told, f"Against {QUANTITIES[quantity]}")


def print_slopes(fits: list[Row]) -> None:
    """Print all slopes."""
    told = []
    for row in fits:
        memory = row["slope_of_memory"]
        told.append(
            {
                "phase": row["phase"], "varied": QUANTITIES[row["quantity"]],
                "slope": f"{row['slope']:.2f} ± {row['error']:.2f}{' *' * row['departs']}",
                "of its products": f"{row['slope_of_products']:.2f}",
                "predicted": f"{row['predicted']:.2f}",
                "memory": "" if memory is None else f"{memory:.2f}",
            }
        )  # fmt: skip
    note = (
        "Of CPU seconds, of those of the products alone, of the operation count (predicted), and "
        "of the memory beyond the images. A star: more than 0.1 and two standard errors from "
        "what is predicted."
    )
    print_table(told, "Slopes on log-log axes, last half of the points", note)


def draw(rows: list[Row], fits: list[Row], path: Path) -> None:
    """Draw a panel for each quantity: CPU seconds of each phase, predicted slopes dashed."""
    colours = {name: f"C{number}" for number, name in enumerate(PHASES)}
    handles: dict[str, Any] = {}
    with drawn(path, (2, 2), (11, 9), sharey=True) as (figure, axes):
        for panel, (quantity, meaning) in zip(axes.flat, QUANTITIES.items(), strict=True):
            for name, of_phase in by_phase(rows, quantity).items():
                x = np.array([row["value"] for row in of_phase], dtype=float)
                y = np.array([row["cpu_seconds"] for row in of_phase])
                (handles[name],) = panel.plot(x, y, "o-", color=colours[name], markersize=4)
                (fit,) = (f for f in fits if (f["phase"], f["quantity"]) == (name, quantity))
                last = x[len(x) // 2 :]
                # Through the last point: what the count says of the others.
                line = y[-1] * (last / x[-1]) ** fit["predicted"]
                panel.plot(last, line, "--", color=colours[name], linewidth=1)
            log_log(panel, meaning)
        for panel in axes[:, 0]:
            panel.set_ylabel("CPU seconds")
        (handles["predicted slope"],) = axes[0, 0].plot([], [], "--", color="0.4", linewidth=1)
        legend(figure, handles, 4)


def main() -> None:
    made = parser(__doc__)
    add_figure(made)
    made.add_argument("--only", nargs="+", choices=tuple(PHASES), metavar="PHASE")
    made.add_argument("--task", help=argparse.SUPPRESS)
    args = made.parse_args()
    if args.task is not None:
        print(json.dumps(run_task(args.task)))
        return
    # In one process, memory is that of what went before as well.
    run, long_enough = (run_task, 0.0) if args.quick else (in_child, LONG_ENOUGH)
    ledger = Ledger(args.output, seed=args.seed, repeats=[REPEATS, long_enough])

    def kept(what: str | int, point: Point) -> Row:
        task = json.dumps([what, point, args.seed, long_enough])
        return dict(ledger.get([what, point._asdict()], partial(run, task)))

    rows = []
    for name in args.only or PHASES:
        phase, base = PHASES[name], base_of(name, args.quick)
        for quantity in phase.values:
            for value in (QUICK if args.quick else phase.values)[quantity]:
                found = kept(name, base._replace(**{quantity: value}))
                rows.append({"phase": name, "quantity": quantity, "value": value, **found})
    of_jobs = QUICK_BASE if args.quick else Point(4000, 50, 10, 28)
    jobs = [kept(n_jobs, of_jobs) for n_jobs in ((1,) if args.quick else (1, 2))]

    chosen = args.only or list(PHASES)
    counts = [
        {
            "phase": name, "operations": PHASES[name].count,
            "n, h, k, s": ", ".join(f"{value:,}" for value in base_of(name, args.quick)),
        }
        for name in chosen
    ]  # fmt: skip
    fits = []
    note = (
        "n images of s x s pixels, h units with P weights in all, m cells, q columns of "
        "features, k classes, g ridges. Each is varied alone, the others as in the last column."
    )
    print_table(counts, "Operations and base points", note)
    for quantity in QUANTITIES:
        if found := by_phase(rows, quantity):
            print_quantity(rows, quantity)
            fits += [fit_slopes(of_phase) for of_phase in found.values()]
    print_slopes(fits)
    print_table(
        [
            {"jobs": str(row["n_jobs"]), "CPU s": f"{row['cpu_seconds']:.1f}",
             "wall s": f"{row['wall_seconds']:.1f}"}
            for row in jobs
        ],
        f"Six sub-networks of {of_jobs.h} bilinear units on {of_jobs.n // 2:,} images each",
    )  # fmt: skip
    if args.figure:
        draw(rows, fits, args.figure)
    print_last_line({"rows": rows, "slopes": fits, "jobs": jobs})


if __name__ == "__main__":
    main()
