"""A network as an ONNX file: what ``folded`` describes, for runtimes without Python.

One convolution takes all windows of an image, and one product with a fixed matrix pools them in
cells. Contrast is taken out without making the windows: for filters of mean 0,

    filters . (P - mean(P)) / sqrt(var(P) + contrast) = filters . P / sqrt(var(P) + contrast),

a convolution times a factor of the place, which follows from the sums of the window's pixels and
of their squares.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from varpro_nn._io.atomic import write_atomically
from varpro_nn._typing import FloatArray
from varpro_nn._version import __version__
from varpro_nn.data.labels import check_text
from varpro_nn.errors import VarProError
from varpro_nn.exporters.folded import LINEAR, FoldedLayer, FoldedNetwork, fold
from varpro_nn.model.network import Network
from varpro_nn.units.patches import FAINT_CONTRAST

OPSET = 17
IR_VERSION = 8
"""With the operators of ``OPSET``, what runtimes since 2022 read (onnxruntime 1.12)."""
MAX_BYTES = 2**31 - 2**20
"""No file of this format is larger than 2 GiB; the rest is for the nodes."""
_ACTIVATIONS = {"logistic": "Sigmoid", "tanh": "Tanh", "rectifier": "Relu"}
_MIDDLE = 128


def check_onnx() -> None:
    """Raise VarProError if the package ``onnx`` is not installed."""
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        msg = "onnx is needed to write an ONNX file: pip install 'varpro-nn[onnx]'"
        raise VarProError(msg) from error


def to_onnx(network: Network, path: str | Path) -> None:
    """Write a network to an ONNX file, atomically; the same network gives the same bytes.

    The graph takes ``images``, ``uint8`` of shape (n, *image_shape) for any n, and gives

    - ``label``: (n,), the classes themselves: ``int64``, strings, or ``uint64`` where a label is
      beyond ``int64``;
    - ``probabilities``: (n, k), ``float32``, in the order of ``network.classes``.

    The entry ``preparation`` of its metadata is ``network.preparation.spec()`` as JSON: the
    intensities of training, and what is to be done to a picture of another size.

    It needs the package ``onnx`` to be written, and none of Python to be read.

    Parameters
    ----------
    network : varpro_nn.Network
    path : str or Path

    Raises
    ------
    VarProError
        The package ``onnx`` is not installed.
    TypeError
        The units are a class of your own; see :func:`varpro_nn.exporters.folded.fold`.
    ValueError
        The filters and weights are larger than an ONNX file can be.
    OSError
        The file cannot be written; an older one of that name stays.

    Notes
    -----
    A runtime holds the activations of a whole batch at every place of the window, 4 bytes each,
    once or several times: with 72 units at 22 x 22 places 140 kB an image. Give it some ten images
    at a time, which stay in cache.
    """
    check_onnx()
    import onnx

    folded = fold(network)
    n_bytes = sum(layer.filters.nbytes for layer in folded.layers)
    n_bytes += sum(linear.nbytes for linear in folded.linear)
    if n_bytes > MAX_BYTES:
        msg = f"{path}: the arrays have {n_bytes} bytes, more than the {MAX_BYTES} of ONNX files."
        raise ValueError(msg)
    model = _model(onnx, folded, network.image_shape)
    onnx.checker.check_model(model, full_check=True)
    write_atomically(Path(path), model.SerializeToString(deterministic=True))


class _Graph:
    """Nodes and arrays of a graph in the making; names stand for what they compute."""

    def __init__(self, onnx: Any) -> None:
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.arrays: dict[str, NDArray[Any]] = {}

    def add(self, operator: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Add a node of one output; return the name of that."""
        name = name or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(
            self.onnx.helper.make_node(operator, inputs, [name], name=name, **attributes)
        )
        return name

    def array(self, name: str, values: ArrayLike, dtype: Any = np.float32) -> str:
        """Keep an array, once under a name however often it is asked for."""
        self.arrays[name] = np.asarray(values, dtype=dtype)
        return name

    def indices(self, *values: int) -> str:
        """Keep a row of whole numbers that says where, or of what shape."""
        return self.array("at_" + "_".join(map(str, values)), values, np.int64)


