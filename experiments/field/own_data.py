"""Data like those of users: this package beside scikit-learn and a small network of PyTorch.

``python -m experiments.field.own_data FOLDER --output FILE`` compares the methods of
:mod:`experiments.field.own_methods` on every data set in the folder that :func:`varpro_nn.load`
reads, on ``digits``, and on 1,000 and 5,000 images of three public sets
(:mod:`experiments.field.own_sets` makes the splits). Without a folder it takes the public sets
alone. Each method is trained on the same images in a separate process with one thread. ``--quick``
takes one seed and at most 2,000 test images.

A table for each set has means over seeds. Their standard error comes from the test images
(binomial, not reduced by the number of seeds) and from the spread over seeds. CPU seconds of
training include the choice of settings.

A method that needs more than ``--limit`` CPU seconds for training and labelling is stopped. Its row
says so, and later seeds of it are not tried. A method that fails has a row too; the exit status is
then not 0, and the next run tries it again. Rows of PyTorch are left out where it is missing.

The summary compares the recipe with the best estimator of scikit-learn on each set, by mean test
accuracy. That choice favours scikit-learn. The recipe is above or below if the difference exceeds
one standard error of the difference. This error treats the test images of the two as independent
samples, so it is too large rather than too small. An estimator that was stopped or failed is not
the best one. If the recipe itself was, the set is counted apart.

A second table covers the contests of ``auto``. It compares two accuracies of networks of the same
size, trained on as many images: the held-out accuracy by which the contest chose, and the accuracy
on test images that the contest did not see. The difference has two causes: the best of several
candidates is partly lucky, and a separate test set may be easier or harder.

A row of the recipe ``auto`` is reused even if ``auto`` would now choose other settings: delete the
file after a change.
"""

import argparse
import functools
import importlib.metadata
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.field import own_sets
from experiments.field.own_methods import AUTO, LIBRARY, methods, packages, settings
from experiments.shared.ledger import Ledger, print_last_line
from experiments.shared.options import end_quietly, file_name, whole_number
from experiments.shared.processes import ProcessFailed, child
from experiments.shared.tables import print_table, rounded_seconds
from experiments.shared.uncertainty import mean_and_error
from varpro_nn import Dataset, load
from varpro_nn.errors import VarProError
from varpro_nn.training.recipes import RECIPES

SEEDS = (0, 1, 2)
LIMIT = 900


def train(
    method: str, source: str, dataset: Dataset, seed: int, args: argparse.Namespace
) -> dict[str, Any]:
    """Run the process of a method; ``over_limit`` alone if it was stopped."""
    command = ["experiments.field.own_methods", method, source, dataset.name]
    command += ["--seed", str(seed), "--limit", str(args.limit)]
    if args.quick:
        command += ["--n-test", str(own_sets.QUICK_TEST)]
    if args.data_dir is not None:
        command += ["--data-dir", args.data_dir]
    try:
        result: dict[str, Any] = json.loads(child(command)[-1])
    except ProcessFailed as failed:
        if failed.status != -signal.SIGXCPU:
            raise
        return {"over_limit": args.limit}
    return result


def measure(name: str, source: str, whole: Dataset, args: argparse.Namespace) -> dict[str, Any]:
    """Take the results of a set from the ledger, or measure them."""
    rows: dict[str, dict[str, Any]] = {
        method: {"results": [], "outcome": None} for method in args.methods
    }
    for seed in args.seeds:
        n_test = own_sets.QUICK_TEST if args.quick else None
        dataset = own_sets.split(whole, name, seed, n_test=n_test)
        ledger = Ledger(args.output, data=dataset.digest, seed=seed, threads=1)
        for method, row in rows.items():
            if row["outcome"] is not None:
                continue
            try:
                result = ledger.get(
                    {"set": name, "method": method},
                    functools.partial(train, method, source, dataset, seed, args),
                    packages(method),
                    settings=settings(method, dataset),
                    cpu_limit=args.limit,
                )
            except ProcessFailed as failed:
                print(failed, file=sys.stderr)
                row["outcome"] = f"failed (seed {seed}, status {failed.status})"
                continue
            if "over_limit" in result:
                row["outcome"] = f"more than {args.limit:,} CPU s (seed {seed})"
            else:
                row["results"].append(result)
    shape = {"n_classes": len(whole.classes), "image_shape": list(whole.image_shape)}
    sizes = {"n_train": len(dataset.train), "n_test": len(dataset.test or ())}
    return {"set": name, **shape, **sizes, "methods": rows}


def values(row: dict[str, Any], key: str) -> list[float]:
    """Take a figure from each seed."""
    return [float(result[key]) for result in row["results"]]


def accuracy_of(row: dict[str, Any]) -> tuple[float, float]:
    """Mean accuracy and its standard error."""
    return mean_and_error(values(row, "accuracy"), [result["n_test"] for result in row["results"]])


def balanced_accuracy_of(row: dict[str, Any]) -> tuple[float, float]:
    """Mean balanced accuracy and its standard error."""
    shares = values(row, "balanced_accuracy")
    of_images = np.mean(np.square(values(row, "balanced_accuracy_standard_error")))
    of_seeds = np.var(shares, ddof=1) / len(shares) if len(shares) > 1 else 0.0
    return float(np.mean(shares)), float(np.sqrt(of_images + of_seeds))


def cells(method: str, row: dict[str, Any]) -> dict[str, str]:
    """Cells of a row of a set's table."""
    outcome = row["outcome"] or ""
    if not row["results"]:
        return dict.fromkeys(HEADS, "") | {"method": method, "accuracy": outcome}
    mean, error = accuracy_of(row)
    balanced, of_balanced = balanced_accuracy_of(row)
    figures = [
        method,
        f"{mean:.4f} ± {error:.4f}" + (f"; {outcome}" if outcome else ""),
        f"{balanced:.4f} ± {of_balanced:.4f}",
        rounded_seconds(float(np.mean(values(row, "training_cpu_seconds")))),
        rounded_seconds(float(np.mean(values(row, "labelling_cpu_seconds")))),
        f"{np.mean(values(row, 'model_bytes')) / 1e3:,.0f}",
    ]
    return dict(zip(HEADS, figures, strict=True))


HEADS = ("method", "accuracy", "balanced accuracy", "CPU s", "CPU s of labelling", "model, kB")


def compared(found: dict[str, Any], recipe: str) -> dict[str, Any] | None:
    """Compare the recipe with the best estimator of scikit-learn on a set; None without both."""
    rows = {m: row for m, row in found["methods"].items() if row["outcome"] is None}
    library = {method: accuracy_of(row) for method, row in rows.items() if method in LIBRARY}
    if recipe not in rows or not library:
        return None
    best = max(library, key=lambda method: library[method][0])
    mean, error = accuracy_of(rows[recipe])
    difference = mean - library[best][0]
    of_difference = float(np.hypot(error, library[best][1]))
    ratio = None
    if "SVM" in rows:
        seconds = (values(rows[m], "training_cpu_seconds") for m in (recipe, "SVM"))
        own, of_machine = (float(np.mean(s)) for s in seconds)
        ratio = own / of_machine if of_machine else None
    where = "within" if abs(difference) <= of_difference else "above" if difference > 0 else "below"
    return {
        "set": found["set"],
        "best": best,
        "difference": difference,
        "error": of_difference,
        "where": where,
        "cpu_ratio": ratio,
    }


def print_summary(sets: Sequence[dict[str, Any]], recipe: str) -> list[dict[str, Any]]:
    """Print on how many sets the recipe is ahead; the comparisons."""
    pairs = [(found["set"], compared(found, recipe)) for found in sets]
    known = [pair for _, pair in pairs if pair is not None]
    if known:
        table = [
            {
                "data": pair["set"],
                "best of scikit-learn": pair["best"],
                "difference": f"{pair['difference']:+.4f} ± {pair['error']:.4f}",
                f"{recipe} is": pair["where"],
                "CPU s, ratio to SVM": ""
                if pair["cpu_ratio"] is None
                else f"{pair['cpu_ratio']:.2g}",
            }
            for pair in known
        ]
        print_table(table, f"{recipe} and the best estimator of scikit-learn")
    counts = {w: sum(p["where"] == w for p in known) for w in ("above", "within", "below")}
    print(
        f"\n`{recipe}` is above the best estimator of scikit-learn on {counts['above']} of "
        f"{len(sets)} sets, within one standard error on {counts['within']}, below on "
        f"{counts['below']}."
    )
    if without := [name for name, pair in pairs if pair is None]:
        print(f"Not compared: {', '.join(without)}.")
    ratios = [pair["cpu_ratio"] for pair in known if pair["cpu_ratio"] is not None]
    if ratios:
        print(
            f"Ratio of its CPU seconds of training to those of the support vector machine: median "
            f"{np.median(ratios):.2g}, from {min(ratios):.2g} to {max(ratios):.2g}."
        )
    return known


