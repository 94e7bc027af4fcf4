"""Parsers of the command lines, and the output of results and errors.

Results go to standard output, everything else to standard error. Control characters in file names
and other external texts are escaped, because a terminal would obey them.
"""

import argparse
import io
import logging
import os
import re
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, NoReturn

from varpro_nn.errors import VarProError

_logger = logging.getLogger(__name__)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Leave with status 2; the usage of a hundred options would hide the message."""
        self.exit(2, f"{self.prog}: error: {_printable(message)}\nSee {self.prog} --help.\n")


def make_parser(command: str, description: str, faults: str) -> argparse.ArgumentParser:
    """Make the parser of ``python -m varpro_nn.COMMAND``; ``faults`` explains exit status 1."""
    parser = _Parser(
        prog=f"python -m varpro_nn.{command}",
        allow_abbrev=False,
        description=description,
        epilog=f"Exit status: 0 success; 1 an error in {faults}; 2 wrong usage; 130 interrupted.",
    )
    parser.add_argument(
        "-v", "--verbose", action="count", default=0, help="log more, and show where an error arose"
    )
    return parser


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
    """Parse ``argv``, and start the log; leave with status 2 if there is an unknown option.

    The message says what to do in place of an option in ``removed``, else it suggests the nearest
    option.
    """
    _open_streams()
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
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter(logging.BASIC_FORMAT))
    logging.basicConfig(handlers=[handler], level=logging.WARNING - 10 * args.verbose)
    return args


def run_command(lines: Callable[[], Iterable[str]]) -> int:
    """Print the lines of ``lines()``, which does the work, and return the exit status.

    0: done; 1: a fault, printed as one line on standard error; 130: interrupted, by Ctrl-C or
    SIGTERM.
    """
    try:
        with _termination_as_interrupt(), _warnings_in_a_line():
            for line in lines():
                with _standard_output():
                    print(_printable(line) if sys.stdout.isatty() else line)
        with _standard_output():
            sys.stdout.flush()
    except _ReaderGoneError:
        pass
    except Exception as error:  # of any kind: what is no error of the user is said to be none
        print_fault(error)
        return 1
    except KeyboardInterrupt as interrupt:
        tell(": ".join(["interrupted", *map(str, interrupt.args)]))
        return 130
    return 0


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """Let SIGTERM, which batch systems send, end the work as Ctrl-C does.

    A signal that is ignored, or that the caller of ``main`` handles, stays as it is.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def tell(line: str) -> None:
    """Print a line for the reader on standard error."""
    print(_printable(line), file=sys.stderr)


def print_fault(error: Exception) -> None:
    """Print an error as one line on standard error, and with ``-v`` its traceback."""
    _logger.info("the error in full", exc_info=error)
    said = str(error) or type(error).__name__
    if not is_meant(error):
        said = (
            f"{type(error).__name__}: {said} (unexpected: probably a bug in varpro_nn; "
            "-v shows where it arose)"
        )
    tell(f"error: {' '.join(said.split())}")


def is_meant(error: Exception) -> bool:
    """Whether an error is about files, data or arguments, and not a bug in the code.

    A ``ValueError`` from a ``raise`` statement of this package is meant. One from a library, or
    from another statement of this package, is not.
    """
    if isinstance(error, VarProError | OSError | MemoryError):
        return True
    if not isinstance(error, ValueError | TypeError) or error.__traceback__ is None:
        return False
    frame, _ = list(traceback.walk_tb(error.__traceback__))[-1]
    own = str(frame.f_globals.get("__name__")).split(".")[0] == "varpro_nn"
    return own and (traceback.extract_tb(error.__traceback__)[-1].line or "").startswith("raise ")


class _ReaderGoneError(Exception):
    """The reader of standard output has closed the pipe (``| head``)."""


@contextmanager
def _standard_output() -> Iterator[None]:
    """Tell an error in writing the results from one of the work."""
    try:
        yield
    except OSError as error:
        # Python would write the rest again at exit, and complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise _ReaderGoneError from None
        raise OSError(error.errno, error.strerror, "standard output") from error


@contextmanager
def _warnings_in_a_line() -> Iterator[None]:
    """Show warnings as one line without the line of code."""
    formatted = warnings.formatwarning

    def in_a_line(message: Warning | str, *_: Any, **__: Any) -> str:
        return f"warning: {_printable(' '.join(str(message).split()))}\n"

    warnings.formatwarning = in_a_line
    try:
        yield
    finally:
        warnings.formatwarning = formatted


class _Formatter(logging.Formatter):
    """The log, whose warnings look like those of :mod:`warnings`."""

    def format(self, record: logging.LogRecord) -> str:
        if record.levelno == logging.WARNING and not record.exc_info:
            return f"warning: {_printable(' '.join(record.getMessage().split()))}"
        return "\n".join(map(_printable, super().format(record).split("\n")))


def _printable(line: str) -> str:
    """Escape the characters that a terminal does not show but may obey."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def _open_streams() -> None:
    """Open the standard streams that the process was started without, as ``>&-`` does."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            # The next file would have the number of the stream, and get what libraries print.
            nothing = os.open(os.devnull, os.O_RDWR)
            if nothing != number:
                os.dup2(nothing, number)
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # names of files, byte for byte