def _model(onnx: Any, folded: FoldedNetwork, image_shape: tuple[int, ...]) -> Any:
    helper, types = onnx.helper, onnx.TensorProto
    graph = _Graph(onnx)
    features = [_features(graph, folded, view) for view in _views(graph, folded)]
    Phi = graph.add("Mean", *features) if len(features) > 1 else features[0]
    # Large weights cancel in this sum, so it is taken in double precision, as in Python.
    Phi = graph.add("Cast", Phi, to=types.DOUBLE)
    constant = graph.array("constant", folded.constant, np.float64)
    outputs = graph.add("Gemm", Phi, _weights(graph, folded), constant)
    best = graph.add("ArgMax", outputs, axis=1, keepdims=0)
    graph.add("Gather", _classes(graph, folded.classes), best, name="label")
    _link(graph, folded, outputs)

    def described(name: str, element: int, shape: tuple[int, ...], text: str) -> Any:
        return helper.make_tensor_value_info(name, element, ["N", *shape], doc_string=text)

    label = helper.np_dtype_to_tensor_dtype(graph.arrays["classes"].dtype)
    k = len(folded.classes)
    darkest, lightest = folded.byte_range
    pixels = f"Images; the pixels of training are from {darkest} to {lightest}."
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "varpro_nn",
            [described("images", types.UINT8, image_shape, pixels)],
            [
                described("label", label, (), "The class of the largest output."),
                described("probabilities", types.FLOAT, (k,), "Probabilities of the classes."),
            ],
            [onnx.numpy_helper.from_array(array, name) for name, array in graph.arrays.items()],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="varpro_nn",
        producer_version=__version__,
        doc_string="Image classifier trained by variable projection. "
        f"Classes: {', '.join(map(str, folded.classes))}.",
    )
    helper.set_model_props(model, {"preparation": json.dumps(folded.preparation.spec())})
    return model


def _whole(layer: FoldedLayer) -> bool:
    """Whether there is one window, the image, of which nothing is taken out."""
    return layer.window == layer.image_shape[1:] and layer.contrast is None


def _views(graph: _Graph, folded: FoldedNetwork) -> list[str]:
    """Make the images to look at."""
    images = graph.add("Reshape", "images", graph.indices(-1, *folded.image_shape))
    images = graph.add("Cast", images, to=graph.onnx.TensorProto.FLOAT)
    if folded.layers[0].contrast is None:
        images = graph.add("Mul", images, graph.array("scale", 1 / 255))
    else:
        # Contrast has no scale. Whole numbers about 0: their sums, below, are exact.
        images = graph.add("Sub", images, graph.array("middle", _MIDDLE))
    if folded.views == "single":
        return [images]
    start, end = graph.indices(-1), graph.indices(-folded.image_shape[2] - 1)
    mirrored = graph.add("Slice", images, start, end, graph.indices(3), graph.indices(-1))
    return [images, mirrored]


def _features(graph: _Graph, folded: FoldedNetwork, images: str) -> str:
    """Columns (n, sides * h * cells) of images (n, channels, rows, columns).

    The columns of the last layer come first. Those of the shown layers follow, the lowest first.
    """
    *below, last = folded.layers
    shown = []
    scale = 255  # of the bytes; maps are as they are
    for number, layer in enumerate(below, 1):
        shape = graph.indices(0, 0, *layer.grid)
        cells = _cells(graph, layer, images, scale, f"_{number}")
        images = _joined(graph, [graph.add("Reshape", values, shape) for values in cells])
        if layer.shown is not None:
            pooling = graph.array(f"shown_{number}", _pooling(layer.shown))
            flat = graph.add("Reshape", images, graph.indices(0, 0, -1))
            shown.append(graph.add("Flatten", graph.add("MatMul", flat, pooling)))
        scale = 1
    cells = _cells(graph, last, images, scale, "")
    if not _whole(last):
        cells = [graph.add("Flatten", values) for values in cells]
    return _joined(graph, [*cells, *shown])


def _cells(graph: _Graph, layer: FoldedLayer, images: str, scale: int, suffix: str) -> list[str]:
    """Means over the places of each cell, (n, h, cells) or (n, h, rows, columns), for each side.

    ``suffix`` makes the array names of a layer unique.
    """
    h, channels = len(layer.bias), layer.image_shape[0]
    bias: ArrayLike = 0.0  # what is still to be added to z
    if _whole(layer):
        pixels = graph.add("Flatten", images)
        filters = graph.array(f"filters{suffix}", layer.filters)
        of_units = graph.array(f"bias{suffix}", layer.bias)
        z = graph.add("Gemm", pixels, filters, of_units, transB=1)
        return _activated(graph, layer, z, bias, suffix)
    shape = (h, channels, *layer.window)
    options: dict[str, Any] = {
        "kernel_shape": layer.window,
        "strides": (layer.stride, layer.stride),
    }
    if layer.contrast is None:
        filters = graph.array(f"filters{suffix}", layer.filters.reshape(shape))
        of_units = graph.array(f"bias{suffix}", layer.bias)
        z = graph.add("Conv", images, filters, of_units, **options)
    else:
        exact = layer.filters.astype(np.float64)
        centred = (exact - exact.mean(axis=1, keepdims=True)).reshape(shape)
        z = graph.add("Conv", images, graph.array(f"filters{suffix}", centred), **options)
        z = graph.add("Mul", z, _factor(graph, layer, images, scale, options, suffix))
        bias = layer.bias[:, None, None]
    activated = _activated(graph, layer, z, bias, suffix)
    if layer.grid == layer.places:
        return activated
    pooling = graph.array(f"pooling{suffix}", _pooling(layer.bounds))
    return [
        graph.add("MatMul", graph.add("Reshape", values, graph.indices(0, 0, -1)), pooling)
        for values in activated
    ]


