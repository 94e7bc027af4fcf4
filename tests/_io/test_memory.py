import subprocess
import sys

import numpy as np
import pytest

from varpro_nn._io import memory
from varpro_nn._io.memory import (
    available_memory_mib,
    peak_memory_mib,
    resident_memory_mib,
)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere nothing is handed on")
def test_peak_memory_is_not_that_of_the_parent():
    held = np.ones(400 * 2**17)  # 400 MiB
    code = "from varpro_nn._io.memory import peak_memory_mib; print(peak_memory_mib())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert peak_memory_mib() > held.nbytes / 2**20
    assert float(done.stdout) < 300


@pytest.mark.parametrize("text", [None, "", "VmPeak:\t 1 kB\n", "VmHWM:\n", "VmHWM:\tmany kB\n"])
def test_peak_memory_where_the_system_does_not_tell_it(text, tmp_path, monkeypatch):
    """A run does not end, after all its training, for want of a figure."""
    path = tmp_path / "status"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(memory, "_STATUS", path)
    assert 10 < peak_memory_mib() < 100_000


def test_peak_memory_is_read_from_the_line_of_linux(tmp_path, monkeypatch):
    (tmp_path / "status").write_text("VmPeak:\t9 kB\nVmHWM:\t 999999488 kB\n", encoding="utf-8")
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "status")
    assert peak_memory_mib() == 976562


def test_memory_that_the_process_has_now():
    before = resident_memory_mib()
    held = np.ones(100 * 2**17)  # 100 MiB
    assert resident_memory_mib() > before + 90
    assert resident_memory_mib() <= peak_memory_mib()
    assert held.size


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A machine with 8,000 MiB left, and a process that has 100 MiB, in a group without limits."""
    (tmp_path / "status").write_text("VmRSS:\t 102400 kB\n", encoding="utf-8")
    (tmp_path / "meminfo").write_text("MemAvailable:  8192000 kB\n", encoding="utf-8")
    (tmp_path / "cgroup").write_text("4:memory:/jobs/one\n0::/jobs/one\n", encoding="utf-8")
    (tmp_path / "groups" / "jobs" / "one").mkdir(parents=True)
    for name, file in (("_STATUS", "status"), ("_MACHINE", "meminfo"), ("_OWN_GROUPS", "cgroup")):
        monkeypatch.setattr(memory, name, tmp_path / file)
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "groups")
    return tmp_path


def write_group(folder, limit, usage, cached, names=("memory.max", "memory.current")):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{usage * 2**20}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {cached * 2**20}\n")


def test_available_memory_is_that_of_the_machine(system):
    assert available_memory_mib() == 8100
    write_group(system / "groups" / "jobs" / "one", "max", 300, 0)
    assert available_memory_mib() == 8100


@pytest.mark.parametrize("group", ["", "jobs", "jobs/one"])
def test_available_memory_is_that_of_the_tightest_group(group, system):
    write_group(system / "groups" / group, 1000 * 2**20, 300, 50)
    assert available_memory_mib() == 1000 - 300 + 50 + 100


def test_available_memory_in_groups_of_version_1(system):
    names = "memory.limit_in_bytes", "memory.usage_in_bytes"
    write_group(system / "groups" / "memory", 2**63 - 4096, 300, 0, names)
    write_group(system / "groups" / "memory" / "jobs" / "one", 1000 * 2**20, 300, 0, names)
    assert available_memory_mib() == 1000 - 300 + 100


def test_files_in_the_cache_of_a_group_are_free(system):
    group = system / "groups"
    write_group(group, 1000 * 2**20, 900, 0)
    (group / "memory.stat").write_text(f"inactive_file {10 * 2**20}\nactive_file {500 * 2**20}\n")
    assert available_memory_mib() == 1000 - 900 + 510 + 100
    with (group / "memory.stat").open("a") as file:  # version 1: with the groups below
        file.write(f"total_inactive_file {20 * 2**20}\ntotal_active_file {600 * 2**20}\n")
    assert available_memory_mib() == 1000 - 900 + 620 + 100


def test_a_group_beyond_its_limit_leaves_nothing(system):
    write_group(system / "groups", 200 * 2**20, 300, 0)
    assert available_memory_mib() == 100


def test_available_memory_is_unknown_where_the_system_does_not_tell(system):
    for name in ("meminfo", "cgroup"):
        (system / name).unlink()
    assert available_memory_mib() is None
