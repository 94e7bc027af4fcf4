"""The settings of a recipe: of one by its name, or of the one that a contest chooses."""

from typing import Any

from varpro_nn.data import Dataset
from varpro_nn.training import recipes
from varpro_nn.training.config import TrainConfig
from varpro_nn.training.contest import AUTO, contest


def configure(
    recipe: str = "default",
    *,
    data: str | Dataset = "mnist",
    n_images: int | None = None,
    n_classes: int | None = None,
    n_jobs: int = -1,
    progress: bool = False,
    **overrides: Any,
) -> TrainConfig:
    """Take the settings of a recipe and override some.

    Parameters
    ----------
    recipe : str
        A name of ``--list-recipes``. ``"auto"`` compares settings on part of the training
        images of ``data`` and takes the best. Sizes, schemes and output layers were chosen for the
        units of a recipe. So whole-image units (``units="bilinear"``, say) in a recipe of patch
        units start from ``"bilinear"``, patch units in one of whole-image units from ``"default"``;
        the ``recipe`` of the result says so.
    data : {"mnist", "fashion-mnist", "cifar10", "digits", "colour"} or Dataset
        The kind of data, on which the settings of a recipe depend. Your own data set is
        ``"digits"`` if the shorter side of its images is less than 16 pixels, else ``"colour"`` if
        they have several channels, else ``"mnist"``. Your own images are not mirrored; set
        ``flip=True`` (in training) and ``views="flip"`` (average over both) if left and right do
        not matter.
    n_images : int, optional
        Number of training images, by default enough. A data set has its own.
    n_classes : int, optional
        Number of classes, by default few. A data set has its own.
    n_jobs : int
        Worker processes and threads of ``"auto"``, -1 for all cores. The result does not depend on
        it.
    progress : bool
        Show a bar of ``"auto"`` on standard error.
    **overrides
        Settings by their flat names, those of the command line: the keys of
        ``TrainConfig().options()``. If ``n_units`` is given without ``n_subnetworks``, each
        sub-network gets about as many units as in the recipe. ``n_stages`` is 1 unless the scheme
        is ``"stages"``, and ``n_copies`` is 0 without distortions. A recipe with stages becomes
        ``"independent"`` if the loss is another, or if there are more than 1.4 times as many fixed
        columns for each image of a sub-network: stages would cost more and gain nothing. With more
        than 20 classes, ``"tiny"`` has ``loss="squares"`` with its ``ridge`` and ``weight_decay``,
        because cross-entropy would take long. With
        ``first_units``, the settings of the units are for windows of maps, not those of the
        recipe: 3 x 3 windows on 100 leading directions, two-sided activation, 3 x 3 cells.

    Returns
    -------
    TrainConfig

    Raises
    ------
    ValueError
        An unknown recipe, kind of data or setting, or a value out of range.
    TypeError
        ``"auto"`` without a Dataset.
    DatasetError
        ``"auto"`` with too few images.
    """
    if isinstance(recipe, str) and recipe == AUTO:
        # What is no Dataset the contest refuses.
        given: Any = data
        return contest(given, n_jobs=n_jobs, progress=progress, **overrides).config
    if not isinstance(recipe, str) or recipe not in recipes.RECIPES:
        msg = f"recipe must be one of {', '.join((*recipes.RECIPES, AUTO))}, got {recipe!r}."
        raise ValueError(msg)
    return recipes.configure(recipe, data=data, n_images=n_images, n_classes=n_classes, **overrides)
