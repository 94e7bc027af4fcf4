"""Command line: ``python -m varpro_nn.train DATASET [options]``.

Progress goes to standard error. Standard output ends with one JSON object on one line, which is
also written to the run folder as ``metrics.json``.
"""

import argparse
import json
import logging
import sys
import types
import typing
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

from varpro_nn import data
from varpro_nn._cli import run_command
from varpro_nn._io.atomic import locked, strict_json
from varpro_nn.compute import cluster
from varpro_nn.errors import VarProError
from varpro_nn.linalg.threads import effective_jobs
from varpro_nn.report.figures import check_matplotlib
from varpro_nn.report.page import write_report
from varpro_nn.training.config import CHOICES, TrainConfig
from varpro_nn.training.pipeline import Run, run
from varpro_nn.training.recipes import DATA, RECIPES, configure
from varpro_nn.training.run_folder import check_same, choose_folder, look_for_earlier_run, write_run

HELP = {
    "units": "kind of units",
    "scalarisation": "kind of linear form that patch units take of a window",
    "rank": "terms of the sum in each unit",
    "activation": "activation",
    "threshold": "of the two-sided activation",
    "gain": "standard deviation of the pre-activations at the start",
    "window": "side of the windows of patch units, pixels",
    "stride": "distance of the windows, pixels",
    "grid": "cells along each side that a patch unit pools in",
    "training_stride": "distance of the windows while units are trained, instead of --stride",
    "contrast": "normalise windows; this is added to their variance",
    "whitening": "whiten windows; this times the mean variance is added to the variances",
    "n_components": "directions that the whitening keeps",
    "draw": "what the filters of patch units start from",
    "n_units": "units of the whole network; without --n-subnetworks these keep about their size",
    "n_subnetworks": "sub-networks that the units are cut into",
    "scheme": "what a sub-network knows of the others while it trains",
    "n_stages": "groups of sub-networks that train one after the other",
    "n_parts": "train sub-networks one after the other, each shared among all workers in so many "
    "parts",
    "n_rounds": "train each sub-network so often, each time on twice the images",
    "loss": "what sub-networks minimise",
    "shift": "distort training images: largest shift, pixels",
    "rotation": "distort: largest angle, degrees",
    "scale": "distort: largest relative change of size",
    "shear": "distort: largest shear",
    "elastic": "distort: standard deviation of a smooth displacement, pixels",
    "flip": "distort: mirror one image in two left and right",
    "n_copies": "distorted copies of all training images that the output layer is fitted on too",
    "output_layer": "what the last linear layer minimises on the features of all units",
    "standardise": "let the penalty of a ridge layer act on columns of variance 1",
    "views": "average outputs over each image and its mirror image, or its shifts by a pixel",
    "images_per_subnetwork": "random training images of each sub-network",
    "n_train": "use the first so many training images only",
    "max_nfev": "evaluations of the functional in a sub-network; 0: leave the units untrained",
    "ridge": "penalty on the linear weights of a sub-network",
    "weight_decay": "penalty on the unit weights",
    "glue_ridge": "penalty of the output layer, instead of the one that does best on training "
    "images",
    "solver": "how a sub-network is minimised",
    "form": "form of the least-squares problem",
    "jacobian": "Kaufman's Jacobian, or the full one of Golub and Pereyra",
    "patience": "stop a sub-network after so many steps without a lower leave-one-out error",
    "bootstrap": "afterwards, train on the test images with guessed labels (the paper's "
    "section 5); agreement with the guesses is not accuracy",
    "bootstrap_rule": "margin: the paper's rule; argmax: the largest output",
    "bootstrap_ridge": "penalty on the linear weights in the bootstrap pass",
    "seed": "the one seed of all random numbers",
}
"""What ``--help`` says of each field of TrainConfig."""


