"""A Storage SCU: delivers results by C-STORE (PS3.4 annex B)."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass

import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined, unused-ignore]

from connectors.dicom.config import DicomDestinationConfig
from connectors.dicom.requester import Peer, accepted, association, status_in
from connectors.dicom.status import SUCCESS, Verdict, verdict_of
from hub.domain.delivery import Document, Receipt
from hub.domain.study import Location
from hub.errors import RejectedError, TransientError
from hub.formats.dicom_header import (
    HeaderScan,
    instance_from_header,
    scan_header,
    split_part10,
)
from hub.ports import DestinationContext


@dataclass(frozen=True, slots=True)
class DicomDestination:
    """`hub.ports.Destination` for a PACS. One association per document.

    C-STORE has no idempotency key of its own: a document's SOP Instance UID never changes,
    so a PACS keeps it once however often it arrives.
    """

    config: DicomDestinationConfig

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

    def deliver(self, document: Document, idempotency_key: str) -> Receipt:  # noqa: ARG002 - see above
        """Store one document; returns when the destination has confirmed it."""
        if document.kind not in self.config.documents:
            raise RejectedError(f"{self._peer} is not configured for {document.kind} documents")
        scan = _checked(document)
        data_set = _decoded(document)
        contexts = [(scan.sop_class_uid, _transfer_syntaxes(scan))]
        with association(self._peer, contexts) as opened:
            if not accepted(opened, scan.sop_class_uid):
                raise RejectedError(f"{self._peer} does not accept SOP class {scan.sop_class_uid}")
            status = status_in(opened.send_c_store(data_set))
        if status is None:
            raise TransientError(f"{self._peer} did not answer the C-STORE")
        return self._receipt(status)

    def check(self) -> str:
        """C-ECHO."""
        started = time.monotonic()
        with association(self._peer, [(Verification, [ImplicitVRLittleEndian])]) as opened:
            status = status_in(opened.send_c_echo())
        if status != SUCCESS:
            answer = "nothing" if status is None else f"0x{status:04X}"
            raise TransientError(f"{self._peer} answered C-ECHO with {answer}")
        return f"{self._peer} answered C-ECHO in {1000 * (time.monotonic() - started):.0f} ms"

    def close(self) -> None:
        """Nothing stays open between deliveries."""

    def _receipt(self, status: int) -> Receipt:
        verdict = verdict_of(status)
        if verdict is Verdict.TRY_AGAIN:
            raise TransientError(f"{self._peer} answered C-STORE with 0x{status:04X}")
        if verdict is Verdict.REFUSED:
            raise RejectedError(f"{self._peer} refused: C-STORE 0x{status:04X}")
        note = " (warning)" if verdict is Verdict.STORED_WITH_WARNING else ""
        return Receipt(f"C-STORE 0x{status:04X}{note}")


def _checked(document: Document) -> HeaderScan:
    """The document's header; it must belong to the study and patient that it is sent for."""
    transfer_syntax_uid, data_set = split_part10(document.content)
    scan = scan_header(data_set, transfer_syntax_uid)
    instance = instance_from_header(scan, sha256="", location=Location("", 0, 0))
    identity = document.identity
    pairs = {
        "SOPInstanceUID": (document.document_id, instance.sop_instance_uid),
        "StudyInstanceUID": (identity.study_instance_uid, instance.study_instance_uid),
        "PatientID": (identity.patient.patient_id, instance.patient.patient_id),
    }
    wrong = [name for name, (meant, found) in pairs.items() if meant != found]
    if wrong:
        raise RejectedError(f"the document's own {', '.join(wrong)} is not that of its result")
    return scan


def _decoded(document: Document) -> pydicom.Dataset:
    try:
        return pydicom.dcmread(io.BytesIO(document.content))
    except InvalidDicomError as error:
        raise RejectedError("the document is not a DICOM file") from error


def _transfer_syntaxes(scan: HeaderScan) -> list[str]:
    """The document's own; beside a native one also the default, which everybody understands
    (PS3.5 10.1)."""
    if scan.transfer_syntax_uid == ExplicitVRLittleEndian:
        return [scan.transfer_syntax_uid, ImplicitVRLittleEndian]
    return [scan.transfer_syntax_uid]


def build_destination(
    config: DicomDestinationConfig,
    context: DestinationContext,  # noqa: ARG001 - the port's signature
) -> DicomDestination:
    """`hub.ports.Connector.build_destination`."""
    return DicomDestination(config)
