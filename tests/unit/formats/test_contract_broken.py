"""Answers that break the contract are refused, and nothing of them is repeated."""

from __future__ import annotations

import zlib
from base64 import b64decode, b64encode
from typing import Any

import orjson
import pytest

from hub.domain.inference import (
    Deferred,
    InferenceResult,
    Unsuitable,
)
from hub.errors import RejectedError
from hub.formats.contract.messages import (
    decode_answer,
)
from tests.unit.formats.contract_cases import (
    NOW,
    example,
    example_request,
)


def answered(message: dict[str, Any] | bytes) -> InferenceResult | Unsuitable | Deferred:
    body = message if isinstance(message, bytes) else orjson.dumps(message)
    return decode_answer(body, example_request(), received_at=NOW)


# --- broken answers ------------------------------------------------------------------------

_REMOVE = object()


def _broken(name: str, path: str, value: Any) -> dict[str, Any]:
    message = example(name)
    *parents, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    part: Any = message
    for step in parents:
        part = part[step]
    if value is _REMOVE:
        del part[last]
    else:
        part[last] = value
    return message


A, L, U, D, F = "result-assessed", "result-label-map", "unsuitable", "deferred", "failed"
_INFLATED = b64encode(zlib.compress(bytes(10_000_000))).decode()
BROKEN = [
    (A, "contract", "1.1", "contract: must be 1.0"),
    (A, "contract", 1.0, "contract: "),
    (A, "contract", _REMOVE, "contract: is required"),
    (A, "status", "fine", "status: must be one of"),
    (A, "status", _REMOVE, "status: is required"),
    (A, "request_id", _REMOVE, "request_id: is required"),
    (A, "request_id", "../../etc", "request_id: must look like"),
    (A, "study_instance_uid", _REMOVE, "study_instance_uid: is required"),
    (A, "study_instance_uid", 7, "study_instance_uid: must be text"),
    (A, "model", _REMOVE, "model: is required"),
    (A, "model.sha256", "XYZ", "model.sha256: must look like"),
    (A, "findings", [], "at least one finding"),
    (A, "findings", {}, "findings: must be a list"),
    (A, "findings.0.lateralty", None, "findings.0.lateralty: is not a known field"),
    (A, "findings.0.presence", "maybe", "findings.0.presence: must be"),
    (A, "findings.0.presence", _REMOVE, "findings.0: a finding has exactly one of"),
    (A, "findings.0.value", 1.0, "findings.0: "),
    (A, "findings.0.probability", 1.5, "findings.0.probability: must be at most 1"),
    (A, "findings.0.probability", "0.9", "findings.0.probability: must be a number"),
    (A, "findings.0.tracking_uid", "nodule-1", "findings.0.tracking_uid: must look like"),
    (A, "findings.0.tracking_identifier", "", "findings.0.tracking_identifier: must have at least"),
    (A, "findings.0.code.value", _REMOVE, "findings.0.code.value: is required"),
    (A, "findings.0.code.scheme", "X" * 17, "findings.0.code.scheme: must have at most 16"),
    (A, "findings.0.evidence.0.frame_numbers", [0], "findings.0.evidence.0.frame_numbers.0: "),
    (A, "findings.0.locations.0.points", [[1, 2]], "findings.0.locations.0: points: ELLIPSE has 4"),
    (A, "findings.0.locations.0.points.0", [1], "findings.0.locations.0.points.0.1: is required"),
    (A, "findings.0.locations.0.graphic_type", "BOX", "findings.0.locations.0.graphic_type: must"),
    (A, "findings.0.statement", "a\u0000b", "findings.0.statement: must look like"),
    (A, "findings.0.statement", "x" * 2001, "findings.0.statement: must have at most 2000"),
    (A, "findings.1.unit", _REMOVE, "findings.1: value and unit belong together"),
    (A, "findings.1.unit.scheme", "SCT", "findings.1: unit.scheme must be UCUM"),
    (A, "findings.0.critical", True, "findings.0.critical: is not a known field"),
    (A, "timings.0.seconds", -1, "timings.0.seconds: must be"),
    (A, "warnings", ["x"] * 51, "warnings: must have at most 50"),
    (A, "files", [], "files: is not a known field"),
    (L, "label_map.labels", "%%%", "label_map.labels: is not base64"),
    (L, "label_map.labels", b64encode(b"no").decode(), "label_map.labels: is not a zlib stream"),
    (L, "label_map.labels", _INFLATED, "label_map.labels: does not hold exactly 128 bytes"),
    (L, "label_map.probabilities", "", "label_map.probabilities: "),
    (L, "label_map.rows", 0, "label_map.rows: must be"),
    (L, "label_map.rows", 9, "label_map: has more voxels than the images"),
    (L, "label_map.sop_instance_uids", [], "label_map.sop_instance_uids: must have at least 1"),
    (L, "label_map.frames", [{"number": 1}], "label_map.frames: must be as many"),
    (L, "label_map.segments", [], "label_map.segments: must have at least 1"),
    (L, "label_map.segments.0.number", 256, "label_map.segments.0.number: must be"),
    (L, "label_map.segments.0.recommended_display_rgb", [1, 2], "recommended_display_rgb"),
    (L, "label_map.segments.1.tracking_uid", "x", "label_map.segments.1.tracking_uid: must look"),
    ("result-not-assessable", "reasons", [], "at least one reason"),
    (U, "reasons", [], "reasons: must have at least 1"),
    (U, "findings", [], "findings: is not a known field"),
    (D, "job_reference", "../admin", "job_reference: must look like"),
    (D, "retry_after_seconds", -1, "retry_after_seconds: must be"),
    (D, "retry_after_seconds", 1e9, "retry_after_seconds: must be"),
    (F, "reason", "Mr Smith was not there", "reason: must be"),
    (F, "retryable", "yes", "retryable: must be true or false"),
]


