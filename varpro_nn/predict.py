"""Command line: ``python -m varpro_nn.predict --model DIR|FILE IMAGES``.

Prints one JSON object a line for each image: its number, the label, the probabilities.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from varpro_nn import datasets
from varpro_nn.errors import VarProError
from varpro_nn.network import Network, probabilities
from varpro_nn.subnetworks import effective_jobs


def build_parser() -> argparse.ArgumentParser:
    """Build the parser."""
    parser = argparse.ArgumentParser(
        prog="python -m varpro_nn.predict",
        description="Label images with a trained network.",
        epilog="Exit status: 0 done; 1 a fault of a file; 2 usage; 130 interrupted.",
    )
    parser.add_argument(
        "--model", required=True, metavar="DIR|FILE", help="a run folder, or its model.npz"
    )
    parser.add_argument(
        "--n-jobs", type=int, default=1, metavar="N", help="threads, -1 for all cores (1)"
    )
    parser.add_argument(
        "images", help="npz, IDX (.gz as well) or PNG file, or a folder of PNG files"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    args = build_parser().parse_args(argv)
    model = Path(args.model)
    try:
        network = Network.load(model / "model.npz" if model.is_dir() else model)
        images = datasets.read_images(args.images, network.image_shape)
        outputs = network.decision_function(images, n_jobs=effective_jobs(args.n_jobs))
    except (VarProError, ValueError, OSError, MemoryError) as error:
        print(f"error: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    labels = network.classes[outputs.argmax(axis=1)].tolist()
    for number, (label, row) in enumerate(
        zip(labels, probabilities(outputs).tolist(), strict=True)
    ):
        line = {
            "image": number,
            "label": label,
            "probabilities": dict(zip(map(str, network.classes.tolist()), row, strict=True)),
        }
        print(json.dumps(line))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
