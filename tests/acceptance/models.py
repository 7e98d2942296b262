"""Model packages that a test brings: a manifest and a small ONNX graph, no code.

One that sees something and says where is in `tests.acceptance.disc_model`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from onnx import TensorProto, helper

MANIFEST = """\
id: %ID%
name: Densities
version: 1.0.0
vendor: {name: Test}
description: Mean density, and share of voxels below -400 HU.
licence: Apache-2.0
intended_use:
  purpose: test
  modalities: [CT]
  sop_classes: [1.2.840.10008.5.1.4.1.1.2]
regulation: {medical_device: false}
procedure:
  title: Densities
  report_code: {code_value: 18748-4, coding_scheme_designator: LN, code_meaning: Study}
  procedure_reported:
    {code_value: "77477000", coding_scheme_designator: SCT, code_meaning: Computed tomography}
input: {kind: volume}
preprocessing:
  - {kind: rescale, unit: HU}
runtime:
  kind: onnx
  graph: {path: model.onnx, sha256: "%SHA%"}
  inputs: [{name: x, axes: slice row column}]
  concurrency: %CONCURRENCY%
output:
  findings:
    - kind: measurement
      output: mean
      code:
        code_value: "112181"
        coding_scheme_designator: DCM
        code_meaning: Mean Attenuation Coefficient
      unit: {code_value: "[hnsf'U]", coding_scheme_designator: UCUM, code_meaning: Hounsfield unit}
      tracking_identifier: everything
      decimals: 3
      statement: "{value} HU"
    - kind: measurement
      output: air
      code: {code_value: AIR, coding_scheme_designator: 99TEST, code_meaning: Share of air}
      unit: {code_value: "%", coding_scheme_designator: UCUM, code_meaning: percent}
      tracking_identifier: everything
      decimals: 3
      statement: "{value} %"
"""
MEAN, AIR = "112181", "AIR"


def densities(folder: Path, *, model_id: str = "densities", concurrency: int = 2) -> Path:
    """A model that answers with two numbers that any change of a voxel would move."""
    return _package(folder, model_id, concurrency, [])


def not_a_number(folder: Path, *, model_id: str = "not-a-number") -> Path:
    """A model whose mean is the logarithm of a negative number: NaN."""
    minus = helper.make_node("Constant", [], ["minus"], value_float=-1.0)
    return _package(
        folder, model_id, 1, [minus, helper.make_node("Log", ["minus"], ["mean"])], mean=False
    )


def slow(folder: Path, *, model_id: str = "slow", rounds: int = 60_000) -> Path:
    """``densities`` after a loop of cosines that nothing can skip: seconds for a small series."""
    body = helper.make_graph(
        [
            helper.make_node("Cos", ["state"], ["next"]),
            helper.make_node("Identity", ["go"], ["go_on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    loop = [
        helper.make_node("Constant", [], ["rounds"], value_int=rounds),
        helper.make_node("Loop", ["rounds", "", "x"], ["end"], body=body),
        helper.make_node("ReduceMean", ["end"], ["mean"], keepdims=0),
    ]
    return _package(folder, model_id, 1, loop, mean=False)


def _package(
    folder: Path, model_id: str, concurrency: int, extra: list[object], *, mean: bool = True
) -> Path:
    folder.mkdir(parents=True)
    own = [helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0)] if mean else []
    nodes = [
        *own,
        *extra,
        helper.make_node("Less", ["x", "limit"], ["below"]),
        helper.make_node("Cast", ["below"], ["ones"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["ones"], ["part"], keepdims=0),
        helper.make_node("Mul", ["part", "hundred"], ["air"]),
    ]
    graph = helper.make_graph(
        nodes,
        "densities",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["s", "r", "c"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in ("mean", "air")],
        [
            helper.make_tensor("limit", TensorProto.FLOAT, [], [-400.0]),
            helper.make_tensor("hundred", TensorProto.FLOAT, [], [100.0]),
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    content = helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()
    (folder / "model.onnx").write_bytes(content)
    text = MANIFEST.replace("%ID%", model_id).replace("%CONCURRENCY%", str(concurrency))
    text = text.replace("%SHA%", hashlib.sha256(content).hexdigest())
    (folder / "model.yaml").write_text(text)
    return folder
