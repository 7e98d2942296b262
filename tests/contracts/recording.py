"""An intake that remembers what it was handed, and small DICOM objects to hand it."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pydicom
from pydicom.uid import ExplicitVRLittleEndian

from hub.domain.delivery import Document, DocumentKind
from hub.domain.identity import PatientIdentity, StudyIdentity
from hub.domain.patient import PatientChange
from hub.errors import CaidxError
from hub.ports import (
    Buffer,
    CommitmentReport,
    EndOfTransfer,
    Expectation,
    ReceivedObject,
    ReferencedInstance,
    Sender,
    SourceContext,
)

STUDY = "1.2.826.0.1.3680043.8.498.7"
PATIENT_ID = "CANARY-7"
ENCAPSULATED_PDF = "1.2.840.10008.5.1.4.1.1.104.1"


class WallClock:
    """hub.ports.Clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)


@dataclass
class RecordedReception:
    """hub.ports.Reception: one transfer as the source told it."""

    intake: RecordingIntake
    sender: Sender
    stored: list[ReceivedObject] = field(default_factory=list)
    ends: list[EndOfTransfer] = field(default_factory=list)

    def store(self, received: ReceivedObject) -> None:
        self.intake.before_store(received)
        error = self.intake.errors.get(received.sop_instance_uid)
        if error is not None:
            raise error
        self.stored.append(replace(received, data_set=bytes(received.data_set)))

    def spool(
        self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str
    ) -> RecordedSpool:
        spool = RecordedSpool(
            self, ReceivedObject(sop_class_uid, sop_instance_uid, transfer_syntax_uid, b"")
        )
        self.intake.spools.append(spool)
        return spool

    def close(self, end: EndOfTransfer) -> None:
        self.ends.append(end)


@dataclass
class RecordedSpool:
    """hub.ports.Spool."""

    reception: RecordedReception
    named: ReceivedObject
    chunks: list[bytes] = field(default_factory=list)
    state: str = "open"

    def write(self, chunk: Buffer) -> None:
        error = self.reception.intake.spool_errors.get(self.named.sop_instance_uid)
        if error is not None:
            raise error
        self.chunks.append(bytes(chunk))

    def store(self) -> None:
        self.reception.store(replace(self.named, data_set=b"".join(self.chunks)))
        self.state = "stored"

    def discard(self) -> None:
        if self.state == "open":
            self.state = "discarded"


class NoKnowledge:
    """hub.ports.Knowledge of a hub that has never heard of anything."""

    def expect(self, expectation: Expectation) -> None:
        """Nobody waits."""

    def not_stored(
        self, wanted: Sequence[ReferencedInstance], within: float
    ) -> Mapping[ReferencedInstance, int]:
        return dict.fromkeys(wanted, 0x0112)

    def patient_changed(self, change: PatientChange) -> None:
        """Nobody is concerned."""

    def commitment_answered(self, report: CommitmentReport) -> None:
        """Nobody asked."""


@dataclass
class RecordingIntake:
    """hub.ports.Intake."""

    errors: dict[str, CaidxError] = field(default_factory=dict)
    """What to raise, by SOP Instance UID."""
    spool_errors: dict[str, CaidxError] = field(default_factory=dict)
    """What to raise while a large object is written, by SOP Instance UID."""
    spools: list[RecordedSpool] = field(default_factory=list)
    before_store: Callable[[ReceivedObject], None] = lambda received: None
    receptions: list[RecordedReception] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def open(self, sender: Sender) -> RecordedReception:
        reception = RecordedReception(self, sender)
        with self._lock:
            self.receptions.append(reception)
        return reception

    @property
    def stored(self) -> list[ReceivedObject]:
        return [item for reception in self.receptions for item in reception.stored]

    @property
    def ends(self) -> list[EndOfTransfer]:
        return [end for reception in self.receptions for end in reception.ends]

    def context(self, name: str = "source") -> SourceContext:
        return SourceContext(name=name, intake=self, clock=WallClock(), knowledge=NoKnowledge())


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)


def dicom_file(sop_instance_uid: str, *, patient_id: str = PATIENT_ID, padding: int = 0) -> bytes:
    """A small valid Part 10 file (Encapsulated PDF, Explicit VR Little Endian)."""
    dataset = pydicom.Dataset()
    dataset.SOPClassUID = ENCAPSULATED_PDF
    dataset.SOPInstanceUID = sop_instance_uid
    dataset.StudyInstanceUID = STUDY
    dataset.SeriesInstanceUID = f"{STUDY}.1"
    dataset.Modality = "DOC"
    dataset.PatientName = "Canary^Yellow"
    dataset.PatientID = patient_id
    dataset.EncapsulatedDocument = b"%PDF" + bytes(padding)
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = ENCAPSULATED_PDF
    dataset.file_meta.MediaStorageSOPInstanceUID = sop_instance_uid
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def write_files(folder: Path, uids: list[str]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{uid}.dcm" for uid in uids]
    for path, uid in zip(paths, uids, strict=True):
        path.write_bytes(dicom_file(uid))
    return paths


def document(
    sop_instance_uid: str = "2.25.1",
    kind: DocumentKind = DocumentKind.ENCAPSULATED_PDF,
    *,
    padding: int = 0,
) -> Document:
    """A document that any destination for DICOM objects can take."""
    return Document(
        document_id=sop_instance_uid,
        kind=kind,
        request_id="5f" * 16,
        identity=StudyIdentity(STUDY, PatientIdentity(PATIENT_ID)),
        content=dicom_file(sop_instance_uid, padding=padding),
    )
