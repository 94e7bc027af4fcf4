"""Measure which margin a contest of ``auto`` should demand, on training images alone.

``python -m experiments.field.contest_margin FOLDER --output FILE`` takes one kind of units on each
data set (:mod:`experiments.field.own_sets`) and tries four changes of it, as the third round of a
contest does, each with several seeds. The seed draws the images. The mean difference in the other
draws says what a change is worth, so it does not depend on luck in the draw that decides. All draws
are from the training images of the first split; test images are not read.

For each margin, in standard errors of the difference, the table has the share of the changes that
would be taken, the mean gain per trial (0 for changes not taken), and the share of the changes
taken that do harm. A second table has the mean difference of each change.

``--units`` tries half and twice as many units in place of these changes.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from experiments.field import own_sets
from experiments.shared.ledger import Ledger, print_last_line
from experiments.shared.options import end_quietly, file_name, whole_number
from experiments.shared.tables import print_table
from varpro_nn import Dataset
from varpro_nn.compute.compute import Compute
from varpro_nn.training.contest import (
    DISTORTED,
    MIRRORED,
    SHIFTED,
    Candidate,
    Field,
    with_layer,
)

CHANGES: dict[str, dict[str, Any]] = {
    "mirrored": MIRRORED, "shifted": SHIFTED, "distorted": DISTORTED,
    "softmax layer": with_layer("softmax"),
}  # fmt: skip
MARGINS = (0.0, 0.5, 1.0, 1.5, 2.0)
UNITS = {"half as many units": 0.5, "twice as many units": 2.0}
N_SEEDS = 4
KINDS = {
    "yaleb": "whole images", "digits": "windows", "mnist-1000": "windows",
    "kannada-dig": "windows",
}  # fmt: skip
"""Kinds of units by set; whitened windows for the others."""


def sizes_of(base: Candidate) -> dict[str, dict[str, Any]]:
    """Make the changes of the number of units: more or fewer sub-networks of the same size."""
    size, n = base.config.units_per_subnetwork, base.config.subnetworks.n_subnetworks
    numbers = {name: max(1, round(share * n)) for name, share in UNITS.items()}
    return {name: {"n_units": m * size, "n_subnetworks": m} for name, m in numbers.items()}


def differences(data: Dataset, kind: str, seed: int, *, units: bool) -> dict[str, list[float]]:
    """Try each change: difference to the kind of units without it, and its standard error."""
    found = {}
    with Compute(1) as compute:
        bar = Compute(progress=False).bar("", unit="")
        field = Field(data, seed, compute, bar, {})
        base = next(made for made in field.kinds_of_units() if made.name == kind)
        without = field.measure(3, base)
        for name, change in (sizes_of(base) if units else CHANGES).items():
            changed = field.changed(base, name, change)
            if changed is not None:
                found[name] = list(field.measure(3, changed).difference_to(without))
    return found


def by_margin(draws: dict[tuple[str, str], list[list[float]]]) -> list[dict[str, float]]:
    """For each margin: what would be taken, and what it is worth in the other draws."""
    z, worth = [], []
    for pairs in draws.values():
        d = np.array(pairs)  # (s, 2)
        z += list(d[:, 0] / np.maximum(d[:, 1], np.finfo(float).tiny))
        worth += list((d[:, 0].sum() - d[:, 0]) / (len(d) - 1))
    decides, gain = np.array(z), np.array(worth)
    rows = []
    for margin in MARGINS:
        taken = decides > margin
        rows.append({
            "margin": margin,
            "taken": float(taken.mean()),
            "gain": float(np.where(taken, gain, 0).mean()),
            "harmful": float((gain[taken] < 0).mean()) if taken.any() else 0.0,
        })  # fmt: skip
    return rows


def by_change(draws: dict[tuple[str, str], list[list[float]]]) -> list[dict[str, Any]]:
    """For each change: its trials, how many are better and worse, and the mean difference."""
    found: dict[str, list[float]] = {}
    for (_, change), pairs in draws.items():
        found.setdefault(change, []).extend(difference for difference, _ in pairs)
    return [
        {
            "change": change, "trials": len(d), "better": sum(x > 0 for x in d),
            "worse": sum(x < 0 for x in d), "mean": float(np.mean(d)),
        }
        for change, d in found.items()
    ]  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("folder", nargs="?", type=Path, help="of data sets; none: public ones")
    options.add_argument("--only", nargs="+", metavar="NAME", help="these data sets alone")
    options.add_argument("--seeds", type=whole_number(2), default=N_SEEDS, metavar="N",
                         help=f"number of draws ({N_SEEDS})")  # fmt: skip
    options.add_argument("--units", action="store_true",
                         help="half and twice as many units")  # fmt: skip
    options.add_argument("--output", type=file_name, metavar="FILE",
                         help="keep results in JSON lines")  # fmt: skip
    args = options.parse_args()
    end_quietly()
    try:
        sources = own_sets.chosen_sets(own_sets.sources(args.folder), args.only)
    except ValueError as error:
        options.error(str(error))
    draws: dict[tuple[str, str], list[list[float]]] = {}
    for name, source in sources.items():
        data = own_sets.load_split(source, name, 0)
        kind = KINDS.get(name, "whitened windows")
        ledger = Ledger(args.output, data=data.digest)
        for seed in range(args.seeds):
            entry = {"set": name, "kind": kind, "seed": seed}
            if args.units:
                entry["changes"] = "units"
            made = partial(differences, data, kind, seed, units=args.units)
            found = ledger.get(entry, made)
            for change, pair in found.items():
                draws.setdefault((name, change), []).append(pair)
    rows, changes = by_margin(draws), by_change(draws)
    cells = [
        {
            "margin": f"{row['margin']:.1f}",
            "changes taken": f"{row['taken']:.1%}",
            "gain per trial": f"{row['gain']:+.5f}",
            "harmful among those taken": f"{row['harmful']:.0%}",
        }
        for row in rows
    ]
    n = sum(map(len, draws.values()))
    print_table(cells, f"{n} trials on {len(sources)} sets")
    of_changes = [
        {
            "change": row["change"], "trials": str(row["trials"]),
            "better / worse": f"{row['better']} / {row['worse']}",
            "mean difference": f"{row['mean']:+.4f}",
        }
        for row in changes
    ]  # fmt: skip
    print_table(of_changes, "By change")
    print_last_line({"rows": rows, "changes": changes, "n_trials": n})


if __name__ == "__main__":
    main()
