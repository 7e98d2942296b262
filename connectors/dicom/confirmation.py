"""Whether a receiver keeps what it took: C-FIND (PS3.4 C.4.1), storage commitment (annex J)."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import uuid4

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined, unused-ignore]
    StudyRootQueryRetrieveInformationModelFind,
)

from connectors.dicom.archive_answers import identifier, text_of
from connectors.dicom.commitment_reports import WELL_KNOWN_INSTANCE, commitment_report
from connectors.dicom.requester import Peer, accepted, association, status_in
from connectors.dicom.services import STORAGE_COMMITMENT, UNREADABLE, RefusedError
from connectors.dicom.status import PROCESSING_FAILURE, RESOURCE_LIMITATION, SUCCESS
from hub.domain.delivery import Receipt
from hub.errors import RejectedError, TransientError
from hub.formats.dicom.header import HeaderScan
from hub.ports import CommitmentReport

_FIND = StudyRootQueryRetrieveInformationModelFind
_UNCOMPRESSED = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
_PENDING = frozenset({0xFF00, 0xFF01})
_SOP_INSTANCE_UID = 0x00080018
_REQUEST_COMMITMENT = 1
"""Action Type ID (PS3.4 J.3.2.1.1)."""
_LATER = frozenset({PROCESSING_FAILURE, RESOURCE_LIMITATION})
_QUERY = "query "
"""Begins what a query is awaited by; the time of the delivery follows."""

Contexts = Sequence[tuple[str, Sequence[str]]]


def context_to_confirm(confirm: str) -> Contexts:
    """The presentation contexts that a way to confirm needs."""
    wanted = {"query": _FIND, "commitment": STORAGE_COMMITMENT}
    return [(wanted[confirm], _UNCOMPRESSED)] if confirm in wanted else []


# --- C-FIND --------------------------------------------------------------------------------


def awaiting_query(now: datetime) -> str:
    """``Receipt.awaiting`` of a document that is looked for by C-FIND."""
    return f"{_QUERY}{now.isoformat()}"


def is_query(awaiting: str) -> bool:
    """Whether it is one of those."""
    return awaiting.startswith(_QUERY)


def is_still_awaited(awaiting: str, now: datetime, within: float) -> bool:
    """Whether the receiver may still need some of its ``within`` seconds."""
    sent_at = datetime.fromisoformat(awaiting.removeprefix(_QUERY))
    return (now - sent_at).total_seconds() <= within


def found_by_query(peer: Peer, scan: HeaderScan) -> bool:
    """Whether the receiver shows an object (C-FIND at image level, Study Root model).

    Raises:
        TransientError: it does not answer, or refuses: that says nothing about the object.
    """
    asked = identifier(
        "IMAGE",
        (),
        StudyInstanceUID=scan.study_instance_uid,
        SeriesInstanceUID=scan.series_instance_uid,
        SOPInstanceUID=scan.sop_instance_uid,
    )
    try:
        with association(peer, [(_FIND, _UNCOMPRESSED)]) as opened:
            answers = list(opened.send_c_find(asked, _FIND))
    except RejectedError as error:
        raise TransientError(f"no C-FIND to confirm by: {error}") from error
    found = False
    for status, answer in answers:
        code = status_in(status)
        if code in _PENDING and answer is not None:
            found |= text_of(answer, _SOP_INSTANCE_UID) == scan.sop_instance_uid
        elif code != SUCCESS:
            told = "did not answer the C-FIND, or broke off: it may not know us"
            told = told if code is None else f"answered the C-FIND with 0x{code:04X}"
            raise TransientError(f"{peer} {told}")
    return found


# --- storage commitment --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CommitmentQuestion:
    """One question about one object, and the answer if it comes on the same association."""

    sop_class_uid: str
    sop_instance_uid: str
    transaction_uid: str = field(default_factory=lambda: f"2.25.{uuid4().int}")
    """Another one for each question: an answer to an earlier one is none to this."""
    _reports: queue.SimpleQueue[CommitmentReport] = field(default_factory=queue.SimpleQueue)

    @property
    def context(self) -> tuple[str, Sequence[str]]:
        """The presentation context that it needs."""
        return STORAGE_COMMITMENT, _UNCOMPRESSED

    @property
    def handlers(self) -> Sequence[Any]:
        """For the association."""
        return [(evt.EVT_N_EVENT_REPORT, self._reported)]

    def ask(self, opened: Any, peer: Peer) -> None:
        """N-ACTION, on an association on which the object was stored.

        Raises:
            TransientError: no answer, or it cannot now.
            RejectedError: it does not offer storage commitment, or refuses the question.
        """
        if not accepted(opened, STORAGE_COMMITMENT):
            raise RejectedError(f"{peer} took the object, but offers no storage commitment")
        reference, asked = Dataset(), Dataset()
        reference.ReferencedSOPClassUID = self.sop_class_uid
        reference.ReferencedSOPInstanceUID = self.sop_instance_uid
        asked.TransactionUID = self.transaction_uid
        asked.ReferencedSOPSequence = [reference]
        answer, _ = opened.send_n_action(
            asked, _REQUEST_COMMITMENT, STORAGE_COMMITMENT, WELL_KNOWN_INSTANCE
        )
        status = status_in(answer)
        if status is None:
            raise TransientError(f"{peer} did not answer the N-ACTION")
        if status in _LATER:
            raise TransientError(f"{peer} answered the N-ACTION with 0x{status:04X}")
        if status != SUCCESS:
            raise RejectedError(f"{peer} took the object, but refused: N-ACTION 0x{status:04X}")

    def answer(self, opened: Any, seconds: float) -> CommitmentReport | None:
        """The report, if it comes while the association is kept open for so long."""
        try:
            return self._reports.get(timeout=seconds) if opened.is_established else None
        except queue.Empty:
            return None

    def _reported(self, event: Any) -> tuple[int, None]:
        """Handler of N-EVENT-REPORT: status, and no reply."""
        try:
            report = commitment_report(event.event_information)
        except (RefusedError, *UNREADABLE):
            return PROCESSING_FAILURE, None
        if report.transaction_uid == self.transaction_uid:
            self._reports.put(report)
        return SUCCESS, None


def answer_of(report: CommitmentReport, sop_instance_uid: str) -> Receipt:
    """What a report says about one object.

    Raises:
        RejectedError: the receiver does not keep it.
    """
    if sop_instance_uid in report.committed:
        return Receipt("storage commitment: kept")
    reasons = [reason for uid, reason in report.failed if uid == sop_instance_uid]
    if reasons:
        raise RejectedError(f"storage commitment failed: reason 0x{reasons[0]:04X}")
    raise RejectedError("storage commitment failed: the report does not name the object")
