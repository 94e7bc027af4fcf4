import errno
import os

import numpy as np
import pytest

from varpro_nn.output import feature_store


def lacking(monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate")  # as on macOS


@pytest.mark.parametrize("lack", [lambda _: None, lacking])
def test_a_file_is_as_good_as_memory(lack, monkeypatch, tmp_path):
    lack(monkeypatch)
    monkeypatch.setattr(feature_store, "FEATURE_BYTES", 1)
    with feature_store.feature_store(30, 7, tmp_path) as Phi:
        assert isinstance(Phi, np.memmap)
        assert (Phi.shape, Phi.dtype) == ((30, 7), np.float32)
        Phi[:] = np.arange(210).reshape(30, 7)
        assert Phi.sum() == 209 * 105
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_with_the_folder(monkeypatch, tmp_path):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(feature_store, "FEATURE_BYTES", 1)
    with (
        pytest.raises(OSError, match=f"No space left on device: '{tmp_path}'"),
        feature_store.feature_store(30, 7, tmp_path),
    ):
        pass
