"""What a run takes (time and memory of all its processes) and what it runs on."""

import importlib.metadata
import platform
import re
import resource
import sys
import time
from pathlib import Path

from varpro_nn._version import __version__

_STATUS = Path("/proc/self/status")


class Clock:
    """Wall and CPU seconds since it was made, worker processes that have ended included."""

    def __init__(self) -> None:
        self._start = self._now()

    @staticmethod
    def _now() -> tuple[float, float]:
        usage = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return time.perf_counter(), sum(u.ru_utime + u.ru_stime for u in usage)

    def read(self) -> tuple[float, float]:
        """Wall and CPU seconds so far."""
        wall, cpu = self._now()
        return wall - self._start[0], cpu - self._start[1]


def peak_memory_mib() -> float:
    """Largest resident memory that any single process of the run had so far."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / unit
    own = _peak_of_linux()
    if own is None:
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return max(own, children)


def _peak_of_linux() -> float | None:
    """Return the peak of this process in MiB, or None where ``/proc`` does not tell it.

    On Linux a child process inherits ``ru_maxrss``, so it may be the peak of the parent. Some
    systems have a ``/proc`` without this line (gVisor, WSL 1).
    """
    try:
        status = _STATUS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
    return None if found is None else int(found[1]) / 2**10


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    packages = ("numpy", "scipy", "joblib")
    return {
        "varpro_nn": __version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }
