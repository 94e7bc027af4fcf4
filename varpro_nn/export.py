"""Command line: ``python -m varpro_nn.export --model DIR|FILE --format onnx|c|html``."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from varpro_nn._cli import add_model, make_parser, parse, run_command, tell
from varpro_nn.exporters import WRITERS, to_c
from varpro_nn.model.network import Network


def build_parser() -> argparse.ArgumentParser:
    """Build the parser."""
    parser = make_parser(
        "export",
        "Write a trained network for other programs; prints the name of the file (and its size "
        "on standard error).",
        "the file",
    )
    add_model(parser)
    parser.add_argument(
        "--format", required=True, choices=tuple(WRITERS),
        help="onnx: a graph for onnxruntime and others; c: one C99 file without dependencies; "
        "html: a page to draw on, without a server",
    )  # fmt: skip
    parser.add_argument(
        "--output", metavar="FILE", help="by default the model's name with another ending"
    )
    parser.add_argument(
        "--int8", action="store_true", help="with c: weights of one byte, a quarter of the size"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = build_parser()
    args = parse(parser, argv)
    if args.int8 and args.format != "c":
        parser.error("--int8 needs --format c")
    return run_command(lambda: _export(args))


def _export(args: argparse.Namespace) -> Iterator[str]:
    model = Path(args.model)
    network = Network.load(model)
    model = model / "model.npz" if model.is_dir() else model
    path = Path(args.output) if args.output else model.with_suffix(f".{args.format}")
    if args.int8:
        to_c(network, path, int8=True)
    else:
        WRITERS[args.format](network, path)
    tell(f"{path.stat().st_size:,} bytes")
    yield str(path)


if __name__ == "__main__":
    raise SystemExit(main())
