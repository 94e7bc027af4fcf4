"""A data set as a folder of pictures, with a sub-folder for each class.

::

    flowers/rose/1.jpg         flowers/train/rose/1.jpg
    flowers/rose/2.png         flowers/train/tulip/a.jpg
    flowers/tulip/a.jpg        flowers/test/rose/7.jpg

Pictures may lie deeper in the folder of their class, and have any size and any format that Pillow
reads; :mod:`varpro_nn.data.picture_set` makes images of one size of them.
"""

from pathlib import Path

from varpro_nn._warn import warn_user
from varpro_nn.data.labelled import listed
from varpro_nn.data.picture_set import LabelledPictures
from varpro_nn.data.pictures import entries_of, files_below, is_picture
from varpro_nn.data.reading import AS_IT_IS, Reading
from varpro_nn.errors import DatasetError

SUBSETS = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "validation": ("valid", "val", "validation"),
}
"""Names of the sub-folders of a folder that is divided already; case does not matter.

Fewer than in :mod:`varpro_nn.data.naming`: classes may be languages, ``tr`` and ``te``.
"""
_LAYOUT = "{folder}/CLASS/PICTURE, or {folder}/train/CLASS/PICTURE and {folder}/test/CLASS/PICTURE"


def pictures_in_class_folder(
    folder: Path, reading: Reading = AS_IT_IS
) -> dict[str, LabelledPictures]:
    """Find the pictures in a folder that has a sub-folder for each class.

    Parameters
    ----------
    folder : Path
    reading : Reading
        ``follow_links``: also those to which links lead out of the folder.

    Returns
    -------
    dict of LabelledPictures
        Of "train", and of "test" and "validation" if there are any, in the order of the paths.
        Labels are the names of the sub-folders.

    Raises
    ------
    DatasetError
        No pictures, or pictures outside the folder of a class.
    ValueError
        An option that has no effect.

    Warns
    -----
    UserWarning
        Files that are no pictures, or links out of the folder, were skipped.
    """
    reading.check_unused(f"the pictures in {folder}", "label_column")
    named = {entry.name.lower(): entry for entry in _subfolders(folder)}
    divided = {
        subset: next((named[name] for name in names if name in named), None)
        for subset, names in SUBSETS.items()
    }
    roots = {subset: root for subset, root in divided.items() if root is not None}
    if "train" not in roots:
        roots = {"train": folder}
    elif others := sorted(set(named.values()) - set(roots.values())):
        msg = (
            f"{folder}: beside {roots['train'].name} there may be folders of test and validation "
            f"pictures only, got {listed(other.name for other in others)}; move them elsewhere, or "
            "put all classes into one folder."
        )
        raise DatasetError(msg)
    return {
        subset: _of_classes(root, folder, reading.follow_links) for subset, root in roots.items()
    }


def has_class_folders(folder: Path) -> bool:
    """Whether a sub-folder has a picture somewhere below it."""
    return any(
        is_picture(path)
        for entry in _subfolders(folder)
        for path, _ in files_below(entry, follow_links=False)
    )


def _of_classes(root: Path, folder: Path, follow_links: bool) -> LabelledPictures:
    """Find the pictures of all classes below ``root``, in the order of their paths."""
    paths: list[str] = []
    labels: list[str] = []
    skipped, outside = [], []
    loose = [entry for entry in entries_of(root) if is_picture(entry)]
    if loose:
        msg = (
            f"{root}: pictures must be in the folder of a class, {_LAYOUT.format(folder=folder)}; "
            f"got {listed(path.name for path in loose)} beside these folders."
        )
        raise DatasetError(msg)
    for of_class in _subfolders(root):
        n_before = len(paths)
        for path, leads_outside in files_below(of_class, folder, follow_links=follow_links):
            if leads_outside:
                outside.append(path)
            elif is_picture(path):
                paths.append(str(path))
            else:
                skipped.append(path)
        n_found = len(paths) - n_before
        if not n_found and not any(path.is_relative_to(of_class) for path in outside):
            skipped.append(of_class)
        labels += [of_class.name] * n_found
    if outside:
        msg = (
            f"{root}: skipped {listed(map(str, outside), 3)}: links out of the folder; to read "
            "them, add --follow-links (in Python, follow_links=True)."
        )
        warn_user(msg)
    if skipped:
        warn_user(f"{root}: skipped {listed(map(str, skipped), 3)}: no pictures.")
    if not paths:
        msg = f"{root}: needs pictures, {_LAYOUT.format(folder=folder)}; got none."
        raise DatasetError(msg)
    return LabelledPictures(paths, labels)


def _subfolders(folder: Path) -> list[Path]:
    return [entry for entry in entries_of(folder) if entry.is_dir()]
