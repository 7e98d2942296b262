"""What a source may tell the hub beside objects, and ask it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from hub.domain.patient import PatientChange
from hub.ports.destinations import CommitmentReport


class ExpectationSource(StrEnum):
    """Who said how many instances a study has, the most trusted first."""

    ARCHIVE = "archive"
    """C-FIND or QIDO-RS: NumberOfStudyRelatedInstances (0020,1208)."""
    AVAILABILITY_NOTIFICATION = "availability-notification"
    """Instance Availability Notification (PS3.4 annex R): the instances by their UIDs."""
    PERFORMED_PROCEDURE_STEP = "performed-procedure-step"
    """MPPS COMPLETED (PS3.4 annex F): the instances by their UIDs."""
    ORDER = "order"
    """FHIR ImagingStudy.numberOfInstances, or an order's list."""


@dataclass(frozen=True, slots=True)
class NamedSeries:
    """The instances of a series, as somebody who knows names them."""

    series_instance_uid: str
    sop_instance_uids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a study will consist of, as somebody who knows says."""

    study_instance_uid: str
    source: ExpectationSource
    number_of_instances: int | None = None
    sop_instance_uids: tuple[str, ...] = ()
    """Where it names them: these, and not any others, are waited for."""
    series: tuple[NamedSeries, ...] = ()
    """Where it also says to which series they belong: each is complete when its own are there."""


@dataclass(frozen=True, slots=True)
class ReferencedInstance:
    """An instance that somebody asks about."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class ProcedureStep:
    """A Modality Performed Procedure Step (PS3.4 annex F), as far as completeness needs it."""

    sop_instance_uid: str
    study_instance_uid: str
    status: str
    """Performed Procedure Step Status (0040,0252): IN PROGRESS, DISCONTINUED or COMPLETED."""
    series: tuple[NamedSeries, ...] = ()
    """What it made, as its Performed Series Sequence (0040,0340) lists it."""

    @property
    def sop_instance_uids(self) -> tuple[str, ...]:
        """All that it made, each once."""
        return tuple(dict.fromkeys(uid for one in self.series for uid in one.sop_instance_uids))


@dataclass(frozen=True, slots=True)
class CommitmentRequest:
    """A question of storage commitment (PS3.4 annex J) that is to be answered."""

    transaction_uid: str
    calling_ae_title: str
    source: str
    """Name of the source that was asked."""
    references: tuple[ReferencedInstance, ...]
    attempts: int = 0
    """How often the answer could not be sent."""


class Knowledge(Protocol):
    """What the hub knows of studies, and what a source may tell it; thread-safe. Every call may
    raise ``TransientError``: it cannot be told or recorded now."""

    def expect(self, expectation: Expectation) -> None:
        """Record what a study will consist of; it may come before the first image.

        Raises:
            TransientError: it could not be recorded now.
        """
        ...

    def not_stored(
        self, wanted: Sequence[ReferencedInstance], within: float
    ) -> Mapping[ReferencedInstance, int]:
        """What of these the hub does not durably hold -> Failure Reason (0008,1197): 0x0112 no
        such instance, 0x0119 other SOP class. Waits up to ``within`` seconds for what was just
        received and is not indexed yet.

        Raises:
            TransientError: it cannot be told now.
        """
        ...

    def patient_changed(self, change: PatientChange) -> None:
        """Record that a patient was renamed or merged, once for each ``change_id``; results that
        are on their way follow.

        Raises:
            TransientError: it could not be recorded now.
        """
        ...

    def commitment_answered(self, report: CommitmentReport) -> None:
        """Keep what an archive said to a storage commitment that a destination of ours asked for
        (N-EVENT-REPORT).

        Raises:
            TransientError: it could not be recorded now.
        """
        ...

    def procedure_step(self, sop_instance_uid: str) -> ProcedureStep | None:
        """A procedure step as last told."""
        ...

    def keep_procedure_step(self, step: ProcedureStep) -> None:
        """Record a new or changed procedure step; when the last one of a study has ended, what
        they made is expected."""
        ...

    def keep_commitment(self, request: CommitmentRequest) -> None:
        """Record a question, so that it is answered whatever happens."""
        ...

    def due_commitments(self, source: str) -> Sequence[CommitmentRequest]:
        """The questions whose answer should be sent, or sent again, now."""
        ...

    def commitment_reported(self, request: CommitmentRequest, failed: int) -> None:
        """The peer has the answer: so many instances are not stored."""
        ...

    def commitment_not_reported(
        self, request: CommitmentRequest, reason: str, retry_after: float | None
    ) -> None:
        """The answer could not be sent; it is due again in so many seconds, or never (None)."""
        ...
