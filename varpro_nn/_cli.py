"""What the command lines share: their parsers, and how results and faults leave the process."""

import argparse
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches

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


def parse(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    removed: Mapping[str, str] | None = None,
) -> argparse.Namespace:
    """Parse ``argv``; leave the process with status 2 if there is an unknown option.

    The message says what to do in place of an option in ``removed``, else it suggests the nearest
    option.
    """
    args, unknown = parser.parse_known_args(argv)
    options = [word.split("=")[0] for word in unknown if word.startswith("--")]
    for option in options:
        if removed and option in removed:
            parser.error(f"{option} was removed; {removed[option]}.")
    if unknown:
        known = re.findall(r"--([\w-]+)", parser.format_usage())
        near = [near for option in options for near in get_close_matches(option[2:], known, n=1)]
        suggested = f"; did you mean --{near[0]}?" if near else ""
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{suggested}")
    return args


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Leave out the place in our code, of which a user of the command line knows nothing."""
    usual = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: (
        f"warning: {' '.join(str(message).split())}\n"
    )
    try:
        yield
    finally:
        warnings.formatwarning = usual


def run_command(lines: Callable[[], Iterable[str]]) -> int:
    """Print the lines of ``lines()``, which does the work, and return the exit status.

    0: done; 1: a fault of data or run, printed as one line on standard error; 130: interrupted.
    Warnings are one line each as well.
    """
    try:
        with _warnings_in_one_line():
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