@pytest.mark.parametrize(("name", "path", "value", "told"), BROKEN)
def test_a_broken_answer_is_refused_with_the_path_of_the_field(
    name: str, path: str, value: Any, told: str
) -> None:
    with pytest.raises(RejectedError) as refused:
        answered(_broken(name, path, value))
    assert str(refused.value).startswith("the answer: ")
    assert told in str(refused.value)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"null", b"[]", b'"assessed"', b"<html>", b"\xff\xfe", b'{"contract": "1.0"'],
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(RejectedError):
        answered(body)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_are_finite(number: str) -> None:
    body = orjson.dumps(example("result-assessed")).replace(b"7.4", number.encode())
    with pytest.raises(RejectedError, match=r"findings.1.value: must be a finite number|not JSON"):
        answered(body)


def test_nothing_that_was_sent_is_repeated_in_an_error() -> None:
    """Neither values nor the names of fields that are no names."""
    message = example("result-assessed")
    message["findings"][0] |= {
        "statement": 4711,
        "presence": "CANARY^PATIENT",
        "laterality": "CANARY^PATIENT",
        "tracking_uid": "CANARY^PATIENT",
    }
    message["study_instance_uid"] = "CANARY PATIENT"
    with pytest.raises(RejectedError) as refused:
        answered(message)
    assert "CANARY" not in str(refused.value)
    assert "4711" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_the_name_of_an_unknown_field_is_told_if_it_is_one() -> None:
    message = example("result-assessed")
    message["findings"][0] |= {"CANARY^PATIENT": 1, "lateralty": 1}
    with pytest.raises(RejectedError) as refused:
        answered(message)
    assert "findings.0.(a name that is not shown): is not a known field" in str(refused.value)
    assert "findings.0.lateralty: is not a known field" in str(refused.value)
    assert "CANARY" not in str(refused.value)


def test_an_answer_of_a_later_version_is_told_by_its_version() -> None:
    """Not by what the later version has and this one does not know."""
    message = example("result-assessed") | {"contract": "1.1", "status": "new", "maps": []}
    with pytest.raises(RejectedError, match=r"^the answer: contract: must be 1\.0$"):
        answered(message)


def test_a_label_map_that_would_fill_the_memory_is_not_inflated() -> None:
    """The stream is 10 kB and would become 10 MB."""
    bomb = example("result-label-map")
    bomb["label_map"]["labels"] = _INFLATED
    assert len(b64decode(_INFLATED)) < 20_000
    with pytest.raises(RejectedError, match="exactly 128 bytes"):
        answered(bomb)
