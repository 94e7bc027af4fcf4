"""Networks outside Python: an ONNX graph, a C99 program, and a page that works from disk."""

from varpro_nn.exporters.c_source import to_c
from varpro_nn.exporters.onnx_graph import check_onnx, to_onnx
from varpro_nn.exporters.page import to_html

WRITERS = {"onnx": to_onnx, "c": to_c, "html": to_html}
"""What writes each format; its name is the ending of its files."""

__all__ = ["WRITERS", "check_onnx", "to_c", "to_html", "to_onnx"]
