"""Test accuracy against parameters and CPU seconds: this project and its peers.

``python -m experiments.field.table DATASET --output FILE`` measures, on MNIST, Fashion-MNIST or
CIFAR-10,

* each recipe but ``paper`` by ``python -m varpro_nn.train``, and the same with its units as they
  were drawn (``NAME-untrained``);
* estimators of scikit-learn, and an extreme learning machine (:mod:`experiments.field.peers`);
* networks of PyTorch by Adam, some by Levenberg and Marquardt's method too, after 1, 3 and 10
  epochs of one training (:mod:`experiments.field.torch_networks`).

Each is trained alone, in a separate process with one thread, one after the other; the whole list
``--repeats`` times, with seeds ``--seed``, ``--seed`` + 1 and so on, but those that ``--once``
names. Nothing was tuned for the peers beyond what their modules say; the settings of the recipes
were chosen on training images, which is an advantage of this project in the table. So are the
distorted copies of training images that recipes of patch units see; the peers see the images as
they are. The test set says nothing but how good a row is in the end: all epochs are listed, none
is picked by its test accuracy.

The table gives the accuracies of all repetitions, and their mean with the standard error of the
test images and of the seeds. Parameters are all numbers that the fitted model stores to label an
image. CPU seconds are those of the training, of choosing settings on training images where a row
does so itself, and of labelling all test images, which lie in memory. Rows of packages that are
not installed are left out.
"""

import argparse
import functools
import importlib.metadata
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from experiments.field.accuracy import UNTRAINED
from experiments.field.figure import ADAM, DRAWN, LIBRARY, LM, TRAINED, Point, draw
from experiments.field.peers import peers
from experiments.shared.figures import add_figure
from experiments.shared.ledger import Ledger, print_last_line, settings_of
from experiments.shared.options import parser, whole_number
from experiments.shared.processes import child, child_lines
from experiments.shared.tables import print_table, rounded_seconds
from experiments.shared.uncertainty import mean_and_error
from varpro_nn import Network, configure, load
from varpro_nn.data import Dataset
from varpro_nn.training.recipes import RECIPES

DATA = ("mnist", "fashion-mnist", "cifar10")
EPOCHS = (1, 3, 10)
OF_ADAM = {"optimiser": "adam", "batch": 64, "learning-rate": 1e-3}
"""The usual batch, and the default rate of Adam."""
OF_LM = {"optimiser": "lm", "batch": 5000, "learning-rate": 0.05}
"""Those of the package's example for MNIST."""
BY_ADAM = {
    "mnist": ("LeNet-5", "MLP-800", "patches-logistic"),
    "fashion-mnist": ("LeNet-5", "MLP-800", "patches-logistic"),
    "cifar10": ("LeNet-5", "MLP-800", "patches-logistic", "CNN-3"),
    "digits": ("MLP-800",),
}
BY_LM = dict.fromkeys(DATA, ("patches-logistic", "CNN-5")) | {"digits": ("patches-logistic",)}
"""Networks of ``experiments.field.torch_networks`` for each data set."""
QUICK = ("tiny", "tiny-untrained", "MLPClassifier-100", "SVC", "RandomForest-100", "ELM-1000",
         "MLP-800", "patches-logistic-LM")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entrant:
    """What is trained in one process, once a repetition.

    Attributes
    ----------
    name : str
        What the table and ``--only`` call it.
    kind : str
        A key of ``figure.STYLES``.
    command : tuple of str
        Module and options of its process, without seed and folders.
    settings : dict
        What its results depend on, beside data and seed.
    packages : tuple of str
        Needed beside those that this project needs; their versions count.
    epochs : tuple of int
        After how many to measure a network of PyTorch, a row of the table for each.
    """

    name: str
    kind: str
    command: tuple[str, ...]
    settings: dict[str, Any]
    packages: tuple[str, ...] = ()
    epochs: tuple[int, ...] = ()

    def entries(self) -> list[dict[str, Any]]:
        """Name its rows for the ledger."""
        if not self.epochs:
            return [{"name": self.name}]
        return [{"name": self.name, "epochs": n} for n in self.epochs]


