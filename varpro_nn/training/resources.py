"""What a run takes (time and memory of all its processes) and what it runs on."""

import importlib.metadata
import platform
import resource
import sys
import time
from pathlib import Path

from varpro_nn._version import __version__


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
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, children)
    # Linux hands ru_maxrss on to what a process starts: there it may be that of the parent.
    own = next(int(line.split()[1]) / 2**10 for line in lines if line.startswith("VmHWM"))
    return max(own, children)


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    packages = ("numpy", "scipy", "joblib")
    return {
        "varpro_nn": __version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }
