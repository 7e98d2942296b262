"""Which Observation is which, over all versions of a report.

An Observation is the same one as long as it answers the same question about the same thing:
finding, code, side and tracking UID. A mere number would give the second nodule the place of the
first one as soon as that is not found any more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypeVar

from hub.domain.coding import Code
from hub.domain.finding import Finding
from hub.domain.identity import derived_uid
from hub.domain.inference import InferenceRequest
from hub.domain.model_card import ModelCard
from hub.domain.model_output import ClassFinding, FindingSpec
from hub.formats.fhir.resources import lasting_uuid

MEASUREMENT_GROUP = Code("125007", "DCM", "Measurement Group")

Asked = Finding | FindingSpec
"""What was found, or what the model would have been asked."""
_T = TypeVar("_T", bound=Asked)


def identities(request: InferenceRequest, asked: Sequence[Asked]) -> dict[str, Code]:
    """UUID of every Observation that these are in a report, groups included -> its code."""
    known = {observation_uuid(request, one, number): one.code for one, number in numbered(asked)}
    shared = Counter(one.tracking_uid for one in asked if isinstance(one, Finding))
    groups = [tracking_uid for tracking_uid, count in shared.items() if count > 1]
    return known | {group_uuid(request, uid): MEASUREMENT_GROUP for uid in groups}


def numbered(asked: Iterable[_T]) -> list[tuple[_T, int]]:
    """Each with its number among those that are told apart by nothing else."""
    seen: Counter[tuple[str, ...]] = Counter()
    found = []
    for one in asked:
        identity = (*_question(one), one.tracking_uid if isinstance(one, Finding) else "")
        found.append((one, seen[identity]))
        seen[identity] += 1
    return found


def observation_uuid(request: InferenceRequest, asked: Asked, number: int) -> str:
    uid = asked.tracking_uid if isinstance(asked, Finding) else tracking_uid(request, asked)
    return lasting_uuid(request, "Observation", *_question(asked), uid, str(number))


def group_uuid(request: InferenceRequest, tracking_uid: str) -> str:
    """Of the group of all findings about one thing (PS3.16 TID 1411)."""
    return lasting_uuid(request, "Group", tracking_uid)


def tracking_uid(request: InferenceRequest, spec: FindingSpec) -> str:
    """What the hub's own adapters track a finding by, so that a question that was not answered
    at first and its later answer are the same Observation. Where an adapter has other UIDs, the
    unanswered one is withdrawn as soon as there is an answer."""
    study, model = request.study.study_instance_uid, request.model.model_id
    return derived_uid(study, model, spec.tracking_identifier)


def unanswered(card: ModelCard, findings: Iterable[Finding]) -> list[FindingSpec]:
    """What the model is there to answer, and did not."""
    answered = {_question(finding) for finding in findings}
    return [spec for spec in card.output.findings if _question(spec) not in answered]


def _question(asked: Asked) -> tuple[str, ...]:
    """What is asked: the name, the code and the side."""
    side = None if isinstance(asked, ClassFinding) else asked.laterality
    scheme = asked.code.coding_scheme_designator
    name = asked.tracking_identifier
    return (name, scheme, asked.code.code_value, side.code_value if side else "")
