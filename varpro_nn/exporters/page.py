"""A web page to draw on, that answers at every stroke: one file, nothing from elsewhere.

The network is folded (:mod:`varpro_nn.exporters.folded`) and computed by plain JavaScript in the
page,
``templates/predict.js``. What is drawn or dropped on it (``templates/draw.js``) becomes an image
as follows; the page says so too, and shows the image.

A picture file of the size of the images is taken pixel by pixel, as :mod:`varpro_nn.predict` takes
a picture: grey by Pillow's weights, nothing inverted, scaled or moved. Pictures of other sizes are
scaled, as with ``--prepare`` there: grey ones whole, and inverted if their border is light; the
middle of coloured ones fills the image. What is transparent, which Python refuses, lies on white.
Drawings, and grey pictures of other sizes, are then prepared as MNIST was: the bounding box is
scaled by area averaging to the part of the image that things fill in the training images, and the
centre of mass moved to the middle. A box on the page turns that off.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from varpro_nn._io.atomic import write_atomically
from varpro_nn.data.preparation import filled_by
from varpro_nn.exporters.folded import FoldedNetwork, TrainedNetwork, fold

_GREY = "Draw it with mouse, pen or finger; or drop, paste or choose a picture."
_COLOUR = "Drop, paste or choose a picture; or draw with mouse, pen or finger."
_MAX_NAMED = 12
"""So many classes are named in the heading."""


def drawing(network: TrainedNetwork) -> str:
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
    filled = filled_by(network.training)
    return Template(_template("draw.html")).substitute(
        style=_style(),
        script=_script(),
        model=_json({**plain_values(folded), "filled": filled}),
        classes=html.escape(_named(folded.classes)),
        how=_GREY if folded.image_shape[0] == 1 else _COLOUR,
    )


def to_html(network: TrainedNetwork, path: str | Path) -> None:
    """Write a page with the drawing and a table of what the network consists of, atomically.

    The same network gives the same bytes. The page forbids itself to load or send anything.

    Raises
    ------
    TypeError, ValueError
        As :func:`drawing`.
    OSError
        The file cannot be written; an older one stays.
    """
    rows = (re.split(" {2,}", line, maxsplit=1) for line in network.summary().splitlines())
    cells = "".join(
        f"<tr><th scope=row>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
        for name, value in rows
    )
    title = _dataset(network) or "image classifier"
    page = Template(_template("page.html")).substitute(
        policy=html.escape(policy(styles=[_template("page.css")])),
        title=html.escape(title),
        style=_template("page.css"),
        n_classes=len(network.classes),
        drawing=drawing(network),
        summary=cells,
        scale=_scale(network),
    )
    # Half a surrogate pair in a name has no bytes in UTF-8.
    write_atomically(Path(path), page.encode("utf-8", "xmlcharrefreplace"))


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


def _template(name: str) -> str:
    return (resources.files("varpro_nn.exporters") / "templates" / name).read_text(encoding="utf-8")


def _style() -> str:
    return _template("style.css")


def _script() -> str:
    # In a function: its names are no names of the page that the drawing is part of.
    return "(() => {\n" + _template("predict.js") + _template("draw.js") + "})();\n"


def plain_values(folded: FoldedNetwork) -> dict[str, Any]:
    """Plain values for ``templates/predict.js``, big arrays as base64 of little-endian float32."""
    return {
        "image_shape": list(folded.image_shape),
        "window": list(folded.window),
        "stride": folded.stride,
        "bounds": [bounds.tolist() for bounds in folded.bounds],
        "filters": _base64(folded.filters),
        "bias": _base64(folded.bias),
        "contrast": folded.contrast,
        "activation": folded.activation,
        "threshold": folded.threshold,
        "A": _base64(folded.A),
        "constant": folded.constant.tolist(),
        "views": folded.views,
        "link": folded.link,
        "temperature": folded.temperature,
        "classes": [str(label) for label in folded.classes.tolist()],
    }


def _base64(array: ArrayLike) -> str:
    return base64.b64encode(np.asarray(array, dtype="<f4").tobytes()).decode()


def _json(value: Any) -> str:
    """JSON that may stand in a ``<script>`` element: no name in it can end that."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c").replace(">", "\\u003e")


def _dataset(network: TrainedNetwork) -> str:
    name = network.training.get("dataset")
    return name if isinstance(name, str) else ""


def _named(classes: Any) -> str:
    names = [str(label) for label in classes.tolist()]
    if len(names) <= _MAX_NAMED:
        return ", ".join(names)
    return f"{', '.join(names[:_MAX_NAMED])} and {len(names) - _MAX_NAMED} more"


def _scale(network: TrainedNetwork) -> str:
    """Warn where pixels from 0 to 1 are not what the network was trained on."""
    largest = network.training.get("largest_intensity", 1.0)
    if not isinstance(largest, int | float) or 0.5 <= largest <= 2:
        return ""
    return (
        f"<p>The network was trained on intensities up to {largest:.4g}; pixels are divided by 255 "
        "here, as they are in Python.</p>"
    )
