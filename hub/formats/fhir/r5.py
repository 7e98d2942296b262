"""The same transaction in FHIR R5 (5.0.0), for receivers that ask for it.

The R4 transaction is made first and then told in R5's words, here and nowhere else: what R5
renamed, reshaped or took away. Everything that is not named here is the same in both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fhir.resources.bundle import Bundle

from hub.domain.delivery import Document, DocumentKind
from hub.domain.inference import InferenceRequest, InferenceResult
from hub.domain.model_card import ModelCard
from hub.formats.encoding import EncodingContext, document_uuid
from hub.formats.fhir.checks import check_shape
from hub.formats.fhir.report import document_of, transaction
from hub.formats.fhir.resources import Json

_UDI_WITHOUT_ISSUER = {"text": "UDI-DI"}


def encode(
    request: InferenceRequest,
    result: InferenceResult,
    card: ModelCard,
    context: EncodingContext,
    related: Mapping[DocumentKind, Document],
) -> Document | None:
    """The R5 transaction as JSON (UTF-8); every outcome and every version makes one.

    Raises:
        IntegrityError: the result is not of this request, or the Bundle is not valid FHIR R5.
        RejectedError: an answer cannot be expressed (not finite, a unit that is not UCUM).
    """
    bundle = in_r5(transaction(request, result, card, context, related))
    check_shape(bundle, Bundle, "R5")
    uuid = document_uuid(DocumentKind.FHIR_R5, request, context)
    return document_of(bundle, DocumentKind.FHIR_R5, uuid, result, related)


def in_r5(bundle: Json) -> Json:
    """An R4 transaction of `hub.formats.fhir.report` as R5 has it; ``bundle`` stays as it is."""
    entries = []
    for entry in bundle["entry"]:
        resource = entry["resource"]
        convert = _CONVERSIONS.get(resource["resourceType"])
        told = convert(dict(resource)) if convert is not None else resource
        entries.append(entry | {"resource": told})
    return bundle | {"entry": entries}


def _diagnostic_report(report: Json) -> Json:
    if "imagingStudy" in report:
        report["study"] = report.pop("imagingStudy")
    if "presentedForm" in report:
        # integer64 is text in JSON (R5 json, "Primitive Elements")
        forms = [form | {"size": str(form["size"])} for form in report["presentedForm"]]
        report["presentedForm"] = forms
    return report


def _device(device: Json) -> Json:
    names = {one["type"]: one["name"] for one in device.pop("deviceName")}
    name = names["user-friendly-name"]
    device["displayName"] = name
    device["name"] = [{"value": name, "type": "user-friendly-name"}]
    device["modelNumber"] = names["model-name"]
    device["type"] = [device["type"]]
    for carrier in device.pop("udiCarrier", []):
        if "issuer" in carrier:
            device["udiCarrier"] = [carrier]
            continue
        # R5 wants the issuer of a UDI, which nobody knows of this one
        udi = {"type": _UDI_WITHOUT_ISSUER, "value": carrier["deviceIdentifier"]}
        device["identifier"] = [*device["identifier"], udi]
    return device


def _imaging_study(study: Json) -> Json:
    if "modality" in study:
        study["modality"] = [{"coding": [modality]} for modality in study["modality"]]
    if "series" in study:
        study["series"] = [
            series | {"modality": _concept(series["modality"])} for series in study["series"]
        ]
    return study


def _concept(modality: Json) -> Json:
    """A Coding as a CodeableConcept; the reason why there is none stays what it is."""
    return modality if "extension" in modality else {"coding": [modality]}


def _provenance(provenance: Json) -> Json:
    provenance["authorization"] = [{"concept": reason} for reason in provenance.pop("reason")]
    return provenance


def _task(task: Json) -> Json:
    if "statusReason" in task:
        task["statusReason"] = {"concept": task["statusReason"]}
    return task


def _communication_request(request: Json) -> Json:
    request["intent"] = "order"
    request["payload"] = [
        {"contentCodeableConcept": {"text": part["contentString"]}} for part in request["payload"]
    ]
    return request


_CONVERSIONS: Mapping[str, Callable[[Json], Json]] = {
    "CommunicationRequest": _communication_request,
    "Device": _device,
    "DiagnosticReport": _diagnostic_report,
    "ImagingStudy": _imaging_study,
    "Provenance": _provenance,
    "Task": _task,
}
