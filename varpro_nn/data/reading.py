"""What a user says about files, where they do not say it themselves."""

import operator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Answers to questions that a file may leave open.

    Attributes
    ----------
    label_column : str or int, optional
        The column of a table that has the labels: its name, or its position from 0 on; -1 is the
        last column.
    image_size : (rows, columns), optional
        The size of images in rows of pixels, by default squares; or of the images that are made of
        pictures.
    follow_links : bool
        Also read pictures outside the folder that was given, to which links or names in a table
        lead.

    Raises
    ------
    ValueError
        Another type, or a size that is not positive.
    """

    label_column: str | int | None = None
    image_size: tuple[int, int] | None = None
    follow_links: bool = False

    def __post_init__(self) -> None:
        column = self.label_column
        if column is not None and (isinstance(column, bool) or not isinstance(column, str | int)):
            msg = f"label_column must be the name of a column or its position, got {column!r}."
            raise ValueError(msg)
        if self.image_size is not None:
            object.__setattr__(self, "image_size", _size(self.image_size))
        if not isinstance(self.follow_links, bool):
            msg = f"follow_links must be True or False, got {self.follow_links!r}."
            raise ValueError(msg)

    def check_unused(self, what: str, *options: str) -> None:
        """Refuse options that have no effect on ``what``.

        Raises
        ------
        ValueError
        """
        for option in options:
            given = getattr(self, option)
            if given is not None and given is not False:
                msg = f"{option} has no effect on {what}, got {given!r}; leave it out."
                raise ValueError(msg)


AS_IT_IS = Reading()
"""Nothing is said."""


def _size(given: Any) -> tuple[int, int]:
    msg = f"image_size must be two positive integers (rows, columns), got {given!r}."
    if isinstance(given, str):
        raise ValueError(msg)
    try:
        rows, columns = map(operator.index, given)
    except (TypeError, ValueError) as error:
        raise ValueError(msg) from error
    if min(rows, columns) < 1:
        raise ValueError(msg)
    return rows, columns
