"""One version of a report as a FHIR R4 (4.0.1) transaction Bundle.

Device, ImagingStudy, Observation*, DiagnosticReport, Task, Provenance, and where something is
critical Flag and CommunicationRequest: linked with each other and with the DICOM objects of the
same version. Sending it again changes nothing: Device and ImagingStudy are created only where
they are missing (``ifNoneExist``), Observations, report, Task, Flag and CommunicationRequest are
updated by identifier (``PUT ?identifier=``), the Provenance has an id of its own (R4 http,
"Transaction").

A version that replaces an earlier one updates the same resources: `hub.formats.fhir.status` says
with which status. Observations that it has no more become ``entered-in-error``. A report that is
withdrawn says nothing but that (R4 DiagnosticReport, "Status": its text is replaced).
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Iterable, Mapping

import orjson

from hub.domain.delivery import DICOM_KINDS, Document, DocumentKind
from hub.domain.finding import Presence
from hub.domain.inference import InferenceRequest, InferenceResult
from hub.domain.model_card import ModelCard
from hub.formats.case_values import value_lines
from hub.formats.encoding import EncodingContext, check_document_identity, document_uuid
from hub.formats.fhir.checks import check_rules, check_shape
from hub.formats.fhir.critical import critical_entries, critical_statement
from hub.formats.fhir.device import device
from hub.formats.fhir.observations import (
    ReportedObservation,
    is_electrocardiogram,
    observations,
    surplus_observations,
)
from hub.formats.fhir.provenance import practitioner, provenance
from hub.formats.fhir.resources import (
    AI_ASSERTED,
    Json,
    coded,
    coding,
    compact,
    concept,
    device_url,
    imaging_study,
    imaging_study_url,
    instant,
    lasting_uuid,
    performers,
    subject,
    uid_identifier,
    urn,
)
from hub.formats.fhir.sources import effective, report_based_on
from hub.formats.fhir.status import headlines, report_status
from hub.formats.fhir.task import task, task_url
from hub.formats.fhir.transaction import create, put, update
from hub.formats.report_state import standing

DIAGNOSTIC_SERVICE = "http://terminology.hl7.org/CodeSystem/v2-0074"
IMAGING_REPORT = "85430-7"
LABORATORY_SERVICE = "LAB"

Related = Mapping[DocumentKind, Document]


def encode(
    request: InferenceRequest,
    result: InferenceResult,
    card: ModelCard,
    context: EncodingContext,
    related: Related,
) -> Document | None:
    """The transaction as JSON (UTF-8); every outcome and every version makes one.

    ``related`` may hold the PDF, which becomes ``presentedForm``, and the DICOM documents,
    which are referred to by their SOP Instance UIDs.

    Raises:
        IntegrityError: the result is not of this request, or the Bundle is not valid FHIR.
        RejectedError: an answer cannot be expressed (not finite, a unit that is not UCUM).
    """
    bundle = transaction(request, result, card, context, related)
    check_shape(bundle)
    uuid = document_uuid(DocumentKind.FHIR, request, context)
    return document_of(bundle, DocumentKind.FHIR, uuid, result, related)


def transaction(
    request: InferenceRequest,
    result: InferenceResult,
    card: ModelCard,
    context: EncodingContext,
    related: Related,
) -> Json:
    """The Bundle; its rules are checked (`hub.formats.fhir.checks`), its shape is not yet.

    Raises:
        IntegrityError, RejectedError: as :func:`encode`.
    """
    check_document_identity(request, result)
    found = observations(request, result, card, context)
    surplus = surplus_observations(request, result, card, context)
    report = _report(request, result, card, context, found=found, related=related)
    report_url, study = urn(_report_uuid(request)), request.study
    everything = (*found, *surplus)
    targets = [report_url, *(observation.full_url for observation in everything)]
    made_from = provenance(request, context, report["identifier"][0], targets, dicom_uids(related))
    images = [] if study.is_case else [imaging_study(study, context)]
    entries = [
        create(device_url(request.model), device(request, card)),
        *(create(imaging_study_url(study), one) for one in images),
        *(update(observation.full_url, observation.resource) for observation in everything),
        update(report_url, report),
        update(task_url(request), task(request, result, card, context, report_url)),
        *critical_entries(request, result, card, context, found=found, report_url=report_url),
        put(made_from),
    ]
    bundle: Json = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
    check_rules(bundle)
    return bundle


def document_of(
    bundle: Json, kind: DocumentKind, document_id: str, result: InferenceResult, related: Related
) -> Document:
    """A checked Bundle as a document of kind ``fhir`` or ``fhir_r5``."""
    return Document(
        document_id=document_id,
        kind=kind,
        request_id=result.request_id,
        identity=result.identity,
        content=orjson.dumps(bundle),
        related_uids=dicom_uids(related),
    )


def dicom_uids(related: Related) -> tuple[str, ...]:
    """SOP Instance UIDs of the DICOM objects of the same version, in the order of their kinds."""
    kinds = [kind for kind in DocumentKind if kind in DICOM_KINDS and kind in related]
    return tuple(related[kind].document_id for kind in kinds)


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
    related: Related,
) -> Json:
    study = request.study
    person = context.report.verifier
    images = [] if study.is_case else [{"reference": imaging_study_url(study)}]
    return compact(
        resourceType="DiagnosticReport",
        meta={"security": [AI_ASSERTED]},
        identifier=list(_identifiers(request, context, related)),
        basedOn=report_based_on(request, context),
        status=report_status(request, result, context),
        category=_category(request),
        code=concept(card.procedure.report_code),
        subject=subject(study, context),
        effectiveDateTime=effective(request, context),
        issued=instant(context.made_at),
        performer=performers(request, card, context),
        resultsInterpreter=[practitioner(person)] if person else None,
        result=[{"reference": o.full_url} for o in found if o.top_level],
        imagingStudy=images,
        conclusion=conclusion(request, result, card, context),
        conclusionCode=_conclusion_codes(result, context),
        presentedForm=_presented_form(card, context, related),
    )


def _identifiers(
    request: InferenceRequest, context: EncodingContext, related: Related
) -> Iterable[Json]:
    yield {"system": context.result_system, "value": _report_uuid(request)}
    for kind in (DocumentKind.SR, DocumentKind.SR_3D):
        if kind in related:
            yield uid_identifier(related[kind].document_id)


def _category(request: InferenceRequest) -> list[Json]:
    if request.study.is_case:
        return [coded(DIAGNOSTIC_SERVICE, LABORATORY_SERVICE, "Laboratory")]
    if is_electrocardiogram(request):
        return [coded(DIAGNOSTIC_SERVICE, "EC") | {"text": "Electrocardiography"}]
    radiology = coded(DIAGNOSTIC_SERVICE, "RAD", "Radiology")
    return [radiology, coded("http://loinc.org", IMAGING_REPORT)]


def conclusion(
    request: InferenceRequest, result: InferenceResult, card: ModelCard, context: EncodingContext
) -> str:
    """The report in sentences: that it is an AI's and who verified it, that it is withdrawn or
    what it replaces, what could not be assessed and why, what is critical, and what the model
    says."""
    sentences = [standing(context.report), f"{card.procedure.title} by {card.name} {card.version}"]
    sentences += headlines(request, result, context)
    if not context.report.is_withdrawn:
        sentences.append(critical_statement(result))
        sentences += [f.statement for f in result.findings]
        sentences += [f"Warning: {warning}" for warning in result.warnings]
        sentences += value_lines(request, card, context.timezone)
    full = dict.fromkeys(f"{sentence.rstrip('.')}." for sentence in sentences if sentence)
    return "\n".join(full)


def _conclusion_codes(result: InferenceResult, context: EncodingContext) -> list[Json]:
    """What was found to be present, coded; nothing of a report that is withdrawn."""
    if context.report.is_withdrawn:
        return []
    present = (f.code for f in result.findings if f.presence is Presence.PRESENT)
    return [{"coding": [coding(code)]} for code in dict.fromkeys(present)]


def _presented_form(card: ModelCard, context: EncodingContext, related: Related) -> list[Json]:
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
