"""Small objects as a source receives them, encoded by hand so that thousands cost nothing, and
an intake to receive them with."""

from __future__ import annotations

import json
import random
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from hub.ports import ReceivedObject, Sender
from hub.store.disk import Disk
from hub.store.reception import IntakeLimits, Rejection, SegmentIntake, StudyReception
from hub.store.segments.bell import Bell
from hub.store.segments.extents import ExtentPool
from hub.store.segments.format import RecordKind, payload_of, whole_records
from hub.store.segments.objects import SegmentStore
from tests.fakes import FrozenClock

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1.99"


def study_uid(number: int) -> str:
    """Study Instance UID of a made-up study."""
    return f"1.2.826.0.1.3680043.8.498.{number}"


def instance_uid(study: int, number: int) -> str:
    """SOP Instance UID of a made-up instance."""
    return f"{study_uid(study)}.1.{number}"


def received_object(
    study: int = 1,
    number: int = 1,
    *,
    pixel_bytes: int = 1000,
    patient_id: str = "P1",
    seed: int = 0,
    deflated: bool = False,
) -> ReceivedObject:
    """A CT image with random pixel data; the same arguments give the same bytes."""
    pixels = random.Random(f"{seed}/{study}/{number}").randbytes(pixel_bytes)
    data_set = b"".join(
        (
            _short(0x0008, 0x0016, b"UI", CT_IMAGE_STORAGE.encode()),
            _short(0x0008, 0x0018, b"UI", instance_uid(study, number).encode()),
            _short(0x0010, 0x0020, b"LO", patient_id.encode()),
            _short(0x0020, 0x000D, b"UI", study_uid(study).encode()),
            _short(0x0020, 0x000E, b"UI", f"{study_uid(study)}.1".encode()),
            struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, len(pixels)),
            pixels,
        )
    )
    syntax = EXPLICIT_VR_LITTLE_ENDIAN
    if deflated:
        deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        data_set = deflate.compress(data_set) + deflate.flush()
        syntax = DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN
    return ReceivedObject(CT_IMAGE_STORAGE, instance_uid(study, number), syntax, data_set)


def _short(group: int, element: int, vr: bytes, value: bytes) -> bytes:
    value += (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
    return struct.pack("<HH2sH", group, element, vr, len(value)) + value


SENDER = Sender("dicom", "SCANNER", "CAIDX", "127.0.0.1")


@dataclass
class Receiving:
    """A receiver's way to the disk, over a folder of its own; its pool has no thread."""

    root: Path
    ready_bytes: int = 0
    minimum_free_bytes: int = 0
    maximum_instance_bytes: int = 1 << 30
    disk: Disk = field(default_factory=Disk)
    clock: FrozenClock = field(default_factory=FrozenClock)
    rejections: list[Rejection] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pool = ExtentPool(self.root, self.ready_bytes, self.minimum_free_bytes, self.disk)
        self.bell = Bell(self.root / "bell")
        self.store = SegmentStore(self.root)
        limits = IntakeLimits(self.maximum_instance_bytes)
        self.intake = SegmentIntake(
            self.pool, self.bell, self.clock, "receiver-1", limits, self.rejections.append
        )

    def open(self, sender: Sender = SENDER) -> StudyReception:
        """A transfer."""
        return self.intake.open(sender)

    def files(self, study: int | None = None) -> list[bytes]:
        """Every Part 10 file that lies in the segments (of a study), in no particular order."""
        return [
            payload
            for segment in self.store.segments()
            for kind, payload in self.records(segment, study)
            if kind is RecordKind.OBJECT
        ]

    def ends(self, study: int | None = None) -> list[str]:
        """What the segments (of a study) say of their end, sorted; ``none`` where nothing."""
        ends = []
        for segment in self.store.segments():
            records = self.records(segment, study)
            if records:
                kind, payload = records[-1]
                ends.append(json.loads(payload)["end"] if kind is RecordKind.END else "none")
        return sorted(ends)

    def records(self, segment: str, study: int | None = None) -> list[tuple[RecordKind, bytes]]:
        """(Kind, payload) of every record of a segment, if it is of that study."""
        with self.store.open_log(segment) as log:
            assert log.header is not None
            if study is not None and log.header.study_instance_uid != study_uid(study):
                return []
            found = []
            for record, whole in whole_records(log.log):
                assert whole
                payload = payload_of(log.log, record)
                assert payload is not None
                found.append((record.kind, bytes(payload)))
                payload.release()
            return found
