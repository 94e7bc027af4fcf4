import os

import pytest

from varpro_nn.files import write_atomically


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
