import errno
import os

import pytest

from varpro_nn._io import reserve as module
from varpro_nn._io.reserve import reserve


def lacking(monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate")  # as on macOS


def not_supported(monkeypatch):
    def fail(*_):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "posix_fallocate", fail)


@pytest.mark.parametrize("lack", [lambda _: None, lacking, not_supported])
def test_the_disk_is_taken_at_once_on_every_system(lack, monkeypatch, tmp_path):
    lack(monkeypatch)
    monkeypatch.setattr(module, "_ZEROS", bytes(4096))
    n_bytes = 5 * 4096 + 7
    with open(tmp_path / "file", "w+b") as file:
        reserve(file, n_bytes)
        status = os.fstat(file.fileno())
    assert status.st_size == n_bytes
    assert 512 * status.st_blocks >= n_bytes  # a file with holes takes nothing
