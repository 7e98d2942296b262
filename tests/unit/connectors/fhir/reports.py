"""Reports as the hub keeps them, for those who read them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from hub.ports import ReportBundle
from tests.fhir_source import NOW, FhirSource
from tests.unit.formats.fhir_bundles import CASES, PATIENT_SYSTEM

ISSUERS = {PATIENT_SYSTEM: "UMR", "https://hospital.example/accession": "RIS"}


def hold(source: FhirSource, case: str, *, order_id: str = "", version: int = 1) -> ReportBundle:
    """Have a source show a report."""
    made = CASES[case]
    request = made.request
    report = ReportBundle(
        request_id=request.request_id,
        order_id=order_id,
        bundle=made.bundle(),
        version=version,
        made_at=NOW + timedelta(seconds=version),
    )
    source.reports.held.insert(0, (report, request.study.patient))
    return report


def another(source: FhirSource, number: int) -> ReportBundle:
    """The same report of another request, under other UUIDs."""
    held, patient = source.reports.held[-1]
    text = str(held.bundle)
    uuids = {entry["fullUrl"].removeprefix("urn:uuid:") for entry in held.bundle["entry"]}
    renamed = _renamed(held.bundle, {uuid: f"{number:08x}{uuid[8:]}" for uuid in uuids})
    assert text != str(renamed)
    report = replace(held, request_id=f"request-{number}", bundle=renamed)
    source.reports.held.append((report, patient))
    return report


def _renamed(value: object, names: dict[str, str]) -> object:
    if isinstance(value, list):
        return [_renamed(one, names) for one in value]
    if isinstance(value, dict):
        return {name: _renamed(one, names) for name, one in value.items()}
    if isinstance(value, str):
        for old, new in names.items():
            value = value.replace(old, new)
    return value
