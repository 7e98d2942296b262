"""A DICOMweb source on a real HTTP server, over an intake and holdings that live in memory."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn

from connectors.dicomweb import CONNECTOR
from connectors.dicomweb.config import DicomWebSourceConfig
from hub.domain.study import Instance, Location
from hub.errors import IntegrityError
from hub.formats.dicom.header import instance_from_header, part10, scan_header
from hub.ports import RemoteStudy, StudyQuery
from hub.web.deadlines import BodyDeadlines
from hub.web.protocol import PatientProtocol
from tests.contracts.recording import RecordingIntake, eventually
from tests.peers import free_port


@dataclass
class MemoryHoldings:
    """hub.ports.Holdings of what an intake has recorded."""

    intake: RecordingIntake
    unreadable: bool = False

    def find_studies(self, query: StudyQuery, limit: int, offset: int = 0) -> Sequence[RemoteStudy]:
        uids = sorted({i.study_instance_uid for i in self._all()})
        wanted = [u for u in uids if query.study_instance_uid in {"", u}]
        return [self._study(uid) for uid in wanted[offset : offset + limit]]

    def instances(
        self, study_instance_uid: str, series_instance_uid: str = "", sop_instance_uid: str = ""
    ) -> Sequence[Instance]:
        found = [
            i
            for i in self._all()
            if i.study_instance_uid == study_instance_uid
            and series_instance_uid in {"", i.series_instance_uid}
            and sop_instance_uid in {"", i.sop_instance_uid}
        ]
        return sorted(found, key=lambda i: (i.series_instance_uid, i.sop_instance_uid))

    def read(self, location: Location) -> bytes:
        if self.unreadable:
            raise IntegrityError("the segment is gone")
        return part10(self.intake.stored[location.offset])

    def _study(self, uid: str) -> RemoteStudy:
        held = self.instances(uid)
        first, texts = held[0], held[0].attributes
        return RemoteStudy(
            study_instance_uid=uid,
            patient_id=first.patient.patient_id,
            patient_name=first.patient.patient_name,
            patient_birth_date=first.patient.patient_birth_date,
            patient_sex=first.patient.patient_sex,
            accession_number=first.accession_number,
            study_date=texts.get("study_date", ""),
            study_time=texts.get("study_time", ""),
            study_description=texts.get("study_description", ""),
            study_id=texts.get("study_id", ""),
            modalities_in_study=tuple(sorted({i.modality for i in held})),
            number_of_instances=len(held),
            number_of_series=len({i.series_instance_uid for i in held}),
        )

    def _all(self) -> Iterator[Instance]:
        for number, received in enumerate(self.intake.stored):
            scan = scan_header(received.data_set, received.transfer_syntax_uid)
            digest = hashlib.sha256(received.data_set).hexdigest()
            location = Location("memory", number, len(received.data_set))
            yield instance_from_header(scan, sha256=digest, location=location)


@dataclass
class DicomWebServer:
    """A running server."""

    url: str
    port: int
    intake: RecordingIntake
    holdings: MemoryHoldings
    application: Any = field(repr=False)


@contextmanager
def dicomweb_server(
    *,
    deadlines: Mapping[str, float] | None = None,
    protocol: type[PatientProtocol] = PatientProtocol,
    **options: Any,
) -> Iterator[DicomWebServer]:
    """Serve on a free port of the loopback interface, in a thread of this process."""
    intake = RecordingIntake()
    holdings = MemoryHoldings(intake)
    assert CONNECTOR.build_endpoint is not None
    config = DicomWebSourceConfig(**options)
    endpoint = CONNECTOR.build_endpoint(config, intake.context("web"), holdings)
    with serving(BodyDeadlines(endpoint.application, **(deadlines or {})), protocol) as port:
        url = f"http://127.0.0.1:{port}{endpoint.path}"
        yield DicomWebServer(url, port, intake, holdings, endpoint.application)


@contextmanager
def serving(application: Any, protocol: type[PatientProtocol] = PatientProtocol) -> Iterator[int]:
    """Any ASGI application on a port, which is given."""
    port = free_port()
    config = uvicorn.Config(
        application, host="127.0.0.1", port=port, http=protocol, ws="none", log_config=None,
        lifespan="off", access_log=False, timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        eventually(lambda: server.started)
        yield port
    finally:
        server.should_exit = True
        thread.join(10)
