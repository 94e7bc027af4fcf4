"""The time that a run takes, and the versions of what it runs on."""

import importlib.metadata
import platform
import resource
import time

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


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    packages = ("numpy", "scipy", "joblib")
    return {
        "varpro_nn": __version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }
