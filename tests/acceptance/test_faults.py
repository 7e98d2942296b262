"""Destinations that are stopped, slow, refuse single documents or answer garbage, while studies
pass: in the end everything has arrived, exactly once, and the others noticed nothing.

A real Orthanc, a real FHIR server and an HL7 listener stand behind proxies that break; a second
Orthanc stands beside them untouched, and its delays are kept in ``build/faults.json``.
"""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import pytest
from pynetdicom import AE, evt
from pynetdicom.sop_class import Comprehensive3DSRStorage, EncapsulatedPDFStorage

from hub.domain.identity import PatientIdentity, derived_uid
from hub.formats.images.ct_phantom import chest_phantom
from tests.acceptance.models import densities
from tests.peers import free_port
from tests.peers.faults import (
    Answer,
    Cut,
    Fault,
    FaultProxy,
    Garbage,
    Hang,
    LoseReply,
    Refuse,
    Slow,
    Stall,
)
from tests.peers.fhir_server import FhirServer
from tests.peers.hl7_listener import Hl7Listener, field_of, listening
from tests.peers.orthanc import Orthanc
from tests.peers.postgres import Postgres
from tests.running_hub import REPOSITORY, RunningHub, launch_hub, wait_for

pytestmark = [pytest.mark.peers, pytest.mark.timeout(600)]


class Stopped(Fault):
    """The peer itself is killed, and started again afterwards."""


TURNS: Sequence[tuple[Fault | None, Fault | None, Fault | None]] = (
    (Refuse(), Hang(), Cut(10)),
    (Hang(), Answer(503, retry_after="1"), Garbage()),
    (Stopped(), Refuse(), Hang()),
    (Slow(60), Garbage(), Refuse()),
    (Cut(40), Stopped(), LoseReply()),
    (Garbage(), Slow(400), Slow(20)),
    (LoseReply(after_sent=2000), Cut(30), None),
    (None, LoseReply(after_sent=2000), Garbage()),
    (Stall(40), Answer(429), LoseReply()),
    (LoseReply(after_sent=2000), Answer(500), Cut(5)),
)
"""What is wrong with Orthanc, the FHIR server and the HL7 listener, one turn after another."""
TURN_SECONDS = 1.5
EACH_TURN = 10
"""Studies that are sent in one turn, in one association."""
STUDIES = len(TURNS) * EACH_TURN
WARM, CALM = 1, 30
"""Studies before anything breaks: the first loads what is loaded once, the others are timed."""
REFUSED = 5
"""Studies of which the picky archive takes nothing at first."""
DOCUMENTS = {"pacs": 2, "archive": 2, "picky": 2, "ehr": 1, "ris": 1}
"""How many of a study go to each destination."""
TRY_AGAIN, CANNOT_BE_PROCESSED = 0xA700, 0xC000
RATE = 120
"""Documents a minute of the destination with a pace."""
SECTIONS = {
    "routes": [{"name": "chest", "when": "true", "model": "densities"}],
    "completeness": {"quiet_seconds": 0.1, "straggler_seconds": 5},
    "delivery": {"first_delay": 0.3, "max_delay": 1.5, "attempts": 500},
}


def uid_of(number: int) -> str:
    return derived_uid("fault-test", str(number))


def study(folder: Path, number: int) -> Path:
    """One small image of a patient of its own."""
    phantom = chest_phantom(
        slices=1,
        rows=64,
        columns=64,
        study_instance_uid=uid_of(number),
        patient=PatientIdentity(f"FAULT-{number}", "", f"FAULT^{number}"),
    )
    file = folder / f"{number}.dcm"
    file.write_bytes(phantom.files[0])
    return file


@dataclass(frozen=True)
class Asked:
    """One C-STORE request."""

    at: float
    """By the monotonic clock."""
    study: str
    modality: str
    sop_instance_uid: str
    status: int


