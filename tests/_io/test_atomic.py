import contextlib
import errno
import fcntl
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from varpro_nn._io.atomic import locked, write_atomically
from varpro_nn.errors import BusyError


def files_in(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_writes_and_replaces(tmp_path):
    write_atomically(tmp_path / "file", b"old")
    write_atomically(tmp_path / "file", b"new")
    assert files_in(tmp_path) == {"file": b"new"}


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("fault", [OSError("no"), KeyboardInterrupt()], ids=["disk", "ctrl-c"])
def test_a_fault_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step, fault):
    write_atomically(tmp_path / "file", b"old")

    def fail(*_):
        raise fault

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(type(fault)):
        write_atomically(tmp_path / "file", b"new")
    assert files_in(tmp_path) == {"file": b"old"}


def test_a_disk_that_is_full_is_said_with_the_name_of_the_file(tmp_path, monkeypatch):
    """The error of the system has no name."""

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path / 'model.npz'}'"):
        write_atomically(tmp_path / "model.npz", b"new")


def test_a_folder_that_is_not_there_is_said_with_the_name_of_the_file(tmp_path):
    path = tmp_path / "none" / "model.npz"
    with pytest.raises(FileNotFoundError, match=re.escape(f"'{path}'")):
        write_atomically(path, b"new")


@pytest.mark.parametrize("name", ["x" * 255, "\N{SNOWMAN}" * 85], ids=["letters", "snowmen"])
def test_the_longest_name_of_the_disk_can_be_written(tmp_path, name):
    write_atomically(tmp_path / name, b"new")
    assert files_in(tmp_path) == {name: b"new"}


def test_a_folder_has_one_holder_at_a_time(tmp_path):
    with locked(tmp_path):
        with (
            pytest.raises(BusyError, match="another process works on this run folder"),
            locked(tmp_path),
        ):
            pass
        (tmp_path / "file").touch()
    assert files_in(tmp_path) == {"file": b""}
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("fault", [None, OSError("no")])
def test_folders_that_stay_empty_are_not_left(tmp_path, fault):
    (tmp_path / "there").mkdir()
    with contextlib.suppress(OSError), locked(tmp_path / "there" / "a" / "b"):
        assert (tmp_path / "there" / "a" / "b").is_dir()
        if fault:
            raise fault
    assert list((tmp_path / "there").iterdir()) == []


def test_parts_of_files_that_a_killed_process_left_are_removed(tmp_path):
    """And nothing else: neither other files nor those of a run in a folder below."""
    (tmp_path / "run").mkdir()
    others = {
        *(".mine.part", "run/.varpro_nn.12.0123abcd.part", "000001.npz"),
        *(".varpro_nn.12.xyz.part", ".mine.12.0123abcd.part", ".lock"),
    }
    for name in (*others, ".varpro_nn.12.0123abcd.part"):
        (tmp_path / name).touch()
    with locked(tmp_path):
        pass
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert found == others | {"run"}


def test_a_lock_of_the_user_is_left_alone(tmp_path):
    (tmp_path / ".lock").write_text("mine")
    with locked(tmp_path):
        pass
    assert files_in(tmp_path) == {".lock": b"mine"}


def test_a_lock_file_that_was_removed_meanwhile_does_not_count(tmp_path, monkeypatch):
    """The holder removes the file between our opening and locking it: look again."""
    flock, calls = fcntl.flock, []

    def slow(stream, how):
        calls.append(how)
        flock(stream, how)
        if len(calls) == 1:
            (tmp_path / ".varpro_nn.lock").unlink()

    monkeypatch.setattr(fcntl, "flock", slow)
    with locked(tmp_path):
        assert calls == [fcntl.LOCK_EX | fcntl.LOCK_NB] * 2
        assert (tmp_path / ".varpro_nn.lock").exists()


def test_a_folder_that_was_removed_meanwhile_is_busy(tmp_path, monkeypatch):
    """Its holder has made it, and removes it between our making and opening it."""
    mkdir = Path.mkdir

    def fleeting(folder, *options, **more):
        mkdir(folder, *options, **more)
        folder.rmdir()

    monkeypatch.setattr(Path, "mkdir", fleeting)
    with pytest.raises(BusyError), locked(tmp_path / "run"):
        pass


def test_holders_that_come_and_go_never_meet(tmp_path):
    inside = []

    def come_and_go(number):
        for _ in range(200):
            with contextlib.suppress(BusyError), locked(tmp_path):
                inside.append(number)
                assert inside == [number]
                inside.remove(number)

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(come_and_go, range(4))) == [None] * 4
    assert list(tmp_path.iterdir()) == []
