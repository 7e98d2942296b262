"""What a FHIR R4 ImagingStudy says about the instances of a study, as evidence for completeness.

Read as plain JSON: an archive's resource that is wrong somewhere else still tells its number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hub.errors import RejectedError
from hub.ports import Expectation, ExpectationSource

DICOM_UID = "urn:dicom:uid"
_ANY_URI = "urn:ietf:rfc:3986"
"""The system that some servers write instead, with a value ``urn:oid:...``."""
_OID = "urn:oid:"
_UID = re.compile(r"(?=.{1,64}\Z)[0-9]+(\.[0-9]+)*")
_MOST_INSTANCES = 2**31 - 1
"""FHIR's ``unsignedInt``."""
_WITHDRAWN = ("cancelled", "entered-in-error")

Json = Mapping[str, Any]


def read_imaging_studies(document: bytes) -> list[Expectation]:
    """What the ImagingStudy resources of a document say, in their order.

    Args:
        document: JSON of one ImagingStudy, or of a Bundle with at least one; what else the
            Bundle holds is passed over.

    Raises:
        RejectedError: it is neither, or one of them does not tell; no patient data.
    """
    try:
        resource = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise RejectedError("this is no JSON document") from error
    return expectations_in(resource)


def expectations_in(resource: object) -> list[Expectation]:
    """As ``read_imaging_studies``, of JSON that is decoded already."""
    if not isinstance(resource, dict):
        raise RejectedError("this is no FHIR resource: no JSON object")
    kind = resource.get("resourceType")
    if kind == "ImagingStudy":
        return [expectation_of(resource)]
    if kind != "Bundle":
        raise RejectedError("this is neither an ImagingStudy nor a Bundle")
    found = []
    for number, entry in enumerate(_objects(resource, "entry")):
        inner = entry.get("resource")
        if not isinstance(inner, dict) or inner.get("resourceType") != "ImagingStudy":
            continue
        try:
            found.append(expectation_of(inner))
        except RejectedError as error:
            raise RejectedError(f"Bundle.entry[{number}]: {error}") from error
    if not found:
        raise RejectedError("the Bundle holds no ImagingStudy")
    return found


def expectation_of(imaging_study: Json) -> Expectation:
    """How many instances the study has; and which, where the resource names them all.

    Raises:
        RejectedError: it names no study, was withdrawn, contradicts itself or does not tell.
    """
    if imaging_study.get("status") in _WITHDRAWN:
        raise RejectedError("ImagingStudy.status says that the study was withdrawn")
    study = study_instance_uid_of(imaging_study)
    series = _objects(imaging_study, "series")
    named = tuple(dict.fromkeys(uid for one in series for uid in _instances(one)))
    number = _number(imaging_study, "numberOfInstances")
    counted = _counted(imaging_study, series)
    if number is not None and max(len(named), counted or 0) > number:
        raise RejectedError("ImagingStudy.series has more instances than numberOfInstances says")
    number = counted if number is None else number
    if not number:
        raise RejectedError("ImagingStudy does not tell how many instances the study has")
    complete = named if len(named) == number else ()
    return Expectation(study, ExpectationSource.ORDER, number, complete)


def study_instance_uid_of(imaging_study: Json) -> str:
    """The Study Instance UID among the identifiers.

    Raises:
        RejectedError: there is none, or several.
    """
    values = [
        (identifier.get("system"), str(identifier.get("value", "")))
        for identifier in _objects(imaging_study, "identifier")
    ]
    found = {value.removeprefix(_OID) for system, value in values if system == DICOM_UID}
    if not found:
        found = {v.removeprefix(_OID) for s, v in values if s == _ANY_URI and v.startswith(_OID)}
    if len(found) != 1:
        raise RejectedError(
            f"ImagingStudy.identifier must have one value of the system {DICOM_UID}, "
            f"but has {len(found)}"
        )
    return _uid(found.pop(), "ImagingStudy.identifier")


def _counted(imaging_study: Json, series: Sequence[Json]) -> int | None:
    """The sum over all series; None where one is not listed, or does not tell."""
    listed = _number(imaging_study, "numberOfSeries")
    if not series or (listed is not None and listed > len(series)):
        return None
    found = 0
    for one in series:
        named, number = len(set(_instances(one))), _number(one, "numberOfInstances")
        if number is not None and named > number:
            raise RejectedError("ImagingStudy.series.instance has more than numberOfInstances says")
        if not (named or number):
            return None
        found += named if number is None else number
    return found


def _instances(series: Json) -> Iterator[str]:
    for instance in _objects(series, "instance"):
        yield _uid(instance.get("uid"), "ImagingStudy.series.instance.uid")


def _objects(parent: Json, name: str) -> list[Json]:
    value = parent.get(name, [])
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise RejectedError(f"{name} is no list of JSON objects")
    return value


def _number(parent: Json, name: str) -> int | None:
    value = parent.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MOST_INSTANCES:
        raise RejectedError(f"{name} is no number from 0 to {_MOST_INSTANCES}")
    return value


def _uid(value: object, where: str) -> str:
    text = value.removeprefix(_OID) if isinstance(value, str) else ""
    if not _UID.fullmatch(text):
        raise RejectedError(f"{where} is no DICOM UID")
    return text
