"""The bootstrap pass: agreement with guesses, and true accuracy before and after.

``python -m experiments.claims.bootstrap --output FILE`` makes four tables on the test images of
MNIST. The pass trains a network further on images by labels that it guessed itself (section 5 of
the paper; :mod:`varpro_nn.training.pseudo_labels`). *Agreement*: the share of images that it then
gives the class it was told. *True accuracy*: the share that it gives the right class. *Corrected*
images were wrong before and right after, *spoilt* ones the other way round.

``rules``: the paper's quadratic units, 250, 1,000 and 2,600 of them (``--large``: its 5,200 too,
one seed). Each network is trained once; a pass by each rule starts from it, and two refits of the
output layer alone: to the plain guesses, and to classes drawn at random for all images.
``repeated``: five passes, each from the network that the one before left.
``starts``: from better networks; one seed. Patch units train on as in their recipe, but at every
place, and get a ridge layer, as with ``--bootstrap``.
CPU seconds are those of the passes, not of the first network; self-training trains that anew, and
its seconds are counted (those of the features under logistic regression are not).
``self-training``: scikit-learn's ``SelfTrainingClassifier`` keeps images with true labels and adds
guesses that are sure enough; the pass forgets the former. 5,000 images with labels; one seed.
"""

import argparse
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast, get_args

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.semi_supervised import SelfTrainingClassifier
from threadpoolctl import threadpool_limits

from experiments.shared.ledger import Ledger, print_last_line, settings_of
from experiments.shared.options import parser
from experiments.shared.tables import print_table
from experiments.shared.uncertainty import mean_and_error
from varpro_nn import Network, TrainConfig, VarProClassifier, VarProFeatures, configure, load
from varpro_nn.compute.compute import Compute
from varpro_nn.data import Dataset, ImageSet
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.training.config import Rule
from varpro_nn.training.layers import train_classifier
from varpro_nn.training.plan import streams
from varpro_nn.training.pseudo_labels import bootstrap
from varpro_nn.training.resources import Clock

PARTS = ("rules", "repeated", "starts", "self-training")
Row = dict[str, Any]
Table = list[tuple[dict[str, str], Sequence[Row]]]
"""For each row of a table its labels and what was measured, one dict a seed."""

REFITS = ("argmax, output layer alone", "all at random, output layer alone")
GUESSES: tuple[str, ...] = (*get_args(Rule), *REFITS)
FULL: dict[str, Any] = {
    "counts": (250, 1000, 2600), "large": 5200, "repeated": 1000, "n_passes": 5, "part": 50,
    "labelled": 5000,
}  # fmt: skip
QUICK: dict[str, Any] = {
    "counts": (40, 80), "large": 120, "repeated": 40, "n_passes": 2, "part": 20, "labelled": 300,
}  # fmt: skip
SMALL: dict[str, Any] = {"images_per_subnetwork": 150, "max_nfev": 3}  # with --quick
UNITS: dict[str, Any] = {"recipe": "bilinear", "n_units": 200, "images_per_subnetwork": 2000,
                         "n_subnetworks": 4}  # fmt: skip
THRESHOLDS = (0.75, 0.95)  # scikit-learn's own, and a strict one
STARTS: dict[str, dict[str, Any]] = {
    "quadratic, 250 units": {"recipe": "paper", "n_units": 250, "n_subnetworks": 5},
    "bilinear, 250 units": {"recipe": "bilinear", "n_units": 250},
    "patches, 6 units, trained for less": {
        "recipe": "tiny", "n_units": 6, "images_per_subnetwork": 5000, "n_rounds": 1, "n_copies": 0,
    },
    "patches, 16 units, trained for less": {
        "recipe": "tiny", "images_per_subnetwork": 5000, "n_rounds": 1, "n_copies": 0,
    },
    "patches, 16 units: `tiny`": {"recipe": "tiny"},
}  # fmt: skip


def one_pass(
    network: Network, test: ImageSet, config: TrainConfig, guesses: str, seed: Any, n_jobs: int = 1
) -> tuple[Row, Network]:
    """Run a pass by a rule, or one of ``REFITS``, on images alone; then measure by their labels."""
    start, rule = network, guesses
    if guesses in REFITS:
        config, rule = config.with_options(max_nfev=0), "argmax"
    if guesses == REFITS[1]:
        # Where all outputs are the same, the rule draws.
        start, rule = replace(network, A=np.zeros_like(network.A)), "margin"
    # A sub-network that failed in training left no units.
    n_parts = len(network.W) // config.units_per_subnetwork
    clock = Clock()
    settings = replace(config.subnetworks, n_subnetworks=n_parts, n_stages=1)
    with Compute(n_jobs) as compute:
        done = bootstrap(
            start, test.images, settings, compute,
            distortion=config.distortion, rule=cast(Rule, rule), ridge=config.bootstrap.ridge,
            seed=seed,
        )  # fmt: skip
    _, seconds = clock.read()
    before, after = (each.predict_codes(test.images) for each in (network, done.network))
    row = figures(done.guesses.codes, done.guesses.ambiguous, before, after, test.labels)
    return {**row, "cpu_seconds": seconds}, done.network


