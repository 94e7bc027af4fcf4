"""What the command lines share: their parsers, and how results and faults leave the process."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterable

from varpro_nn.errors import VarProError

_logger = logging.getLogger(__name__)


def make_parser(command: str, description: str, faults: str) -> argparse.ArgumentParser:
    """Make the parser of ``python -m varpro_nn.COMMAND``; ``faults`` explains exit status 1."""
    return argparse.ArgumentParser(
        prog=f"python -m varpro_nn.{command}",
        allow_abbrev=False,
        description=description,
        epilog=f"Exit status: 0 done; 1 a fault of {faults}; 2 usage; 130 interrupted.",
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the option that names a trained network."""
    parser.add_argument(
        "--model", required=True, metavar="DIR|FILE", help="a run folder, or its model.npz"
    )


def run_command(lines: Callable[[], Iterable[str]]) -> int:
    """Print the lines of ``lines()``, which does the work, and return the exit status.

    0: done; 1: a fault of data or run, printed as one line on standard error; 130: interrupted.
    """
    try:
        for line in lines():
            print(line)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has closed the pipe (``| head``). Python would report it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (VarProError, ValueError, OSError, MemoryError) as error:
        _logger.info("the error in full", exc_info=True)  # with -v
        print(f"error: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print(": ".join(["interrupted", *map(str, interrupt.args)]), file=sys.stderr)
        return 130
    return 0
