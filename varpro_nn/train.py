"""Command line: ``python -m varpro_nn.train DATASET [options]``.

Progress goes to standard error. Standard output ends with one JSON object on one line, which is
also written to the run folder as ``metrics.json``.
"""

import argparse
import json
import re
import shlex
from collections.abc import Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from varpro_nn import data
from varpro_nn._cli import is_meant, make_parser, parse, run_command, tell
from varpro_nn._io.atomic import locked, strict_json
from varpro_nn._settings import Setting, groups_of, settings_of
from varpro_nn.compute import cluster
from varpro_nn.data.images_on_disk import ImagesOnDisk
from varpro_nn.errors import VarProError
from varpro_nn.exporters import WRITERS, check_onnx
from varpro_nn.linalg.threads import effective_jobs
from varpro_nn.model.network import Network
from varpro_nn.report.figures import check_matplotlib
from varpro_nn.report.page import write_report
from varpro_nn.training.config import REMOVED, RENAMED, TrainConfig
from varpro_nn.training.contest import AUTO, can_compare, kinds_of_units
from varpro_nn.training.contest_results import Contest
from varpro_nn.training.estimate import estimate
from varpro_nn.training.pipeline import Run, said_of_refit
from varpro_nn.training.recipes import DATA, NAMED, RECIPES, configure, kind_of_data
from varpro_nn.training.run_folder import RunFolder, check_sums_can_be_kept, default_path

SETTINGS = {option: s for option, s in settings_of(TrainConfig).items() if option != "recipe"}
"""The settings with an option each; the option of the recipe is made separately."""
VALIDATION = 0.2
"""Share of the training images that is held out if there is nothing else to measure on."""


