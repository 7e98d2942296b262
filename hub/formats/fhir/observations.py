"""Findings as FHIR R4 Observations.

One Observation per finding; findings of one thing (same tracking UID) are gathered by a group
Observation (``hasMember``; PS3.16 TID 1411, HL7 "DICOM SR to FHIR" mapping). What could not be
assessed is an Observation with ``dataAbsentReason``: never a number, never "absent". What a
later version of the report has no more is withdrawn, never left standing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from hub.domain.coding import Code
from hub.domain.finding import Finding, Presence
from hub.domain.inference import InferenceRequest, InferenceResult, Outcome
from hub.domain.model_card import ModelCard
from hub.domain.model_output import FindingSpec
from hub.domain.report import ReportCause
from hub.errors import RejectedError
from hub.formats.encoding import EncodingContext
from hub.formats.fhir.identities import (
    MEASUREMENT_GROUP,
    group_uuid,
    identities,
    numbered,
    observation_uuid,
    unanswered,
)
from hub.formats.fhir.location import image_names, location_text
from hub.formats.fhir.resources import (
    AI_ASSERTED,
    UCUM,
    Json,
    coded,
    compact,
    concept,
    device_url,
    instant,
    performers,
    quantity,
    subject,
    uid_identifier,
    urn,
)
from hub.formats.fhir.sources import LABORATORY, effective, report_based_on, sources
from hub.formats.fhir.status import (
    ENTERED_IN_ERROR,
    is_replacement,
    report_status,
)
from hub.formats.report_state import WITHDRAWN_NOTE, withdrawal_statement

DATA_ABSENT = "http://terminology.hl7.org/CodeSystem/data-absent-reason"
INTERPRETATION = "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation"
OBSERVATION_CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"

LATERALITY = Code("272741003", "SCT", "Laterality")
PROBABILITY = Code("122157", "DCM", "Probability")
IMAGE_REGION = Code("111030", "DCM", "Image Region")

# PS3.16 CID 240, "Present-Absent-Undetermined"
_PRESENCE = {
    Presence.PRESENT: (Code("52101004", "SCT", "Present"), "POS"),
    Presence.ABSENT: (Code("272519000", "SCT", "Absent"), "NEG"),
    Presence.INDETERMINATE: (Code("373068000", "SCT", "Undetermined"), "IND"),
}
_ABSENT_CODE = {
    Outcome.ASSESSED: "unknown",
    Outcome.NOT_ASSESSABLE: "unknown",
    Outcome.UNSUITABLE: "not-performed",
    Outcome.FAILED: "error",
}
_ANSWERED_ANEW = (ReportCause.MODEL, ReportCause.MODIFIED, ReportCause.RELEASED)


@dataclass(frozen=True, slots=True)
class ReportedObservation:
    """One Observation and where it stands in the transaction."""

    uuid: str
    resource: Json
    top_level: bool
    """Named by the report itself; members are reached through their group."""
    critical: bool = False
    """Of a finding that a person has to know at once."""

    @property
    def full_url(self) -> str:
        return urn(self.uuid)

    @property
    def identifier(self) -> Json:
        found: Json = self.resource["identifier"][0]
        return found


@dataclass(frozen=True, slots=True)
class _Frame:
    """What all Observations of one result have in common."""

    request: InferenceRequest
    result: InferenceResult
    card: ModelCard
    context: EncodingContext
    status: str
    image_names: Mapping[str, str]
    """SOP Instance UID -> how people call the image."""
    common: Json
    """Elements that are the same in all of them."""

    def observation(self, uuid: str, tracking_uid: str, code: Code, **fields: object) -> Json:
        identifiers = [{"system": self.context.result_system, "value": uuid}]
        own = compact(
            identifier=identifiers + ([uid_identifier(tracking_uid)] if tracking_uid else []),
            code=concept(code),
            **fields,
        )
        return {"resourceType": "Observation", "status": self.status, **self.common, **own}

    def absent(self, outcome: Outcome) -> Json:
        reason = coded(DATA_ABSENT, _ABSENT_CODE[outcome])
        return reason | compact(text="; ".join(self.result.reasons))


def category_of(request: InferenceRequest) -> str:
    """``imaging``, ``laboratory`` for values that are made of measured values, or ``procedure`` for
    an ECG (the category of R4's own ECG examples)."""
    if request.study.is_case:
        return LABORATORY
    return "procedure" if is_electrocardiogram(request) else "imaging"


def is_electrocardiogram(request: InferenceRequest) -> bool:
    return any(series.modality == "ECG" for series in request.series)


def observations(
    request: InferenceRequest, result: InferenceResult, card: ModelCard, context: EncodingContext
) -> tuple[ReportedObservation, ...]:
    """What the report names: every finding, groups after their members, in the order of the
    result.

    Where the outcome is not ``assessed``, whatever the model would have answered is listed
    with its reason for absence, so that no reader takes silence for "nothing found". Of a
    report that is withdrawn they say that, and have no value any more.

    Raises:
        RejectedError: a value is not finite, a unit not UCUM, or a result that was not
            assessed claims an answer.
    """
    frame = _frame(request, result, card, context)
    if frame.status == ENTERED_IN_ERROR:
        known = _named_identities(request, result, card)
        return tuple(_withdrawn(frame, uuid, code, named=True) for uuid, code in known.items())
    shared = Counter(finding.tracking_uid for finding in result.findings)
    found = [
        (finding, _observed(frame, finding, number, alone=shared[finding.tracking_uid] == 1))
        for finding, number in numbered(result.findings)
    ]
    reported = list(_grouped(frame, found))
    if result.outcome is not Outcome.ASSESSED:
        missing = numbered(unanswered(card, result.findings))
        reported += [_unanswered(frame, spec, number) for spec, number in missing]
    return tuple(reported)


def surplus_observations(
    request: InferenceRequest,
    result: InferenceResult,
    card: ModelCard,
    context: EncodingContext,
) -> tuple[ReportedObservation, ...]:
    """Those of the replaced report that this result has no more: they would stand for ever, as if
    they were still found, so each is updated to ``entered-in-error``, without its value."""
    version = context.report
    earlier = identities(request, version.replaced_findings)
    if is_replacement(request, version) and version.cause in _ANSWERED_ANEW:
        # an earlier report may have been without an answer
        earlier |= identities(request, card.output.findings)
    current = _named_identities(request, result, card)
    gone = {uuid: code for uuid, code in earlier.items() if uuid not in current}
    if not gone:
        return ()
    frame = _frame(request, result, card, context)
    return tuple(_withdrawn(frame, uuid, code, named=False) for uuid, code in gone.items())


def _named_identities(
    request: InferenceRequest, result: InferenceResult, card: ModelCard
) -> dict[str, Code]:
    """UUID of every Observation that the report of this result names -> its code."""
    asked = () if result.outcome is Outcome.ASSESSED else unanswered(card, result.findings)
    return identities(request, result.findings) | identities(request, asked)


def _frame(
    request: InferenceRequest, result: InferenceResult, card: ModelCard, context: EncodingContext
) -> _Frame:
    status = report_status(request, result, context)
    located = any(finding.locations for finding in result.findings)
    names = image_names(request.study) if located else {}
    return _Frame(request, result, card, context, status, names, _common(request, card, context))


def _common(request: InferenceRequest, card: ModelCard, context: EncodingContext) -> Json:
    study = request.study
    return compact(
        meta={"security": [AI_ASSERTED]},
        category=[coded(OBSERVATION_CATEGORY, category_of(request))],
        subject=subject(study, context),
        effectiveDateTime=effective(request, context),
        issued=instant(context.made_at),
        performer=performers(request, card, context),
        device={"reference": device_url(request.model)},
        basedOn=report_based_on(request, context) if request.based_on else None,
        derivedFrom=sources(request),
    )


# --- answers -----------------------------------------------------------------------------


def _observed(frame: _Frame, finding: Finding, number: int, *, alone: bool) -> ReportedObservation:
    uuid = observation_uuid(frame.request, finding, number)
    note = [{"text": finding.statement}] if finding.statement else None
    resource = frame.observation(
        uuid,
        finding.tracking_uid if alone else "",  # one Observation carries it: this or the group
        finding.code,
        note=note,
        bodySite=_body_site(finding.finding_site, finding.laterality),
        method={"text": f"{frame.card.name} {frame.card.version}"},
        component=_components(frame, finding),
        **_rests_on(frame, finding),
        **_answer(frame, finding),
    )
    return ReportedObservation(uuid, resource, top_level=True, critical=finding.critical)


def _rests_on(frame: _Frame, finding: Finding) -> Json:
    """Of measured values, those of this finding and their time."""
    ids = finding.derived_from
    if not ids:
        return {}
    moment = effective(frame.request, frame.context, ids)
    return {"derivedFrom": sources(frame.request, ids), "effectiveDateTime": moment}


def _answer(frame: _Frame, finding: Finding) -> Json:
    if finding.presence is Presence.NOT_ASSESSABLE:
        return {"dataAbsentReason": frame.absent(frame.result.outcome)}
    if frame.result.outcome is not Outcome.ASSESSED:
        raise RejectedError(f"a result that is {frame.result.outcome} answers a question")
    answer: Json
    if finding.presence is not None:
        code, interpretation = _PRESENCE[finding.presence]
        answer = {"valueCodeableConcept": concept(code)}
        judged = [interpretation]
    elif finding.coded_value is not None:
        answer, judged = {"valueCodeableConcept": concept(finding.coded_value)}, []
    elif finding.value is None or finding.unit is None:
        raise RejectedError("a finding has no answer")
    else:
        answer, judged = {"valueQuantity": quantity(finding.value, finding.unit)}, []
    judged += [critical_interpretation(finding, frame.card)] if finding.critical else []
    return answer | compact(interpretation=[coded(INTERPRETATION, code) for code in judged])


def critical_interpretation(finding: Finding, card: ModelCard) -> str:
    """``HH`` or ``LL`` where a rule of the model's says so, otherwise ``AA`` (HL7 v3
    ObservationInterpretation: critical high, critical low, critical abnormal)."""
    for rule in card.output.critical:
        if finding.value is None or not rule.applies(finding):
            continue
        if rule.above is not None and finding.value > rule.above:
            return "HH"
        if rule.below is not None and finding.value < rule.below:
            return "LL"
    return "AA"


def _components(frame: _Frame, finding: Finding) -> list[Json]:
    components: list[Json] = []
    if finding.probability is not None:
        value = {"value": finding.probability, "unit": "1", "system": UCUM, "code": "1"}
        components.append({"code": concept(PROBABILITY), "valueQuantity": value})
    if finding.laterality is not None:
        side = concept(finding.laterality)
        components.append({"code": concept(LATERALITY), "valueCodeableConcept": side})
    for location in finding.locations:
        words = location_text(location, frame.image_names)
        components.append({"code": concept(IMAGE_REGION), "valueString": words})
    return components


def _body_site(site: Code | None, laterality: Code | None) -> Json | None:
    if site is None:
        return None
    side = f", {laterality.code_meaning.lower()}" if laterality else ""
    return concept(site) | {"text": site.code_meaning + side}


def _unanswered(frame: _Frame, spec: FindingSpec, number: int) -> ReportedObservation:
    uuid = observation_uuid(frame.request, spec, number)
    resource = frame.observation(
        uuid,
        "",
        spec.code,
        bodySite=_body_site(spec.finding_site, None),
        dataAbsentReason=frame.absent(frame.result.outcome),
    )
    return ReportedObservation(uuid, resource, top_level=True)


def _withdrawn(frame: _Frame, uuid: str, code: Code, *, named: bool) -> ReportedObservation:
    version = frame.context.report
    replaced = f"{WITHDRAWN_NOTE}; the report that replaces it does not have it any more"
    words = withdrawal_statement(version) if version.is_withdrawn else replaced
    resource = frame.observation(
        uuid, "", code, status=ENTERED_IN_ERROR, note=[{"text": f"{words}."}]
    )
    return ReportedObservation(uuid, resource, top_level=named)


# --- groups ------------------------------------------------------------------------------


def _grouped(
    frame: _Frame, found: list[tuple[Finding, ReportedObservation]]
) -> Iterable[ReportedObservation]:
    by_tracking: dict[str, list[tuple[Finding, ReportedObservation]]] = {}
    for pair in found:
        by_tracking.setdefault(pair[0].tracking_uid, []).append(pair)
    for tracking_uid, pairs in by_tracking.items():
        if len(pairs) == 1:
            yield pairs[0][1]
            continue
        members = [replace(observation, top_level=False) for _, observation in pairs]
        yield from members
        yield _group(frame, tracking_uid, pairs[0][0].tracking_identifier, members)


def _group(
    frame: _Frame, tracking_uid: str, name: str, members: list[ReportedObservation]
) -> ReportedObservation:
    uuid = group_uuid(frame.request, tracking_uid)
    named = [{"reference": member.full_url} for member in members]
    group = frame.observation(uuid, tracking_uid, MEASUREMENT_GROUP, hasMember=named)
    group["code"] = concept(MEASUREMENT_GROUP) | {"text": name}
    return ReportedObservation(uuid, group, top_level=True)
