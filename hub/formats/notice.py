"""What became of a request, for programs: a few fields of JSON, version 1.

No name, birth date or patient ID, and no free text of anybody: reasons and statements may tell
who somebody is. The study and its order are named by their identifiers, findings by their codes.

=======================  ==================================================================
field                    meaning
=======================  ==================================================================
``notice_version``       1; fields may be added under it, none changes its meaning
``notice_id``            the same however often it is sent
``event``                ``report.made``, ``report.amended`` (late images), or ``report.`` and
                         the cause of a further version (``accepted``, ``retracted`` ...)
``outcome``              ``assessed``, ``not-assessable``, ``unsuitable``, ``failed``; only the
                         first one stands for an answer
``report``               version, status, and whether a person verified or withdrew it
``critical``             whether a finding is critical; never of a report that is withdrawn
``observations``         of a request on measured values, in place of the study: their numbers, as
                         in the record of the request
``images``               received and expected, where images are known to be missing
``findings``             of an assessed request, with codes and values; none of a report that is
                         withdrawn
``documents``            what was made for the same destination, by kind and id
=======================  ==================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC
from typing import Any

import orjson

from hub.domain.coding import Code
from hub.domain.delivery import Document, DocumentKind
from hub.domain.finding import Finding
from hub.domain.inference import InferenceRequest, InferenceResult
from hub.domain.model_card import ModelCard
from hub.domain.report import ReportCause
from hub.formats.encoding import (
    EncodingContext,
    check_document_identity,
    document_uuid,
)

NOTICE_VERSION = 1

Json = dict[str, Any]


def encode(
    request: InferenceRequest,
    result: InferenceResult,
    card: ModelCard,  # noqa: ARG001 - the encoders' signature
    context: EncodingContext,
    related: Mapping[DocumentKind, Document],
) -> Document | None:
    """The notice as JSON (UTF-8); every outcome and every version makes one.

    Raises:
        IntegrityError: the result is not of this request.
    """
    check_document_identity(request, result)
    notice_id = document_uuid(DocumentKind.NOTICE, request, context)
    study, model = request.study, request.model
    findings = () if context.report.is_withdrawn else result.findings
    notice = {
        "notice_version": NOTICE_VERSION,
        "notice_id": notice_id,
        "event": _event(request, context),
        "made_at": context.made_at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "request_id": request.request_id,
        **_subject(request),
        "accession_number": study.accession_number,
        "route": request.route,
        "model": {"id": model.model_id, "version": model.version, "sha256": model.sha256},
        "outcome": result.outcome.value,
        "report": _report(context),
        "critical": any(finding.critical for finding in findings),
        **_images(request),
        "findings": [_finding(finding) for finding in findings],
        "documents": [
            {"kind": kind.value, "id": related[kind].document_id} for kind in sorted(related)
        ],
    }
    return Document(
        document_id=notice_id,
        kind=DocumentKind.NOTICE,
        request_id=request.request_id,
        identity=result.identity,
        content=orjson.dumps(notice),
    )


def _subject(request: InferenceRequest) -> Json:
    """The study; or the measured values, by the hub's own numbers of them."""
    study = request.study
    if study.is_case:
        return {"observations": [one.observation_id for one in request.observations]}
    return {
        "study_instance_uid": study.study_instance_uid,
        "study_revision": study.key.revision,
    }


def _event(request: InferenceRequest, context: EncodingContext) -> str:
    cause = context.report.cause
    if cause is not ReportCause.MODEL:
        return f"report.{cause.value}"
    return "report.made" if request.amends_revision is None else "report.amended"


def _report(context: EncodingContext) -> Json:
    report = context.report
    return {
        "version": report.number,
        "status": report.status.value,
        "verified": report.verifier is not None,
        "withdrawn": report.is_withdrawn,
    }


def _images(request: InferenceRequest) -> Json:
    state = request.study.completeness
    if not state.missing:
        return {}
    return {"images": {"received": state.received, "expected": state.expected}}


def _finding(finding: Finding) -> Json:
    answer: Json = {
        "tracking_identifier": finding.tracking_identifier,
        "tracking_uid": finding.tracking_uid,
        "code": _code(finding.code),
        "critical": finding.critical,
    }
    if finding.presence is not None:
        answer["presence"] = finding.presence.value
    if finding.value is not None and finding.unit is not None:
        answer |= {"value": finding.value, "unit": finding.unit.code_value}
    if finding.coded_value is not None:
        answer["coded_value"] = _code(finding.coded_value)
    if finding.probability is not None:
        answer["probability"] = finding.probability
    if finding.laterality is not None:
        answer["laterality"] = _code(finding.laterality)
    return answer


def _code(code: Code) -> Json:
    return {
        "value": code.code_value,
        "scheme": code.coding_scheme_designator,
        "meaning": code.code_meaning,
    }
