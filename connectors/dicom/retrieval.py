"""What comes in during a retrieval: the sub-operations of C-GET, and how a retrieval ended."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from pydicom.dataset import Dataset

from connectors.dicom.archive_answers import text_of
from connectors.dicom.archive_config import DicomArchiveConfig
from connectors.dicom.dimse import is_uid
from connectors.dicom.requester import status_in
from connectors.dicom.status import SUCCESS, status_of
from hub.errors import CaidxError
from hub.ports import EndOfTransfer, Intake, ReceivedObject, Sender

_FAILED_SOP_INSTANCE_UID_LIST = 0x00080058


@dataclass(frozen=True, slots=True)
class Outcome:
    """Status and counts of a C-MOVE or C-GET response."""

    status: int | None
    sent: int | None = None
    """Completed, with or without a warning; None where the response does not say: only while
    it is pending has it to (PS3.7 9.1.3.1.7, 9.1.4.1.7)."""
    failed: int = 0
    failed_uids: tuple[str, ...] = ()
    """The SOP Instance UIDs of those that failed, where the response names them all."""

    @classmethod
    def of(cls, answer: Dataset, identifier: Dataset | None = None) -> Outcome:
        """The counts of the response (PS3.7 9.1.3.1, 9.1.4.1), and what failed (PS3.4
        C.4.2.1.4.2, C.4.3.1.3.2)."""
        completed = answer.get("NumberOfCompletedSuboperations")
        warned = int(answer.get("NumberOfWarningSuboperations") or 0)
        failed = int(answer.get("NumberOfFailedSuboperations") or 0)
        sent = None if completed is None else int(completed) + warned
        told = "" if identifier is None else text_of(identifier, _FAILED_SOP_INSTANCE_UID_LIST)
        uids = tuple(uid for uid in told.split("\\") if is_uid(uid))
        return cls(status_in(answer), sent, failed, uids if len(uids) == failed else ())


class Received:
    """Hands what arrives on a C-GET association to the hub's intake: one transfer."""

    def __init__(self, intake: Intake, archive: str, config: DicomArchiveConfig) -> None:
        sender = Sender(
            source=archive,
            calling_ae_title=config.ae_title,
            called_ae_title=config.calling_ae_title,
            address=config.host,
        )
        self._reception = intake.open(sender)
        self._end = EndOfTransfer.ABORTED
        self.refused = ""
        """Why the first object that was not taken was not; no patient data."""

    def store(self, event: Any) -> int:
        """Handler of ``EVT_C_STORE``: the status of the sub-operation."""
        request = event.request
        received = ReceivedObject(
            sop_class_uid=str(request.AffectedSOPClassUID),
            sop_instance_uid=str(request.AffectedSOPInstanceUID),
            transfer_syntax_uid=str(event.context.transfer_syntax),
            data_set=request.DataSet.getbuffer(),
        )
        try:
            self._reception.store(received)
        except CaidxError as error:
            self.refused = self.refused or str(error)
            return status_of(error, received)
        return SUCCESS

    def finished(self) -> None:
        """The archive has sent all of it."""
        self._end = EndOfTransfer.RELEASED

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._reception.close(self._end)
