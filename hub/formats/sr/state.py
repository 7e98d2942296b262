"""Whose word a DICOM report is: what stands first in it, and how its flags are set.

============================  ==========  ===========  ======================================
version of the report         verified    preliminary  first words
============================  ==========  ===========  ======================================
a model's answer              UNVERIFIED  PRELIMINARY  AI result, not verified
accepted, modified            VERIFIED    FINAL        AI result, verified by ...
rejected, withdrawn           UNVERIFIED  PRELIMINARY  WITHDRAWN: must not be used
============================  ==========  ===========  ======================================

A withdrawn report is never VERIFIED or FINAL: no reader that shows these flags alone may take it
for a result that somebody answers for.
"""

from __future__ import annotations

from datetime import datetime

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from hub.domain.delivery import DocumentKind
from hub.domain.inference import InferenceRequest, InferenceResult
from hub.domain.report import Person, PreviousDocument, ReportCause, ReportVersion
from hub.formats.dicom import writer as write
from hub.formats.encoding import (
    EncodingContext,
    amendment_statement,
    incomplete_statement,
)
from hub.formats.report_state import (
    NO_STATEMENT,
    OUTCOME_TITLES,
    named,
    standing,
    withdrawal_statement,
)
from hub.formats.sr import codes as sr_codes
from hub.formats.sr import content as sr
from hub.formats.sr.content import Relationship

STRUCTURED_REPORTS = (DocumentKind.SR, DocumentKind.SR_3D)

_LONGEST_COMPONENT_GROUP = 64
"""Characters of each component group of a person name (PS3.5 section 6.2)."""


def headlines(
    request: InferenceRequest, result: InferenceResult, context: EncodingContext
) -> tuple[str, ...]:
    """What a reader has to know before the findings, the most important first; sentences."""
    version = context.report
    if version.is_withdrawn:
        return (f"{withdrawal_statement(version)}.",)
    said = [_critical(result), _answer(result), f"{standing(version)}.", _cause(version)]
    said += [f"{text}." for text in (amendment_statement(request), incomplete_statement(request))]
    return tuple(text for text in said if text.strip("."))


def _critical(result: InferenceResult) -> str:
    names = dict.fromkeys(f.tracking_identifier for f in result.findings if f.critical)
    return f"CRITICAL FINDING: {'; '.join(names)}." if names else ""


def _answer(result: InferenceResult) -> str:
    said = OUTCOME_TITLES.get(result.outcome)
    return f"{said}. {NO_STATEMENT}" if said else ""


def _cause(version: ReportVersion) -> str:
    why = f" Reason: {version.reason.rstrip('.')}." if version.reason else ""
    if version.cause is ReportCause.PATIENT_CHANGED:
        return f"AMENDED: the patient's data changed after the examination.{why}"
    if version.cause is ReportCause.RELEASED:
        by = f" by {named(version.person)}" if version.person is not None else ""
        return f"Released{by} after it was held back.{why}"
    if version.verifier is not None and version.reason:
        return why.strip()
    return ""


def add_flags(
    header: Dataset, version: ReportVersion, verified_at: datetime, institution_name: str
) -> None:
    """Completion, verification and preliminary flags of SR Document General (PS3.3 C.17.2)."""
    person = version.verifier
    header.CompletionFlag = "COMPLETE"
    header.VerificationFlag = "UNVERIFIED" if person is None else "VERIFIED"
    header.PreliminaryFlag = "PRELIMINARY" if person is None else "FINAL"
    if person is not None:
        observer = Dataset()
        observer.VerifyingOrganization = write.fitted(person.organization or institution_name, 64)
        observer.VerificationDateTime = verified_at.strftime("%Y%m%d%H%M%S.%f%z")
        observer.VerifyingObserverName = dicom_name(person)
        observer.VerifyingObserverIdentificationCodeSequence = Sequence()
        header.VerifyingObserverSequence = Sequence([observer])


def dicom_name(person: Person) -> str:
    """A person name of at most three component groups; a name as people write it becomes the
    family name complex (PS3.5 section 6.2.1)."""
    groups = person.name.split("=")[:3]
    return "=".join(write.fitted(group, _LONGEST_COMPONENT_GROUP) for group in groups)


def person_observer(version: ReportVersion) -> list[bytes]:
    """The person who verified, beside the algorithm that observed; nothing where nobody did."""
    person = version.verifier
    if person is None:
        return []
    role = sr_codes.PERSON_OBSERVER_ROLE_IN_PROCEDURE
    return [
        *observer(person),
        sr.code(Relationship.HAS_OBS_CONTEXT, role, sr_codes.VERIFYING),
    ]


def observer(person: Person) -> list[bytes]:
    """TID 1002 and TID 1003."""
    context = Relationship.HAS_OBS_CONTEXT
    items = [
        sr.code(context, sr_codes.OBSERVER_TYPE, sr_codes.PERSON),
        sr.person_name(context, sr_codes.PERSON_OBSERVER_NAME, dicom_name(person)),
    ]
    if person.organization:
        name = sr_codes.PERSON_OBSERVER_ORGANIZATION_NAME
        items.append(sr.text(context, name, person.organization))
    return items


def predecessors(kind: DocumentKind, version: ReportVersion) -> tuple[PreviousDocument, ...]:
    """The structured reports that this one replaces: those of its own kind, else any."""
    reports = tuple(p for p in version.predecessors if p.kind in STRUCTURED_REPORTS)
    return tuple(p for p in reports if p.kind is kind) or reports
