"""Who made a version of a report, from what, in place of what (HL7 AI Transparency,
AI-Provenance). Every version has a Provenance of its own, which nothing ever changes."""

from __future__ import annotations

from collections.abc import Iterable

from hub.domain.delivery import DocumentKind
from hub.domain.identity import derived_uuid
from hub.domain.inference import InferenceRequest
from hub.domain.report import Person, ReportCause
from hub.formats.encoding import PRODUCT_NAME, EncodingContext, document_uuid
from hub.formats.fhir.resources import (
    AI_ASSERTED,
    ARTIFICIAL_INTELLIGENCE,
    Json,
    coded,
    compact,
    device_url,
    instant,
    organization,
    uid_identifier,
)
from hub.formats.fhir.sources import sources
from hub.formats.fhir.status import is_replacement
from hub.formats.printed.words import person_name

PARTICIPANT_TYPE = "http://terminology.hl7.org/CodeSystem/provenance-participant-type"
DATA_OPERATION = "http://terminology.hl7.org/CodeSystem/v3-DataOperation"


def provenance(
    request: InferenceRequest,
    context: EncodingContext,
    report_identifier: Json,
    target_urls: Iterable[str],
    dicom_uids: Iterable[str],
) -> Json:
    """The Provenance of one version.

    Args:
        report_identifier: of the report, which is the same in all versions.
        target_urls: ``fullUrl`` of the report and of all its Observations.
        dicom_uids: SOP Instance UIDs of the DICOM objects of the same version.
    """
    made: list[Json] = [{"reference": url} for url in target_urls]
    made += [{"identifier": uid_identifier(uid)} for uid in dicom_uids]
    document = document_uuid(DocumentKind.FHIR, request, context)
    reason = context.report.reason
    return compact(
        resourceType="Provenance",
        id=str(derived_uuid("fhir", "Provenance", document)),
        target=made,
        recorded=instant(context.made_at),
        reason=[{"coding": [AI_ASSERTED]}, *([{"text": reason}] if reason else [])],
        activity=coded(DATA_OPERATION, _activity(request, context)),
        agent=_agents(request, context),
        entity=_sources(request) + _replaced(request, context, report_identifier),
    )


def _activity(request: InferenceRequest, context: EncodingContext) -> str:
    if context.report.is_withdrawn:
        return "NULLIFY"
    return "UPDATE" if is_replacement(request, context.report) else "CREATE"


def _agents(request: InferenceRequest, context: EncodingContext) -> list[Json]:
    hub = {"type": "Device", "display": f"{PRODUCT_NAME} {context.software_version}"}
    agents: list[Json] = [
        {
            "type": coded(PARTICIPANT_TYPE, "performer", "Performer"),
            "role": [{"coding": [ARTIFICIAL_INTELLIGENCE]}],
            "who": {"reference": device_url(request.model)},
            "onBehalfOf": organization(context),
        },
        {"type": coded(PARTICIPANT_TYPE, "assembler", "Assembler"), "who": hub},
    ]
    version = context.report
    if version.person is None:
        return agents
    # who judged the finding verified it; who withdrew or released a report entered the order to
    judged = version.cause is ReportCause.REJECTED or context.report.verifier is not None
    part = ("verifier", "Verifier") if judged else ("enterer", "Enterer")
    return [
        *agents,
        {"type": coded(PARTICIPANT_TYPE, *part), "who": practitioner(version.person)},
    ]


def practitioner(person: Person) -> Json:
    """A person as a logical reference: the receiver knows its Practitioners by identifier."""
    identifier = compact(system=person.identifier_system, value=person.identifier)
    known = identifier if person.identifier else None
    return compact(type="Practitioner", identifier=known, display=_display(person))


def _display(person: Person) -> str:
    where = f" ({person.organization})" if person.organization else ""
    return person_name(person.name) + where


def _sources(request: InferenceRequest) -> list[Json]:
    used = [{"identifier": uid_identifier(series.series_instance_uid)} for series in request.series]
    return [{"role": "source", "what": source} for source in [*sources(request), *used]]


def _replaced(
    request: InferenceRequest, context: EncodingContext, report_identifier: Json
) -> list[Json]:
    """The report that this version takes the place of, and its DICOM objects."""
    version = context.report
    if not is_replacement(request, version):
        return []
    earlier = f"version {version.number - 1}"
    if version.number == 1:
        earlier = f"revision {request.amends_revision} of the study"
    report = {"type": "DiagnosticReport", "identifier": report_identifier, "display": earlier}
    objects = [
        {"identifier": uid_identifier(one.sop_instance_uid), "display": one.kind.value}
        for one in version.predecessors
    ]
    return [{"role": "revision", "what": what} for what in (report, *objects)]
