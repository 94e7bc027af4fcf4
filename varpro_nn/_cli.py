"""What the command lines share: lines to standard output, faults to an exit status."""

import logging
import os
import sys
from collections.abc import Callable, Iterable

from varpro_nn.errors import VarProError

_logger = logging.getLogger(__name__)


def run_command(lines: Callable[[], Iterable[str]]) -> int:
    """Print ``lines()`` and return the exit status.

    Parameters
    ----------
    lines : callable
        Does the work and gives the lines of its result.

    Returns
    -------
    int
        0 done; 1 a fault of data or run, said in one line on standard error; 130 interrupted.
    """
    try:
        for line in lines():
            print(line)
        sys.stdout.flush()
    except BrokenPipeError:
        # Who reads has read enough (``| head``). Python would complain again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (VarProError, ValueError, OSError, MemoryError) as error:
        _logger.info("the error in full", exc_info=True)  # with -v
        print(f"error: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print(": ".join(["interrupted", *map(str, interrupt.args)]), file=sys.stderr)
        return 130
    return 0