def figures(
    told: np.ndarray, drawn: np.ndarray, before: np.ndarray, after: np.ndarray, labels: np.ndarray
) -> Row:
    """Compare predictions with what was told (-1: nothing), and then with the true labels."""

    def share(hits: np.ndarray, where: np.ndarray) -> float | None:
        return float(hits[where].mean()) if where.any() else None

    own, right, now = told != -1, before == labels, after == labels
    return {
        "n_test": len(labels),
        "n_told": int(own.sum()),
        "n_drawn": int(drawn.sum()),
        "agreement": share(after == told, own),
        "agreement_where_drawn": share(after == told, drawn),
        "true_guesses": share(told == labels, own),
        "true_before": float(right.mean()),
        "true_after": float(now.mean()),
        "corrected": int(np.sum(~right & now)),
        "spoilt": int(np.sum(right & ~now)),
    }


def self_training(dataset: Dataset, n_labelled: int, few: dict[str, Any]) -> Iterator[Row]:
    """Label the test images by the pass, and by scikit-learn's self-training."""
    assert dataset.test is not None
    test, labelled = dataset.test, dataset.train.take(slice(n_labelled))
    rows = [part.images.reshape(len(part), -1) for part in (labelled, test)]
    y = np.concatenate([labelled.labels, np.full(len(test), -1)])
    features = VarProFeatures(**few).fit(rows[0], labelled.labels)
    logistic = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    own = VarProClassifier(**few)
    bases: dict[str, tuple[Any, list[np.ndarray]]] = {
        "VarProClassifier": (own, rows),
        "VarProFeatures + LogisticRegression": (logistic, [features.transform(x) for x in rows]),
    }
    for name, (base, (known, unknown)) in bases.items():
        before = base.fit(known, labelled.labels).predict(unknown)
        for rule in ("margin", "argmax") if base is own else ():
            row, _ = one_pass(own.network_, test, own.config_, rule, few["random_state"])
            yield {"method": f"{name}, the pass, {rule}", **row}
        for threshold in THRESHOLDS:
            clock = Clock()
            trained = SelfTrainingClassifier(base, threshold=threshold)
            trained.fit(np.concatenate([known, unknown]), y)
            _, seconds = clock.read()
            told, after = trained.transduction_[len(known) :], trained.predict(unknown)
            row = figures(told, np.zeros(len(test), dtype=bool), before, after, test.labels)
            method = f"{name}, self-training, {threshold}"
            yield {"method": method, **row, "cpu_seconds": seconds}


