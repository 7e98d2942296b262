"""Two models to measure with, as packages and as bare files: one of the size of ResNet-18 (He et
al., CVPR 2016) and a tiny one. Their weights are random: what they find means nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper
from onnx.numpy_helper import from_array

from hub.domain.inference import InferenceRequest
from hub.ports import ModelPackage
from hub.store.packages import read_package
from tests.unit.adapters.toy_models import Files, request
from tests.unit.imaging import ct_slice

OPSET, IR_VERSION = 17, 9
_SMALL = 1e-5
"""Of the last layer, so that the score lies between 0 and 1."""
_STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))
"""Channels and stride of the four stages, each of two blocks of two convolutions."""

MANIFEST = """\
id: %ID%
name: Benchmark
version: 1.0.0
vendor: {name: Benchmark}
description: Random weights.
licence: Apache-2.0
intended_use:
  purpose: benchmark
  modalities: [CT]
  sop_classes: [1.2.840.10008.5.1.4.1.1.2]
regulation: {medical_device: false}
procedure:
  title: Benchmark
  report_code: {code_value: 18748-4, coding_scheme_designator: LN, code_meaning: Study}
  procedure_reported: {code_value: P, coding_scheme_designator: 99T, code_meaning: CT}
input: {kind: volume}
preprocessing:
  - {kind: rescale, unit: HU}
runtime:
  kind: onnx
  graph: {path: model.onnx, sha256: "%SHA%"}
  inputs: [{name: x, axes: 1 slice row column}]
  concurrency: 64
output:
  findings:
    - kind: measurement
      output: score
      code: {code_value: S, coding_scheme_designator: 99T, code_meaning: Score}
      unit: {code_value: "1", coding_scheme_designator: UCUM, code_meaning: no units}
      tracking_identifier: the score
      decimals: 6
"""


@dataclass(frozen=True)
class BenchModel:
    """A model, its input as images and as a tensor."""

    name: str
    graph: Path
    package: ModelPackage
    request: InferenceRequest
    tensor: NDArray[np.float32]
    """Shape (1, slice, row, column), in HU: what the images come to."""


def resnet18() -> bytes:
    """1 x 3 x 224 x 224 -> ``score``: 11.7 million weights, 1.8 thousand million multiplications;
    normalisation is folded into the convolutions, as exported for inference."""
    net = _Net()
    net.convolution("x", 3, 64, 7, 2)
    net.nodes.append(
        helper.make_node(
            "MaxPool", [net.last], ["pool"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]
        )
    )
    net.last, before = "pool", 64
    for channels, stride in _STAGES:
        for block in range(2):
            net.block(before, channels, stride if block == 0 else 1)
            before = channels
    net.nodes.append(helper.make_node("GlobalAveragePool", [net.last], ["average"]))
    net.nodes.append(helper.make_node("Flatten", ["average"], ["flat"]))
    net.dense("flat", before, 1000)
    return net.model([1, 3, 224, 224])


def tiny() -> bytes:
    """1 x 1 x 16 x 16 -> ``score``: a network of one hidden layer."""
    net = _Net()
    net.nodes.append(helper.make_node("Flatten", ["x"], ["flat"]))
    net.dense("flat", 256, 32)
    return net.model([1, 1, 16, 16])


class _Net:
    """A graph in the making."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self.last = "x"
        self._random = np.random.default_rng(18)

    def convolution(
        self, source: str, before: int, after: int, size: int, stride: int, *, relu: bool = True
    ) -> str:
        name = f"c{len(self.nodes)}"
        scale = np.sqrt(2 / (before * size * size))
        shape = (after, before, size, size)
        weight = (self._random.standard_normal(shape) * scale).astype(np.float32)
        self.weights += [from_array(weight, f"{name}w"), from_array(_zeros(after), f"{name}b")]
        pad = size // 2
        self.nodes.append(
            helper.make_node(
                "Conv",
                [source, f"{name}w", f"{name}b"],
                [name],
                kernel_shape=[size, size],
                strides=[stride, stride],
                pads=[pad] * 4,
            )
        )
        self.last = self.relu(name) if relu else name
        return self.last

    def relu(self, source: str) -> str:
        self.nodes.append(helper.make_node("Relu", [source], [f"{source}r"]))
        return f"{source}r"

    def block(self, before: int, after: int, stride: int) -> None:
        source = self.last
        first = self.convolution(source, before, after, 3, stride)
        second = self.convolution(first, after, after, 3, 1, relu=False)
        if stride != 1 or before != after:
            source = self.convolution(source, before, after, 1, stride, relu=False)
        total = f"a{len(self.nodes)}"
        self.nodes.append(helper.make_node("Add", [second, source], [total]))
        self.last = self.relu(total)

    def dense(self, source: str, before: int, after: int) -> None:
        weight = self._random.standard_normal((before, after)).astype(np.float32) * _SMALL
        self.weights += [from_array(weight, "dw"), from_array(_zeros(after), "db")]
        self.nodes += [
            helper.make_node("Gemm", [source, "dw", "db"], ["logits"]),
            helper.make_node("ReduceMean", ["logits"], ["mean"], keepdims=0),
            helper.make_node("Sigmoid", ["mean"], ["score"]),
        ]

    def model(self, shape: Sequence[int]) -> bytes:
        graph = helper.make_graph(
            self.nodes,
            "bench",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("score", TensorProto.FLOAT, [])],
            self.weights,
        )
        opset = [helper.make_opsetid("", OPSET)]
        made = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)
        return bytes(made.SerializeToString())


def _zeros(count: int) -> NDArray[np.float32]:
    return np.zeros(count, np.float32)


def bench_models(folder: Path) -> tuple[tuple[BenchModel, ...], Files]:
    """Both models in a folder, and the store that their images lie in."""
    store = Files(folder / "objects")
    store.root.mkdir(parents=True)
    made = (
        _bench_model("resnet18", resnet18(), (3, 224, 224), folder, store),
        _bench_model("tiny", tiny(), (1, 16, 16), folder, store),
    )
    return made, store


def _bench_model(
    name: str, graph: bytes, shape: tuple[int, int, int], folder: Path, store: Files
) -> BenchModel:
    package_folder = folder / name
    package_folder.mkdir()
    (package_folder / "model.onnx").write_bytes(graph)
    text = MANIFEST.replace("%ID%", name).replace("%SHA%", hashlib.sha256(graph).hexdigest())
    (package_folder / "model.yaml").write_text(text)
    package = read_package(package_folder)
    random = np.random.default_rng(224)
    pixels: Any = random.integers(0, 2000, shape).astype(np.int16)
    files = [
        ct_slice(number, plane, Rows=shape[1], Columns=shape[2])
        for number, plane in enumerate(pixels, start=1)
    ]
    asked = request(store, files, package.key, request_id=name)
    tensor = pixels[np.newaxis].astype(np.float32) - 1024
    return BenchModel(name, package_folder / "model.onnx", package, asked, tensor)
