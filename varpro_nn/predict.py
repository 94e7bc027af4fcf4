"""Command line: ``python -m varpro_nn.predict --model DIR|FILE IMAGES``.

Prints one JSON object a line for each image: its number, the label, the probabilities.
"""

import argparse
import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from varpro_nn import data
from varpro_nn._cli import add_model, make_parser, parse, run_command
from varpro_nn.model.network import Network, probabilities


def build_parser() -> argparse.ArgumentParser:
    """Build the parser."""
    parser = make_parser("predict", "Label images with a trained network.", "a file")
    add_model(parser)
    parser.add_argument(
        "--n-jobs", type=int, default=1, metavar="N", help="threads, -1 for all cores (1)"
    )
    parser.add_argument(
        "--prepare", action="store_true",
        help="make pictures of any size like the training images: resized, and where the training "
        "images show it, inverted, scaled and centred on their ground",
    )  # fmt: skip
    parser.add_argument(
        "images",
        help="npz (array x_test, else images, else the only one), npy, IDX (.gz as well) or "
        "picture file (PNG, JPEG, PGM, PPM, BMP), or a folder of pictures",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    args = parse(build_parser(), argv)
    return run_command(
        lambda: _lines(Path(args.model), args.images, args.n_jobs, prepared=args.prepare)
    )


def _lines(model: Path, images: str, n_jobs: int, *, prepared: bool) -> Iterator[str]:
    network = Network.load(model)
    preparation = network.preparation if prepared else None
    if prepared and not network.preparation.learnt:
        msg = (
            f"{model} has no record of what its training images show; --prepare resizes pictures "
            "and does no more. Train again to have them scaled and centred like these images."
        )
        warnings.warn(msg, UserWarning, stacklevel=2)
    outputs = network.decision_function(
        data.read_images(images, network.image_shape, prepared=preparation), n_jobs=n_jobs
    )
    names = [str(name) for name in network.classes.tolist()]
    labels = network.classes[outputs.argmax(axis=1)].tolist()
    source = Path(images)
    pictures = data.picture_files(source) if source.is_dir() else [source] * len(outputs)
    proba = probabilities(outputs, network.output_layer, network.temperature).round(6).tolist()
    for number, row in enumerate(proba):
        line = {
            "image": number,
            "file": pictures[number].name,
            "label": labels[number],
            "probabilities": dict(zip(names, row, strict=True)),
        }
        yield json.dumps(line)


if __name__ == "__main__":
    raise SystemExit(main())
