"""What a figure depends on: versions, machine, day, commit, and load of the machine."""

import datetime
import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from varpro_nn.training import resources

ROOT = Path(__file__).parents[2]


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python, this package, and what it and the named ``packages`` compute with."""
    named = {name: importlib.metadata.version(name) for name in packages}
    return resources.versions() | named


def machine() -> str:
    """Tell what the figures are measured on."""
    name = platform.processor()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            models = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
        name = models[0]
    except (OSError, IndexError):  # not Linux
        pass
    return f"{name or platform.machine()}, {os.cpu_count()} cores, {platform.system()}"


def occasion() -> dict[str, Any]:
    """Tell when and where a figure was measured, and how busy the machine was (a minute's load).

    ``commit`` ends with ``+`` where files that git tracks differ from it, and is None outside git.
    """
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit(),
        "machine": machine(),
        "load": round(os.getloadavg()[0], 1),
    }


@functools.cache
def commit() -> str | None:
    """Of the code that runs: the tree may change while it does."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(git, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
