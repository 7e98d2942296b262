"""A Storage SCU: delivers results by C-STORE (PS3.4 annex B), and asks whether they are kept."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined, unused-ignore]

from connectors.dicom.config import DicomDestinationConfig
from connectors.dicom.confirmation import (
    CommitmentQuestion,
    answer_of,
    awaiting_query,
    context_to_confirm,
    found_by_query,
    is_query,
    is_still_awaited,
)
from connectors.dicom.requester import Peer, accepted, association, status_in
from connectors.dicom.status import SUCCESS, Verdict, verdict_of
from connectors.dicom.store_request import store
from connectors.dicom.transcoding import proposals, transcoded
from hub.domain.delivery import Document, Receipt
from hub.errors import RejectedError, TransientError
from hub.formats.dicom.header import HeaderScan, split_part10
from hub.formats.dicom_objects.last_look import checked_header
from hub.ports import DestinationContext
from hub.transport.tls import must_be_usable


@dataclass(frozen=True, slots=True)
class DicomDestination:
    """`hub.ports.Destination` and `hub.ports.Confirming` for a PACS. One association per document.

    C-STORE has no idempotency key of its own: a document's SOP Instance UID never changes,
    so a PACS keeps it once however often it arrives.
    """

    config: DicomDestinationConfig
    context: DestinationContext

    @property
    def _peer(self) -> Peer:
        config = self.config
        return Peer(
            host=config.host,
            port=config.port,
            called_ae_title=config.ae_title,
            calling_ae_title=config.calling_ae_title,
            connect_timeout=config.connect_timeout,
            response_timeout=config.response_timeout,
            maximum_pdu_length=config.maximum_pdu_length,
            tls=config.tls,
        )

    # --- delivery ----------------------------------------------------------------------------

    def deliver(self, document: Document, idempotency_key: str) -> Receipt:  # noqa: ARG002 - see above
        """Store one document; returns when the destination has taken it (see hub.ports)."""
        if document.kind not in self.config.documents:
            raise RejectedError(f"{self._peer} is not configured for {document.kind} documents")
        scan = checked_header(document)
        contexts = [
            (scan.sop_class_uid, [syntax]) for syntax in proposals(scan.transfer_syntax_uid)
        ]
        if self.config.confirm == "commitment":
            return self._store_and_ask(document, scan, contexts)
        with association(self._peer, contexts) as opened:
            receipt = self._stored(opened, document, scan)
        if self.config.confirm == "query":
            return Receipt(receipt.detail, awaiting_query(self.context.clock.now()))
        return receipt

    def _store_and_ask(
        self, document: Document, scan: HeaderScan, contexts: list[tuple[str, list[str]]]
    ) -> Receipt:
        question = CommitmentQuestion(scan.sop_class_uid, scan.sop_instance_uid)
        with association(
            self._peer, [*contexts, question.context], handlers=question.handlers
        ) as opened:
            receipt = self._stored(opened, document, scan)
            question.ask(opened, self._peer)
            report = question.answer(opened, self.config.commitment_wait)
        if report is None:
            return Receipt(receipt.detail, question.transaction_uid)
        try:
            return answer_of(report, document.document_id)
        except RejectedError as error:
            # It may well keep the object the next time.
            raise TransientError(f"{receipt.detail}, but {error}") from error

    def _stored(self, opened: Any, document: Document, scan: HeaderScan) -> Receipt:
        agreed = {
            str(item.transfer_syntax[0]): int(item.context_id)
            for item in opened.accepted_contexts
            if item.abstract_syntax == scan.sop_class_uid
        }
        syntax = next((s for s in proposals(scan.transfer_syntax_uid) if s in agreed), None)
        if syntax is None:
            raise RejectedError(f"{self._peer} does not accept SOP class {scan.sop_class_uid}")
        if syntax == scan.transfer_syntax_uid:
            data_set, note = split_part10(document.content)[1], ""
        else:
            data_set, note = transcoded(document.content, syntax), f", transcoded to {syntax}"
        status = store(opened, agreed[syntax], scan, data_set)
        if status is None:
            raise TransientError(f"{self._peer} did not answer the C-STORE")
        return self._receipt(status, note)

    def _receipt(self, status: int, note: str) -> Receipt:
        verdict = verdict_of(status)
        if verdict is Verdict.TRY_AGAIN:
            raise TransientError(f"{self._peer} answered C-STORE with 0x{status:04X}")
        if verdict is Verdict.REFUSED:
            raise RejectedError(f"{self._peer} refused: C-STORE 0x{status:04X}")
        warning = " (warning)" if verdict is Verdict.STORED_WITH_WARNING else ""
        return Receipt(f"C-STORE 0x{status:04X}{warning}{note}")

    # --- confirmation ------------------------------------------------------------------------

    def confirm(self, document: Document, awaiting: str) -> Receipt:
        """Ask whether the destination keeps a document (see hub.ports.Confirming)."""
        if is_query(awaiting):
            if found_by_query(self._peer, checked_header(document)):
                return Receipt("found by C-FIND")
            if is_still_awaited(awaiting, self.context.clock.now(), self.config.confirm_within):
                raise TransientError(f"{self._peer} does not show the object yet")
            raise RejectedError(f"{self._peer} does not have the object: a C-FIND does not find it")
        report = self.context.confirmations.commitment_report(awaiting)
        if report is None:
            raise TransientError(f"{self._peer} has not answered the storage commitment yet")
        return answer_of(report, document.document_id)

    # --- the rest ----------------------------------------------------------------------------

    def check(self) -> str:
        """C-ECHO, and whether what ``confirm`` needs is offered."""
        started = time.monotonic()
        needed = context_to_confirm(self.config.confirm)
        echo = (Verification, [ImplicitVRLittleEndian])
        with association(self._peer, [echo, *needed]) as opened:
            status = status_in(opened.send_c_echo())
            missing = [uid for uid, _ in needed if not accepted(opened, uid)]
        if status != SUCCESS:
            answer = "nothing" if status is None else f"0x{status:04X}"
            raise TransientError(f"{self._peer} answered C-ECHO with {answer}")
        if missing:
            raise TransientError(f"{self._peer} offers no {self.config.confirm} to confirm by")
        return f"{self._peer} answered C-ECHO in {1000 * (time.monotonic() - started):.0f} ms"

    def close(self) -> None:
        """Nothing stays open between deliveries."""


def build_destination(
    config: DicomDestinationConfig, context: DestinationContext
) -> DicomDestination:
    """`hub.ports.Connector.build_destination`.

    Raises:
        ConfigError: the certificates cannot be used.
    """
    must_be_usable(config.tls, f"destinations.{context.name}.tls")
    return DicomDestination(config, context)
