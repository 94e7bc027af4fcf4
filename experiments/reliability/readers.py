"""The readers of files, as functions of bytes, and the error by which each may refuse them.

A zip archive whose checksums fit is beyond what flipping bytes finds, so the readers of archives
take, beside the bytes of a file, the members that one is to be put together from.
"""

import gzip
import io
import warnings
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from varpro_nn import Network, RidgeLayer, whole_image_units
from varpro_nn.compute.compute import Compute
from varpro_nn.data.cifar import read_cifar_binary
from varpro_nn.data.folder import read_folder
from varpro_nn.data.idx import read_idx
from varpro_nn.data.npz import read_dataset_npz
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.errors import DatasetError, ModelFileError
from varpro_nn.training.config import SubnetworkSettings
from varpro_nn.training.shards import Shards
from varpro_nn.training.subnetwork import SubnetworkPlan
from varpro_nn.training.subnetworks import train_subnetworks

_SEPARATOR = b"\0\xff--\xff\0"


def archive(data: bytes) -> bytes:
    """Put together a zip archive of the pieces of ``data``: name, content, name, content, ..."""
    pieces = data.split(_SEPARATOR)
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as file:
        warnings.simplefilter("ignore")  # of names that come twice: readers must bear them
        for name, content in zip(pieces[::2], pieces[1::2], strict=False):
            info = zipfile.ZipInfo(name.decode("latin1")[:100].replace("\0", "") or "x")
            file.writestr(info, content)
    return buffer.getvalue()


def pieces(content: bytes) -> bytes:
    """Take a zip archive apart, so that :func:`archive` gives it again."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        parts = [part for n in file.namelist() for part in (n.encode(), file.read(n))]
    return _SEPARATOR.join(parts)


def reader(name: str, folder: Path) -> tuple[Callable[[bytes], Any], type[Exception], list[bytes]]:
    """Give a function that reads bytes, the error by which it may refuse them, and some inputs."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (12, 4, 4)).astype(np.uint8)
    if name == "idx":
        seed = bytes([0, 0, 8, 3, 0, 0, 0, 12, 0, 0, 0, 4, 0, 0, 0, 4]) + images.tobytes()
        return read_idx, DatasetError, [seed, gzip.compress(seed)]
    if name == "cifar":
        seed = bytes([3]) + bytes(3072)
        return read_cifar_binary, DatasetError, [seed, gzip.compress(seed)]
    if name == "folder":
        np.save(folder / "y_train.npy", np.arange(12) % 3)
        np.save(folder / "x_train.npy", images)
        valid = (folder / "x_train.npy").read_bytes()

        def read_as_images(data: bytes) -> None:
            (folder / "x_train.npy").write_bytes(data)
            read_folder(folder).train.images[:]

        return read_as_images, DatasetError, [valid, valid[:-1]]
    path = folder / "000000.npz"
    units = whole_image_units("bilinear", (4, 4), 2)
    W = units.init(images, rng).astype(np.float32)
    error: type[Exception] = ModelFileError
    more: list[bytes] = []
    read: Callable[[], Any]
    if name == "npz":
        np.savez(path, x_train=images, y_train=np.arange(12) % 3, x_test=images, y_test=[0] * 12)
        read, error = partial(read_dataset_npz, path), DatasetError
    elif name == "model":
        Network(units, W, rng.standard_normal((3, 3)), np.arange(3), (4, 4)).save(path)
        read = partial(Network.load, path)
    elif name == "glue":
        RidgeLayer(units, W, 3).add_images(images[:2], [0, 1]).save(path)
        more = [pieces(path.read_bytes())]  # rows; the next are sums
        RidgeLayer(units, W, 3).add_images(images, np.arange(12) % 3).save(path)

        def read() -> None:
            layer = RidgeLayer.load(path)
            if layer.n_images:
                layer.solve(1.0)  # what can be read can be used
    elif name == "shard":
        shards = Shards(folder, {"seed": 0})
        settings = SubnetworkSettings(n_subnetworks=1, images_per_subnetwork=12, max_nfev=2)
        training = TrainingSet(images, np.arange(12) % 3, 3)
        shards.write(train_subnetworks(SubnetworkPlan(units, settings), training, Compute())[0])
        read = shards.read
    else:
        msg = f"name must be that of a reader, got {name!r}"
        raise ValueError(msg)
    valid = path.read_bytes()

    def read_bytes(data: bytes) -> None:
        # The first byte says whether the rest is the file itself or its members.
        path.write_bytes(archive(data[1:]) if data[:1] == b"a" else data[1:])
        read()

    return read_bytes, error, [b"f" + valid, *(b"a" + seed for seed in (pieces(valid), *more))]