def _joined(graph: _Graph, columns: list[str]) -> str:
    return graph.add("Concat", *columns, axis=1) if len(columns) > 1 else columns[0]


def _factor(
    graph: _Graph, layer: FoldedLayer, images: str, scale: int, options: dict[str, Any], suffix: str
) -> str:
    """Make ``1 / sqrt(var + contrast)`` of each place, (n, 1, rows, columns of places)."""
    assert layer.contrast is not None
    double = graph.onnx.TensorProto.DOUBLE
    ones = graph.array(f"ones{suffix}", np.ones((1, 1, *layer.window)))
    sums = []
    for values in (images, graph.add("Mul", images, images)):
        over_channels = graph.add("ReduceSum", values, graph.indices(1), keepdims=1)
        sums.append(graph.add("Cast", graph.add("Conv", over_channels, ones, **options), to=double))
    # For windows of up to 1,024 bytes the sums are whole numbers of at most 2 ** 24, exact in
    # single precision. In the difference most of them may cancel: it is taken in double precision.
    d = layer.filters.shape[1]
    n_pixels = graph.array(f"n_pixels{suffix}", d, np.float64)
    n_squared = graph.array(f"n_pixels_squared{suffix}", d * d, np.float64)
    squares = graph.add("Mul", sums[1], n_pixels)
    spread = graph.add("Sub", squares, graph.add("Mul", sums[0], sums[0]))
    variance = graph.add("Div", spread, n_squared)
    contrast = graph.array(f"contrast{suffix}", layer.contrast * scale**2, np.float64)
    root = graph.add("Sqrt", graph.add("Add", variance, contrast))
    factor = graph.add("Reciprocal", root)
    if layer.contrast < FAINT_CONTRAST:
        # Filters of mean 0 leave rounding of a flat window, which is not to be made large.
        zero = graph.array("number_0", 0, np.float64)
        factor = graph.add("Where", graph.add("Greater", spread, zero), factor, zero)
    return graph.add("Cast", factor, to=graph.onnx.TensorProto.FLOAT)


def _activated(
    graph: _Graph, layer: FoldedLayer, z: str, bias: ArrayLike, suffix: str
) -> list[str]:
    """Add the activation of ``z + bias``, an array for each side."""
    bias = np.asarray(bias, dtype=np.float32)
    if layer.activation == "two-sided":
        above = graph.array(f"above{suffix}", bias - layer.threshold)
        below = graph.array(f"below{suffix}", -bias - layer.threshold)
        sides = graph.add("Add", z, above), graph.add("Sub", below, z)
        return [graph.add("Relu", side) for side in sides]
    if bias.any():
        z = graph.add("Add", z, graph.array(f"bias{suffix}", bias))
    return [z if layer.activation == LINEAR else graph.add(_ACTIVATIONS[layer.activation], z)]


def _pooling(bounds: tuple[NDArray[np.int64], NDArray[np.int64]]) -> FloatArray:
    """Weights (places, cells) of the means over cells."""
    rows, columns = (np.diff(along) for along in bounds)
    down, across = (np.repeat(np.diag(1 / n), n, axis=0) for n in (rows, columns))
    means: FloatArray = np.einsum("ya,xb->yxab", down, across)
    return means.reshape(-1, len(rows) * len(columns))


def _weights(graph: _Graph, folded: FoldedNetwork) -> str:
    """Linear weights in the order of the features here: side, unit, cell."""
    *below, last = (A.swapaxes(1, 2).reshape(-1, A.shape[-1]) for A in folded.linear)
    return graph.array("A", np.concatenate([last, *below]), np.float64)


def _link(graph: _Graph, folded: FoldedNetwork, outputs: str) -> None:
    """Add what makes probabilities of outputs."""
    if folded.link == "softmax":
        temperature = graph.array("temperature", folded.temperature, np.float64)
        exact = graph.add("Softmax", graph.add("Div", outputs, temperature), axis=1)
    else:
        zero, one = (graph.array(f"number_{n}", n, np.float64) for n in (0, 1))
        along = graph.indices(1)
        positive = graph.add("Relu", outputs)
        some = graph.add("Greater", graph.add("ReduceSum", positive, along), zero)
        positive = graph.add("Where", some, positive, one)
        exact = graph.add("Div", positive, graph.add("ReduceSum", positive, along))
    graph.add("Cast", exact, to=graph.onnx.TensorProto.FLOAT, name="probabilities")


def _classes(graph: _Graph, classes: NDArray[Any]) -> str:
    if classes.dtype.kind == "U":
        check_text(classes, "classes")  # ONNX keeps them as UTF-8
        return graph.array("classes", classes.tolist(), object)
    beyond = classes.dtype.kind == "u" and classes.max() > np.iinfo(np.int64).max
    return graph.array("classes", classes, np.uint64 if beyond else np.int64)
