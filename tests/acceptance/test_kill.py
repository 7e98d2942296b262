"""Nothing acknowledged is lost, nothing is delivered twice: whoever is killed, whenever.

Real processes, a real PACS, a real FHIR server; SQLite with one worker, PostgreSQL with two.
``make soak`` runs the long form: 200 studies each.
"""

from __future__ import annotations

import hashlib
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE

from hub.domain.identity import PatientIdentity, derived_uid
from hub.domain.study import Location
from hub.formats.dicom.part10 import split_part10
from hub.formats.images.ct_phantom import chest_phantom
from hub.store import audit
from hub.store.database import Database, open_database, schema_version, sqlite_url
from hub.store.schema import deliveries, instances, requests
from hub.store.segments.objects import SegmentStore
from tests.peers import free_port
from tests.peers.fhir_server import FhirServer
from tests.peers.orthanc import Orthanc

pytestmark = [pytest.mark.peers, pytest.mark.timeout(3600)]

SLICES = 2
# Stragglers are waited for longer than a receiver can be down: otherwise an image that comes after
# its study was closed makes a second revision with a report of its own, as it should.
CONFIGURATION = """
site: {{institution_name: Kill test}}
data: {data}
database: {{url: "{url}"}}
sources:
  - {{name: dicom, kind: dicom, port: {port}}}
destinations:
  - {{name: pacs, kind: dicom, ae_title: ORTHANC, host: 127.0.0.1, port: {pacs}, documents: [sr]}}
  - {{name: ehr, kind: fhir, url: "{ehr}"}}
models:
  - {{package: "builtin:lung-density"}}
routes:
  - {{name: chest, when: "'CT' in study.modalities_in_study", model: lung-density}}
completeness: {{quiet_seconds: 0.3, straggler_seconds: 60}}
delivery: {{first_delay: 0.5, max_delay: 2, attempts: 50}}
workers: {{heartbeat_seconds: 0.5}}
adapters: {{onnx_local: {{processes: 1}}}}
log: {{level: warning}}
"""


PAUSE_SECONDS = 0.5
"""Between studies: kills are to fall on every part of their paths."""


@dataclass
class Processes:
    """The roles of one hub, as processes that can be killed and started again."""

    config: Path
    port: int
    database: Database
    objects: SegmentStore
    log: Path
    roles: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str) -> None:
        role = name.partition("-")[0]
        command = [sys.executable, "-m", "hub", "--config", str(self.config), "serve"]
        with self.log.open("ab") as log:
            self.roles[name] = subprocess.Popen([*command, "--role", role], stdout=log, stderr=log)

    def kill(self, name: str) -> None:
        process = self.roles.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        for name in list(self.roles):
            self.kill(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def hub(
    request: pytest.FixtureRequest, tmp_path: Path, orthanc: Orthanc, fhir_server: FhirServer
) -> Iterator[Processes]:
    data, port = tmp_path / "data", free_port()
    data.mkdir()
    url = sqlite_url(data / "caidx.sqlite")
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_database")
    config = tmp_path / "caidx.yaml"
    config.write_text(
        CONFIGURATION.format(
            data=data, url=url, port=port, pacs=orthanc.dicom_port, ehr=fhir_server.base_url
        )
    )
    running = Processes(
        config, port, open_database(url), SegmentStore(data / "objects"), tmp_path / "hub.log"
    )
    for role in ("receiver", "indexer", "worker-1"):
        running.start(role)
    if request.param == "postgresql":
        running.start("worker-2")
    _wait_until(lambda: _has_tables(running.database), 60, running.log.read_text)
    yield running
    running.stop()
    running.database.close()


def _has_tables(database: Database) -> bool:
    found, needed = schema_version(database)
    return found == needed


class Modality:
    """Sends studies and insists, as a scanner does, until every image was acknowledged."""

    def __init__(self, port: int) -> None:
        self._port = port
        logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)  # refused while it is dead
        self.acknowledged: dict[str, str] = {}
        """SOP Instance UID -> SHA-256 of the data set."""

    def send(self, number: int) -> None:
        waiting = dict(_study(number))
        deadline = time.monotonic() + 300
        while waiting:
            assert time.monotonic() < deadline, "the receiver did not come back"
            self._attempt(waiting)

    def _attempt(self, waiting: dict[str, bytes]) -> None:
        entity = AE("SCANNER")
        entity.connection_timeout = entity.acse_timeout = entity.dimse_timeout = 10
        entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
        association = entity.associate("127.0.0.1", self._port, ae_title="CAIDX")
        if not association.is_established:
            time.sleep(0.1)
            return
        for uid, file in list(waiting.items()):
            if _store(association, file):
                self.acknowledged[uid] = hashlib.sha256(split_part10(file)[1]).hexdigest()
                del waiting[uid]
        if association.is_established:
            association.release()


def _store(association: object, file: bytes) -> bool:
    from io import BytesIO

    from pydicom import dcmread

    try:
        status = association.send_c_store(dcmread(BytesIO(file)))  # type: ignore[attr-defined]
    except (RuntimeError, ValueError):
        return False  # the association is gone
    return "Status" in status and status.Status == 0x0000


def _study(number: int) -> dict[str, bytes]:
    patient = PatientIdentity(patient_id=f"KILL-{number}", patient_name=f"KILL^{number}")
    phantom = chest_phantom(
        slices=SLICES,
        rows=64,
        columns=64,
        study_instance_uid=derived_uid("kill-test", str(number)),
        patient=patient,
    )
    return dict(zip(phantom.sop_instance_uids, phantom.files, strict=True))


