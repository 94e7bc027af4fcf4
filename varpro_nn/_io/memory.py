"""Memory of this process and of the machine, as the system tells it."""

import re
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

_STATUS = Path("/proc/self/status")
_MACHINE = Path("/proc/meminfo")
_OWN_GROUPS = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")
_LIMITS = (
    ("", "memory.max", "memory.current"),  # version 2
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),  # version 1
)
"""Folder of the control groups of memory, and their files of limit and usage, in bytes."""
_CACHED = r"^((?:total_)?(?:in)?active_file) (\d+)$"
"""Lines of the statistics of a control group: bytes of files in memory."""


def peak_memory_mib() -> float:
    """Largest resident memory that any single process of the run had so far."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / unit
    own = _own_mib("VmHWM")
    if own is None:
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return max(own, children)


def resident_memory_mib() -> float:
    """Memory that this process has now; where the system does not tell it, the largest so far."""
    own = _own_mib("VmRSS")
    return peak_memory_mib() if own is None else own


def available_memory_mib() -> float | None:
    """Memory that this process may use in all, with what it has already; None if not known.

    It is what the machine has left, or a control group (a container, a job of a batch system) if
    that has less. Pages of files in the cache count as free.
    """
    left = [*_left_in_machine(), *_left_in_groups()]
    return min(left) + resident_memory_mib() if left else None


def _left_in_machine() -> Iterator[float]:
    found = re.search(r"^MemAvailable:\s*(\d+) kB$", _text_of(_MACHINE), re.MULTILINE)
    if found is not None:
        yield int(found[1]) / 2**10


def _left_in_groups() -> Iterator[float]:
    """Tell what is left in the control group of this process, and in each group around it."""
    lines = [line.split(":", 2) for line in _text_of(_OWN_GROUPS).splitlines()]
    for controller, limit, usage in _LIMITS:
        root = _GROUPS / controller
        for own in (path for _, kinds, path in lines if controller in kinds.split(",")):
            group = root / own.lstrip("/")
            # In a container the path may be that outside of it: then only the root is there.
            for folder in (group, *group.parents[: len(group.parts) - len(root.parts)]):
                bounds = [_text_of(folder / name).strip() for name in (limit, usage)]
                if all(text.isdecimal() for text in bounds):  # "max" where there is no limit
                    statistics = _text_of(folder / "memory.stat")
                    cached = dict(re.findall(_CACHED, statistics, re.MULTILINE))
                    # In version 1 the names with "total" count the groups below, as the usage does.
                    prefix = "total_" if "total_inactive_file" in cached else ""
                    in_cache = sum(
                        int(cached.get(f"{prefix}{kind}_file", 0))
                        for kind in ("active", "inactive")
                    )
                    most, used = map(int, bounds)
                    yield max(0, most - used + in_cache) / 2**20


def _own_mib(name: str) -> float | None:
    """Return a line of the status of this process in MiB, or None where ``/proc`` has no such line.

    The peak is read there because on Linux a child process inherits ``ru_maxrss``, so it may be
    the peak of the parent. Some systems have a ``/proc`` without these lines (gVisor, WSL 1).
    """
    found = re.search(rf"^{name}:\s*(\d+) kB$", _text_of(_STATUS), re.MULTILINE)
    return None if found is None else int(found[1]) / 2**10


def _text_of(path: Path) -> str:
    """Read a file of the system; empty where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