def build_parser() -> argparse.ArgumentParser:
    """Build the parser; the options of the settings come from the fields of TrainConfig."""
    parser = argparse.ArgumentParser(
        prog="python -m varpro_nn.train",
        allow_abbrev=False,
        description="Train an image classifier by variable projection.",
        epilog="Exit status: 0 done; 1 a fault of data or run; 2 usage; 130 interrupted.",
    )
    parser.add_argument(
        "dataset",
        nargs="?",
        help=f"{', '.join(data.NAMES)}, a file that ends in .npz, or a folder of .npy files",
    )
    parser.add_argument(
        "--recipe", choices=tuple(RECIPES), default="default", help="named settings"
    )
    parser.add_argument("--list-recipes", action="store_true", help="show the recipes and stop")
    settings = parser.add_argument_group("settings, instead of the recipe's (in brackets)")
    hints = typing.get_type_hints(TrainConfig)
    for field in fields(TrainConfig):
        if field.name == "recipe":
            continue
        option = f"--{field.name.replace('_', '-')}"
        kind = _scalar(hints[field.name])
        text = f"{HELP[field.name]} ({_in_recipes(field.name)})"
        keywords: dict[str, Any] = {"default": argparse.SUPPRESS, "help": text}
        if kind is bool:
            keywords["action"] = argparse.BooleanOptionalAction
        elif field.name in CHOICES:
            keywords["choices"] = CHOICES[field.name]
        else:
            keywords.update(type=kind, metavar="N" if kind is int else "X")
        settings.add_argument(option, **keywords)
    parser.add_argument(
        "--n-jobs", type=int, default=-1, metavar="N",
        help="worker processes, -1 for all cores (%(default)s); no result depends on it",
    )  # fmt: skip
    parser.add_argument(
        "--backend", choices=cluster.BACKENDS, default="joblib",
        help="where sub-networks train: in processes of this machine, or on a cluster of Dask "
        "(%(default)s); no result depends on it",
    )  # fmt: skip
    parser.add_argument(
        "--scheduler", metavar="ADDRESS",
        help="of the cluster, tcp://HOST:PORT or tls://HOST:PORT; without it --backend dask "
        "starts --n-jobs processes on this machine",
    )  # fmt: skip
    parser.add_argument("--data-dir", metavar="DIR", help="where the data files are, or go")
    parser.add_argument("--offline", action="store_true", help="fetch no data")
    parser.add_argument(
        "--output", metavar="DIR", help="run folder (runs/DATE-TIME-PROCESS-DATASET-RECIPE)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with the sub-networks in --output"
    )
    parser.add_argument(
        "--overwrite", action="store_true",
        help="replace a run that is in --output already; with --resume its model alone: "
        "sub-networks are used again",
    )  # fmt: skip
    parser.add_argument(
        "--keep-glue", action="store_true",
        help="write glue.npz too: the sums of a ridge layer, to which images and units can be "
        "added, and removed",
    )  # fmt: skip
    parser.add_argument(
        "--report", action=argparse.BooleanOptionalAction,
        help="write report.html too: figures of the run, and a canvas on which the network "
        "answers (written where Matplotlib is installed)",
    )  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("-v", "--verbose", action="count", default=0, help="more log")
    return parser


def _in_recipes(name: str) -> str:
    """Name the value of a setting in the default recipe, and in those where it is another."""
    value = getattr(RECIPES["default"], name)
    others = {r: getattr(recipe, name) for r, recipe in RECIPES.items()}
    differing = [f"{r} {other}" for r, other in others.items() if other != value]
    return ", ".join([str(value), *differing])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = build_parser()
    args = parser.parse_args(argv)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING - 10 * args.verbose)
    if args.list_recipes:
        for name in RECIPES:
            for data in DATA:
                settings = asdict(configure(name, data=data))
                print(json.dumps({"name": name, "data": data, **settings}))
        return 0
    if args.dataset is None:
        parser.error("the following arguments are required: dataset")
    if (args.resume or args.overwrite) and args.output is None:
        parser.error("--resume and --overwrite need --output")
    if args.scheduler is not None and args.backend != "dask":
        parser.error("--scheduler needs --backend dask")
    names = {field.name for field in fields(TrainConfig)} - {"recipe"}
    overrides = {name: value for name, value in vars(args).items() if name in names}
    try:
        # Faults of usage are told before data are fetched; what kind of data it is, a file says.
        _check_settings(args.dataset, args.recipe, overrides)
        effective_jobs(args.n_jobs)
    except ValueError as error:
        parser.error(str(error))
    return run_command(lambda: [_train(args, overrides)])


def _check_settings(dataset: str, recipe: str, overrides: dict[str, Any]) -> None:
    """Refuse settings that are wrong for every kind of data that ``dataset`` may turn out to be."""
    faults = []
    for kind in (dataset,) if dataset in DATA else DATA:
        try:
            configure(recipe, data=kind, **overrides)
        except ValueError as error:
            faults.append(error)
        else:
            return
    raise faults[0]


def _train(args: argparse.Namespace, overrides: dict[str, Any]) -> str:
    """Train, write the run folder, and return its metrics as JSON."""
    folder = choose_folder(args.output, args.dataset, args.recipe)
    look_for_earlier_run(folder, resume=args.resume, overwrite=args.overwrite)
    dataset = data.load(args.dataset, args.data_dir, offline=args.offline, progress=not args.quiet)
    config = configure(args.recipe, data=dataset, **overrides)
    if args.keep_glue and (config.output_layer != "ridge" or config.n_copies):
        msg = (
            "--keep-glue needs --output-layer ridge and --n-copies 0, got "
            f"{config.output_layer} and {config.n_copies}"
        )
        raise VarProError(msg)
    args.report = _wants_report(args)  # before the work
    if args.resume and not args.overwrite and (folder / "metrics.json").exists():
        check_same(folder, config, dataset)
        if (folder / "glue.npz").exists() or not args.keep_glue:
            return (folder / "metrics.json").read_text(encoding="utf-8").strip()
    with locked(folder), cluster.executor(args.backend, args.scheduler, args.n_jobs) as executor:
        return _train_in(folder, config, dataset, args, executor)


def _train_in(
    folder: Path,
    config: TrainConfig,
    dataset: data.Dataset,
    args: argparse.Namespace,
    executor: Executor | None,
) -> str:
    """Train in a run folder that is held for this process."""
    # Once more: another process may have had it meanwhile.
    look_for_earlier_run(folder, resume=args.resume, overwrite=args.overwrite)
    shards = folder / "shards"
    if args.resume and not any(shards.glob("*.npz")):
        print(f"{folder}: no sub-networks there to go on with; training begins", file=sys.stderr)
    if args.overwrite and not args.resume:
        # The rest of an earlier run stays until there is something to put in its place.
        for path in shards.glob("*.npz"):
            path.unlink()
    try:
        result = run(
            config, dataset,
            n_jobs=args.n_jobs, executor=executor, progress=not args.quiet, shard_folder=shards,
            keep_sums=args.keep_glue,
        )  # fmt: skip
    except KeyboardInterrupt:
        n_kept = len(list(shards.glob("*.npz")))
        msg = f"add --resume --output {folder} to go on with {n_kept} sub-networks"
        raise KeyboardInterrupt(msg if n_kept else "nothing is kept yet") from None
    metrics = {**result.metrics, "output": str(folder)}
    report = None
    if args.report:
        report = partial(write_report, run=result, dataset=dataset, n_jobs=args.n_jobs)
    write_run(folder, config, result, metrics, report)
    if not args.quiet:
        print(_in_words(metrics, result), file=sys.stderr)
    return strict_json(metrics).decode().strip()


def _wants_report(args: argparse.Namespace) -> bool:
    """Whether there is to be a report; by default where it can be made."""
    if args.report is False:
        return False
    try:
        check_matplotlib()
    except VarProError as error:
        if args.report:
            raise
        if not args.quiet:
            print(f"no report.html: {error}", file=sys.stderr)
        return False
    return True


def _in_words(metrics: dict[str, Any], result: Run) -> str:
    """Say in a line or two what came out."""
    said = f"network of {metrics['n_parameters']:,} parameters in {metrics['output']}"
    if "test_accuracy" in metrics:
        said = (
            f"test accuracy {metrics['test_accuracy']:.4f} "
            f"± {metrics['test_accuracy_standard_error']:.4f}; {said}"
        )
    said += (
        f"\nlabel images with it: python -m varpro_nn.predict --model {metrics['output']} my.png"
    )
    n_missing = sum(subnetwork.n_missing_classes > 0 for subnetwork in result.subnetworks)
    if n_missing:
        said += f"\n{n_missing} sub-networks drew no image of some class: give them more images"
    return said


def _scalar(hint: Any) -> type:
    """``int`` of ``int | None``."""
    if isinstance(hint, types.UnionType):
        (hint,) = (kind for kind in typing.get_args(hint) if kind is not types.NoneType)
    return typing.cast(type, hint)


if __name__ == "__main__":
    raise SystemExit(main())
