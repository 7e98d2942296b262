"""Findings as FHIR R4 Observations.

One Observation per finding; findings of one thing (same tracking UID) are gathered by a group
Observation (``hasMember``; PS3.16 TID 1411, HL7 "DICOM SR to FHIR" mapping). What could not be
assessed is an Observation with ``dataAbsentReason``: never a number, never "absent".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from hub.domain.coding import Code
from hub.domain.finding import Finding, Presence
from hub.domain.inference import InferenceRequest, InferenceResult, Outcome
from hub.domain.model_card import ClassFinding, FindingSpec, ModelCard
from hub.errors import RejectedError
from hub.formats.encoding import EncodingContext
from hub.formats.fhir_resources import (
    AI_ASSERTED,
    UCUM,
    Json,
    coded,
    compact,
    concept,
    device_url,
    imaging_study_url,
    instant,
    lasting_uuid,
    performers,
    quantity,
    study_datetime,
    subject,
    uid_identifier,
    urn,
)

_Asked = TypeVar("_Asked", Finding, FindingSpec)

DATA_ABSENT = "http://terminology.hl7.org/CodeSystem/data-absent-reason"
INTERPRETATION = "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation"
OBSERVATION_CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"

MEASUREMENT_GROUP = Code("125007", "DCM", "Measurement Group")
LATERALITY = Code("272741003", "SCT", "Laterality")
PROBABILITY = Code("122157", "DCM", "Probability")

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
}


@dataclass(frozen=True, slots=True)
class ReportedObservation:
    """One Observation and where it stands in the transaction."""

    uuid: str
    resource: Json
    top_level: bool
    """Named by the report itself; members are reached through their group."""

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

    def observation(self, uuid: str, tracking_uid: str, code: Code, **fields: object) -> Json:
        study, context = self.request.study, self.context
        identifiers = [{"system": context.result_system, "value": uuid}]
        return compact(
            resourceType="Observation",
            meta={"security": [AI_ASSERTED]},
            identifier=identifiers + ([uid_identifier(tracking_uid)] if tracking_uid else []),
            status="preliminary",
            category=[coded(OBSERVATION_CATEGORY, category_of(self.request))],
            code=concept(code),
            subject=subject(study, context),
            effectiveDateTime=study_datetime(study, context),
            issued=instant(context.made_at),
            performer=performers(self.request, self.card, context),
            device={"reference": device_url(self.request.model)},
            derivedFrom=[{"reference": imaging_study_url(study)}],
            **fields,
        )

    def absent(self, outcome: Outcome) -> Json:
        reason = coded(DATA_ABSENT, _ABSENT_CODE[outcome])
        return reason | compact(text="; ".join(self.result.reasons))


def category_of(request: InferenceRequest) -> str:
    """``imaging``, or ``procedure`` for an ECG (the category of R4's own ECG examples)."""
    return "procedure" if is_electrocardiogram(request) else "imaging"


def is_electrocardiogram(request: InferenceRequest) -> bool:
    return any(series.modality == "ECG" for series in request.series)


def observations(
    request: InferenceRequest, result: InferenceResult, card: ModelCard, context: EncodingContext
) -> tuple[ReportedObservation, ...]:
    """Every finding, groups after their members, in the order of the result.

    Where the outcome is not ``assessed``, whatever the model would have answered is listed
    with its reason for absence, so that no reader takes silence for "nothing found".

    Raises:
        RejectedError: a value is not finite, a unit not UCUM, or a result that was not
            assessed claims an answer.
    """
    frame = _Frame(request, result, card, context)
    shared = Counter(finding.tracking_uid for finding in result.findings)
    found = [
        (finding, _observed(frame, finding, number, alone=shared[finding.tracking_uid] == 1))
        for finding, number in _numbered(result.findings)
    ]
    reported = list(_grouped(frame, found))
    if result.outcome is not Outcome.ASSESSED:
        answered = {_question(finding) for finding in result.findings}
        missing = (spec for spec in card.output.findings if _question(spec) not in answered)
        reported += [_unanswered(frame, spec, n) for spec, n in _numbered(missing)]
    return tuple(reported)


def _question(asked: Finding | FindingSpec) -> tuple[str, ...]:
    """What is asked: the name, the code and the side, the same in every revision."""
    side = None if isinstance(asked, ClassFinding) else asked.laterality
    code = asked.code
    scheme = code.coding_scheme_designator
    return (asked.tracking_identifier, scheme, code.code_value, side.code_value if side else "")


def _numbered(asked: Iterable[_Asked]) -> list[tuple[_Asked, int]]:
    """Each with its number among those that ask the same question (several nodules)."""
    seen: Counter[tuple[str, ...]] = Counter()
    numbered = []
    for one in asked:
        numbered.append((one, seen[_question(one)]))
        seen[_question(one)] += 1
    return numbered


def _uuid_of(request: InferenceRequest, asked: Finding | FindingSpec, number: int) -> str:
    return lasting_uuid(request, "Observation", *_question(asked), str(number))


def _observed(frame: _Frame, finding: Finding, number: int, *, alone: bool) -> ReportedObservation:
    uuid = _uuid_of(frame.request, finding, number)
    note = [{"text": finding.statement}] if finding.statement else None
    resource = frame.observation(
        uuid,
        finding.tracking_uid if alone else "",  # one Observation carries it: this or the group
        finding.code,
        note=note,
        bodySite=_body_site(finding.finding_site, finding.laterality),
        method={"text": f"{frame.card.name} {frame.card.version}"},
        component=_components(finding),
        **_answer(frame, finding),
    )
    return ReportedObservation(uuid, resource, top_level=True)


def _answer(frame: _Frame, finding: Finding) -> Json:
    if finding.presence is Presence.NOT_ASSESSABLE:
        return {"dataAbsentReason": frame.absent(frame.result.outcome)}
    if frame.result.outcome is not Outcome.ASSESSED:
        raise RejectedError(f"a result that is {frame.result.outcome} answers a question")
    if finding.presence is not None:
        code, interpretation = _PRESENCE[finding.presence]
        judged = [coded(INTERPRETATION, interpretation)]
        return {"valueCodeableConcept": concept(code), "interpretation": judged}
    if finding.coded_value is not None:
        return {"valueCodeableConcept": concept(finding.coded_value)}
    if finding.value is None or finding.unit is None:
        raise RejectedError("a finding has no answer")
    return {"valueQuantity": quantity(finding.value, finding.unit)}


def _components(finding: Finding) -> list[Json]:
    components: list[Json] = []
    if finding.probability is not None:
        value = {"value": finding.probability, "unit": "1", "system": UCUM, "code": "1"}
        components.append({"code": concept(PROBABILITY), "valueQuantity": value})
    if finding.laterality is not None:
        side = concept(finding.laterality)
        components.append({"code": concept(LATERALITY), "valueCodeableConcept": side})
    return components


def _body_site(site: Code | None, laterality: Code | None) -> Json | None:
    if site is None:
        return None
    side = f", {laterality.code_meaning.lower()}" if laterality else ""
    return concept(site) | {"text": site.code_meaning + side}


def _unanswered(frame: _Frame, spec: FindingSpec, number: int) -> ReportedObservation:
    uuid = _uuid_of(frame.request, spec, number)
    resource = frame.observation(
        uuid,
        "",
        spec.code,
        bodySite=_body_site(spec.finding_site, None),
        dataAbsentReason=frame.absent(frame.result.outcome),
    )
    return ReportedObservation(uuid, resource, top_level=True)


def _grouped(
    frame: _Frame, found: list[tuple[Finding, ReportedObservation]]
) -> Iterable[ReportedObservation]:
    by_tracking: dict[str, list[tuple[Finding, ReportedObservation]]] = {}
    for pair in found:
        by_tracking.setdefault(pair[0].tracking_uid, []).append(pair)
    names: Counter[str] = Counter()
    for tracking_uid, pairs in by_tracking.items():
        if len(pairs) == 1:
            yield pairs[0][1]
            continue
        members = [ReportedObservation(o.uuid, o.resource, top_level=False) for _, o in pairs]
        yield from members
        name = pairs[0][0].tracking_identifier
        uuid = lasting_uuid(frame.request, "Group", name, str(names[name]))
        names[name] += 1
        yield _group(frame, uuid, tracking_uid, name, members)


def _group(
    frame: _Frame, uuid: str, tracking_uid: str, name: str, members: list[ReportedObservation]
) -> ReportedObservation:
    named = [{"reference": member.full_url} for member in members]
    group = frame.observation(uuid, tracking_uid, MEASUREMENT_GROUP, hasMember=named)
    group["code"] = concept(MEASUREMENT_GROUP) | {"text": name}
    return ReportedObservation(uuid, group, top_level=True)
