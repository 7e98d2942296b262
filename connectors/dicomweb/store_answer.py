"""The Store Instances Response Module (PS3.18 annex I) and its status (PS3.18 10.5.3)."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import orjson

from connectors.dicomweb.dicom_xml import model_body, xml_document
from connectors.dicomweb.http import Answer
from connectors.dicomweb.negotiation import DICOM_XML
from connectors.dicomweb.parts import Outcome
from connectors.dicomweb.status import OUT_OF_RESOURCES, RETRY_AFTER_SECONDS

_FAILURE_REASON = "00081197"
_FAILED_SOP_SEQUENCE = "00081198"
_REFERENCED_SOP_SEQUENCE = "00081199"
_OTHER_FAILURES_SEQUENCE = "0008119A"
_RETRIEVE_URL = "00081190"

Model = dict[str, dict[str, Any]]


def store_answer(
    outcomes: Sequence[Outcome], model: tuple[str, bool], base_url: str, *, readable: bool
) -> Answer:
    """One item for each instance; the status tells the worst.

    ``model`` is that of `negotiation.choose_single_model`: media type, and whether multipart.
    """
    data_set = _data_set(outcomes, base_url, readable=readable)
    media_type, is_multipart = model
    if is_multipart:
        media_type, body = model_body([data_set], media_type)
    elif media_type == DICOM_XML:
        body = xml_document(data_set)
    else:  # one data set, and not a list of one: peers expect it so
        body = orjson.dumps(data_set)
    status = _status(outcomes)
    headers = {}
    if any(outcome.failure == OUT_OF_RESOURCES for outcome in outcomes):
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return Answer(status, media_type, body, headers)


def _status(outcomes: Sequence[Outcome]) -> int:
    failures = [outcome.failure for outcome in outcomes if outcome.failure is not None]
    if not failures:
        return HTTPStatus.OK
    if len(failures) < len(outcomes):
        return HTTPStatus.ACCEPTED
    if all(failure == OUT_OF_RESOURCES for failure in failures):
        return HTTPStatus.SERVICE_UNAVAILABLE
    return HTTPStatus.CONFLICT


def _data_set(outcomes: Sequence[Outcome], base_url: str, *, readable: bool) -> Model:
    stored = [outcome for outcome in outcomes if outcome.failure is None]
    failed = [outcome for outcome in outcomes if outcome.failure is not None]
    named = [outcome for outcome in failed if outcome.sop_instance_uid and outcome.sop_class_uid]
    other = [outcome for outcome in failed if outcome not in named]
    data_set: Model = {}
    studies = {outcome.study_instance_uid for outcome in stored}
    if readable and len(studies) == 1:
        data_set[_RETRIEVE_URL] = _url(f"{base_url}/studies/{studies.pop()}")
    if other:
        items = [{_FAILURE_REASON: _number(outcome.failure)} for outcome in other]
        data_set[_OTHER_FAILURES_SEQUENCE] = {"vr": "SQ", "Value": items}
    if named:
        failures = [_reference(o) | {_FAILURE_REASON: _number(o.failure)} for o in named]
        data_set[_FAILED_SOP_SEQUENCE] = {"vr": "SQ", "Value": failures}
    if stored:
        references = [
            _reference(o) | ({_RETRIEVE_URL: _instance_url(o, base_url)} if readable else {})
            for o in stored
        ]
        data_set[_REFERENCED_SOP_SEQUENCE] = {"vr": "SQ", "Value": references}
    return dict(sorted(data_set.items()))


def _reference(outcome: Outcome) -> Model:
    return {
        "00081150": {"vr": "UI", "Value": [outcome.sop_class_uid]},
        "00081155": {"vr": "UI", "Value": [outcome.sop_instance_uid]},
    }


def _instance_url(outcome: Outcome, base_url: str) -> dict[str, Any]:
    return _url(
        f"{base_url}/studies/{outcome.study_instance_uid}/series/{outcome.series_instance_uid}"
        f"/instances/{outcome.sop_instance_uid}"
    )


def _url(text: str) -> dict[str, Any]:
    return {"vr": "UR", "Value": [text]}


def _number(value: int | None) -> dict[str, Any]:
    return {"vr": "US", "Value": [value]}
