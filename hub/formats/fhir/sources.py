"""What a FHIR report was made from, when that was, and who asked for it: the ImagingStudy, or the
Observations of a case, which stand at the receiver already."""

from __future__ import annotations

import json
from collections.abc import Collection

from hub.domain.inference import InferenceRequest
from hub.domain.observation import Observation
from hub.formats.case_values import measured_at, values_of
from hub.formats.encoding import EncodingContext
from hub.formats.fhir.resources import (
    Json,
    accession,
    compact,
    imaging_study_url,
    instant,
    study_datetime,
)

LABORATORY = "laboratory"
"""Category of Observations (R4 observation-category)."""
_REPORT_IS_BASED_ON = frozenset(
    {
        "CarePlan",
        "ImmunizationRecommendation",
        "MedicationRequest",
        "NutritionOrder",
        "ServiceRequest",
    }
)
"""R4 DiagnosticReport.basedOn."""


def sources(request: InferenceRequest, ids: Collection[str] = ()) -> list[Json]:
    """References to what was analysed; of a case, to the values with these ids, or to all that
    the model was given."""
    if not request.study.is_case:
        return [{"reference": imaging_study_url(request.study)}]
    return [_reference(one) for one in values_of(request, ids)]


def _reference(one: Observation) -> Json:
    """By where it stands, and by its identifier for servers where it does not; by what it is alone
    where neither is known."""
    system, value = one.identifier or ("", "")
    identifier = compact(system=system, value=value)
    return compact(
        reference=one.reference,
        type="Observation",
        identifier=identifier,
        display=one.codes[0].code_meaning if one.codes else "measured value",
    )


def effective(
    request: InferenceRequest, context: EncodingContext, ids: Collection[str] = ()
) -> str | None:
    """When it was true: at the examination, or when the newest of the values was measured."""
    if not request.study.is_case:
        return study_datetime(request.study, context)
    return instant(measured_at(request, ids))


def based_on(request: InferenceRequest, context: EncodingContext) -> list[Json]:
    """References to what asked for it, as the order has them; and to the order of the accession
    number."""
    asked = [json.loads(reference) for reference in request.based_on]
    number = accession(request.study, context)
    known = [one.get("identifier", {}).get("value") for one in asked]
    if number is not None and number["value"] not in known:
        asked.append({"type": "ServiceRequest", "identifier": number})
    return asked


def report_based_on(request: InferenceRequest, context: EncodingContext) -> list[Json]:
    """Those that a DiagnosticReport or an Observation may name: a Task is none of them."""
    return [one for one in based_on(request, context) if _type_of(one) in _REPORT_IS_BASED_ON]


def _type_of(reference: Json) -> str:
    """Of a reference that does not say so, by its URL (R4 references, "Literal References")."""
    if "type" in reference:
        return str(reference["type"])
    parts = str(reference.get("reference", "")).split("/_history/")[0].split("/")
    return parts[-2] if len(parts) > 1 else ""
