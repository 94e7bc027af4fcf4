"""Networks outside Python: ONNX, C99, and a page that works from disk."""