def _wait_until(done: Callable[[], bool], seconds: float, what: Callable[[], object]) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, what()
        time.sleep(0.2)


def _settled(database: Database, studies: int) -> bool:
    with database.read() as connection:
        done = connection.execute(
            sa.select(sa.func.count()).where(requests.c.state == "done").select_from(requests)
        ).scalar_one()
        left = connection.execute(
            sa.select(sa.func.count())
            .where(deliveries.c.state != "delivered")
            .select_from(deliveries)
        ).scalar_one()
    return done >= studies and left == 0


def _situation(hub: Processes) -> str:
    with hub.database.read() as connection:
        lines = [
            str(connection.execute(sa.text(query)).all())
            for query in (
                "SELECT state, count(*) FROM study_revisions GROUP BY state",
                "SELECT state, attempts, detail, count(*) FROM requests GROUP BY 1,2,3",
                "SELECT state, destination, detail, count(*) FROM deliveries GROUP BY 1,2,3",
                "SELECT role, gone_at, count(*) FROM workers GROUP BY 1,2",
            )
        ]
    return "\n".join([*lines, hub.log.read_text()[-3000:]])


def _check_nothing_lost(hub: Processes, modality: Modality) -> None:
    with hub.database.read() as connection:
        rows = connection.execute(sa.select(instances)).all()
    stored = {row.sop_instance_uid: row for row in rows}
    assert Counter(row.sop_instance_uid for row in rows).most_common(1)[0][1] == 1
    for uid, sha256 in modality.acknowledged.items():
        row = stored[uid]
        location = Location(row.segment, row.offset, row.length)
        data_set = split_part10(hub.objects.read(location))[1]
        assert row.sha256 == sha256 == hashlib.sha256(data_set).hexdigest()


def _check_one_report_each(orthanc: Orthanc, fhir_server: FhirServer, studies: int) -> None:
    reports = Counter(
        tags["StudyInstanceUID"]
        for tags in map(orthanc.tags, orthanc.instances())
        if tags["Modality"] == "SR"
    )
    expected = {derived_uid("kill-test", str(n)): 1 for n in range(studies)}
    assert reports == expected
    assert fhir_server.counts()["DiagnosticReport"] == studies
    assert fhir_server.counts()["ImagingStudy"] == studies
    assert fhir_server.counts()["Device"] == 1


def _keep_killing(hub: Processes, stop: threading.Event, seed: int, killed: list[str]) -> None:
    """SIGKILL one process after another at random moments; each comes back after 0.3 s."""
    chance = random.Random(seed)
    while not stop.wait(chance.uniform(0.7, 3.0)):
        name = chance.choice(sorted(hub.roles))
        hub.kill(name)
        killed.append(name)
        time.sleep(0.3)
        hub.start(name)


def _run(
    hub: Processes, orthanc: Orthanc, fhir_server: FhirServer, *, studies: int, lose_one: bool
) -> None:
    modality, stop = Modality(hub.port), threading.Event()
    killed: list[str] = []
    killer = threading.Thread(target=_keep_killing, args=(hub, stop, studies, killed))
    killer.start()
    try:
        for number in range(studies):
            modality.send(number)
            time.sleep(PAUSE_SECONDS)
    finally:
        stop.set()
        killer.join()
    assert len(killed) >= 3, f"only {killed} were killed: the test proves too little"
    if lose_one:
        hub.kill("worker-2")  # for good
    _wait_until(lambda: _settled(hub.database, studies), 120 + 3 * studies, lambda: _situation(hub))
    assert len(modality.acknowledged) == studies * SLICES
    _check_nothing_lost(hub, modality)
    _check_one_report_each(orthanc, fhir_server, studies)
    assert audit.verify(hub.database)[1] is None


def test_sigkill_at_random_moments_loses_and_doubles_nothing(
    hub: Processes, orthanc: Orthanc, fhir_server: FhirServer
) -> None:
    _run(hub, orthanc, fhir_server, studies=20, lose_one="worker-2" in hub.roles)


@pytest.mark.soak
def test_sigkill_during_200_studies(
    hub: Processes, orthanc: Orthanc, fhir_server: FhirServer
) -> None:
    _run(hub, orthanc, fhir_server, studies=200, lose_one="worker-2" in hub.roles)


def test_a_study_that_was_complete_when_everything_died_still_gets_its_report(
    hub: Processes, orthanc: Orthanc, fhir_server: FhirServer
) -> None:
    modality, names = Modality(hub.port), sorted(hub.roles)
    for number in range(3):
        modality.send(number)
    hub.stop()
    for name in names:
        hub.start(name)
    _wait_until(lambda: _settled(hub.database, 3), 90, lambda: _situation(hub))
    _check_nothing_lost(hub, modality)
    _check_one_report_each(orthanc, fhir_server, 3)


def test_no_process_outlives_its_worker(hub: Processes) -> None:
    modality = Modality(hub.port)
    modality.send(0)
    _wait_until(lambda: _settled(hub.database, 1), 90, lambda: _situation(hub))
    worker = hub.roles["worker-1"].pid
    children = [int(pid) for pid in _children_of(worker)]
    assert children, "the model runs in a process of its own"
    hub.kill("worker-1")
    _wait_until(lambda: not any(map(_runs, children)), 10, lambda: children)


def _children_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
