"""Documents and their way to each destination."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from hub.domain.identity import StudyIdentity


class DocumentKind(StrEnum):
    """What a destination can be sent."""

    SR = "sr"
    """DICOM Comprehensive 3D SR, TID 1500; locations on the image (SCOORD)."""
    SR_3D = "sr_3d"
    """The same with locations in space (SCOORD3D), for those who ask for it."""
    SEG = "seg"
    """DICOM Segmentation, binary."""
    SEG_FRACTIONAL = "seg_fractional"
    """DICOM Segmentation with the model's probabilities, where it gives any."""
    SEG_LABELMAP = "seg_labelmap"
    """DICOM Label Map Segmentation."""
    PARAMETRIC_MAP = "parametric_map"
    """DICOM Parametric Map."""
    PRESENTATION_STATE = "presentation_state"
    """DICOM Grayscale Softcopy Presentation State: the locations as graphics."""
    KEY_IMAGE = "key_image"
    """DICOM Secondary Capture: the key images with what was found drawn into them."""
    KEY_OBJECTS = "key_objects"
    """DICOM Key Object Selection: the images that the findings rest on."""
    REJECTION_NOTE = "rejection_note"
    """DICOM Key Object Selection that rejects what was sent before (IHE IOCM); made only where a
    report is withdrawn or rejected."""
    PDF = "pdf"
    """The one-page report for people, as a PDF file."""
    ENCAPSULATED_PDF = "encapsulated_pdf"
    """The same page as a DICOM Encapsulated PDF."""
    FHIR = "fhir"
    """FHIR R4 transaction Bundle (JSON)."""
    FHIR_R5 = "fhir_r5"
    """FHIR R5 transaction Bundle (JSON)."""
    ORU = "oru"
    """HL7 v2.5.1 message ORU^R01 (ER7, UTF-8)."""
    NOTICE = "notice"
    """What became of a request, in a few fields, for programs (JSON); no name, no birth date."""
    RECORD = "record"
    """The hub's own: the neutral request and result, from which reports are encoded again. No
    destination gets it."""


DICOM_KINDS = frozenset(
    {
        DocumentKind.SR,
        DocumentKind.SR_3D,
        DocumentKind.SEG,
        DocumentKind.SEG_FRACTIONAL,
        DocumentKind.SEG_LABELMAP,
        DocumentKind.PARAMETRIC_MAP,
        DocumentKind.PRESENTATION_STATE,
        DocumentKind.KEY_IMAGE,
        DocumentKind.KEY_OBJECTS,
        DocumentKind.REJECTION_NOTE,
        DocumentKind.ENCAPSULATED_PDF,
    }
)
"""Documents that are DICOM objects; their ``document_id`` is the SOP Instance UID."""

MEDIA_TYPES = dict.fromkeys(DICOM_KINDS, "application/dicom") | {
    DocumentKind.PDF: "application/pdf",
    DocumentKind.FHIR: "application/fhir+json",
    DocumentKind.FHIR_R5: "application/fhir+json",
    DocumentKind.ORU: "x-application/hl7-v2+er7",
    DocumentKind.NOTICE: "application/json",
    DocumentKind.RECORD: "application/json",
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
    """``pending -> [retrying ...] -> [confirming ...] -> delivered | dead``; or ``superseded``,
    when a newer report is on its way to the same place; or ``quarantined [-> discarded]``."""

    PENDING = "pending"
    RETRYING = "retrying"
    CONFIRMING = "confirming"
    """The destination took it, and has not confirmed yet that it keeps it."""
    DELIVERED = "delivered"
    DEAD = "dead"
    """A dead letter: a person can see, mend and resend it."""
    SUPERSEDED = "superseded"
    """Not sent: it would take the place of a newer one."""
    QUARANTINED = "quarantined"
    """Not sent: the document does not belong to whom it is sent for; a person releases or
    discards it."""
    DISCARDED = "discarded"
    """Not sent: a person discarded what was quarantined."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the destination answered when it confirmed."""

    detail: str
    """Protocol-level confirmation, e.g. ``C-STORE 0x0000``; no patient data."""
    awaiting: str = ""
    """Not the last word: what to ask the destination by (`hub.ports.Confirming`), e.g. the
    transaction UID of a storage commitment. Empty: it is delivered."""


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
    confirm_within: float = 3600.0
    """Seconds within which a destination has to confirm that it keeps what it took."""
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