def entrants(dataset: str) -> list[Entrant]:
    """All of a data set, in the order of the table."""
    made = []
    for recipe in RECIPES:
        if recipe == "paper":
            continue
        command: tuple[str, ...] = ("varpro_nn.train", dataset, "--recipe", recipe)
        trained = settings_of(configure(recipe, data=dataset))
        drawn = settings_of(configure(recipe, data=dataset, **UNTRAINED))
        made.append(Entrant(recipe, TRAINED, command, trained))
        made.append(Entrant(f"{recipe}-untrained", DRAWN, (*command, *_options(UNTRAINED)), drawn))
    for name, peer in peers(dataset).items():
        command = ("experiments.field.peers", name, dataset)
        packages = ("scikit-learn", *(["hpelm"] if name.startswith("ELM") else []))
        made.append(Entrant(name, LIBRARY, command, peer.settings(), packages))
    tiny = configure("tiny", data=dataset).units
    windows = [tiny.n_units, tiny.window, tiny.grid]  # the one network that a recipe describes
    for kind, networks, settings, packages in (
        (ADAM, BY_ADAM, OF_ADAM, ("torch",)),
        (LM, BY_LM, OF_LM, ("torch", "torch-levenberg-marquardt")),
    ):
        for network in networks[dataset]:
            name = f"{network}-LM" if kind == LM else network
            command = ("experiments.field.torch_networks", network, dataset, *_options(settings))
            built = {"units": windows} if network == "patches-logistic" else {}
            made.append(Entrant(name, kind, command, settings | built, packages, EPOCHS))
    return made


def _options(settings: dict[str, Any]) -> list[str]:
    """Spell settings as options of a command."""
    pairs = [(f"--{name.replace('_', '-')}", str(value)) for name, value in settings.items()]
    return [word for pair in pairs for word in pair]


def installed(found: Sequence[Entrant]) -> list[Entrant]:
    """Leave out those whose packages are missing, and say so."""
    missing: dict[str, list[str]] = {}
    for entrant in found:
        for package in entrant.packages:
            try:
                importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                missing.setdefault(package, []).append(entrant.name)
                break
    left_out = {name for names in missing.values() for name in names}
    if left_out:
        said = "; ".join(f"{', '.join(names)} ({package})" for package, names in missing.items())
        print(f"left out: {said}: pip install -e '.[experiments]'", file=sys.stderr)
    return [entrant for entrant in found if entrant.name not in left_out]


def train(
    entrant: Entrant,
    seed: int,
    dataset: Dataset,
    data_dir: str | None,
    missing: Sequence[dict[str, Any]],
) -> Iterator[dict[str, Any]]:
    """Run its process for the ``missing`` ones of its entries; a result for each, as it comes."""
    command = [*entrant.command, "--seed", str(seed)]
    if data_dir is not None:
        command += ["--data-dir", data_dir]
    if entrant.epochs:
        command += ["--epochs", *(str(entry["epochs"]) for entry in missing)]
    assert dataset.test is not None  # the data sets here have one
    told = {"n_test": len(dataset.test)}
    if entrant.kind not in (TRAINED, DRAWN):
        yield from (json.loads(line) | told for line in child_lines(command))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = str(Path(scratch) / "run")
        lines = child([*command, "--n-jobs", "1", "--no-report", "--quiet", "--output", folder])
        metrics = json.loads(lines[-1])
        kept = {key: metrics[key] for key in ("n_parameters", "test_accuracy")}
        kept["training_cpu_seconds"] = metrics["training_cpu_seconds"]
        kept["labelling_cpu_seconds"] = labelling(Network.load(Path(folder)), dataset)
    yield kept | told


def labelling(network: Network, dataset: Dataset) -> float:
    """CPU seconds that a network of this project takes for the test images, on one thread."""
    assert dataset.test is not None  # the data sets here have one
    with threadpool_limits(1, user_api="blas"):
        start = time.process_time()
        network.predict(dataset.test.images)
        return time.process_time() - start


def measure(
    chosen: Sequence[Entrant], args: argparse.Namespace, dataset: Dataset, n_repeats: int
) -> list[dict[str, Any]]:
    """Take the results of all repetitions from the ledger, or measure them; rows of the table."""
    ledger = Ledger(args.output, data=dataset.digest)
    rows: dict[str, dict[str, Any]] = {}
    once = set(args.once or [])
    for repetition in range(n_repeats):
        seed = args.seed + repetition
        for entrant in chosen:
            if repetition and entrant.name in once:
                continue
            results = ledger.get_all(
                entrant.entries(),
                functools.partial(train, entrant, seed, dataset, args.data_dir),
                entrant.packages,
                repetition=repetition,  # another --seed gives the same entries but for seeds
                threads=1,
                settings=entrant.settings | {"seed": seed},
            )
            for entry, result in zip(entrant.entries(), results, strict=True):
                name, n = entrant.name, entry.get("epochs")
                if n is not None:
                    name += f", {n} epoch{'s' if n > 1 else ''}"
                row = {"name": name, "entrant": entrant.name, "kind": entrant.kind, "epochs": n}
                rows.setdefault(name, {**row, "repetitions": []})["repetitions"].append(result)
    return list(rows.values())


