"""A model that sees something: a disc brighter than bone, where it lies, how large it is.

It gives everything that a manifest can ask for: a box with a score, a diameter of it, a label
map, probabilities and a parametric map. ``with_disc`` puts one into a phantom.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper
from pydicom.dataset import Dataset

from tests.acceptance.studies import PhantomFiles, StudyFiles, changed

DISC_HU = 2000
_LIMIT_HU = 1500.0
_SOFTNESS_HU = 250.0
DISC_SCORE = 0.88
"""What the model says of a disc: the logistic function of (2000 - 1500) / 250."""
DIAMETER = "81827009"
"""SNOMED CT code of the measurement."""

MANIFEST = """\
id: %ID%
name: Disc finder
version: 1.0.0
vendor: {name: Test}
description: Finds a disc brighter than bone.
licence: Apache-2.0
intended_use:
  purpose: test
  modalities: [CT]
  sop_classes: [1.2.840.10008.5.1.4.1.1.2]
regulation: {medical_device: false}
procedure:
  title: Bright disc
  report_code: {code_value: 18748-4, coding_scheme_designator: LN, code_meaning: Study}
  procedure_reported:
    {code_value: "77477000", coding_scheme_designator: SCT, code_meaning: Computed tomography}
input: {kind: volume}
preprocessing:
  - {kind: rescale, unit: HU}
  - {kind: reorient, to: HPL}
runtime:
  kind: onnx
  graph: {path: model.onnx, sha256: "%SHA%"}
  inputs:
    - {name: x, axes: slice row column}
    - {name: spacing, feed: spacing_mm}
output:
  findings:
    - kind: detections
      output: boxes
      scores: scores
      code: {code_value: "4147007", coding_scheme_designator: SCT, code_meaning: Mass}
      threshold: 0.5
      graphic: %GRAPHIC%
      measurements:
        - output: diameters
          code: {code_value: "81827009", coding_scheme_designator: SCT, code_meaning: Diameter}
          unit: {code_value: mm, coding_scheme_designator: UCUM, code_meaning: millimeter}
          statement: "Diameter {value} mm."
      tracking_identifier: disc
      finding_site: {code_value: "39607008", coding_scheme_designator: SCT, code_meaning: Lung}
      statements:
        positive: "Disc {number}, probability {value}."
        negative: "No disc in the images."
  region:
    output: labels
    axes: slice row column
    segments:
      - number: 1
        label: Disc
        category:
          code_value: "49755003"
          coding_scheme_designator: SCT
          code_meaning: Morphologically Abnormal Structure
        property_type: {code_value: "4147007", coding_scheme_designator: SCT, code_meaning: Mass}
        recommended_display_rgb: [255, 60, 0]
        tracking_identifier: disc voxels
    probabilities: {output: probabilities, axes: slice row column}
  maps:
    - output: attenuation
      axes: slice row column
      quantity:
        {code_value: "112031", coding_scheme_designator: DCM, code_meaning: Attenuation Coefficient}
      unit: {code_value: "[hnsf'U]", coding_scheme_designator: UCUM, code_meaning: Hounsfield unit}
      label: Attenuation above bone
  critical:
    - {finding: disc, minimum_probability: 0.8}
