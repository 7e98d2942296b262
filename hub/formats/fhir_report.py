"""One result as a FHIR R4 (4.0.1) transaction Bundle.

Device, ImagingStudy, Observation*, DiagnosticReport and Provenance, linked with each other
and with the DICOM objects of the same result. Sending it again changes nothing: Device and
ImagingStudy are created only where they are missing (``ifNoneExist``), Observations and the
report are updated by identifier (``PUT ?identifier=``), the Provenance has an id of its own
(R4 http, "Transaction").

A result that replaces an earlier one updates the same report. Its status stays ``preliminary``: R4
defines ``amended`` as "subsequent to being Final", and many systems release such reports as
verified, which only a person may do. That it amends an earlier one stands in the conclusion
and as activity ``UPDATE`` in its Provenance.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Iterator, Mapping
from typing import Any

import orjson
from fhir.resources.R4B.bundle import Bundle
from pydantic import ValidationError

from hub.domain.delivery import Document, DocumentKind
from hub.domain.identity import derived_uuid
from hub.domain.inference import InferenceRequest, InferenceResult, Outcome
from hub.domain.model_card import ModelCard
from hub.errors import IntegrityError
from hub.formats.encoding import (
    AI_MARK,
    PRODUCT_NAME,
    EncodingContext,
    amendment_statement,
    check_document_identity,
    document_uuid,
    incomplete_statement,
)
from hub.formats.fhir_observations import (
    ReportedObservation,
    is_electrocardiogram,
    observations,
)
from hub.formats.fhir_resources import (
    AI_ASSERTED,
    ARTIFICIAL_INTELLIGENCE,
    Json,
    accession,
    coded,
    compact,
    concept,
    conditional,
    device,
    device_url,
    imaging_study,
    imaging_study_url,
    instant,
    lasting_uuid,
    organization,
    performers,
    study_datetime,
    subject,
    uid_identifier,
    urn,
)

DIAGNOSTIC_SERVICE = "http://terminology.hl7.org/CodeSystem/v2-0074"
IMAGING_REPORT = "85430-7"
PARTICIPANT_TYPE = "http://terminology.hl7.org/CodeSystem/provenance-participant-type"
DATA_OPERATION = "http://terminology.hl7.org/CodeSystem/v3-DataOperation"

_DICOM_DOCUMENTS = (DocumentKind.SR, DocumentKind.SEG, DocumentKind.ENCAPSULATED_PDF)


def encode(
    request: InferenceRequest,
    result: InferenceResult,
    card: ModelCard,
    context: EncodingContext,
    related: Mapping[DocumentKind, Document],
) -> Document | None:
    """The transaction as JSON (UTF-8); every outcome makes one.

    ``related`` may hold the PDF, which becomes ``presentedForm``, and the DICOM documents,
    which are referred to by their SOP Instance UIDs.

    Raises:
        IntegrityError: the result is not of this request, or the Bundle is not valid FHIR.
        RejectedError: an answer cannot be expressed (not finite, a unit that is not UCUM).
    """
    check_document_identity(request, result)
    found = observations(request, result, card, context)
    dicom = [related[kind].document_id for kind in _DICOM_DOCUMENTS if kind in related]
    report = _report(request, result, card, context, found=found, related=related)
    study = request.study
    entries = [
        _create(device_url(request.model), device(request, card)),
        _create(imaging_study_url(study), imaging_study(study, context)),
        *(_update(observation.full_url, observation.resource) for observation in found),
        _update(urn(_report_uuid(request)), report),
        _put(_provenance(request, context, found, dicom)),
    ]
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
    check_bundle(bundle)
    return Document(
        document_id=document_uuid(DocumentKind.FHIR, request, context),
        kind=DocumentKind.FHIR,
        request_id=request.request_id,
        identity=result.identity,
        content=orjson.dumps(bundle),
        related_uids=tuple(dicom),
    )


# --- the last check ----------------------------------------------------------------------


def check_bundle(bundle: Json) -> None:
    """Validate a transaction before it leaves.

    fhir.resources R4B checks the shape of every resource; what it does not see is checked
    here: references that lead nowhere, and entries that claim the same identity.

    Raises:
        IntegrityError: names places and rules, never values.
    """
    try:
        Bundle.model_validate(bundle)
    except ValidationError as error:
        places = {".".join(str(part) for part in e["loc"]) + f" ({e['type']})" for e in _of(error)}
        raise IntegrityError(f"not valid FHIR R4: {', '.join(sorted(places))}") from None
    entries = bundle["entry"]
    urls = [entry["fullUrl"] for entry in entries]
    targets = [tuple(entry["request"].items()) for entry in entries]
    if len(set(urls)) != len(urls) or len(set(targets)) != len(targets):
        raise IntegrityError("two entries of a FHIR transaction claim the same identity")
    if not set(urls).issuperset(_references(entries)):
        raise IntegrityError("a reference in a FHIR transaction leads to no entry")


def _of(error: ValidationError) -> list[Any]:
    # without input and context: both hold the patient's data
    return list(error.errors(include_url=False, include_context=False, include_input=False))


def _references(value: object) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _references(item)
    elif isinstance(value, dict):
        for name, inner in value.items():
            if name == "reference" and isinstance(inner, str):
                yield inner
            else:
                yield from _references(inner)


# --- entries -----------------------------------------------------------------------------


def _create(url: str, resource: Json) -> Json:
    """Create it unless a resource with its first identifier exists."""
    method = {
        "method": "POST",
        "url": resource["resourceType"],
        "ifNoneExist": conditional(resource["identifier"][0]),
    }
    return {"fullUrl": url, "resource": resource, "request": method}


def _update(url: str, resource: Json) -> Json:
    """Update the resource with its first identifier, or create it."""
    search = conditional(resource["identifier"][0])
    method = {"method": "PUT", "url": f"{resource['resourceType']}?{search}"}
    return {"fullUrl": url, "resource": resource, "request": method}


def _put(resource: Json) -> Json:
    """Put it at the id that it has: Provenance cannot be found by an identifier in R4."""
    method = {"method": "PUT", "url": f"{resource['resourceType']}/{resource['id']}"}
    return {"fullUrl": urn(resource["id"]), "resource": resource, "request": method}


# --- the report --------------------------------------------------------------------------


def _report_uuid(request: InferenceRequest) -> str:
    return lasting_uuid(request, "DiagnosticReport")


def _report(
    request: InferenceRequest,
    result: InferenceResult,
    card: ModelCard,
    context: EncodingContext,
    *,
    found: tuple[ReportedObservation, ...],
    related: Mapping[DocumentKind, Document],
) -> Json:
    study = request.study
    identifiers = [{"system": context.result_system, "value": _report_uuid(request)}]
    if DocumentKind.SR in related:
        identifiers.append(uid_identifier(related[DocumentKind.SR].document_id))
    order = accession(study, context)
    return compact(
        resourceType="DiagnosticReport",
        meta={"security": [AI_ASSERTED]},
        identifier=identifiers,
        basedOn=[{"type": "ServiceRequest", "identifier": order}] if order else None,
        status="preliminary",
        category=_category(request),
        code=concept(card.procedure.report_code),
        subject=subject(study, context),
        effectiveDateTime=study_datetime(study, context),
        issued=instant(context.made_at),
        performer=performers(request, card, context),
        result=[{"reference": o.full_url} for o in found if o.top_level],
        imagingStudy=[{"reference": imaging_study_url(study)}],
        conclusion=conclusion(request, result, card),
        presentedForm=_presented_form(card, context, related),
    )


def _category(request: InferenceRequest) -> list[Json]:
    if is_electrocardiogram(request):
        return [coded(DIAGNOSTIC_SERVICE, "EC") | {"text": "Electrocardiography"}]
    radiology = coded(DIAGNOSTIC_SERVICE, "RAD", "Radiology")
    return [radiology, coded("http://loinc.org", IMAGING_REPORT)]


def conclusion(request: InferenceRequest, result: InferenceResult, card: ModelCard) -> str:
    """The report in sentences: that it is an AI's and unverified, what it replaces, what could
    not be assessed and why, and what the model says."""
    sentences = [f"{AI_MARK}.", f"{card.procedure.title} by {card.name} {card.version}."]
    said = (amendment_statement(request), incomplete_statement(request))
    sentences += [f"{statement}." for statement in said if statement]
    reasons = "; ".join(reason.rstrip(".") for reason in result.reasons)
    if result.outcome is Outcome.NOT_ASSESSABLE:
        sentences.append(f"NOT ASSESSABLE: {reasons}.")
    if result.outcome is Outcome.UNSUITABLE:
        sentences.append(f"NOT ANALYSED, outside the model's intended use: {reasons}.")
    sentences += dict.fromkeys(f.statement for f in result.findings if f.statement)
    sentences += [f"Warning: {warning.rstrip('.')}." for warning in result.warnings]
    return "\n".join(sentences)


def _presented_form(
    card: ModelCard, context: EncodingContext, related: Mapping[DocumentKind, Document]
) -> list[Json]:
    page = related.get(DocumentKind.PDF)
    if page is None:
        return []
    # SHA-1 is what R4 Attachment.hash asks for; it guards against damage, not against attack
    digest = hashlib.sha1(page.content, usedforsecurity=False).digest()
    return [
        {
            "contentType": page.media_type,
            "data": b64encode(page.content).decode(),
            "size": len(page.content),
            "hash": b64encode(digest).decode(),
            "title": f"AI {card.procedure.title}",
            "creation": instant(context.made_at),
        }
    ]


# --- provenance --------------------------------------------------------------------------


def _provenance(
    request: InferenceRequest,
    context: EncodingContext,
    found: tuple[ReportedObservation, ...],
    dicom_uids: list[str],
) -> Json:
    """Who made these resources, from what (HL7 AI Transparency, AI-Provenance)."""
    made = [{"reference": urn(_report_uuid(request))}]
    made += [{"reference": observation.full_url} for observation in found]
    objects = [{"identifier": uid_identifier(uid)} for uid in dicom_uids]
    used = [{"identifier": uid_identifier(series.series_instance_uid)} for series in request.series]
    sources = [{"reference": imaging_study_url(request.study)}, *used]
    document = document_uuid(DocumentKind.FHIR, request, context)
    activity = "CREATE" if request.amends_revision is None else "UPDATE"
    return compact(
        resourceType="Provenance",
        id=str(derived_uuid("fhir", "Provenance", document)),
        target=made + objects,
        recorded=instant(context.made_at),
        reason=[{"coding": [AI_ASSERTED]}],
        activity=coded(DATA_OPERATION, activity),
        agent=_agents(request, context),
        entity=[{"role": "source", "what": source} for source in sources],
    )


def _agents(request: InferenceRequest, context: EncodingContext) -> list[Json]:
    hub = {"type": "Device", "display": f"{PRODUCT_NAME} {context.software_version}"}
    return [
        {
            "type": coded(PARTICIPANT_TYPE, "performer", "Performer"),
            "role": [{"coding": [ARTIFICIAL_INTELLIGENCE]}],
            "who": {"reference": device_url(request.model)},
            "onBehalfOf": organization(context),
        },
        {"type": coded(PARTICIPANT_TYPE, "assembler", "Assembler"), "who": hub},
    ]


__all__ = ["check_bundle", "conclusion", "encode"]
