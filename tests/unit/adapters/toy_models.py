"""Small ONNX graphs and packages made for one test."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from hub.domain.identity import PatientIdentity
from hub.domain.inference import (
    ImagingInput,
    InferenceRequest,
    InputRole,
    ModelKey,
    Priority,
)
from hub.domain.study import Completeness, Instance, Location, Series, Study, StudyKey
from hub.formats.images.pixel_data import read_image
from hub.ports import ModelPackage
from hub.store.packages import read_package

MANIFEST = """\
id: toy
name: Toy
version: 1.0.0
vendor: {name: Test}
description: Sums a volume.
licence: Apache-2.0
intended_use:
  purpose: test
  modalities: [CT]
  sop_classes: [1.2.840.10008.5.1.4.1.1.2]
regulation: {medical_device: false}
procedure:
  title: Toy
  report_code: {code_value: 18748-4, coding_scheme_designator: LN, code_meaning: Study}
  procedure_reported: {code_value: P, coding_scheme_designator: 99T, code_meaning: CT}
input: {kind: volume}
preprocessing:
  - {kind: rescale, unit: HU}
  - {kind: reorient, to: FAR}
runtime:
  kind: onnx
  graph: {path: toy.onnx, sha256: "%SHA%"}
  inputs: [{name: x, axes: 1 slice row column}]
  timeout_seconds: %TIMEOUT%
output:
  findings:
    - kind: measurement
      output: total
      code: {code_value: T, coding_scheme_designator: 99T, code_meaning: Total}
      unit: {code_value: "1", coding_scheme_designator: UCUM, code_meaning: no units}
      tracking_identifier: the sum
      segments: [1]
      decimals: 0
      valid_range: [-1000000, 1000000]
      statement: "The sum is {value}."
  not_assessable:
    - {output: total, minimum: -100000, reason: nothing but air}
  region:
    output: labels
    axes: 1 slice row column
    segments:
      - number: 1
        label: Bright
        category: {code_value: C, coding_scheme_designator: 99T, code_meaning: Tissue}
        property_type: {code_value: B, coding_scheme_designator: 99T, code_meaning: Bright}
        recommended_display_rgb: [255, 0, 0]
        tracking_identifier: bright voxels
"""


def graph(*, total: str = "ReduceSum", extra: tuple[Any, ...] = ()) -> bytes:
    """(1, slice, row, column) -> ``total`` and ``labels``: 1 where a voxel is above 0."""
    nodes = [
        *extra,
        helper.make_node(total, ["x"], ["total"], **({"keepdims": 0} if "Reduce" in total else {})),
        helper.make_node("Greater", ["x", "zero"], ["above"]),
        helper.make_node("Cast", ["above"], ["labels"], to=TensorProto.UINT8),
    ]
    shape = [1, "s", "r", "c"]
    made = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info("total", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("labels", TensorProto.UINT8, shape),
        ],
        [helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0])],
    )
    opset = [helper.make_opsetid("", 17)]
    return bytes(helper.make_model(made, opset_imports=opset, ir_version=9).SerializeToString())


def nan_graph() -> bytes:
    """``total`` is the logarithm of a negative number."""
    return graph(total="Log")


def slow_graph() -> bytes:
    """Minutes of work: a loop of cosines over the input, whose result nothing can skip."""
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
    many = helper.make_tensor("many", TensorProto.INT64, [], [10**9])
    model = onnx.load_from_string(graph())
    model.graph.initializer.append(many)
    model.graph.node.insert(0, helper.make_node("Loop", ["many", "", "x"], ["end"], body=body))
    model.graph.node[1].input[0] = "end"
    return bytes(model.SerializeToString())


def write_package(
    folder: Path, model: bytes, *, timeout: float = 30, manifest: str = MANIFEST
) -> ModelPackage:
    folder.mkdir(exist_ok=True)
    (folder / "toy.onnx").write_bytes(model)
    text = manifest.replace("%SHA%", hashlib.sha256(model).hexdigest())
    (folder / "model.yaml").write_text(text.replace("%TIMEOUT%", str(timeout)))
    return read_package(folder)


@dataclass(frozen=True)
class Files:
    """An object store of loose files; can be pickled."""

    root: Path

    def read(self, location: Location) -> bytes:
        return (self.root / location.segment).read_bytes()


class WallClock:
    def now(self) -> datetime:
        return datetime.now(UTC)


def request(
    store: Files, files: list[bytes], key: ModelKey, *, request_id: str = "r"
) -> InferenceRequest:
    """A request for one series, its files put into the store."""
    instances = []
    for index, data in enumerate(files):
        name = f"{request_id}-{index}.dcm"
        (store.root / name).write_bytes(data)
        instances.append(_instance(data, Location(name, 0, len(data))))
    series = Series(instances[0].series_instance_uid, "CT", tuple(instances))
    study = Study(
        key=StudyKey(instances[0].study_instance_uid, 1),
        patient=PatientIdentity("p"),
        accession_number="",
        issuer_of_accession_number="",
        study_date="",
        study_time="",
        study_description="",
        study_id="",
        referring_physician_name="",
        series=(series,),
        completeness=Completeness(complete=True, evidence=None, received=1, expected=None),
        received_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    inputs = (ImagingInput(InputRole.CURRENT, (series,)),)
    return InferenceRequest(request_id, key, "route", Priority.ROUTINE, study, inputs, ())


def _instance(data: bytes, location: Location) -> Instance:
    header = read_image(data).header
    return Instance(
        sop_instance_uid=header.sop_instance_uid,
        sop_class_uid=header.sop_class_uid,
        series_instance_uid=header.series_instance_uid,
        study_instance_uid=header.study_instance_uid,
        transfer_syntax_uid=header.transfer_syntax_uid,
        patient=PatientIdentity("p"),
        sha256="",
        location=location,
        modality=header.modality,
        rows=header.rows,
        columns=header.columns,
        image_position_patient=header.image_position_patient,  # type: ignore[arg-type]
        image_orientation_patient=header.image_orientation_patient,  # type: ignore[arg-type]
    )
