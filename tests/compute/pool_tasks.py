"""What test_pool.py gives to processes: a module that they import quickly, so without pytest."""

import os
import signal
import time

import numpy as np


def square(number, folder, n_kills=0):
    """Note that it ran, die the first ``n_kills`` times, then square."""
    path = folder / f"{number}.runs"
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"{os.getpid()}\n")
    if len(path.read_text(encoding="utf-8").splitlines()) <= n_kills:
        os.kill(os.getpid(), signal.SIGKILL)
    return number**2


def fail(number):
    msg = f"a mistake in task {number}"
    raise TypeError(msg)


class TwoArguments(Exception):  # noqa: N818
    """Its copy cannot be made from what it tells of itself."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def fail_oddly(number):
    raise TwoArguments(number, "more")


class Unreadable:
    """Can be pickled, and not read again."""

    def __reduce__(self):
        return int, ("no number",)


def array_of(number):
    return np.full(1000, number)


def nap(number):
    time.sleep(60 * number)
    return number
