"""MPPS, availability notification and storage commitment as peers see them: pynetdicom, Orthanc.

The source is the real one, over the real store; only the rest of the hub is not there.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    CTImageStorage,
    InstanceAvailabilityNotification,
    ModalityPerformedProcedureStep,
    StorageCommitmentPushModel,
)

from connectors.dicom import services
from connectors.dicom.config import DicomPeerConfig, DicomSourceConfig
from connectors.dicom.source import build_source
from hub.ports import SourceContext
from hub.store.database import migrate, open_database, sqlite_url
from hub.store.knowledge import StoreKnowledge
from hub.store.schema import storage_commitments, study_revisions
from tests.integration.archives import SERIES, STUDY, WallClock, write_studies
from tests.peers import free_port
from tests.peers.dcmtk import storescu
from tests.peers.orthanc import Orthanc, orthanc
from tests.stored import StoreBench

__all__ = ["orthanc"]
WELL_KNOWN = "1.2.840.10008.1.20.1.1"
STEP = "1.2.826.0.1.3680043.8.498.99"


class Hub:
    """A DICOM source over a store that is indexed as objects come."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.database = open_database(sqlite_url(folder / "hub.sqlite"))
        migrate(self.database)
        self.store = StoreBench(self.database, folder / "objects", WallClock())
        self.knowledge = StoreKnowledge(self.database, self.store.objects, WallClock())
        self._stopping = threading.Event()
        self._indexing = threading.Thread(target=self._index)
        self._indexing.start()

    def _index(self) -> None:
        while not self._stopping.is_set():
            self.store.indexer.run_once(0.05)

    @contextmanager
    def listening(self, **options: Any) -> Iterator[None]:
        config = DicomSourceConfig(port=self.port, services=ALL_SERVICES, **options)
        context = SourceContext("dicom", self.store.intake, WallClock(), self.knowledge)
        source = build_source(config, context)
        source.start()
        try:
            yield
        finally:
            source.stop()

    def send(self, *paths: Path) -> None:
        storescu(list(paths), self.port)

    def revision(self) -> sa.Row[tuple[object, ...]] | None:
        with self.database.read() as connection:
            query = sa.select(study_revisions).where(study_revisions.c.study_instance_uid == STUDY)
            return connection.execute(query).one_or_none()

    def commitment_states(self) -> list[str]:
        with self.database.read() as connection:
            return list(connection.execute(sa.select(storage_commitments.c.state)).scalars())

    def close(self) -> None:
        self._stopping.set()
        self._indexing.join()
        self.store.close()
        self.database.close()


ALL_SERVICES = ("storage-commitment", "procedure-step", "availability-notification")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    made = Hub(tmp_path)
    yield made
    made.close()


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return [path for path in write_studies(tmp_path / "files") if path.name.startswith(STUDY)]


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


@contextmanager
def associated(hub: Hub, sop_class: str, **options: Any) -> Iterator[Any]:
    ae = AE(ae_title="MODALITY")
    ae.add_requested_context(sop_class)
    opened = ae.associate("127.0.0.1", hub.port, ae_title="CAIDX", **options)
    assert opened.is_established
    try:
        yield opened
    finally:
        if opened.is_established:
            opened.release()


