"""Documents and their way to each destination."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from hub.domain.identity import StudyIdentity


class DocumentKind(StrEnum):
    """What a destination can be sent."""

    SR = "sr"
    """DICOM Comprehensive 3D SR, TID 1500."""
    SEG = "seg"
    """DICOM Segmentation."""
    PDF = "pdf"
    """The one-page report for people, as a PDF file."""
    ENCAPSULATED_PDF = "encapsulated_pdf"
    """The same page as a DICOM Encapsulated PDF."""
    FHIR = "fhir"
    """FHIR R4 transaction Bundle (JSON)."""


MEDIA_TYPES = {
    DocumentKind.SR: "application/dicom",
    DocumentKind.SEG: "application/dicom",
    DocumentKind.PDF: "application/pdf",
    DocumentKind.ENCAPSULATED_PDF: "application/dicom",
    DocumentKind.FHIR: "application/fhir+json",
}


@dataclass(frozen=True, slots=True)
class Document:
    """One encoded result, ready to send; its bytes never change once made."""

    document_id: str
    """Deterministic: DICOM objects use their SOP Instance UID, others a UUID."""
    kind: DocumentKind
    request_id: str
    identity: StudyIdentity
    """What the document says it belongs to, checked again before it is sent."""
    content: bytes = field(repr=False)
    related_uids: tuple[str, ...] = ()
    """SOP Instance UIDs of the documents that it refers to."""

    @property
    def media_type(self) -> str:
        return MEDIA_TYPES[self.kind]


class DeliveryState(StrEnum):
    """``pending -> delivered``, or ``pending -> retrying -> ... -> delivered | dead``; or
    ``superseded``, when a newer report is on its way to the same place."""

    PENDING = "pending"
    RETRYING = "retrying"
    DELIVERED = "delivered"
    DEAD = "dead"
    """A dead letter: a person can see, mend and resend it."""
    SUPERSEDED = "superseded"
    """Not sent: it would take the place of a newer one."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the destination answered when it confirmed."""

    detail: str
    """Protocol-level confirmation, e.g. ``C-STORE 0x0000``; no patient data."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One document on its way to one destination."""

    delivery_id: str
    """Deterministic: also the idempotency key where the protocol has one."""
    destination: str
    document_id: str
    kind: DocumentKind
    request_id: str
    study_instance_uid: str
    state: DeliveryState
    attempts: int
    next_attempt_at: datetime | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff: ``first_delay * factor**n``, at most ``max_delay`` seconds."""

    first_delay: float = 30.0
    factor: float = 2.0
    max_delay: float = 600.0
    attempts: int = 10
    longest_wait: float = 86400.0
    """Seconds; a peer that asks for more is asked again all the same."""

    def delay_after(self, attempts: int, retry_after: float | None = None) -> float | None:
        """Seconds to wait after ``attempts`` failures, or None when it is a dead letter.

        A peer's own ``retry_after`` is honoured when it is longer, up to ``longest_wait``.
        """
        if attempts >= self.attempts:
            return None
        delay = min(self.first_delay * self.factor ** (attempts - 1), self.max_delay)
        return max(delay, min(retry_after or 0.0, self.longest_wait))
