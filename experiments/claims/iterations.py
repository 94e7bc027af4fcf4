"""How many iterations the paper's sub-networks take: its "about fifteen".

``python -m experiments.claims.iterations --output FILE`` trains sub-networks of quadratic units on
MNIST (seeded draws from the first 50,000 training images; no test image is read). The paper reports
"robust convergence in about fifteen iterations for all the mini-network's training" and names no
tolerance. An iteration is an accepted step; at most 100 evaluations each. By rows:

* all 104 sub-networks of 2,000 images and 50 units, by this project's default (LSMR, capped, with
  its penalties), until a step lowers the cost by less than 0.1 %; from the same fits, the first
  step that lowers it by less than 1 %;
* the first 6 until 1e-6, the default tolerance of ``fit``, and without penalties (the paper has
  none);
* the first by MINPACK's Levenberg-Marquardt on the reduced problem, whose steps are those on the
  whole Jacobian. It is the paper's optimiser, but for the scale of the weights: ``leastsq`` takes
  the lengths of the columns of J by default, this project's ``lm`` the weights as they are;
* sub-networks of 500 images and 10 units by the default and by MINPACK.

``--quick`` takes the digits of scikit-learn and few units.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from experiments.shared.ledger import Ledger, print_last_line
from experiments.shared.options import parser
from experiments.shared.subnetwork import images_to_draw_from, path_of, subnetwork
from experiments.shared.tables import print_table, spread
from varpro_nn.data import ImageSet
from varpro_nn.varpro.fit import fit

BINS = (10, 15, 20, 30, 40, 60, 99)
BATCH = 4  # sub-networks of an entry of the ledger
PENALTIES = {"ridge": 1.0, "weight_decay": 0.1}
NO_PENALTIES = {"ridge": 0.0, "weight_decay": 0.0}
DEFAULT: dict[str, Any] = {"solver": "lsmr", "inner_iterations": 20, "max_nfev": 100, "ftol": 1e-3}


def iterations(
    train: ImageSet,
    sizes: tuple[int, int],
    seed: Sequence[int],
    penalties: dict[str, Any],
    options: dict[str, Any],
) -> dict[str, Any]:
    """Train one sub-network; its accepted steps, and how far they came."""
    functional, w0 = subnetwork(train, *sizes, seed, **penalties)
    report = fit(functional, w0, **options)
    costs = np.array([cost for cost, _ in path_of(report)])
    below = np.flatnonzero(-np.diff(costs) < 0.01 * costs[:-1])
    return {
        "iterations": len(costs) - 1,
        "converged": report.converged,
        "first_below_1_percent": int(below[0]) + 1 if below.size else None,
        "fall_by_15": float((costs[0] - costs[:16].min()) / (costs[0] - costs.min())),
        "cost": report.cost,
        "cpu_seconds": report.cpu_seconds,
    }  # fmt: skip


def all_iterations(
    train: ImageSet,
    sizes: tuple[int, int],
    seed: int,
    members: Sequence[int],
    penalties: dict[str, Any],
    options: dict[str, Any],
) -> list[dict[str, Any]]:
    """Train the sub-networks of these numbers."""
    return [iterations(train, sizes, (seed, i), penalties, options) for i in members]


def histogram(
    name: str, counts: Sequence[int | None], rows: list[dict[str, Any]]
) -> dict[str, str]:
    """Count iterations by bins; None: not within the limit."""
    ended = np.array([count for count in counts if count is not None], dtype=np.int64)
    places = np.searchsorted(BINS, ended)
    names = [f"ended in {a + 1}-{b}" for a, b in zip((0, *BINS), BINS, strict=False)]
    seconds = [row["cpu_seconds"] for row in rows]
    return {
        "until": name,
        "sub-networks": str(len(counts)),
        **{text: str(np.count_nonzero(places == i)) for i, text in enumerate(names)},
        "not within 100 evaluations": str(len(counts) - ended.size),
        "median, where ended": f"{np.median(ended):.0f}" if ended.size else "",
        "fall of cost in the first 15": f"{np.mean([row['fall_by_15'] for row in rows]):.0%}",
        "CPU s each": spread(seconds, "{:.1f}"),
    }


def main() -> None:
    args = parser(__doc__).parse_args()
    quick = args.quick
    train = images_to_draw_from(args)
    paper, small = ((150, 5), (100, 3)) if quick else ((2000, 50), (500, 10))
    many, few, one = (4, 3, 1) if quick else (104, 6, 1)
    minpack = DEFAULT | {"solver": "lm"}
    groups: dict[str, tuple[int, tuple[int, int], dict[str, Any], dict[str, Any]]] = {
        "0.1 %, LSMR": (many, paper, PENALTIES, DEFAULT),
        "1e-6 (default), LSMR": (few, paper, PENALTIES, DEFAULT | {"ftol": 1e-6}),
        "0.1 %, LSMR, no penalties": (few, paper, NO_PENALTIES, DEFAULT),
        "0.1 %, MINPACK": (one, paper, PENALTIES, minpack),
        "small, 0.1 %, LSMR": (many // 4, small, PENALTIES, DEFAULT),
        "small, 0.1 %, MINPACK": (many // 4, small, PENALTIES, minpack),
        "small, 0.1 %, MINPACK, no penalties": (many // 4, small, NO_PENALTIES, minpack),
    }
    ledger = Ledger(args.output, data=train.digest, seed=args.seed)
    kept: dict[str, list[dict[str, Any]]] = {}
    with threadpool_limits(1, user_api="blas"):
        for name, (n_members, sizes, penalties, options) in groups.items():
            rows: list[dict[str, Any]] = []
            for first in range(0, n_members, BATCH):
                members = list(range(first, min(first + BATCH, n_members)))
                entry = {"iterations": members, "images, units": sizes, **penalties, **options}
                made = (train, sizes, args.seed, members, penalties, options)
                rows += ledger.get(entry, partial(all_iterations, *made))
            kept[name] = rows
    table = [
        histogram(name, [r["iterations"] if r["converged"] else None for r in rows], rows)
        for name, rows in kept.items()
    ]
    rows = kept["0.1 %, LSMR"]
    counts = [row["first_below_1_percent"] for row in rows]
    below = histogram("1 %, LSMR (the same fits)", counts, rows)
    print_table(
        [below | {"CPU s each": ""}, *table],
        f"Iterations of sub-networks, {paper[0]:,} images and {paper[1]} units (small: {small[0]} "
        f"and {small[1]}) until a step lowers the cost by less; the paper: about fifteen",
    )
    ended = sum(row["converged"] and row["iterations"] <= 15 for row in rows)
    print(
        f"\n'About fifteen': {ended} of {len(rows)} end within 15 at 0.1 %, "
        f"{sum((count or 100) <= 15 for count in counts)} of {len(rows)} at 1 %."
    )
    print_last_line({"iterations": kept})


if __name__ == "__main__":
    main()