def reference(uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CTImageStorage, uid
    return item


def series_of(keyword: str, *uids: str) -> Dataset:
    item = Dataset()
    item.SeriesInstanceUID = SERIES
    setattr(item, keyword, [reference(uid) for uid in uids])
    return item


# --- how many images a study has -------------------------------------------------------------


@pytest.mark.peers
def test_a_modality_tells_what_it_made_and_the_study_is_complete_with_it(
    hub: Hub, files: list[Path]
) -> None:
    begun, done = Dataset(), Dataset()
    begun.PerformedProcedureStepStatus = "IN PROGRESS"
    scheduled = Dataset()
    scheduled.StudyInstanceUID = STUDY
    begun.ScheduledStepAttributesSequence = [scheduled]
    done.PerformedProcedureStepStatus = "COMPLETED"
    done.PerformedSeriesSequence = [
        series_of("ReferencedImageSequence", *(path.stem for path in files))
    ]
    with hub.listening():
        with associated(hub, ModalityPerformedProcedureStep) as opened:
            status, _ = opened.send_n_create(begun, ModalityPerformedProcedureStep, STEP)
            assert status.Status == 0x0000
            hub.send(*files[:4])
            status, _ = opened.send_n_set(done, ModalityPerformedProcedureStep, STEP)
            assert status.Status == 0x0000
            status, _ = opened.send_n_set(done, ModalityPerformedProcedureStep, STEP)
            assert status.Status == 0x0110
        eventually(lambda: (row := hub.revision()) is not None and row.expected_instances == 5)
        row = hub.revision()
        assert row is not None
        assert row.evidence != "expected-count"
        hub.send(files[4])
        eventually(lambda: (row := hub.revision()) is not None and row.evidence == "expected-count")
    row = hub.revision()
    assert row is not None
    assert row.due_at <= datetime.now(UTC)


@pytest.mark.peers
def test_a_notification_of_availability_completes_a_study(hub: Hub, files: list[Path]) -> None:
    told = Dataset()
    told.StudyInstanceUID = STUDY
    told.ReferencedSeriesSequence = [
        series_of("ReferencedSOPSequence", *(path.stem for path in files))
    ]
    with hub.listening():
        with associated(hub, InstanceAvailabilityNotification) as opened:
            status, _ = opened.send_n_create(told, InstanceAvailabilityNotification, STEP)
            assert status.Status == 0x0000
        hub.send(*files)
        eventually(lambda: (row := hub.revision()) is not None and row.evidence == "expected-count")


# --- storage commitment ----------------------------------------------------------------------


def question(*uids: str) -> Dataset:
    asked = Dataset()
    asked.TransactionUID = "1.2.826.0.1.3680043.8.498.77"
    asked.ReferencedSOPSequence = [reference(uid) for uid in uids]
    return asked


Reports = queue.Queue[tuple[int, Dataset]]


def into(reports: Reports) -> tuple[Any, Callable[[Any], Any]]:
    def handle(event: Any) -> tuple[int, None]:
        reports.put((event.request.EventTypeID, event.event_information))
        return 0x0000, None

    return (evt.EVT_N_EVENT_REPORT, handle)


def ask(hub: Hub, *uids: str, reports: Reports | None = None, wait: float = 15.0) -> Any:
    """Ask for commitment; with ``reports`` the association stays open for the answer."""
    handlers = [] if reports is None else [into(reports)]
    with associated(hub, StorageCommitmentPushModel, evt_handlers=handlers) as opened:
        status, _ = opened.send_n_action(question(*uids), 1, StorageCommitmentPushModel, WELL_KNOWN)
        assert status.Status == 0x0000
        return None if reports is None else reports.get(timeout=wait)


@pytest.mark.peers
def test_what_is_stored_is_confirmed_on_the_same_association(hub: Hub, files: list[Path]) -> None:
    with hub.listening():
        hub.send(*files)
        event_type, told = ask(hub, *(path.stem for path in files), reports=queue.Queue())
        eventually(lambda: hub.commitment_states() == ["reported"])
    assert event_type == 1
    assert len(told.ReferencedSOPSequence) == 5
    assert "FailedSOPSequence" not in told


@pytest.mark.peers
def test_what_is_not_stored_is_never_confirmed(
    hub: Hub, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connectors.dicom.storage_commitment._WITHIN_SECONDS", 0.5)
    with hub.listening():
        hub.send(*files[:2])
        event_type, told = ask(
            hub, files[0].stem, "1.2.3.4.5", files[2].stem, reports=queue.Queue()
        )
    failed = {i.ReferencedSOPInstanceUID: i.FailureReason for i in told.FailedSOPSequence}
    assert (event_type, failed) == (2, {"1.2.3.4.5": 0x0112, files[2].stem: 0x0112})
    assert [i.ReferencedSOPInstanceUID for i in told.ReferencedSOPSequence] == [files[0].stem]


@contextmanager
def reported_to(reports: Reports, port: int) -> Iterator[None]:
    """A modality that takes reports on associations of the archive's."""
    ae = AE(ae_title="MODALITY")
    ae.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=[into(reports)])
    try:
        yield
    finally:
        server.shutdown()


@pytest.mark.peers
def test_after_the_association_the_answer_comes_on_a_new_one(hub: Hub, files: list[Path]) -> None:
    reports, port = Reports(), free_port()
    peer = DicomPeerConfig(ae_title="MODALITY", host="127.0.0.1", port=port)
    with reported_to(reports, port), hub.listening(peers=(peer,)):
        hub.send(*files)
        ask(hub, *(path.stem for path in files))
        event_type, told = reports.get(timeout=20)
        eventually(lambda: hub.commitment_states() == ["reported"])
    assert (event_type, len(told.ReferencedSOPSequence)) == (1, 5)


@pytest.mark.peers
def test_an_answer_that_could_not_be_sent_is_sent_after_a_restart(
    hub: Hub, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr("connectors.dicom.storage_commitment._FIRST_RETRY", 0.5)
    reports, port = Reports(), free_port()
    peer = DicomPeerConfig(ae_title="MODALITY", host="127.0.0.1", port=port)
    with hub.listening(peers=(peer,)):
        hub.send(*files)
        ask(hub, files[0].stem)

        def failed_once() -> bool:
            with hub.database.read() as connection:
                return connection.execute(sa.select(storage_commitments.c.attempts)).scalar() == 1

        eventually(failed_once)
    with reported_to(reports, port), hub.listening(peers=(peer,)):
        event_type, _ = reports.get(timeout=20)
        eventually(lambda: hub.commitment_states() == ["reported"])
    assert event_type == 1


@pytest.mark.peers
def test_orthanc_is_given_the_commitment_it_asks_for(
    hub: Hub, files: list[Path], orthanc: Orthanc
) -> None:
    storescu(files, orthanc.dicom_port, aec=orthanc.ae_title)
    modality = {"AET": "CAIDX", "Host": "127.0.0.1", "Port": hub.port}
    httpx.put(f"{orthanc.http_url}/modalities/hub", json=modality).raise_for_status()
    peer = DicomPeerConfig(ae_title=orthanc.ae_title, host="127.0.0.1", port=orthanc.dicom_port)
    with hub.listening(peers=(peer,)):
        url = f"{orthanc.http_url}/modalities/hub"
        study = httpx.get(f"{orthanc.http_url}/studies").json()
        httpx.post(f"{url}/store", json={"Resources": study}, timeout=60).raise_for_status()
        asked = httpx.post(f"{url}/storage-commitment", json={"Resources": study}, timeout=60)
        path = asked.raise_for_status().json()["Path"]

        def answer() -> dict[str, Any]:
            return dict(httpx.get(orthanc.http_url + path).json())

        eventually(lambda: answer()["Status"] != "Pending")
        told = answer()
    assert (told["Status"], len(told["Success"]), told["Failures"]) == ("Success", 5, [])
