"""Temporary folders: gone at the end, or at the next start; those in use stay."""

import signal
import subprocess
import sys
import tempfile

import pytest

from varpro_nn._io.temporary import remove_left, temporary_folder

SCRIPT = """
import os, signal, sys
from pathlib import Path
from varpro_nn._io.temporary import temporary_folder
with temporary_folder(Path(sys.argv[1])) as folder:
    (folder / "images.npy").write_bytes(bytes(1000))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_it_is_removed_at_the_end_and_after_an_error(tmp_path):
    with temporary_folder(tmp_path) as folder:
        (folder / "below").mkdir()
        (folder / "below" / "file").write_bytes(b"x")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyboardInterrupt), temporary_folder(tmp_path):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
    killed = subprocess.run([sys.executable, "-c", SCRIPT, tmp_path], check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    with temporary_folder(tmp_path) as folder:
        assert list(tmp_path.iterdir()) == [folder]
        assert folder != left


def test_those_in_use_and_those_of_the_user_stay(tmp_path):
    (tmp_path / ".varpro_nn-mine").mkdir()
    with temporary_folder(tmp_path) as first, temporary_folder(tmp_path) as second:
        remove_left(tmp_path)
        assert first.is_dir()
        assert second.is_dir()
        (tmp_path / first.name.replace(first.name[-4:], "link")).symlink_to(tmp_path)
        remove_left(tmp_path)
        assert (tmp_path / ".varpro_nn-mine").is_dir()


def test_what_could_not_be_removed_wholly_is_removed_later(tmp_path):
    """A network file system keeps a file that a worker has open; the lock may be gone by then."""
    with temporary_folder(tmp_path) as folder:
        pass
    folder.mkdir()
    (folder / "images.npy").write_bytes(b"x")
    remove_left(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_by_default_it_is_among_the_temporary_files(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with temporary_folder() as folder:
        assert folder.parent == tmp_path


def test_where_the_file_system_knows_no_locks(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with temporary_folder(tmp_path) as folder:
        remove_left(tmp_path)
        assert folder.is_dir()
    assert list(tmp_path.iterdir()) == []
