"""The reports of the hub as those read them who come for them: the resources of a transaction,
each by an id of its own.

A server that is sent a transaction gives ids of its own to its entries. Here the id of a resource
is the UUID of its ``fullUrl``, which is the same in every version of a report.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hub.formats.fhir.resources import Json, instant
from hub.ports import ReportBundle

_URN = "urn:uuid:"

SHOWN = ("DiagnosticReport", "Observation", "Device", "Provenance", "Task", "ImagingStudy")
"""The types that can be read, of those in a transaction."""


def resources_in(report: ReportBundle, resource_type: str) -> list[Json]:
    """The resources of a type in a report, with ids, versions, and references by type and id."""
    entries = report.bundle["entry"]
    names = {
        entry["fullUrl"]: f"{entry['resource']['resourceType']}/{_id_of(entry['fullUrl'])}"
        for entry in entries
    }
    meta = {"versionId": str(report.version), "lastUpdated": instant(report.made_at)}
    return [
        _shown(entry["resource"], _id_of(entry["fullUrl"]), meta, names)
        for entry in entries
        if entry["resource"]["resourceType"] == resource_type
    ]


def _id_of(full_url: str) -> str:
    return full_url.removeprefix(_URN)


def _shown(resource: Json, resource_id: str, meta: Json, names: Mapping[str, str]) -> Json:
    plain: Json = _renamed(resource, names)
    kind = {"resourceType": plain["resourceType"], "id": resource_id}
    return {**kind, **plain, "id": resource_id, "meta": {**plain.get("meta", {}), **meta}}


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """A copy, in which no reference leads to an entry of the transaction any more. Our own
    documents are not deep."""
    if isinstance(value, list):
        return [_renamed(one, names) for one in value]
    if not isinstance(value, dict):
        return value
    copy = {name: _renamed(inner, names) for name, inner in value.items()}
    reference = copy.get("reference")
    if isinstance(reference, str) and reference in names:
        copy["reference"] = names[reference]
    return copy