class PickyArchive:
    """A Storage SCP that refuses what belongs to some studies, for as long as it likes."""

    def __init__(self) -> None:
        self.port = free_port()
        self.refuses: dict[str, int] = {}
        """Study Instance UID -> the status that its objects get."""
        self.asked: list[Asked] = []
        entity = AE(ae_title="PICKY")
        for storage in (Comprehensive3DSRStorage, EncapsulatedPDFStorage):
            entity.add_supported_context(storage)
        handlers = [(evt.EVT_C_STORE, self._store)]
        self._server = entity.start_server(
            ("127.0.0.1", self.port), block=False, evt_handlers=handlers
        )

    def _store(self, event: Any) -> int:
        data_set = event.dataset
        uid = str(data_set.StudyInstanceUID)
        status = self.refuses.get(uid, 0)
        sop_uid = str(data_set.SOPInstanceUID)
        self.asked.append(Asked(time.monotonic(), uid, data_set.Modality, sop_uid, status))
        return status

    @property
    def kept(self) -> Counter[str]:
        """SOP Instance UID -> how often it was taken."""
        return Counter(asked.sop_instance_uid for asked in self.asked if not asked.status)

    def close(self) -> None:
        self._server.shutdown()


def dicom(name: str, port: int, ae_title: str, **settings: Any) -> dict[str, Any]:
    return {
        "name": name,
        "kind": "dicom",
        "host": "127.0.0.1",
        "port": port,
        "ae_title": ae_title,
        "documents": ["sr", "encapsulated_pdf"],
        "connect_timeout": 20,
        "response_timeout": 20,
        **settings,
    }


def situation(hub: RunningHub) -> str:
    query = (
        "SELECT destination, state, substr(detail, 1, 40) AS answer, count(*) AS n,"
        " max(attempts) AS attempts FROM deliveries GROUP BY 1, 2, 3"
    )
    return "\n".join([*map(str, hub.rows(query)), hub.log_text()[-2000:]])


# --- everything arrives --------------------------------------------------------------------------


@dataclass
class Scene:
    """The hub and everybody whom it delivers to."""

    hub: RunningHub
    pacs: Orthanc
    archive: Orthanc
    ehr: FhirServer
    ris: Hl7Listener
    picky: PickyArchive
    proxies: tuple[FaultProxy, FaultProxy, FaultProxy]
    """Before ``pacs``, ``ehr`` and ``ris``."""

    def situation(self) -> str:
        return situation(self.hub)

    def settled(self, studies: int, *, dead: int) -> bool:
        rows = self.hub.rows("SELECT state, count(*) AS n FROM deliveries GROUP BY 1")
        states = {row["state"]: row["n"] for row in rows}
        all_of_them = studies * sum(DOCUMENTS.values())
        return states == Counter(delivered=all_of_them - dead) + Counter(dead=dead)

    def delays(self, uids: set[str]) -> list[float]:
        """Seconds from the answer of the model to the confirmed delivery to ``archive``."""
        query = (
            "SELECT study_instance_uid AS uid, delivered_at - created_at AS us FROM deliveries"
            " WHERE destination = 'archive' AND state = 'delivered'"
        )
        return [row["us"] / 1e6 for row in self.hub.rows(query) if row["uid"] in uids]


