"""Options that the scripts share, their values, and how Ctrl-C ends a script."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def parser(description: str | None) -> argparse.ArgumentParser:
    """Make the options that all tables have; the first line of a docstring describes them."""
    made = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    made.add_argument("--output", type=file_name, metavar="FILE", help="keep results in JSON lines")
    made.add_argument("--quick", action="store_true", help="small data, a minute at most")
    made.add_argument("--seed", type=whole_number(0), default=0)
    made.add_argument("--n-jobs", type=whole_number(1), default=1)
    made.add_argument("--data-dir")
    end_quietly()
    return made


def end_quietly() -> None:
    """Say one line where Ctrl-C ends this process, in the place of a traceback."""
    otherwise = sys.excepthook

    def told(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if kind is KeyboardInterrupt:
            print("interrupted: rows that are kept in a file stay there", file=sys.stderr)
        else:
            otherwise(kind, error, trace)

    sys.excepthook = told


def file_name(text: str) -> Path:
    """Take the value of an option that names a file to write."""
    if Path(text).is_dir():
        msg = f"must be a file, got the folder {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return Path(text)


def whole_number(least: int) -> Callable[[str], int]:
    """Take the value of an option that must be a whole number of ``least`` or more."""

    def read(text: str) -> int:
        if not text.lstrip("-").isdecimal() or int(text) < least:
            msg = f"must be a whole number of {least} or more, got {text!r}"
            raise argparse.ArgumentTypeError(msg)
        return int(text)

    return read