def values(row: dict[str, Any], key: str) -> list[float]:
    """Take a figure from each repetition."""
    return [float(result.get(key, 0.0)) for result in row["repetitions"]]


def cells(row: dict[str, Any], n_test: int) -> dict[str, str]:
    """Cells of a row of the table."""
    shares, parameters = values(row, "test_accuracy"), values(row, "n_parameters")
    mean, error = mean_and_error(shares, n_test)
    choosing = values(row, "choice_cpu_seconds")
    return {
        "network": row["name"],
        "parameters": " / ".join(f"{n:,.0f}" for n in dict.fromkeys(parameters)),
        "test accuracy, each seed": " / ".join(f"{share:.4f}" for share in shares),
        "mean": f"{mean:.4f} ± {error:.4f}",
        "CPU s": _seconds(values(row, "training_cpu_seconds")),
        "CPU s of choosing": _seconds(choosing) if any(choosing) else "",
        "CPU s of labelling": _seconds(values(row, "labelling_cpu_seconds")),
    }


def _seconds(found: Sequence[float]) -> str:
    return " / ".join(map(rounded_seconds, found))


def points(rows: Sequence[dict[str, Any]]) -> list[Point]:
    """Means over repetitions, as they are drawn."""
    return [
        Point(
            row["entrant"], row["kind"], float(np.mean(values(row, "training_cpu_seconds"))),
            float(np.mean(values(row, "n_parameters"))),
            100 * (1 - float(np.mean(values(row, "test_accuracy")))),
        )
        for row in rows
    ]  # fmt: skip


def main() -> None:
    options = parser(__doc__)
    options.add_argument("dataset", nargs="?", choices=DATA, help="mnist; none with --quick")
    add_figure(options)
    options.add_argument("--only", nargs="+", metavar="NAME", help="these alone")
    options.add_argument("--once", nargs="+", metavar="NAME", help="these without repetition")
    options.add_argument("--repeats", type=whole_number(1), metavar="N",
                         help="of the whole list (2; quick: 1)")  # fmt: skip
    args = options.parse_args()
    n_repeats = args.repeats or (1 if args.quick else 2)
    if args.n_jobs != 1:
        options.error(f"--n-jobs must be 1, for each row has one thread, got {args.n_jobs}")
    if args.quick and args.dataset is not None:
        options.error(f"--quick measures digits, not {args.dataset}: leave the name away")
    name = "digits" if args.quick else args.dataset or "mnist"
    found = [entrant for entrant in entrants(name) if not args.quick or entrant.name in QUICK]
    names = [entrant.name for entrant in found]
    for option in ("only", "once"):
        if unknown := sorted(set(getattr(args, option) or []) - set(names)):
            among = f"{', '.join(names)}{' (--quick)' if args.quick else ''}"
            options.error(f"--{option}: no {', '.join(unknown)} among {among}")
    chosen = installed([e for e in found if not args.only or e.name in args.only])
    if not chosen:
        options.error("nothing is left to measure")
    dataset = load(name, args.data_dir)
    assert dataset.test is not None  # the data sets here have one
    rows = measure(chosen, args, dataset, n_repeats)
    seeds = ", ".join(str(args.seed + repetition) for repetition in range(n_repeats))
    title = f"{name}, one thread, seed{'s' if n_repeats > 1 else ''} {seeds}"
    title += f" ({', '.join(args.once)}: {args.seed})" if args.once else ""
    if args.figure:
        draw(points(rows), title, args.figure)
    print_table([cells(row, len(dataset.test)) for row in rows], title)
    packages = dict.fromkeys(package for entrant in chosen for package in entrant.packages)
    print_last_line({"dataset": name, "data": dataset.digest, "rows": rows}, list(packages))


if __name__ == "__main__":
    main()