@dataclass(frozen=True, eq=False)
class Bench:
    """What all parts work with; each gives its title, and the labels and rows of its table."""

    dataset: Dataset
    ledger: Ledger
    args: argparse.Namespace
    size: dict[str, Any]
    seeds: range

    def settings(self, seed: int, **given: Any) -> TrainConfig:
        """Set up a first network."""
        more: dict[str, Any] = given | (SMALL if self.args.quick else {})
        return configure(data=self.dataset, seed=seed, **more)

    def paper(self, n_units: int, seed: int) -> TrainConfig:
        """Set up so many units as the paper did."""
        more = {"n_units": n_units, "n_subnetworks": n_units // self.size["part"]}
        return self.settings(seed, recipe="paper", **more)

    @functools.cache  # noqa: B019  (small networks, for as long as the program runs)
    def first(self, config: TrainConfig) -> Network:
        """Train the network that passes start from, on true labels of training images."""
        training = TrainingSet.of(self.dataset, config.n_train)
        with Compute(self.args.n_jobs) as compute:
            return train_classifier(config, training, self.dataset.classes, compute)[0]

    @functools.cache  # noqa: B019
    def after(self, config: TrainConfig, guesses: str, number: int) -> tuple[Row, Network]:
        """Run the pass of that number, the first being 1, from the network of the one before."""
        assert self.dataset.test is not None
        seed = streams(config)["bootstrap"]
        seed.spawn(2 * (number - 1))  # what the passes before have taken
        start = self.after(config, guesses, number - 1)[1] if number > 1 else self.first(config)
        return one_pass(start, self.dataset.test, config, guesses, seed, self.args.n_jobs)

    def row(self, config: TrainConfig, guesses: str, number: int = 1) -> Row:
        """Take a pass from the ledger, or run it."""
        entry = {"bootstrap": guesses, "pass": number}
        return self.ledger.get(
            entry, lambda: self.after(config, guesses, number)[0], config=settings_of(config)
        )

    def rules(self) -> tuple[str, Table]:
        """Give each rule and refit, for each number of units."""
        counts = dict.fromkeys(self.size["counts"], self.seeds)
        if self.args.large:
            counts[self.size["large"]] = self.seeds[:1]
        return "Rules of guessing, quadratic units", [
            (
                {"units": f"{n_units:,}", "guesses": name, "seeds": str(len(seeds))},
                [self.row(self.paper(n_units, seed), name) for seed in seeds],
            )
            for n_units, seeds in counts.items()
            for name in GUESSES
        ]

    def repeated(self) -> tuple[str, Table]:
        """Give each of several passes, one after the other."""
        n_units = self.size["repeated"]
        return f"Pass after pass, {n_units:,} quadratic units", [
            (
                {"guesses": name, "pass": str(number)},
                [self.row(self.paper(n_units, seed), name, number) for seed in self.seeds],
            )
            for name in ("argmax", "margin")
            for number in range(1, self.size["n_passes"] + 1)
        ]

    def starts(self) -> tuple[str, Table]:
        """Give the pass from networks of other kinds."""
        return "From better networks, one seed", [
            (
                {"network": network, "guesses": name},
                [self.row(self.settings(self.args.seed, **given), name)],
            )
            for network, given in STARTS.items()
            for name in ("margin", "argmax")
        ]

    def self_training(self) -> tuple[str, Table]:
        """Give scikit-learn's self-training, and the pass from the same network."""
        n_labelled = self.size["labelled"]
        few = UNITS | {"random_state": self.args.seed} | (SMALL if self.args.quick else {})
        found = self.ledger.get(
            {"bootstrap": "self-training", "n_labelled": n_labelled, "thresholds": THRESHOLDS},
            lambda: list(self_training(self.dataset, n_labelled, few)),
            ("scikit-learn",),
            settings=few,
        )
        return f"Beside self-training, {n_labelled:,} images with labels", [
            ({"method": r["method"], "images labelled": f"{r['n_told']:,}"}, [r]) for r in found
        ]


def mean(rows: Sequence[Row], key: str, of: str = "n_test") -> str:
    """Mean over seeds with its standard error; of one seed the binomial one. Empty if missing.

    ``of`` names the number of images, which each seed may have its own of.
    """
    there = [row for row in rows if row[key] is not None]
    if not there:
        return ""
    shares, numbers = [row[key] for row in there], [row[of] for row in there]
    if shares[0] in (0.0, 1.0) and len(set(shares)) == 1:  # no error can be told from these
        return f"{shares[0]:.4f} ({'all' if shares[0] else 'none'} of {max(numbers):,})"
    return "{:.4f} ± {:.4f}".format(*mean_and_error(shares, numbers))


def cells(rows: Sequence[Row]) -> dict[str, str]:
    """Figures of a table row: the agreement first, and what is true after it."""

    def count(key: str) -> str:
        return f"{np.mean([row[key] for row in rows]):,.0f}"

    return {
        "drawn at random": count("n_drawn"),
        "agreement with the guesses": mean(rows, "agreement", "n_told"),
        "with those drawn": mean(rows, "agreement_where_drawn", "n_drawn"),
        "true accuracy of the guesses": mean(rows, "true_guesses", "n_told"),
        "true accuracy before": mean(rows, "true_before"),
        "true accuracy after": mean(rows, "true_after"),
        "corrected": count("corrected"),
        "spoilt": count("spoilt"),
        "CPU s": f"{np.mean([row['cpu_seconds'] for row in rows]):.3g}",
    }


def plain_fact(table: Table) -> str:
    """Say what the refits with the most units agree with, and what is true of them."""
    said = [
        f"{labels['guesses']}: agreement {mean(rows, 'agreement')}, "
        f"true accuracy {mean(rows, 'true_before')} before, {mean(rows, 'true_after')} after"
        for labels, rows in table[-2:]
    ]
    return f"With {table[-1][0]['units']} units: {'; '.join(said)}."


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--seeds", type=int, default=5, help="of rules and repeated")
    made.add_argument("--large", action="store_true", help="5,200 units too, one seed")
    made.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART")
    args = made.parse_args()
    dataset = load("digits" if args.quick else "mnist", args.data_dir)
    ledger = Ledger(args.output, data=dataset.digest, n_jobs=args.n_jobs)
    seeds = range(args.seed, args.seed + (2 if args.quick else args.seeds))
    bench = Bench(dataset, ledger, args, QUICK if args.quick else FULL, seeds)
    result = {}
    with threadpool_limits(1, user_api="blas"):
        for part in args.only:
            title, table = getattr(bench, part.replace("-", "_"))()
            lines = [labels | cells(rows) for labels, rows in table]
            print_table(lines, f"{title}, {dataset.name}")
            if part == "rules":
                print(f"\n{plain_fact(table)}")
            result[part] = [{**labels, "rows": rows} for labels, rows in table]
    print_last_line(result, ("scikit-learn",))


if __name__ == "__main__":
    main()
