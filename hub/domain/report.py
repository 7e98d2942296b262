"""What a report stands for: whose word it is, and what it replaces.

A model's answer makes version 1 of the report of a request, which is preliminary. People and
events make further versions of it: a person accepts, modifies or rejects it, somebody withdraws
it, the patient it belongs to is merged into another one. A later revision of the study makes a
request of its own, whose report replaces the earlier one's.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from hub.domain.delivery import DocumentKind
from hub.domain.finding import Finding


class ReportStatus(StrEnum):
    """As FHIR ``DiagnosticReport.status`` has it; other formats say the same in their terms."""

    PRELIMINARY = "preliminary"
    """A model's answer that nobody has verified."""
    FINAL = "final"
    """A person accepted it."""
    AMENDED = "amended"
    """It replaces an earlier report of the same question: late images, or a person's changes."""
    ENTERED_IN_ERROR = "entered-in-error"
    """Withdrawn, or rejected by a person: it must not be used."""


class ReportCause(StrEnum):
    """Why a version was made."""

    MODEL = "model"
    """The model answered, or could not."""
    ACCEPTED = "accepted"
    MODIFIED = "modified"
    """A person verified it with changes."""
    REJECTED = "rejected"
    """A person found it wrong."""
    RETRACTED = "retracted"
    """Withdrawn, with everything that was sent of it."""
    RELEASED = "released"
    """It was quarantined, and a person released it."""
    PATIENT_CHANGED = "patient-changed"
    """The patient was merged or renamed between request and delivery."""


WITHDRAWN = (ReportCause.REJECTED, ReportCause.RETRACTED)
VERIFIED = (ReportCause.ACCEPTED, ReportCause.MODIFIED)


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who answers for a report."""

    name: str
    """As a DICOM person name (``Family^Given^Middle^Prefix^Suffix``), or as people write it."""
    identifier: str = ""
    """E.g. a physician number."""
    identifier_system: str = ""
    """URI of the system of ``identifier``."""
    organization: str = ""


@dataclass(frozen=True, slots=True)
class PreviousDocument:
    """A DICOM object of the report that is replaced."""

    kind: DocumentKind
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str


@dataclass(frozen=True, slots=True)
class ReportVersion:
    """One version of the report of a request."""

    number: int = 1
    status: ReportStatus = ReportStatus.PRELIMINARY
    cause: ReportCause = ReportCause.MODEL
    reason: str = ""
    """Why a person rejected, withdrew, modified or released it."""
    person: Person | None = None
    """Who did; the verifier of a report that is accepted or modified."""
    predecessors: tuple[PreviousDocument, ...] = ()
    """What of the replaced report the same destinations got, as DICOM objects: all kinds."""
    replaced_findings: tuple[Finding, ...] = ()
    """Of the replaced report: those that are not found any more have to be withdrawn where each
    is a resource of its own (FHIR Observations)."""

    @property
    def is_withdrawn(self) -> bool:
        """Nothing of it may be used any more."""
        return self.cause in WITHDRAWN or self.status is ReportStatus.ENTERED_IN_ERROR

    @property
    def verifier(self) -> Person | None:
        """Who answers for it; None where nobody does."""
        stands = self.cause in VERIFIED or self.status is ReportStatus.FINAL
        return self.person if stands and not self.is_withdrawn else None
