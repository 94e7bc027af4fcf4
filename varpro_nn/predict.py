"""Command line: ``python -m varpro_nn.predict --model DIR|FILE IMAGES ...``.

Prints one JSON object a line for each image: its number, its file, the label, the probabilities.
Files that cannot be read are named on standard error. The others are labelled, and the exit status
is 1. Where the pictures of a folder lie in sub-folders named like the classes, standard error also
has the accuracy.
"""

import argparse
import json
from collections.abc import Iterator, Sequence, Set
from itertools import count
from pathlib import Path

from varpro_nn import data
from varpro_nn._cli import add_model, is_meant, make_parser, parse, print_fault, run_command, tell
from varpro_nn._typing import ImageArray
from varpro_nn._warn import warn_user
from varpro_nn.errors import DatasetError
from varpro_nn.linalg.threads import effective_jobs
from varpro_nn.model.network import Network, probabilities
from varpro_nn.training.metrics import standard_error


def build_parser() -> argparse.ArgumentParser:
    """Build the parser."""
    parser = make_parser("predict", "Label images with a trained network.", "model or images")
    add_model(parser)
    parser.add_argument(
        "--n-jobs", type=int, default=1, metavar="N", help="threads, -1 for all cores (1)"
    )
    parser.add_argument(
        "--prepare", action="store_true",
        help="make pictures of any size like the training images: resize them and, depending on "
        "these images, invert, scale and centre what they show",
    )  # fmt: skip
    parser.add_argument(
        "images", nargs="+", metavar="IMAGES",
        help="a picture in any format of Pillow, a folder of pictures or of folders of pictures, "
        "or a file: npz (array x_test, else images, else the only array), npy, IDX (also as .gz), "
        "or a table of pixels (csv, tsv, parquet)",
    )  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = build_parser()
    args = parse(parser, argv)
    try:
        effective_jobs(args.n_jobs)
    except ValueError as error:
        parser.error(str(error))
    faults: list[DatasetError] = []
    status = run_command(lambda: _lines(args, faults))
    return status or int(bool(faults))


def _lines(args: argparse.Namespace, faults: list[DatasetError]) -> Iterator[str]:
    """Label all images; the faults of files are printed, and appended to ``faults``."""

    def report(fault: DatasetError) -> None:
        print_fault(fault)
        faults.append(fault)

    network = Network.load(Path(args.model))
    if args.prepare and not network.preparation.learnt:
        msg = (
            f"{args.model} has no record of what its training images show, so --prepare only "
            "resizes pictures. Train again to have them scaled and centred like these images."
        )
        warn_user(msg)
    numbers = count()
    names = {str(name) for name in network.classes.tolist()}
    right: list[bool] = []
    for part in data.read_all_images(
        args.images, network.image_shape,
        prepared=network.preparation.for_pictures(prepare=args.prepare),
        on_fault=report, on_note=lambda note: tell(f"note: {note}"),
    ):  # fmt: skip
        try:
            lines = _labelled(network, part.images, args.n_jobs)
        except ValueError as error:  # intensities unlike those of training
            if not is_meant(error):
                raise
            more = len(set(part.files)) - 1
            where = f"{part.files[0]}{f' and {more} more' if more else ''}"
            report(DatasetError(f"{where}: {error}"))
            continue
        for file, line in zip(part.files, lines, strict=True):
            place = {"image": next(numbers), "file": file.name, "path": str(file)}
            yield json.dumps({**place, **line})
            true = _class_of_folder(file, args.images, names)
            right += [] if true is None else [true == str(line["label"])]
    if right and not faults:
        share = sum(right) / len(right)
        tell(
            f"accuracy {share:.4f} ± {standard_error(share, len(right)):.4f} on the {len(right):,} "
            "pictures in sub-folders named like a class"
        )


def _class_of_folder(file: Path, given: Sequence[str], names: Set[str]) -> str | None:
    """Name the class in whose folder a picture lies, below a folder that the user gave."""
    for folder in map(Path, given):
        if file.is_relative_to(folder):
            below = file.relative_to(folder).parent.parts
            return next((part for part in reversed(below) if part in names), None)
    return None


def _labelled(network: Network, images: ImageArray, n_jobs: int) -> list[dict[str, object]]:
    """Label and probabilities of each image, as JSON values."""
    outputs = network.decision_function(images, n_jobs=n_jobs)
    names = [str(name) for name in network.classes.tolist()]
    labels = network.classes[outputs.argmax(axis=1)].tolist()
    proba = probabilities(outputs, network.output_layer, network.temperature).round(6).tolist()
    return [
        {"label": label, "probabilities": dict(zip(names, row, strict=True))}
        for label, row in zip(labels, proba, strict=True)
    ]


if __name__ == "__main__":
    raise SystemExit(main())