def build_parser() -> argparse.ArgumentParser:
    """Build the parser; the options of the settings are made from their fields."""
    parser = make_parser(
        "train", "Train an image classifier by variable projection.", "data or run"
    )
    parser.add_argument(
        "dataset",
        nargs="?",
        help=f"{', '.join(data.NAMES)}; a file of arrays or a table ({', '.join(data.ENDINGS)}); "
        "a folder with a sub-folder of pictures for each class; or a folder of .npy or IDX files, "
        "or of train.csv and test.csv",
    )
    parser.add_argument(
        "--label-column", metavar="NAME",
        help="column of a table that has the labels: its name, or its number from 0 on, -1 for the "
        "last (the column label, class, target or y, else the first; beside file names, the only)",
    )  # fmt: skip
    parser.add_argument(
        "--image-size", type=_image_size, metavar="N|RxC",
        help="R rows and C columns of the images: of rows of pixels (squares), or of pictures "
        "(their median size, at most 64 pixels on the longer side)",
    )  # fmt: skip
    parser.add_argument(
        "--recipe", choices=(*RECIPES, AUTO), default=None,
        help="named settings; the values of each in brackets below; auto: compare settings on part "
        "of the training images for up to a few minutes, then train with the best (auto for your "
        f"own data, default for {', '.join(NAMED)})",
    )  # fmt: skip
    parser.add_argument("--list-recipes", action="store_true", help="show the recipes and stop")
    parser.add_argument(
        "--estimate", action="store_true",
        help="estimate time, memory and disk of the run and stop; nothing is trained or written; "
        "with --recipe auto, one estimate for each kind of units",
    )  # fmt: skip
    _add_run(parser)
    _add_settings(parser)
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    """Add what no number of the result depends on."""
    parser.add_argument(
        "--n-jobs", type=int, default=-1, metavar="N",
        help="worker processes, -1 for all cores, -2 for all but one (%(default)s); no result "
        "depends on it",
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
    parser.add_argument(
        "--validation", type=_share, default=None, metavar="X",
        help="share of the training images of each class that is held out of everything, and "
        "measured at the end (accuracy, balanced accuracy, confusion matrix and others); 0 for "
        "none (0.2 if the data have neither test nor validation images)",
    )  # fmt: skip
    parser.add_argument(
        "--follow-links", action="store_true",
        help="also read pictures to which links, or names in a table, lead out of the folder",
    )  # fmt: skip
    parser.add_argument(
        "--images-on-disk", metavar="DIR",
        help="keep the images of pictures in a temporary file in DIR, not in memory: for data "
        "larger than memory",
    )  # fmt: skip
    parser.add_argument("--data-dir", metavar="DIR", help="where the data files are, or go")
    parser.add_argument("--offline", action="store_true", help="fetch no data")
    parser.add_argument(
        "--output", metavar="DIR", help="run folder (runs/DATE-TIME-PROCESS-DATASET-RECIPE)"
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in --output")
    parser.add_argument(
        "--overwrite", action="store_true",
        help="replace the run in --output; with --resume replace only its model and use its "
        "sub-networks again",
    )  # fmt: skip
    parser.add_argument(
        "--keep-glue", action="store_true",
        help="write glue.npz too: the sums of a ridge layer, to which images and units can be "
        "added, and removed",
    )  # fmt: skip
    parser.add_argument(
        "--report", action=argparse.BooleanOptionalAction,
        help="write report.html too: figures of the run, the confusion matrix, and a canvas to "
        "draw on (by default if Matplotlib is installed)",
    )  # fmt: skip
    parser.add_argument(
        "--export", type=_formats, default=(), metavar="FORMATS",
        help="also write the network for other programs, beside model.npz: onnx, c or html, or "
        "several separated by commas (onnx,c)",
    )  # fmt: skip
    parser.add_argument(
        "--quiet",
        action="store_true",
        help="no progress bar and no notes; warnings are still printed",
    )


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """Add a group of options for each group of settings."""
    groups = {"": parser.add_argument_group("run", "What all of a run depends on.")}
    for name, group in groups_of(TrainConfig).items():
        sentence = (group.__doc__ or "").split("\n", 1)[0]
        groups[name] = parser.add_argument_group(name, sentence)
    for option, setting in SETTINGS.items():
        within = groups["" if len(setting.path) == 1 else setting.path[0]]
        text = f"{setting.described} ({_in_recipes(option)})".replace("%", "%%")
        text = text.replace("None", "none")  # the word that stands for it here
        keywords = {"default": argparse.SUPPRESS, "help": text, **_value_of(setting)}
        within.add_argument(_flag(option), **keywords)
        for old in (old for old, new in RENAMED.items() if new == option):
            within.add_argument(_flag(old), **{**keywords, "help": argparse.SUPPRESS})


def _value_of(setting: Setting) -> dict[str, Any]:
    """Say how argparse reads a setting."""
    if setting.kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    if setting.choices:
        return {"choices": setting.choices, "type": partial(_choice, setting)}
    metavar = "N" if setting.kind is int else "X"
    if not setting.optional:
        return {"type": setting.kind, "metavar": metavar}
    return {"type": partial(_number, setting), "metavar": f"{metavar}|none"}


def _number(setting: Setting, text: str) -> Any:
    """Read a number, or the word that stands for None."""
    if text.lower() == "none":
        return None
    try:
        return setting.kind(text)
    except ValueError:
        what = "whole number" if setting.kind is int else "number"
        msg = f"must be a {what}, or none, got {text!r}"
        raise argparse.ArgumentTypeError(msg) from None


def _choice(setting: Setting, text: str) -> str:
    """Read one of the choices of a setting; of one that was removed, say what to do instead."""
    if text in setting.gone:
        msg = f"{text} was removed: {setting.gone[text]}"
        raise argparse.ArgumentTypeError(msg)
    return text


def _formats(text: str) -> tuple[str, ...]:
    """Read ``onnx`` or ``onnx,c``."""
    formats = tuple(dict.fromkeys(text.split(",")))
    if not set(formats) <= set(WRITERS):
        known = ", ".join(WRITERS)
        msg = f"must be one or more of {known}, separated by commas (onnx,c), got {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return formats


def _image_size(text: str) -> tuple[int, int]:
    """Read ``28`` or ``28x20``."""
    match = re.fullmatch(r"(\d{1,9})(?:[xX](\d{1,9}))?", text)
    size = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if min(size) < 1:
        msg = f"must be N or ROWSxCOLUMNS, 28 or 28x20 for example, got {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return size


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"


@cache
def _options_of(recipe: str) -> dict[str, Any]:
    return RECIPES[recipe].options()


def _in_recipes(option: str) -> str:
    """Name the value of a setting in the default recipe, and in those where it is another."""
    value = _options_of("default")[option]
    others = {recipe: _options_of(recipe)[option] for recipe in RECIPES}
    differing = [f"{recipe} {other}" for recipe, other in others.items() if other != value]
    return ", ".join([str(value), *differing])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = build_parser()
    args = parse(parser, argv, {_flag(old): instead for old, instead in REMOVED.items()})
    if args.list_recipes:
        return run_command(_recipes)
    if args.dataset is None:
        parser.error("the following arguments are required: dataset")
    if (args.resume or args.overwrite) and args.output is None:
        parser.error("--resume and --overwrite need --output")
    if args.scheduler is not None and args.backend != "dask":
        parser.error("--scheduler needs --backend dask")
    given = vars(args)
    for old, new in RENAMED.items():
        if old in given and new in given:
            parser.error(f"{_flag(old)} is the old name of {_flag(new)}: give the latter alone")
        if old in given:
            tell(f"warning: {_flag(old)} is now named {_flag(new)}")
            given[new] = given.pop(old)
    overrides = {option: given[option] for option in SETTINGS if option in given}
    try:
        # Faults of usage are told before data are fetched; what kind of data it is, a file says.
        _check_settings(args.dataset, _recipe_of(args), overrides)
        effective_jobs(args.n_jobs)
    except ValueError as error:
        if not is_meant(error):
            raise
        parser.error(str(error))
    return run_command(lambda: [_train(args, overrides)])


def _recipes() -> Iterator[str]:
    """Write each recipe for each kind of data as JSON."""
    for name in RECIPES:
        for kind in DATA:
            settings = configure(name, data=kind).options()
            yield json.dumps({"name": name, "data": kind, **settings})
    yield json.dumps({"name": AUTO, "settings": "the best in a contest on training images"})


def _check_settings(dataset: str, recipe: str, overrides: dict[str, Any]) -> None:
    """Refuse settings that are wrong for every kind of data that ``dataset`` may turn out to be."""
    faults = []
    for kind in (dataset,) if dataset in NAMED else DATA:
        for name in ("default", "bilinear") if recipe == AUTO else (recipe,):
            try:
                configure(name, data=kind, **overrides)
            except ValueError as error:
                faults.append(error)
            else:
                return
    raise faults[0]


def _recipe_of(args: argparse.Namespace, dataset: data.Dataset | None = None) -> str:
    """Take the recipe that was given; else the one for the data, as far as they are known."""
    if args.recipe is not None:
        return str(args.recipe)
    if args.dataset in NAMED:
        return "default"
    n_train = getattr(args, "n_train", None)
    return AUTO if dataset is None or can_compare(dataset, n_train) else "default"


def _train(args: argparse.Namespace, overrides: dict[str, Any]) -> str:
    """Train, write the run folder, and return its metrics as JSON."""
    data.check_name(args.dataset, "dataset")
    path = Path(args.output) if args.output else default_path(args.dataset, _recipe_of(args))
    folder = RunFolder(path, resume=args.resume, overwrite=args.overwrite)
    if not args.estimate:
        folder.check_writable()
        folder.check_free()
    dataset = _load(args)
    recipe = _recipe_of(args, dataset)
    report = None
    if _wants_report(args):  # before the work
        report = partial(write_report, dataset=dataset)
    if "onnx" in args.export:
        check_onnx()
    if args.estimate:
        return _estimate(args, recipe, overrides, dataset, with_report=report is not None)
    chosen = None
    if recipe == AUTO:
        chosen = _contest(args, overrides, folder, dataset)
        config = chosen.config
    else:
        config = _configured(args, recipe, overrides, dataset)
    if args.keep_glue:
        check_sums_can_be_kept(config)
    metrics = folder.finished(config, dataset, keep_sums=args.keep_glue)
    if metrics is not None:
        _export(args.export, path)
        return metrics
    with locked(path), cluster.executor(args.backend, args.scheduler, args.n_jobs) as executor:
        if args.resume and not folder.n_kept:
            tell(f"{path}: no sub-networks there to resume; training starts from the beginning")
        try:
            result = folder.train(
                config, dataset, n_jobs=args.n_jobs, executor=executor, progress=not args.quiet,
                keep_sums=args.keep_glue, report=report, contest=chosen,
            )  # fmt: skip
        except KeyboardInterrupt:
            n_kept = folder.n_kept
            msg = f"add --resume --output {path} to continue with {n_kept} finished sub-networks"
            raise KeyboardInterrupt(msg if n_kept else "no sub-network is finished yet") from None
        _export(args.export, path)
    if not args.quiet:
        for line in _in_words(result):
            tell(line)
    return strict_json(result.metrics).decode().strip()


def _export(formats: Sequence[str], folder: Path) -> None:
    """Write the network of a run folder in each format, beside its model."""
    for name in formats:
        WRITERS[name](Network.load(folder / "model.npz"), folder / f"model.{name}")


def _contest(
    args: argparse.Namespace, overrides: dict[str, Any], folder: RunFolder, dataset: data.Dataset
) -> Contest:
    """Choose the settings, or take those of the run to resume."""
    if args.keep_glue:  # unless the settings are given, the sums cannot be kept
        check_sums_can_be_kept(configure("default", data=dataset, **overrides))
    with locked(folder.path):
        chosen = folder.contest(dataset, overrides, n_jobs=args.n_jobs, progress=not args.quiet)
    if not args.quiet:
        tell(chosen.sentence)
    return chosen


def _configured(
    args: argparse.Namespace, recipe: str, overrides: dict[str, Any], dataset: data.Dataset
) -> TrainConfig:
    """Take the settings of a recipe; say where they are not those that its name suggests."""
    config = configure(recipe, data=dataset, **overrides)
    if config.recipe != recipe and not args.quiet:
        tell(
            f"--recipe {recipe} was chosen for other units than {config.units.kind}; all "
            f"settings that are not given are those of --recipe {config.recipe}"
        )
    if overrides.get("first_units") is not None and not args.quiet:
        tell(
            "the units see maps of a first layer: settings of units and of their training that "
            f"you do not give have defaults for maps, not the values of --recipe {config.recipe} "
            "(docs/two_layers.md)"
        )
    as_chosen = configure(config.recipe, data=kind_of_data(dataset.name, dataset.image_shape))
    given = {"scheme", "n_stages", "first_units"} & set(overrides)
    if config.subnetworks.scheme != as_chosen.subnetworks.scheme and not given and not args.quiet:
        loss = as_chosen.subnetworks.loss
        is_loss = config.subnetworks.loss != loss
        scheme = as_chosen.subnetworks.scheme
        if config.subnetworks.solver == "kfac":
            tell(f"sub-networks train independently: --solver kfac has no {scheme}")
        else:
            reason = (
                f"were chosen for --loss {loss}"
                if is_loss
                else "cost more and gain nothing with this many columns for each image of a "
                "sub-network"
            )
            tell(
                f"sub-networks train independently: the {scheme} of --recipe {config.recipe} "
                f"{reason}; add --scheme {scheme} to keep them"
            )
    n_copies = as_chosen.output.n_copies if config.distortion else 0
    on_disk = isinstance(dataset.train.images, ImagesOnDisk)
    if on_disk and n_copies and "n_copies" not in overrides and not args.quiet:
        tell(
            f"images on disk have no distorted copies, of which --recipe {config.recipe} makes "
            f"{n_copies} in memory; the accuracy may differ"
        )
    is_colour = kind_of_data(dataset.name, dataset.image_shape) == "colour"
    if is_colour and "flip" not in overrides and not args.quiet:
        tell("images are not mirrored; if left and right do not matter, add --flip --views flip")
    return config


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        msg = f"must be a number from 0 to below 1, got {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return share


def _load(args: argparse.Namespace) -> data.Dataset:
    """Load the data set; hold images out, by default if there is nothing to measure on."""
    dataset = data.load(
        args.dataset, args.data_dir, offline=args.offline, progress=not args.quiet,
        label_column=args.label_column, image_size=args.image_size,
        follow_links=args.follow_links, images_on_disk=args.images_on_disk, n_jobs=args.n_jobs,
    )  # fmt: skip
    share = args.validation
    if share is None:
        measured = dataset.test is not None or dataset.validation is not None
        share = VALIDATION if not measured and dataset.can_hold_out(VALIDATION) else 0.0
    if share:
        dataset = dataset.hold_out(share)
        if not args.quiet and dataset.validation is not None:
            _tell_unmeasured(dataset.train, dataset.validation, dataset.classes)
        if args.validation is None and not args.quiet and dataset.validation is not None:
            others = "--refit also trains on all afterwards, --validation 0 trains on all at once"
            tell(
                f"no test images: {len(dataset.validation):,} training images are held out to "
                "measure the network; "
                + ("then it is trained again on all" if "refit" in args and args.refit else others)
            )
    return dataset


def _tell_unmeasured(train: data.ImageSet, held: data.ImageSet, classes: Any) -> None:
    """Name the classes of which no image was held out."""
    missing = np.setdiff1d(train.labels, held.labels)
    if len(missing):
        names = ", ".join(str(classes[code]) for code in missing[:5])
        more = f" and {len(missing) - 5:,} more" if len(missing) > 5 else ""
        kind, them = ("class", "it") if len(missing) == 1 else ("classes", "them")
        tell(
            f"no validation images for {kind} {names}{more}: too few images to hold any out, so "
            f"validation figures leave {them} out"
        )


def _estimate(
    args: argparse.Namespace,
    recipe: str,
    overrides: dict[str, Any],
    dataset: data.Dataset,
    *,
    with_report: bool,
) -> str:
    """Show what the run will take, and return it as JSON; of a contest, for each kind of units."""

    def figures(config: TrainConfig, title: str | None = None) -> dict[str, Any]:
        if args.keep_glue:
            check_sums_can_be_kept(config)
        found = estimate(
            config, dataset, n_jobs=args.n_jobs, growth=with_report, keep_sums=args.keep_glue
        )
        if not args.quiet:
            for line in (*([title] if title else []), *found.summary().splitlines()):
                tell(line)
        names = ("n_parameters", "cpu_seconds", "wall_seconds", "memory_mib", "disk_mib", "n_jobs")
        return {name: getattr(found, name) for name in names}

    if recipe != AUTO:
        told = figures(_configured(args, recipe, overrides, dataset))
    else:
        each = kinds_of_units(dataset, **overrides)
        told = {"candidates": [{"name": c.name, **figures(c.config, f"{c.name}:")} for c in each]}
        if not args.quiet:
            tell(
                "--recipe auto chooses one of these by a contest before the training, whose time "
                "is not included; it may also add distorted copies or change the output layer"
            )
    return strict_json(told).decode().strip()


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
            tell(f"no report.html: {error}")
        return False
    return True


def _in_words(result: Run) -> Iterator[str]:
    """Say in a few lines what came out."""
    metrics = result.metrics
    said = f"network of {metrics['n_parameters']:,} parameters in {metrics['output']}"
    for subset in ("validation", "test"):
        if f"{subset}_accuracy" in metrics:
            said = (
                f"{subset} accuracy {metrics[f'{subset}_accuracy']:.4f} "
                f"± {metrics[f'{subset}_accuracy_standard_error']:.4f}; {said}"
            )
    yield said
    if metrics["refitted"]:
        yield said_of_refit(metrics)
    model = shlex.quote(metrics["output"])
    yield f"label images with it: python -m varpro_nn.predict --model {model} my.png"
    of_last = [subnetwork for subnetwork in result.subnetworks if subnetwork.layer == "last"]
    n_missing = sum(subnetwork.n_missing_classes > 0 for subnetwork in of_last)
    if n_missing:
        yield (
            f"{n_missing} sub-networks drew no image of some class; increase "
            "--images-per-subnetwork"
        )


if __name__ == "__main__":
    raise SystemExit(main())
