"""What the tests of both kinds of archive share: studies to put in, and an intake that keeps."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, StoragePresentationContexts, evt

from hub.errors import CaidxError
from hub.ports import EndOfTransfer, ReceivedObject, Sender

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
STUDY, OTHER_STUDY = "1.2.826.0.1.3680043.8.498.11", "1.2.826.0.1.3680043.8.498.12"
SERIES, SECOND_SERIES = f"{STUDY}.1", f"{STUDY}.2"
PATIENT_ID = "CANARY-11"


class WallClock:
    """hub.ports.Clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)


@dataclass
class KeptReception:
    """hub.ports.Reception, and its Spool."""

    intake: KeepingIntake
    sender: Sender
    stored: list[tuple[ReceivedObject, bytes]] = field(default_factory=list)
    ends: list[EndOfTransfer] = field(default_factory=list)

    def store(self, received: ReceivedObject) -> None:
        error = self.intake.errors.get(received.sop_instance_uid)
        if error is not None:
            raise error
        self.stored.append((received, bytes(received.data_set)))

    def close(self, end: EndOfTransfer) -> None:
        self.ends.append(end)


@dataclass
class KeepingIntake:
    """hub.ports.Intake: keeps what it was handed."""

    errors: dict[str, CaidxError] = field(default_factory=dict)
    receptions: list[KeptReception] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def open(self, sender: Sender) -> KeptReception:
        reception = KeptReception(self, sender)
        with self._lock:
            self.receptions.append(reception)
        return reception

    @property
    def uids(self) -> set[str]:
        return {item.sop_instance_uid for r in self.receptions for item, _ in r.stored}

    @property
    def data_sets(self) -> dict[str, bytes]:
        return {item.sop_instance_uid: raw for r in self.receptions for item, raw in r.stored}

    @property
    def ends(self) -> list[EndOfTransfer]:
        return [end for reception in self.receptions for end in reception.ends]


def ct_image(uid: str, study: str, series: str, number: int, **elements: Any) -> Dataset:
    """A small CT image of an invented patient."""
    image = pydicom.Dataset()
    image.SOPClassUID, image.SOPInstanceUID = CT_IMAGE_STORAGE, uid
    image.StudyInstanceUID, image.SeriesInstanceUID = study, series
    image.PatientID, image.PatientName = PATIENT_ID, "Canary^Yellow"
    image.PatientBirthDate, image.PatientSex = "19580217", "M"
    image.StudyDate, image.StudyTime, image.StudyID = "20250314", "082501", "11"
    image.StudyDescription, image.SeriesDescription = "CT Thorax", "axial"
    image.AccessionNumber, image.Modality, image.BodyPartExamined = "A-11", "CT", "CHEST"
    image.SeriesNumber, image.InstanceNumber = 1, number
    image.Rows = image.Columns = 4
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit, image.PixelRepresentation = 15, 0
    image.PixelData = bytes(range(32))
    for keyword, value in elements.items():
        setattr(image, keyword, value)
    return image


def write_studies(folder: Path) -> list[Path]:
    """Two series of 3 and 2 images of STUDY, and one image of OTHER_STUDY of somebody else."""
    images = [
        *(ct_image(f"{SERIES}.{n}", STUDY, SERIES, n) for n in (1, 2, 3)),
        *(ct_image(f"{SECOND_SERIES}.{n}", STUDY, SECOND_SERIES, n) for n in (1, 2)),
        ct_image(f"{OTHER_STUDY}.1.1", OTHER_STUDY, f"{OTHER_STUDY}.1", 1, PatientID="CANARY-12"),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    return [write_image(folder, image) for image in images]


def write_image(folder: Path, image: Dataset, syntax: str = ExplicitVRLittleEndian) -> Path:
    """Write a Part 10 file."""
    image.file_meta = pydicom.dataset.FileMetaDataset()
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.file_meta.TransferSyntaxUID = syntax
    path = folder / f"{image.SOPInstanceUID}.dcm"
    pydicom.dcmwrite(path, image, enforce_file_format=True)
    return path


@contextmanager
def storage_scp(intake: KeepingIntake) -> Iterator[int]:
    """A Storage SCP in front of an intake, for C-MOVE; gives its port."""

    def store(event: Any) -> int:
        reception = intake.open(Sender("dicom", event.assoc.requestor.ae_title))
        request = event.request
        reception.store(
            ReceivedObject(
                request.AffectedSOPClassUID,
                request.AffectedSOPInstanceUID,
                event.context.transfer_syntax,
                request.DataSet.getvalue(),
            )
        )
        return 0x0000

    ae = AE(ae_title="CAIDX")
    for context in StoragePresentationContexts:
        ae.add_supported_context(context.abstract_syntax, [ExplicitVRLittleEndian])
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    try:
        yield server.socket.getsockname()[1]
    finally:
        server.shutdown()
