"""Storage Commitment Push Model SCP (PS3.4 annex J): what of these do you durably hold?

A question is recorded and acknowledged at once; the answer, an N-EVENT-REPORT, follows on the
same association while that is open, else on a new one to the peer's configured address. An
answer that could not be sent is tried again, after a restart too.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import structlog
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import build_role

from connectors.dicom.config import DicomPeerConfig, DicomSourceConfig
from connectors.dicom.normalized import (
    CommandField,
    EventReport,
    NormalizedRequest,
    NormalizedResponse,
    ReportOnAssociation,
)
from connectors.dicom.normalized_data import (
    INVALID_ARGUMENT,
    NO_SUCH_OPERATION,
    decoded,
    encoded,
    items,
    uid,
)
from connectors.dicom.requester import Peer, association, status_in
from connectors.dicom.services import STORAGE_COMMITMENT, RefusedError, reading
from hub.errors import CaidxError, RejectedError, TransientError
from hub.ports import CommitmentRequest, ReferencedInstance, SourceContext

log = structlog.get_logger(__name__)

_WELL_KNOWN_INSTANCE = "1.2.840.10008.1.20.1.1"
_SUCCESS = 0x0000
_NO_SUCH_INSTANCE = 0x0112
_NO_SUCH_ACTION = 0x0123
_ALL_STORED, _SOME_FAILED = 1, 2
"""Event types (PS3.4 J.3.3)."""
_WITHIN_SECONDS = 10.0
"""How long what was just received may take to be indexed."""
_RELEASE_SECONDS = 0.3
"""Most who ask release their association at once, and do not expect the answer on it."""
_FIRST_RETRY, _LONGEST_RETRY, _MOST_ATTEMPTS = 30.0, 1800.0, 24
"""Seconds; all in all about ten hours."""


class StorageCommitmentService:
    """Answers N-ACTION, and sends what follows; thread-safe."""

    def __init__(self, config: DicomSourceConfig, context: SourceContext) -> None:
        self._own_ae_title = config.ae_title
        self._source = context.name
        self._knowledge = context.knowledge
        self._peers: Mapping[str, DicomPeerConfig] = {p.ae_title: p for p in config.peers}

    # --- the question ------------------------------------------------------------------------

    def __call__(self, request: NormalizedRequest) -> NormalizedResponse:
        """Answer.

        Raises:
            RefusedError: with the status that PS3.4 J.3.2 gives.
            TransientError: it cannot be recorded now.
        """
        if request.command is not CommandField.N_ACTION:
            raise RefusedError(NO_SUCH_OPERATION, "only N-ACTION is offered")
        if request.action_type_id != 1:
            raise RefusedError(_NO_SUCH_ACTION, "the only action is 1, request commitment")
        if request.sop_instance_uid != _WELL_KNOWN_INSTANCE:
            raise RefusedError(_NO_SUCH_INSTANCE, "not the well-known SOP instance")
        question = self._question(request)
        self._knowledge.keep_commitment(question)

        def answer(report: ReportOnAssociation) -> None:
            time.sleep(_RELEASE_SECONDS)
            self._answer(question, request.transfer_syntax_uid, report)

        return NormalizedResponse(_SUCCESS, sop_instance_uid=_WELL_KNOWN_INSTANCE, after=answer)

    def _question(self, request: NormalizedRequest) -> CommitmentRequest:
        with reading():
            data_set = decoded(request)
            transaction = uid(data_set, "TransactionUID")
            references = tuple(
                ReferencedInstance(
                    uid(item, "ReferencedSOPClassUID"), uid(item, "ReferencedSOPInstanceUID")
                )
                for item in items(data_set, "ReferencedSOPSequence")
            )
        if not transaction or not references:
            raise RefusedError(INVALID_ARGUMENT, "TransactionUID or ReferencedSOPSequence missing")
        if not all(one.sop_class_uid and one.sop_instance_uid for one in references):
            raise RefusedError(INVALID_ARGUMENT, "a reference names no class or no instance")
        return CommitmentRequest(
            transaction_uid=transaction,
            calling_ae_title=request.calling_ae_title,
            source=self._source,
            references=references,
        )

    # --- the answer --------------------------------------------------------------------------

    def _answer(
        self,
        question: CommitmentRequest,
        transfer_syntax_uid: str,
        report: ReportOnAssociation | None,
    ) -> str:
        """Send the answer and record whether it arrived; why the peer is away, if it is. While
        the database is away nothing is recorded, and so the question stays due."""
        try:
            failed = self._knowledge.not_stored(question.references, _WITHIN_SECONDS)
            data_set = _report(question, failed)
            event_type = _SOME_FAILED if failed else _ALL_STORED
            try:
                self._send(question, event_type, data_set, transfer_syntax_uid, report)
            except CaidxError as error:
                self.put_off(question, str(error))
                return str(error) if isinstance(error, TransientError) else ""
            else:
                self._knowledge.commitment_reported(question, len(failed))
        except TransientError as error:
            log.warning("commitment.not-answered", source=self._source, error=error)
        return ""

    def _later(self, question: CommitmentRequest) -> float | None:
        """Seconds until the next attempt; None where none can help."""
        if question.calling_ae_title not in self._peers or question.attempts >= _MOST_ATTEMPTS:
            return None
        return float(min(_LONGEST_RETRY, _FIRST_RETRY * 2**question.attempts))

    def _send(
        self,
        question: CommitmentRequest,
        event_type: int,
        data_set: Dataset,
        transfer_syntax_uid: str,
        report: ReportOnAssociation | None,
    ) -> None:
        if report is not None:
            content = encoded(data_set, transfer_syntax_uid)
            event = EventReport(STORAGE_COMMITMENT, _WELL_KNOWN_INSTANCE, event_type, content)
            if report(event) == _SUCCESS:
                return
        peer = self._peers.get(question.calling_ae_title)
        if peer is None:
            raise TransientError(
                "the association was closed before the answer, and no peer of this AE title is "
                "configured"
            )
        self._send_anew(peer, event_type, data_set)

    def _send_anew(self, config: DicomPeerConfig, event_type: int, data_set: Dataset) -> None:
        """On an association of our own, on which we are the SCP (PS3.4 J.3.3.1)."""
        peer = Peer(
            host=config.host,
            port=config.port,
            called_ae_title=config.ae_title,
            calling_ae_title=self._own_ae_title,
            tls=config.tls,
        )
        contexts = [(STORAGE_COMMITMENT, (ExplicitVRLittleEndian, ImplicitVRLittleEndian))]
        roles = [build_role(STORAGE_COMMITMENT, scp_role=True)]
        with association(peer, contexts, roles=roles) as opened:
            if not any(context.as_scp for context in opened.accepted_contexts):
                raise TransientError(f"{peer} does not take reports of storage commitment")
            answer, _ = opened.send_n_event_report(
                data_set, event_type, STORAGE_COMMITMENT, _WELL_KNOWN_INSTANCE
            )
            status = status_in(answer)
        if status is None:
            raise TransientError(f"{peer} answered the report with nothing")
        if status != _SUCCESS:
            raise RejectedError(f"{peer} answered the report with 0x{status:04X}")

    def answer_again(self, question: CommitmentRequest) -> str:
        """Send an answer that could not be sent before; it is judged anew.

        Returns why the peer is away; empty where it is not.
        """
        return self._answer(question, ExplicitVRLittleEndian, None)

    def put_off(self, question: CommitmentRequest, reason: str) -> None:
        """Record that the answer could not be sent: later, or never where nothing can help.

        Raises:
            TransientError: the database is away.
        """
        self._knowledge.commitment_not_reported(question, reason, self._later(question))


def _report(question: CommitmentRequest, failed: Mapping[ReferencedInstance, int]) -> Dataset:
    """The Event Information (PS3.4 table J.3-2)."""
    data_set = Dataset()
    data_set.TransactionUID = question.transaction_uid
    stored = [one for one in question.references if one not in failed]
    if stored:
        data_set.ReferencedSOPSequence = [_reference(one) for one in stored]
    if failed:
        data_set.FailedSOPSequence = [_reference(one, reason) for one, reason in failed.items()]
    return data_set


def _reference(one: ReferencedInstance, failure: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = one.sop_class_uid
    item.ReferencedSOPInstanceUID = one.sop_instance_uid
    if failure is not None:
        item.FailureReason = failure
    return item


def service(config: DicomSourceConfig, context: SourceContext) -> StorageCommitmentService:
    """The handler (`connectors.dicom.services`)."""
    return StorageCommitmentService(config, context)
