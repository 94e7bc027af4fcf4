"""Networks outside Python: an ONNX graph, a C99 program, and a page that works from disk."""

from varpro_nn.exporters.c_source import to_c
from varpro_nn.exporters.onnx_graph import to_onnx
from varpro_nn.exporters.page import to_html

__all__ = ["to_c", "to_html", "to_onnx"]
