"""Images and labels: named data sets, fetched, checked and cached; and files of one's own."""

from varpro_nn.data.cifar import read_cifar_binary
from varpro_nn.data.idx import read_idx
from varpro_nn.data.imageset import Dataset, ImageSet
from varpro_nn.data.loading import ENDINGS, NAMES, check_name, load
from varpro_nn.data.unlabelled import read_all_images, read_images

__all__ = [
    "ENDINGS",
    "NAMES",
    "Dataset",
    "ImageSet",
    "check_name",
    "load",
    "read_all_images",
    "read_cifar_binary",
    "read_idx",
    "read_images",
]
