"""Random units beside trained ones of the same number, by kind of unit and number of columns.

``python -m experiments.claims.random_units --output FILE`` trains units of five kinds on all
training images of MNIST, and leaves as many as they were drawn, from the same seed. Both get the
same output layer: ridge, its penalty chosen by leave-one-out on the training images. *Columns* are
those of the output layer, 250, 1,000 and 5,200: a whole-image unit has one, a patch unit one for
each of its 16 cells, so that 16, 62 and 325 of them make 256, 992 and 5,200.

Both networks of a pair are measured on the same test images, so their difference has a smaller
error than two separate samples would give it: it comes from the images that only one of them gets
right (McNemar). Where there are several seeds, the spread of their differences is added in squares.
Where a difference is not above two such errors, training has not won, and the last column says so.

``--only`` takes kinds and numbers of columns: ``--only dense patches 250`` makes two rows. Dense
units take the longest: 2 CPU minutes a pair at 250 at most, a quarter of an hour or more at 5,200.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from experiments.shared.ledger import Ledger, print_last_line, settings_of
from experiments.shared.options import parser
from experiments.shared.tables import print_table
from experiments.shared.uncertainty import mean_and_error
from varpro_nn import TrainConfig, configure, load, run
from varpro_nn.data import Dataset

KINDS: dict[str, dict[str, Any]] = {
    "quadratic": {"recipe": "paper", "n_train": None},
    "bilinear": {"recipe": "bilinear"},
    "rank-2": {"recipe": "bilinear", "rank": 2},
    "dense": {"recipe": "bilinear", "units": "dense", "images_per_subnetwork": 2000},
    "patches": {
        "recipe": "default", "scheme": "independent", "n_stages": 1, "n_copies": 0,
        "output_layer": "ridge", "standardise": False,
    },
}  # fmt: skip
"""The settings of each kind: those of its recipe, the output layer that of ``bilinear``."""
LABELS = {"rank-2": "bilinear of rank 2"}
SEEDS = {250: 5, 1000: 3, 5200: 1}
"""Numbers of columns, and seeds of each."""
N_SUBNETWORKS: dict[str, dict[int, int]] = {
    "quadratic": {250: 5, 1000: 20, 5200: 104},
    "bilinear": {250: 1, 1000: 5, 5200: 26},
    "rank-2": {250: 1, 1000: 5, 5200: 26},
    "dense": {250: 5, 1000: 20, 5200: 104},
    "patches": {250: 1, 1000: 2, 5200: 25},
}
"""Sub-networks of 50 units, 200, 200, 50, and of 16, 31 and 13: those of the recipes, or near."""
QUICK_SEEDS = {20: 2, 40: 1}
QUICK: dict[str, Any] = {"images_per_subnetwork": 200, "max_nfev": 3, "n_subnetworks": 2}


def settings(kind: str, columns: int, dataset: Dataset, quick: bool) -> TrainConfig:
    """Set up units of a kind that make about so many columns."""
    cells = 1
    if kind == "patches":
        cells = configure(KINDS[kind]["recipe"], data=dataset).units.grid ** 2
    more = QUICK if quick else {"n_subnetworks": N_SUBNETWORKS[kind][columns]}
    n_units = round(columns / cells)  # of 62.5 the even one, 62
    return configure(data=dataset, **{**KINDS[kind], **more, "n_units": n_units})


def measure(config: TrainConfig, dataset: Dataset, n_jobs: int) -> dict[str, Any]:
    """Train a network and leave another as it was drawn; measure both on the same test images."""
    assert dataset.test is not None
    right, told = {}, {}
    for name, each in (("trained", config), ("untrained", config.with_options(max_nfev=0))):
        done = run(each, dataset, n_jobs=n_jobs, progress=True)
        right[name] = done.network.predict_codes(dataset.test.images) == dataset.test.labels
        kept = (
            *("test_accuracy", "training_cpu_seconds", "n_parameters", "n_units"),
            *("output_penalty", "output_penalty_chosen_by"),
        )
        told[name] = {key: done.metrics[key] for key in kept}
    return {
        **told,
        "n_columns": config.units.n_units * done.network.units.n_cells,
        "n_test": len(dataset.test),
        "only_trained_right": int(np.sum(right["trained"] & ~right["untrained"])),
        "only_untrained_right": int(np.sum(right["untrained"] & ~right["trained"])),
    }


def paired(row: Mapping[str, Any]) -> tuple[float, float]:
    """Difference of two accuracies on the same images, and its standard error."""
    n, won, lost = row["n_test"], row["only_trained_right"], row["only_untrained_right"]
    return (won - lost) / n, float((won + lost - (won - lost) ** 2 / n) ** 0.5 / n)


def difference(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Mean difference over seeds, and a standard error that leaves none of its sources out.

    The test images are the same for all seeds, so their part does not shrink with more seeds.
    """
    differences, errors = zip(*map(paired, rows), strict=True)
    of_seeds = np.var(differences, ddof=1) / len(rows) if len(rows) > 1 else 0.0
    return float(np.mean(differences)), float(np.sqrt(np.mean(np.square(errors)) + of_seeds))


def verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say whether trained units are ahead, or behind, by more than two standard errors."""
    mean, error = difference(rows)
    if abs(mean) <= 2 * error:
        return "**no**"
    return "yes" if mean > 0 else "**no: it loses**"


def cells(kind: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """One row of the table: all seeds of a kind and a number of columns."""

    def mean(figure: str) -> str:
        return f"{np.mean([row[figure] for row in rows]):.0f}"

    def seconds(which: str) -> str:
        return f"{np.mean([row[which]['training_cpu_seconds'] for row in rows]):.3g}"

    def accuracy(which: str) -> str:
        shares = [row[which]["test_accuracy"] for row in rows]
        return "{:.4f} ± {:.4f}".format(*mean_and_error(shares, rows[0]["n_test"]))

    return {
        "units": LABELS.get(kind, kind),
        "number": f"{rows[0]['trained']['n_units']:,}",
        "columns": f"{rows[0]['n_columns']:,}",
        "parameters, all": f"{rows[0]['trained']['n_parameters']:,}",
        "seeds": str(len(rows)),
        "trained": accuracy("trained"),
        "untrained": accuracy("untrained"),
        "difference": "{:+.4f} ± {:.4f}".format(*difference(rows)),
        "only trained right": mean("only_trained_right"),
        "only untrained right": mean("only_untrained_right"),
        "CPU s": seconds("trained"),
        "untrained CPU s": seconds("untrained"),
        "training wins": verdict(rows),
    }


def more_random_units(rows: Mapping[tuple[str, int], Sequence[Mapping[str, Any]]]) -> list[str]:
    """Name the trained rows that the next number of random units of that kind reaches or beats."""

    def mean(key: tuple[str, int], which: str, figure: str) -> float:
        return float(np.mean([row[which][figure] for row in rows[key]]))

    named = []
    for kind, columns in rows:
        larger = [c for k, c in rows if k == kind and c > columns]
        if not larger:
            continue
        one, other = (kind, columns), (kind, min(larger))
        if mean(other, "untrained", "test_accuracy") >= mean(one, "trained", "test_accuracy"):
            seconds = [
                mean(one, "trained", "training_cpu_seconds"),
                mean(other, "untrained", "training_cpu_seconds"),
            ]
            named.append(
                f"{LABELS.get(kind, kind)}, {mean(one, 'trained', 'n_units'):,.0f} trained "
                f"({seconds[0]:.3g} CPU s) by {mean(other, 'untrained', 'n_units'):,.0f} untrained "
                f"({seconds[1]:.3g} CPU s)"
            )
    return named


def chosen(only: Sequence[str], seeds: Mapping[int, int]) -> list[tuple[str, int]]:
    """List the pairs of kind and columns that ``--only`` asks for; all, where it names none.

    Raises
    ------
    SystemExit
        A word that is neither a kind nor a number of columns.
    """
    kinds = [word for word in only if word in KINDS]
    counts = [int(word) for word in only if word.isdecimal() and int(word) in seeds]
    if len(kinds) + len(counts) != len(only):
        msg = f"error: --only takes {', '.join(KINDS)}, {', '.join(map(str, seeds))}, got {only}"
        raise SystemExit(msg)
    return [
        (kind, count)
        for count in seeds if not counts or count in counts
        for kind in KINDS if not kinds or kind in kinds
    ]  # fmt: skip


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--only", nargs="+", default=[], metavar="NAME", help="kinds, columns")
    made.add_argument("--seeds", type=int, default=5, help="at most so many (default: 5, 3 and 1)")
    args = made.parse_args()
    dataset = load("digits" if args.quick else "mnist", args.data_dir)
    seeds = QUICK_SEEDS if args.quick else SEEDS
    ledger = Ledger(args.output, data=dataset.digest, n_jobs=args.n_jobs)
    rows: dict[tuple[str, int], list[dict[str, Any]]] = {}
    with threadpool_limits(1, user_api="blas"):
        for kind, columns in chosen(args.only, seeds):
            rows[kind, columns] = []
            for seed in range(args.seed, args.seed + min(args.seeds, seeds[columns])):
                config = settings(kind, columns, dataset, args.quick).with_options(seed=seed)
                make = functools.partial(measure, config, dataset, args.n_jobs)
                entry = {"units": kind, "columns": columns, "seed": seed}
                rows[kind, columns].append(ledger.get(entry, make, config=settings_of(config)))
    print_table(
        [cells(kind, each) for (kind, _), each in rows.items()],
        f"Random units beside trained ones, {dataset.name}",
    )
    lost = [
        f"{LABELS.get(kind, kind)}, {columns:,} columns"
        for (kind, columns), each in rows.items() if verdict(each) != "yes"
    ]  # fmt: skip
    print(f"\nTraining does not win by two standard errors in: {'; '.join(lost) or 'no row'}.")
    beaten = more_random_units(rows)
    print(f"\nThe next number of random units does as well: {'; '.join(beaten) or 'in no row'}.")
    raw = [
        {"kind": kind, "columns": columns, "seed": args.seed + i, **row}
        for (kind, columns), each in rows.items() for i, row in enumerate(each)
    ]  # fmt: skip
    print_last_line({"rows": raw})


if __name__ == "__main__":
    main()
