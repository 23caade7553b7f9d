"""The `onnx` format: two graphs, int8 ones beside them."""