"""


def findings_of_a_disc(folder: Path, *, model_id: str = "disc", graphic: str = "rectangle") -> Path:
    """A package whose findings are ``disc 1`` with its diameter in millimetres, and a map, a
    segment and probabilities; of a study without a disc one finding that it is absent.

    Args:
        graphic: how the box is drawn, ``rectangle`` or ``ellipse``.
    """
    folder.mkdir(parents=True)
    content = _graph()
    (folder / "model.onnx").write_bytes(content)
    text = MANIFEST.replace("%ID%", model_id).replace("%GRAPHIC%", graphic)
    text = text.replace("%SHA%", hashlib.sha256(content).hexdigest())
    (folder / "model.yaml").write_text(text)
    return folder


def _graph() -> bytes:
    """(slice, row, column) in HU and the spacing in mm -> all that the manifest names."""
    voxels = ["s", "r", "c"]
    outputs = [
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, 6]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1]),
        helper.make_tensor_value_info("diameters", TensorProto.FLOAT, [1]),
        helper.make_tensor_value_info("labels", TensorProto.UINT8, voxels),
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, voxels),
        helper.make_tensor_value_info("attenuation", TensorProto.FLOAT, voxels),
    ]
    constants: dict[str, object] = {
        "limit": np.float32(_LIMIT_HU),
        "softness": np.float32(_SOFTNESS_HU),
        "zero": np.float32(0),
        "last_axis": np.array([2]),
        "one": np.array([1]),
        "row_of_six": np.array([1, 6]),
        "edges": np.array([[-0.5, -0.5, -0.5, 0.5, 0.5, 0.5]], np.float32),
    }
    made = helper.make_graph(
        [*_voxel_nodes(), *_extent_nodes(), *_box_nodes()],
        "disc",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, voxels),
            helper.make_tensor_value_info("spacing", TensorProto.FLOAT, [3]),
        ],
        outputs,
        [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    return bytes(helper.make_model(made, opset_imports=opset, ir_version=9).SerializeToString())


def _voxel_nodes() -> list[NodeProto]:
    node = helper.make_node
    return [
        node("Greater", ["x", "limit"], ["bright"]),
        node("Cast", ["bright"], ["labels"], to=TensorProto.UINT8),
        node("Cast", ["bright"], ["flags"], to=TensorProto.FLOAT),
        node("Sub", ["x", "limit"], ["above"]),
        node("Div", ["above", "softness"], ["logits"]),
        node("Sigmoid", ["logits"], ["probabilities"]),
        node("Max", ["above", "zero"], ["attenuation"]),
        node("ReduceMax", ["probabilities"], ["highest"], keepdims=0),
        node("Reshape", ["highest", "one"], ["scores"]),
    ]


def _extent_nodes() -> list[NodeProto]:
    """The first and the last index along each axis at which anything is bright."""
    node = helper.make_node
    made = []
    for axis in range(3):
        others = [other for other in range(3) if other != axis]
        profile, ends = f"profile{axis}", {f"first{axis}": 0, f"last{axis}": 1}
        made.append(node("ReduceMax", ["flags"], [profile], axes=others, keepdims=0))
        for end, is_last in ends.items():
            made.append(node("ArgMax", [profile], [end], select_last_index=is_last))
    return made


def _box_nodes() -> list[NodeProto]:
    node = helper.make_node
    corners = [f"{end}{axis}" for end in ("first", "last") for axis in range(3)]
    return [
        node("Concat", corners, ["corners"], axis=0),
        node("Cast", ["corners"], ["numbers"], to=TensorProto.FLOAT),
        node("Reshape", ["numbers", "row_of_six"], ["centres"]),
        node("Add", ["centres", "edges"], ["boxes"]),
        node("Sub", ["last2", "first2"], ["between"]),
        node("Add", ["between", "one"], ["pixels"]),
        node("Cast", ["pixels"], ["across"], to=TensorProto.FLOAT),
        node("Gather", ["spacing", "last_axis"], ["width"]),
        node("Mul", ["across", "width"], ["diameters"]),
    ]


def with_disc(
    study: PhantomFiles,
    folder: Path,
    *,
    slices: tuple[int, ...] = (4, 5, 6),
    row: int = 62,
    column: int = 37,
    radius: int = 6,
) -> StudyFiles:
    """The same study with a disc of 2000 HU, in pixels, on these of its files (from 0 on)."""

    def draw(data_set: Dataset) -> None:
        if int(data_set.InstanceNumber) - 1 not in slices:
            return
        pixels = data_set.pixel_array.copy()
        rows, columns = np.ogrid[: pixels.shape[0], : pixels.shape[1]]
        inside = (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
        pixels[inside] = DISC_HU - int(data_set.RescaleIntercept)
        data_set.PixelData = pixels.tobytes()

    return StudyFiles(study.study_instance_uid, changed(study, folder, draw))
