"""Cost and accuracy when one setting is doubled, in every recipe.

``python -m experiments.reliability.overrides`` takes each recipe with one setting overridden, and
again with twice as much: units, sub-networks of the same units, images to train on, images of a
sub-network, cells (of patch units, 16 to 36); and it goes through units of another kind and the
schemes. The networks train on the first images of MNIST. The last 10,000 training images measure
the accuracy; the test images are not read. Each run is a separate process with one job.

A row is marked where the training takes more than 2.6 times as long, or the accuracy falls by more
than two standard errors. A setting that is refused is printed with its message. ``--recipes`` takes
some; ``--quick`` takes few units and images. The last line is JSON.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from experiments.shared.ledger import Ledger, print_last_line, settings_of
from experiments.shared.options import parser
from experiments.shared.processes import child
from experiments.shared.tables import print_table
from varpro_nn import configure, load, run
from varpro_nn.training.recipes import RECIPES

Row = dict[str, Any]
MOST, N_TEST = 2.6, 10_000
UNITS = {"default": 72, "tiny": 16, "accurate": 96, "bilinear": 500, "paper": 500}
"""Units of the base of each recipe; the largest recipes have more."""
BASE: Row = {"n_train": 4000}
QUICK: Row = {"n_train": 300, "images_per_subnetwork": 100, "max_nfev": 2, "n_copies": 0}


def pairs_of(recipe: str, units: int) -> Iterator[tuple[str, Row, Row]]:
    """Name what is doubled, with the settings before and after."""
    base: Row = {"n_units": units} | BASE
    yield "units", base, base | {"n_units": 2 * units}
    yield "units again", base | {"n_units": 2 * units}, base | {"n_units": 4 * units}
    n_subnetworks = configure(recipe, **base).subnetworks.n_subnetworks
    if units % (2 * n_subnetworks) == 0:
        yield "sub-networks", base, base | {"n_subnetworks": 2 * n_subnetworks}
    yield "images", base, base | {"n_train": 2 * base["n_train"]}
    yield (
        "images of a sub-network",
        base | {"images_per_subnetwork": 1000},
        base | {"images_per_subnetwork": 2000},
    )
    if RECIPES[recipe].units.kind == "patch":
        yield "cells", base | {"grid": 4}, base | {"grid": 6}
    for kind in ("bilinear", "patch"):
        few: Row = {"units": kind, "n_units": 100} | BASE
        yield f"units, --units {kind}", few, few | {"n_units": 200}
    for scheme in ("independent", "stages", "untrained"):
        chosen = base | {"scheme": scheme} | ({"n_stages": 3} if scheme == "stages" else {})
        if scheme != "stages" or n_subnetworks >= 3:
            yield f"units, --scheme {scheme}", chosen, chosen | {"n_units": 2 * units}


def measure(recipe: str, options: Row, seed: int, data_dir: str | None) -> Row:
    """Train on the first training images of MNIST, measure on the last."""
    whole = load("mnist", data_dir)
    n = options["n_train"]
    train, held_out = whole.train.take(slice(n)), whole.train.take(slice(-N_TEST, None))
    data = replace(whole, train=train, test=held_out)
    try:
        config = configure(recipe, data=data, seed=seed, **options)
    except ValueError as error:
        return {"refused": str(error)}
    metrics = run(config, data, n_jobs=1).metrics
    return {
        "cpu_seconds": metrics["training_cpu_seconds"],
        "held_out_accuracy": metrics["test_accuracy"],
        "error": metrics["test_accuracy_standard_error"],
        "recipe": config.recipe,
        "scheme": config.subnetworks.scheme,
    }


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--recipes", nargs="+", choices=tuple(UNITS), default=list(UNITS))
    made.add_argument("--task", help=argparse.SUPPRESS)
    args = made.parse_args()
    if args.task is not None:
        recipe, options = json.loads(args.task)
        print(json.dumps(measure(recipe, options, args.seed, args.data_dir)))
        return
    ledger = Ledger(args.output, seed=args.seed, data=load("mnist", args.data_dir).digest)
    more = [] if args.data_dir is None else ["--data-dir", args.data_dir]

    def in_child(recipe: str, options: Row) -> Row:
        task = ["--task", json.dumps([recipe, options]), "--seed", str(args.seed), *more]
        return dict(json.loads(child(["experiments.reliability.overrides", *task])[-1]))

    rows, cells = [], []
    for recipe in args.recipes[:1] if args.quick else args.recipes:
        pairs = list(pairs_of(recipe, 12 if args.quick else UNITS[recipe]))
        for doubled, *both in pairs[:1] if args.quick else pairs:
            found: list[Row] = []
            for options in both:
                point = options | (QUICK if args.quick else {})
                found.append(
                    ledger.get(
                        [recipe, point], partial(in_child, recipe, point),
                        config=settings_or_fault(recipe, point),
                    )
                )  # fmt: skip
            rows.append({"recipe": recipe, "doubled": doubled, "runs": found})
            cells.append({"recipe": recipe, "doubled": doubled, **cells_of(found)})
    print_table(cells, "Twice as much of one setting")
    print_last_line({"rows": rows})


def settings_or_fault(recipe: str, options: Row) -> Row | str:
    """Name all settings, on which a row depends, or say why there are none."""
    try:
        return settings_of(configure(recipe, **options))
    except ValueError as error:
        return str(error)


def cells_of(found: list[Row]) -> dict[str, str]:
    """Make the cells of a pair of runs."""
    refused = [row["refused"] for row in found if "refused" in row]
    if refused:
        return {"CPU s": "", "ratio": "", "accuracy": refused[0], "": "refused"}
    before, after = found
    ratio = after["cpu_seconds"] / before["cpu_seconds"]
    fall = before["held_out_accuracy"] - after["held_out_accuracy"]
    marks = ["slow"] * (ratio > MOST)
    marks += ["worse"] * (fall > 2 * float(np.hypot(before["error"], after["error"])))
    return {
        "CPU s": f"{before['cpu_seconds']:.1f} → {after['cpu_seconds']:.1f}",
        "ratio": f"{ratio:.2f}",
        "accuracy": f"{before['held_out_accuracy']:.4f} → {after['held_out_accuracy']:.4f}",
        "": ", ".join(marks),
    }


if __name__ == "__main__":
    main()
