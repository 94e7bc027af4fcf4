"""Any settings on held-out training images.

``python -m experiments.field.held_out_runs DATASET --run "--recipe default" --run "--n-units 96"``
trains a row for each ``--run``, with the options of ``varpro_nn.train``. Measures accuracy on the
last 10,000 training images, or the last third if that is fewer. It does not read the test images,
so settings can be chosen with it. ``--n-train`` takes the first of the other images, and
``--seeds N`` trains each row with N seeds. Prints a Markdown table; the last line is JSON.
"""

import argparse
import shlex
from typing import Any

import numpy as np

from experiments.field.accuracy import mean, summary
from experiments.shared.held_out import held_out
from experiments.shared.ledger import print_last_line
from experiments.shared.options import parser, whole_number
from experiments.shared.runs import run_rows
from experiments.shared.tables import print_table
from varpro_nn import load
from varpro_nn.train import SETTINGS, build_parser
from varpro_nn.training.recipes import RECIPES


def settings_in(text: str) -> dict[str, Any]:
    """Read settings, and perhaps a recipe, from options of the command that trains."""
    parser_of_training = build_parser()
    try:
        given, unknown = parser_of_training.parse_known_args(["digits", *shlex.split(text)])
    except SystemExit as error:  # what is wrong was printed
        msg = f"could not read {text!r}; see the message above"
        raise argparse.ArgumentTypeError(msg) from error
    plain = vars(parser_of_training.parse_args(["digits"]))
    chosen = {n: v for n, v in vars(given).items() if n not in plain or v != plain[n]}
    settings = {name: value for name, value in chosen.items() if name in SETTINGS}
    recipe = {"recipe": given.recipe} if given.recipe in RECIPES else {}
    others = sorted(set(chosen) - set(settings) - set(recipe))
    if unknown or others or "seed" in settings:
        wrong = " ".join([*unknown, *others, *(["seed"] if "seed" in settings else [])])
        msg = (
            f"{text!r} has unsupported options: {wrong}. Give a recipe or settings of "
            "varpro_nn.train. Set seeds with --seed and --seeds"
        )
        raise argparse.ArgumentTypeError(msg)
    return settings | recipe


def main() -> None:
    options = parser(__doc__)
    options.add_argument("dataset", choices=("mnist", "fashion-mnist", "cifar10", "digits"))
    options.add_argument(
        "--run", action="append", type=settings_in, required=True, metavar="SETTINGS", dest="runs",
        help="settings of a row, in quotes, as options of varpro_nn.train",
    )  # fmt: skip
    options.add_argument(
        "--n-train", type=whole_number(1), help="number of training images; default: all"
    )
    options.add_argument(
        "--seeds", type=whole_number(1), default=1, help="number of seeds per row; default: 1"
    )
    args = options.parse_args()
    data = held_out(load(args.dataset, args.data_dir), args.n_train, quick=args.quick)
    assert data.test is not None  # the images that are held out
    rows, cells = [], []
    for settings in args.runs:
        name = ", ".join(f"{option}={value}" for option, value in settings.items()) or "as it is"
        seeds = range(args.seed, args.seed + args.seeds)
        of_seeds = {f"{name}, seed {seed}": settings | {"seed": seed} for seed in seeds}
        metrics = [found for _, found in run_rows(of_seeds, data, args, args.dataset)]
        rows.append({"settings": settings, "runs": metrics})
        cells.append({
            "settings": name,
            "parameters": f"{metrics[0]['n_parameters']:,}",
            "accuracy on held-out training images": summary(metrics),
            "training accuracy": f"{np.mean([m['train_accuracy'] for m in metrics]):.4f}",
            "CPU s": mean(metrics, "training_cpu_seconds"),
        })  # fmt: skip
    n_train, n_held = len(data.train), len(data.test)
    print_table(cells, f"{args.dataset}, {n_train:,} training images, the last {n_held:,} held out")
    print_last_line({"rows": rows})


if __name__ == "__main__":
    main()
