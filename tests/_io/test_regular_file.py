"""Pipes and devices are refused at once: reading them would wait for ever, or never end."""

import os
import socket

import numpy as np
import pytest

from varpro_nn import Network, RidgeLayer, load
from varpro_nn._io.regular_file import open_regular
from varpro_nn.data import read_images
from varpro_nn.data.packed import open_packed
from varpro_nn.errors import DatasetError, ModelFileError


def test_a_regular_file_is_read(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for name in ("file", "link"):
        with open_regular(tmp_path / name) as stream:
            assert stream.read() == b"content"


def test_what_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="it is a pipe; expected a regular file"):
        open_regular(tmp_path / "pipe")
    with pytest.raises(OSError, match="it is a device"):
        open_regular("/dev/zero")
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "absent")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.fspath(tmp_path / "s"))
        with pytest.raises(OSError, match=r"socket|No such device"):
            open_regular(tmp_path / "s")


def read_packed(path):
    with open_packed(path) as stream:
        return stream.read(1)


READERS = {
    "model": (Network.load, ModelFileError),
    "ridge layer": (RidgeLayer.load, ModelFileError),
    "images": (lambda path: read_images(path, (4, 5)), DatasetError),
    "packed": (read_packed, DatasetError),
}
"""Functions that read a file that a user names."""


@pytest.mark.parametrize("reader", READERS)
def test_readers_refuse_pipes_and_devices(reader, tmp_path):
    read, fault = READERS[reader]
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(fault, match=r"pipe.npz: .*it is a pipe; expected a regular file"):
        read(tmp_path / "pipe.npz")
    with pytest.raises(fault, match=r"/dev/zero: .*it is a device"):
        read("/dev/zero")


def test_data_sets_in_pipes(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(DatasetError, match="it is a pipe"):
        load(tmp_path / "pipe.npz")
    os.mkfifo(tmp_path / "x_train.npy")
    np.save(tmp_path / "y_train.npy", np.arange(4) % 2)
    with pytest.raises(DatasetError, match=r"x_train.npy: .*it is a pipe"):
        load(tmp_path)
