"""A web page to draw on, that answers at every stroke: one file, nothing from elsewhere.

The network is folded (:mod:`varpro_nn.exporters.folded`) and computed by plain JavaScript in the
page, ``templates/predict.js``. A drawing or a picture (``templates/draw.js``) becomes an image
as follows; the page explains it too, and shows the image.

A picture file of the size of the images is used pixel by pixel, as in :mod:`varpro_nn.predict`:
converted to grey by Pillow's weights, not inverted, scaled or moved. Drawings and pictures of
other sizes are made like the training images, by the network's
:class:`~varpro_nn.data.preparation.Preparation`, as with ``--prepare`` there. A box on the page
turns that off. Transparent parts are white.
"""

import base64
import hashlib
import re
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from varpro_nn._io.pages import fill, read_template, write_page
from varpro_nn.data.preparation import Preparation
from varpro_nn.exporters.folded import FoldedNetwork, fold
from varpro_nn.model.network import Network

_PACKAGE = "varpro_nn.exporters"
_GREY = "Draw it with mouse, pen or finger; or drop, paste or choose a picture."
_COLOUR = "Drop, paste or choose a picture; or draw with mouse, pen or finger."
_MAX_NAMED = 12
"""Largest number of classes that the heading names."""
_NARROW = 0.5
"""Range of intensities up to which the page states it."""


def drawing(network: Network) -> str:
    """Make the part of a page that is drawn on: markup, style, script and the network.

    It can stand anywhere in the body of a page, once. A page with a Content-Security-Policy needs
    the rules of :func:`policy`. The part sets ``window.varpro``: ``predict(pixels)`` takes the
    bytes of an image ``(channels, rows, columns)`` and gives probabilities of ``classes``;
    ``pixels`` and ``probabilities`` are those of the last answer, null if nothing is drawn.

    Raises
    ------
    TypeError
        Units are a class of your own; see :func:`varpro_nn.exporters.folded.fold`.
    ValueError
        Images have neither one nor three channels.
    """
    folded = fold(network)
    if folded.image_shape[0] not in (1, 3):
        msg = f"images must have 1 or 3 channels to be drawn, got {folded.image_shape[0]}."
        raise ValueError(msg)
    return fill(
        _PACKAGE,
        "draw.html",
        style=_style(),
        script=_script(),
        model={**plain_values(folded), "preparation": _for_script(folded.preparation)},
        classes=_named(folded.classes),
        how=_GREY if folded.image_shape[0] == 1 else _COLOUR,
    )


def to_html(network: Network, path: str | Path) -> None:
    """Write a page with the drawing and a table of what the network consists of, atomically.

    The same network gives the same bytes. The page forbids itself to load or send anything.

    Parameters
    ----------
    network : varpro_nn.Network
        Its images have one channel or three.
    path : str or Path

    Raises
    ------
    TypeError, ValueError
        As :func:`drawing`.
    OSError
        The file cannot be written; an older one stays.
    """
    style = read_template(_PACKAGE, "page.css")
    page = fill(
        _PACKAGE,
        "page.html",
        policy=policy(styles=[style]),
        style=style,
        title=_dataset(network) or "image classifier",
        n_classes=len(network.classes),
        drawing=drawing(network),
        summary=[re.split(" {2,}", line, maxsplit=1) for line in network.summary().splitlines()],
        narrow=_narrow_range(network),
    )
    write_page(path, page)


def policy(styles: Iterable[str] = (), scripts: Iterable[str] = ()) -> str:
    """Content-Security-Policy of a page with a drawing: its own styles and scripts, no more.

    Parameters
    ----------
    styles, scripts : iterable of str
        Contents of what other ``<style>`` and ``<script>`` elements the page has.
    """
    return "; ".join(
        [
            "default-src 'none'",
            f"style-src {_digests([_style(), *styles])}",
            f"script-src {_digests([_script(), *scripts])}",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _digests(texts: Iterable[str]) -> str:
    digests = (hashlib.sha256(text.encode()).digest() for text in texts)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)


def _style() -> str:
    return read_template(_PACKAGE, "style.css")


def _script() -> str:
    # In a function: its names are no names of the page that the drawing is part of.
    parts = (read_template(_PACKAGE, name) for name in ("predict.js", "draw.js"))
    return f"(() => {{\n{''.join(parts)}}})();\n"


def plain_values(folded: FoldedNetwork) -> dict[str, Any]:
    """Plain values for ``templates/predict.js``, big arrays as base64 of little-endian float32."""
    return {
        "image_shape": list(folded.image_shape),
        "layers": [
            {
                "image_shape": list(layer.image_shape),
                "window": list(layer.window),
                "stride": layer.stride,
                "bounds": [bounds.tolist() for bounds in layer.bounds],
                "filters": _base64(layer.filters),
                "bias": _base64(layer.bias),
                "contrast": layer.contrast,
                "activation": layer.activation,
                "threshold": layer.threshold,
                "shown": None
                if layer.shown is None
                else [bounds.tolist() for bounds in layer.shown],
                "linear": _base64(linear),
            }
            for layer, linear in zip(folded.layers, folded.linear, strict=True)
        ],
        "constant": folded.constant.tolist(),
        "views": folded.views,
        "link": folded.link,
        "temperature": folded.temperature,
        "classes": [str(label) for label in folded.classes.tolist()],
    }


def _for_script(preparation: Preparation) -> dict[str, Any]:
    """Plain values for ``templates/draw.js``."""
    reached, frame, ground = preparation.intensities, preparation.frame, preparation.ground
    return {
        "range": [0.0, 1.0] if reached is None else [reached.low, reached.high],
        "ground": ground,
        "full_ink": None if ground is None else preparation.full_ink,
        "stretches": ground is not None and preparation.stretches,
        "frame": None if frame is None else asdict(frame),
    }


def _base64(array: ArrayLike) -> str:
    return base64.b64encode(np.asarray(array, dtype="<f4").tobytes()).decode()


def _dataset(network: Network) -> str:
    name = network.training.get("dataset")
    return name if isinstance(name, str) else ""


def _named(classes: Any) -> str:
    names = [str(label) for label in classes.tolist()]
    if len(names) <= _MAX_NAMED:
        return ", ".join(names)
    return f"{', '.join(names[:_MAX_NAMED])} and {len(names) - _MAX_NAMED} more"


def _narrow_range(network: Network) -> tuple[int, int] | None:
    """Pixels that the training images reach, if that is less than half of what bytes can."""
    reached = network.preparation.intensities
    if reached is None or reached.span > _NARROW:
        return None
    return round(255 * reached.low), round(255 * reached.high)