@pytest.fixture(scope="module")
def scene(
    module_orthanc: Orthanc,
    module_fhir_server: FhirServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("faults")
    with ExitStack() as stack:
        archive = Orthanc(folder / "archive")
        stack.callback(archive.kill)
        archive.start()
        picky = stack.enter_context(closing(PickyArchive()))
        ris = stack.enter_context(listening())
        ports = (module_orthanc.dicom_port, module_fhir_server.port, ris.port)
        to_pacs, to_ehr, to_ris = (stack.enter_context(FaultProxy(port)) for port in ports)
        destinations = [
            dicom("pacs", to_pacs.port, module_orthanc.ae_title),
            dicom("archive", archive.dicom_port, archive.ae_title),
            dicom("picky", picky.port, "PICKY"),
            {
                "name": "ehr",
                "kind": "fhir",
                "url": f"http://127.0.0.1:{to_ehr.port}/fhir",
                "timeout": 20,
            },
            {"name": "ris", "kind": "hl7v2", "host": "127.0.0.1", "port": to_ris.port},
        ]
        models = [{"package": str(densities(folder / "model"))}]
        sections = {**SECTIONS, "destinations": destinations, "models": models}
        hub = stack.enter_context(closing(launch_hub(folder / "hub", sections=sections)))
        proxies = (to_pacs, to_ehr, to_ris)
        yield Scene(hub, module_orthanc, archive, module_fhir_server, ris, picky, proxies)


def test_everything_arrives_once_whatever_destinations_do(
    scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene.hub.send(study(tmp_path, 0))
    calm, storm = range(WARM, WARM + CALM), range(WARM + CALM, WARM + CALM + STUDIES)
    total = WARM + CALM + STUDIES
    wait_for(lambda: scene.settled(WARM, dead=0), "the first study", 120, scene.situation)
    for first in calm[::EACH_TURN]:
        take_turn(scene, tmp_path, first, (None, None, None))
    wait_for(lambda: scene.settled(WARM + CALM, dead=0), "calm studies", 120, scene.situation)

    scene.picky.refuses = {uid_of(number): CANNOT_BE_PROCESSED for number in storm[:REFUSED]}
    for first, faults in zip(storm[::EACH_TURN], TURNS, strict=True):
        take_turn(scene, tmp_path, first, faults)
    everyone = {uid_of(number) for number in storm}
    wait_for(
        lambda: scene.settled(total, dead=2 * REFUSED),
        "everything to arrive",
        240,
        scene.situation,
    )
    _the_dead_letters_say_why_and_are_sent_again(scene, total)
    _check_once_each(scene, total)
    kept = _kept_delays(scene, {uid_of(n) for n in calm}, everyone)
    with capsys.disabled():
        print(f"\n{json.dumps(kept)}")


def take_turn(
    scene: Scene, folder: Path, first: int, faults: tuple[Fault | None, Fault | None, Fault | None]
) -> None:
    """Studies arrive while this is wrong, until all of it was met and the archive with which
    nothing is wrong has its part: its delays are those of the faults, not of a queue of ours."""
    begin = time.monotonic()
    peers: tuple[Orthanc | FhirServer, ...] = (scene.pacs, scene.ehr)
    stopped = [peer for peer, fault in zip(peers, faults, strict=False) if is_stopped(fault)]
    for peer in stopped:
        peer.kill()
    met = []
    for proxy, fault in zip(scene.proxies, faults, strict=True):
        proxy.fault = None if is_stopped(fault) else fault
        if not isinstance(fault, Refuse | Stopped | None):
            met.append(was_met(proxy, fault))
    scene.hub.send([study(folder, number) for number in range(first, first + EACH_TURN)])
    wait_for(lambda: all(each() for each in met), f"{faults} to be met", 120, scene.situation)
    sent = {uid_of(number) for number in range(first, first + EACH_TURN)}
    all_of_it = EACH_TURN * DOCUMENTS["archive"]
    wait_for(lambda: len(scene.delays(sent)) == all_of_it, "the archive", 120, scene.situation)
    time.sleep(max(0.0, begin + TURN_SECONDS - time.monotonic()))
    for proxy in scene.proxies:
        proxy.fault = None
    for peer in stopped:
        peer.start()


def is_stopped(fault: Fault | None) -> bool:
    return isinstance(fault, Stopped)


def was_met(proxy: FaultProxy, fault: Fault) -> Callable[[], bool]:
    faulty, lost = proxy.faulty, proxy.lost
    if isinstance(fault, LoseReply):
        return lambda: proxy.lost > lost
    return lambda: proxy.faulty > faulty


def _the_dead_letters_say_why_and_are_sent_again(scene: Scene, total: int) -> None:
    letters = json.loads(scene.hub.caidx("delivery", "list", "--state", "dead", "--json").stdout)
    assert letters["total"] == 2 * REFUSED
    assert {letter["destination"] for letter in letters["items"]} == {"picky"}
    assert all("0xC000" in letter["detail"] for letter in letters["items"])
    scene.picky.refuses = {}
    scene.hub.caidx("delivery", "retry", "--all")
    wait_for(lambda: scene.settled(total, dead=0), "what was refused", 120, scene.situation)


def _check_once_each(scene: Scene, studies: int) -> None:
    for orthanc in (scene.pacs, scene.archive):
        found = Counter(
            (tags["StudyInstanceUID"], tags["Modality"])
            for tags in map(orthanc.tags, orthanc.instances())
        )
        assert found == {(uid_of(n), kind): 1 for n in range(studies) for kind in ("SR", "DOC")}
    assert len(scene.picky.kept) == 2 * studies
    assert set(scene.picky.kept.values()) == {1}
    _check_ehr(scene, studies)
    _check_ris(scene, studies)


def _check_ehr(scene: Scene, studies: int) -> None:
    counts = scene.ehr.counts("DiagnosticReport", "ImagingStudy", "Device")
    assert counts == {"DiagnosticReport": studies, "ImagingStudy": studies, "Device": 1}
    reports = Counter(r["identifier"][0]["value"] for r in scene.ehr.search("DiagnosticReport"))
    assert set(reports.values()) == {1}
    answers = scene.hub.rows("SELECT detail FROM deliveries WHERE destination = 'ehr'")
    again = [row for row in answers if " created" not in row["detail"]]
    assert again, "nothing was sent twice: the test proves too little"


def _check_ris(scene: Scene, studies: int) -> None:
    """One that was sent again, for its answer got lost, is the same message to the receiver."""
    texts = scene.ris.texts
    assert len(texts) > studies, "nothing was sent twice: the test proves too little"
    received = {(field_of(m, "MSH", 10), field_of(m, "PID", 3)) for m in scene.ris.messages}
    assert len(received) == studies
    assert {patient for _, patient in received} == {f"FAULT-{n}" for n in range(studies)}
    assert len({control_id for control_id, _ in received}) == studies
    assert len(set(texts)) == studies


def _kept_delays(scene: Scene, calm: set[str], storm: set[str]) -> dict[str, Any]:
    """The delays of the archive with which nothing was wrong, in ``build/faults.json``."""
    attempts = scene.hub.rows("SELECT attempts FROM deliveries WHERE destination = 'archive'")
    assert {row["attempts"] for row in attempts} == {1}
    before, during = scene.delays(calm), scene.delays(storm)
    assert (len(before), len(during)) == (2 * CALM, 2 * STUDIES)
    kept = {
        "seconds": {
            name: {"median": median(values), "p95": quantiles(values, n=20)[-1]}
            for name, values in (("calm", before), ("faults", during))
        },
        "ratio": median(during) / median(before),
        "studies": {"calm": CALM, "faults": STUDIES},
    }
    folder = REPOSITORY / "build"
    folder.mkdir(exist_ok=True)
    (folder / "faults.json").write_text(json.dumps(kept, indent=2))
    return kept


# --- lines and pace ------------------------------------------------------------------------------


@dataclass
class Lines:
    """Two workers on PostgreSQL, and an archive beside a folder and an archive with a pace."""

    hub: RunningHub
    picky: PickyArchive
    paced: PickyArchive

    def all_delivered(self) -> bool:
        open_ones = "SELECT count(*) AS n FROM deliveries WHERE state != 'delivered'"
        undone = "SELECT count(*) AS n FROM requests WHERE state != 'done'"
        return not any(self.hub.rows(query)[0]["n"] for query in (open_ones, undone))

    def line(self, uid: str, destination: str) -> list[tuple[str, str, int]]:
        """(kind, state, attempts), as they are to be sent."""
        query = (
            "SELECT kind, state, attempts FROM deliveries WHERE study_instance_uid = :uid"
            " AND destination = :destination ORDER BY created_at, position"
        )
        rows = self.hub.rows(query, uid=uid, destination=destination)
        return [(row["kind"], row["state"], row["attempts"]) for row in rows]

    def situation(self) -> str:
        return situation(self.hub)


@pytest.fixture(scope="module")
def lines(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lines]:
    folder = tmp_path_factory.mktemp("lines")
    name = f"lines_{uuid.uuid4().hex}"
    postgres.execute(f'CREATE DATABASE "{name}"')
    with ExitStack() as stack:
        stack.callback(postgres.execute, f'DROP DATABASE "{name}" WITH (FORCE)')
        picky, paced = (stack.enter_context(closing(PickyArchive())) for _ in range(2))
        destinations = [
            dicom("picky", picky.port, "PICKY"),
            dicom("paced", paced.port, "PICKY", rate_per_minute=RATE),
            {
                "name": "folder",
                "kind": "folder",
                "folder": str(folder / "results"),
                "documents": ["sr", "encapsulated_pdf"],
            },
        ]
        models = [{"package": str(densities(folder / "model"))}]
        hub = launch_hub(
            folder / "hub",
            database_url=postgres.database_url(name),
            workers=2,
            sections={**SECTIONS, "destinations": destinations, "models": models},
        )
        yield Lines(stack.enter_context(closing(hub)), picky, paced)


def test_what_cannot_be_delivered_of_one_study_delays_no_other(
    lines: Lines, tmp_path: Path
) -> None:
    stuck = [uid_of(number) for number in range(1000, 1006)]  # more than are sent at once
    lines.picky.refuses = dict.fromkeys(stuck, TRY_AGAIN)
    lines.hub.send([study(tmp_path, number) for number in range(1000, 1006)])
    wait_for(lambda: all(_tried(lines, uid) for uid in stuck), "attempts", 90, lines.situation)

    other = uid_of(1006)
    lines.hub.send(study(tmp_path, 1006))
    both = [("sr", "delivered", 1), ("encapsulated_pdf", "delivered", 1)]
    ways = [(other, "picky"), *((u, d) for u in (*stuck, other) for d in ("folder", "paced"))]
    wait_for(
        lambda: all(lines.line(uid, destination) == both for uid, destination in ways),
        "everything else",
        90,
        lines.situation,
    )
    for uid in stuck:
        (first, second) = lines.line(uid, "picky")
        assert first[:2] == ("sr", "retrying")
        assert second == ("encapsulated_pdf", "pending", 0)
    lines.picky.refuses = {}
    wait_for(lines.all_delivered, "what was refused", 60, lines.situation)
    assert set(lines.picky.kept.values()) == {1}
    for uid in stuck:
        tried = [asked for asked in lines.picky.asked if asked.study == uid]
        assert {asked.modality for asked in tried if asked.status} == {"SR"}
        assert [asked.modality for asked in tried if not asked.status] == ["SR", "DOC"]


def _tried(lines: Lines, uid: str) -> bool:
    line = lines.line(uid, "picky")
    return bool(line) and line[0][1:] >= ("retrying", 2)


def test_two_workers_keep_the_pace_of_a_destination(lines: Lines, tmp_path: Path) -> None:
    wait_for(lines.all_delivered, "what was before", 60, lines.situation)
    numbers = range(2000, 2006)
    begin = time.monotonic()
    lines.hub.send([study(tmp_path, number) for number in numbers])
    uids = {uid_of(number) for number in numbers}

    def arrivals() -> list[float]:
        return sorted(asked.at - begin for asked in lines.paced.asked if asked.study in uids)

    wait_for(lambda: len(arrivals()) >= 2 * len(uids), "everything", 90, lines.situation)
    wait_for(lines.all_delivered, "every answer", 60, lines.situation)
    assert len(arrivals()) == 2 * len(uids)
    interval = 60 / RATE
    # each may come late, on a busy machine, but not before its turn
    early = [at for turn, at in enumerate(arrivals()) if at < turn * interval - 0.05]
    assert not early, arrivals()
