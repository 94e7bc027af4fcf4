"""A script in a separate process: separate memory, clock and number of threads."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence


class ProcessFailed(SystemExit):
    """A process ended with another status than 0.

    Attributes
    ----------
    status : int
        Negative: the number of the signal that ended it.
    """

    def __init__(self, command: Sequence[str], status: int) -> None:
        super().__init__(f"error: python -m {' '.join(command)} ended with status {status}")
        self.status = status


def child(
    command: Sequence[str], threads: int = 1, environment: Mapping[str, str] | None = None
) -> list[str]:
    """Run ``python -m`` with a module and its options in a separate process, to its end.

    Returns
    -------
    list of str
        The lines that it prints; see :func:`child_lines`.
    """
    return list(child_lines(command, threads, environment))


def child_lines(
    command: Sequence[str], threads: int = 1, environment: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Run ``python -m`` with a module and its options in a separate process.

    The process has its own memory and clock, ``threads`` threads, and the variables of this
    process together with those of ``environment``.

    Yields
    ------
    str
        Each line that it prints, as it comes.

    Raises
    ------
    ProcessFailed
        It ended with another status than 0.
    """
    libraries = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    limits = {name: str(threads) for name in libraries}
    arguments = [sys.executable, "-m", *command]
    with subprocess.Popen(
        arguments,
        env=os.environ | limits | dict(environment or {}),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None  # a pipe
        for line in process.stdout:
            yield line.rstrip("\n")
    if process.returncode:
        raise ProcessFailed(command, process.returncode)
