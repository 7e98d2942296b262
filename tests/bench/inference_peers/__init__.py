"""Servers of other projects that serve the same ONNX graph; each runs in an environment of its
own (``make bench-inference``), not in this one."""