def print_contests(sets: Sequence[dict[str, Any]], recipe: str) -> None:
    """Compare the accuracies by which contests chose with those on test images."""
    table, differences, of_sets = [], [], []
    for found in sets:
        row = found["methods"].get(recipe, {"results": []})
        results = [r["contest"] for r in row["results"] if "contest" in r]
        if not results:
            continue
        claimed, measured = (
            float(np.mean([r[name] for r in results])) for name in ("claimed", "on_test_images")
        )
        errors = [
            np.hypot(r["claimed_standard_error"], r["on_test_images_standard_error"])
            for r in results
        ]
        error = float(np.linalg.norm(errors)) / len(errors)
        differences.append(claimed - measured)
        of_sets.append(error)
        table.append(
            {
                "data": found["set"],
                "held-out accuracy in the contest": f"{claimed:.4f}",
                "on test images": f"{measured:.4f}",
                "difference": f"{claimed - measured:+.4f} ± {error:.4f}",
            }
        )
    if not table:
        return
    print_table(table, f"Contests of {recipe}: networks of the size of the last round")
    of_mean = float(np.linalg.norm(of_sets)) / len(of_sets)
    print(f"\nMean difference: {np.mean(differences):+.4f} ± {of_mean:.4f}.")


def installed(chosen: Sequence[str]) -> list[str]:
    """Leave out methods whose packages are missing, and say so."""
    kept = []
    for method in chosen:
        try:
            for package in packages(method):
                importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError as missing:
            print(f"left out: {method}: {missing.name} is not installed", file=sys.stderr)
        else:
            kept.append(method)
    return kept


def loaded(sources: dict[str, str], data_dir: str | None) -> Iterator[tuple[str, str, Dataset]]:
    """Load one set after the other; say which are left out, and why."""
    for name, source in sources.items():
        try:
            yield name, source, load(source, data_dir, progress=False, n_jobs=1)
        except (VarProError, ValueError, OSError) as error:
            print(f"left out: {name}: {error}", file=sys.stderr)


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("folder", nargs="?", type=Path, help="of data sets; none: public ones")
    options.add_argument("--only", nargs="+", metavar="NAME", help="these data sets alone")
    options.add_argument("--methods", nargs="+", metavar="NAME", help="these methods alone")
    options.add_argument("--seeds", nargs="+", type=whole_number(0), metavar="N",
                         help="of splits and methods (0 1 2; quick: 0)")  # fmt: skip
    options.add_argument("--recipe", default=AUTO, metavar="NAME",
                         help=f"of this package, to compare ({AUTO})")  # fmt: skip
    options.add_argument("--limit", type=whole_number(1), default=LIMIT, metavar="SECONDS",
                         help=f"CPU seconds of training and labelling ({LIMIT})")  # fmt: skip
    options.add_argument("--quick", action="store_true",
                         help="one seed, at most 2,000 test images")  # fmt: skip
    options.add_argument("--output", type=file_name, metavar="FILE",
                         help="keep results in JSON lines")  # fmt: skip
    options.add_argument("--data-dir", help="of the public data sets")
    args = options.parse_args()
    end_quietly()
    recipes = list(dict.fromkeys((*RECIPES, AUTO)))
    if args.recipe not in recipes:
        options.error(f"--recipe must be one of {', '.join(recipes)}, got {args.recipe}")
    if args.folder is not None and not args.folder.is_dir():
        options.error(f"no folder {args.folder}")
    known = methods(args.recipe)
    if unknown := sorted(set(args.methods or []) - set(known)):
        options.error(f"--methods: no {', '.join(unknown)} among {', '.join(known)}")
    try:
        sources = own_sets.chosen_sets(own_sets.sources(args.folder), args.only)
    except ValueError as error:
        options.error(str(error))
    args.seeds = list(dict.fromkeys(args.seeds or (SEEDS[:1] if args.quick else SEEDS)))
    args.methods = installed([m for m in known if not args.methods or m in args.methods])
    if not args.methods:
        options.error("nothing is left to measure")
    sets = []
    for name, source, whole in loaded(sources, args.data_dir):
        found = measure(name, source, whole, args)
        sets.append(found)
        of_seeds = f"seed{'s' if len(args.seeds) > 1 else ''} {', '.join(map(str, args.seeds))}"
        title = (
            f"{name}: {found['n_classes']} classes, {' x '.join(map(str, found['image_shape']))}, "
            f"{found['n_train']:,} training and {found['n_test']:,} test images, {of_seeds}"
        )
        print_table([cells(m, row) for m, row in found["methods"].items()], title)
    if not sets:
        msg = "error: no data set could be read"
        raise SystemExit(msg)
    comparisons = print_summary(sets, args.recipe)
    print_contests(sets, args.recipe)
    needed = dict.fromkeys(package for method in args.methods for package in packages(method))
    print_last_line({"sets": sets, "recipe": args.recipe, "summary": comparisons}, list(needed))
    if any(
        (row["outcome"] or "").startswith("failed")
        for found in sets
        for row in found["methods"].values()
    ):
        msg = "error: some methods failed: see above"
        raise SystemExit(msg)


if __name__ == "__main__":
    main()
