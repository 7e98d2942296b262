"""Destinations that are stopped, slow, refuse single documents or answer garbage, while studies
pass: in the end everything has arrived, exactly once, and the others noticed nothing.

A real Orthanc and a real FHIR server stand behind proxies that break; a second Orthanc stands
beside them untouched, and its delays are kept in ``build/faults.json``.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt

from hub.domain.identity import PatientIdentity, derived_uid
from hub.formats.ct_phantom import chest_phantom
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
)
from tests.peers.fhir_server import FhirServer
from tests.peers.orthanc import Orthanc
from tests.running_hub import REPOSITORY, RunningHub, launch_hub, wait_for

pytestmark = [pytest.mark.peers, pytest.mark.timeout(1200)]

STUDIES, CALM = 100, 20
"""How many pass while things break, and before."""
REFUSED = 5
"""Studies of which the picky archive takes nothing at first."""
FAULT_SECONDS = 3.0
PACS_FAULTS: Sequence[Fault | None] = (
    Refuse(),
    Hang(),
    None,
    Slow(60),
    Cut(40),
    Garbage(),
    None,
    LoseReply(after_sent=2000),
)
EHR_FAULTS: Sequence[Fault | None] = (
    Hang(),
    Answer(503, retry_after="1"),
    None,
    Garbage(),
    Slow(400),
    Cut(30),
    LoseReply(after_sent=2000),
    Answer(429),
    Refuse(),
)
CANNOT_BE_PROCESSED = 0xC000


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


class PickyArchive:
    """A Storage SCP that refuses what belongs to some studies, for as long as it likes."""

    def __init__(self) -> None:
        self.port = free_port()
        self.refuses: set[str] = set()
        self.kept: Counter[str] = Counter()
        """SOP Instance UID -> how often it was taken."""
        entity = AE(ae_title="PICKY")
        for context in AllStoragePresentationContexts:
            entity.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES)
        handlers = [(evt.EVT_C_STORE, self._store)]
        self._server = entity.start_server(
            ("127.0.0.1", self.port), block=False, evt_handlers=handlers
        )

    def _store(self, event: Any) -> int:
        data_set = event.dataset
        if data_set.StudyInstanceUID in self.refuses:
            return CANNOT_BE_PROCESSED
        self.kept[str(data_set.SOPInstanceUID)] += 1
        return 0x0000

    def close(self) -> None:
        self._server.shutdown()


@dataclass
class Scene:
    """The hub and everybody whom it delivers to."""

    hub: RunningHub
    pacs: Orthanc
    archive: Orthanc
    ehr: FhirServer
    picky: PickyArchive
    to_pacs: FaultProxy
    to_ehr: FaultProxy
    met: list[str] = field(default_factory=list)
    """The faults that were there when a study was sent."""

    def situation(self) -> str:
        query = "SELECT destination, state, detail, count(*) AS n FROM deliveries GROUP BY 1, 2, 3"
        return "\n".join([*map(str, self.hub.rows(query)), self.hub.log_text()[-2000:]])

    def states(self) -> Counter[tuple[str, str]]:
        rows = self.hub.rows("SELECT destination, state FROM deliveries")
        return Counter((row["destination"], row["state"]) for row in rows)

    def open_requests(self) -> int:
        query = "SELECT count(*) AS n FROM requests WHERE state != 'done'"
        return int(self.hub.rows(query)[0]["n"])

    def settled(self, studies: int, *, dead: int) -> bool:
        states = self.states()
        done = sum(n for (_, state), n in states.items() if state in ("delivered", "dead"))
        letters = sum(n for (_, state), n in states.items() if state == "dead")
        reports = self.hub.rows("SELECT count(*) AS n FROM results")[0]["n"]
        return reports == studies and done == sum(states.values()) and letters == dead

    def delays(self, destination: str, uids: set[str]) -> list[float]:
        """Seconds from the answer of the model to the confirmed delivery."""
        query = (
            "SELECT study_instance_uid AS uid, delivered_at - created_at AS us FROM deliveries"
            " WHERE destination = :destination AND state = 'delivered'"
        )
        rows = self.hub.rows(query, destination=destination)
        return [row["us"] / 1e6 for row in rows if row["uid"] in uids]


def dicom(name: str, port: int, ae_title: str) -> dict[str, Any]:
    return {
        "name": name,
        "kind": "dicom",
        "host": "127.0.0.1",
        "port": port,
        "ae_title": ae_title,
        "documents": ["sr", "encapsulated_pdf"],
        "connect_timeout": 10,
        "response_timeout": 10,
    }


@pytest.fixture(scope="module")
def scene(
    module_orthanc: Orthanc,
    module_fhir_server: FhirServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("faults")
    archive, picky = Orthanc(folder / "archive"), PickyArchive()
    archive.start()
    ehr_port = int(module_fhir_server.base_url.split(":")[2].split("/")[0])
    with FaultProxy(module_orthanc.dicom_port) as to_pacs, FaultProxy(ehr_port) as to_ehr:
        sections = {
            "destinations": [
                dicom("pacs", to_pacs.port, module_orthanc.ae_title),
                dicom("archive", archive.dicom_port, archive.ae_title),
                dicom("picky", picky.port, "PICKY"),
                {
                    "name": "ehr",
                    "kind": "fhir",
                    "url": f"http://127.0.0.1:{to_ehr.port}/fhir",
                    "timeout": 20,
                    "concurrency": 2,
                },
            ],
            "models": [{"package": str(densities(folder / "model"))}],
            "routes": [{"name": "chest", "when": "true", "model": "densities"}],
            "completeness": {"quiet_seconds": 0.1, "straggler_seconds": 5},
            "delivery": {"first_delay": 0.3, "max_delay": 1.5, "attempts": 500},
        }
        hub = launch_hub(folder / "hub", sections=sections)
        yield Scene(hub, module_orthanc, archive, module_fhir_server, picky, to_pacs, to_ehr)
        hub.close()
    archive.kill()
    picky.close()


def send(scene: Scene, folder: Path, numbers: Sequence[int]) -> None:
    for number in numbers:
        scene.met.append(f"{scene.to_pacs.fault} {scene.to_ehr.fault}")
        scene.hub.send(study(folder, number))


def keep_breaking(scene: Scene, stop: threading.Event) -> None:
    """One fault after another, on both sides; now and then the archive itself dies."""
    turns = zip(cycle(PACS_FAULTS), cycle(EHR_FAULTS), strict=False)
    for number, (to_pacs, to_ehr) in enumerate(turns):
        scene.to_pacs.fault, scene.to_ehr.fault = to_pacs, to_ehr
        if number % 8 == 2:
            scene.pacs.kill()
        done = stop.wait(FAULT_SECONDS)
        if number % 8 == 2:
            scene.pacs.start()
        if done:
            break
    scene.to_pacs.fault = scene.to_ehr.fault = None


def test_everything_arrives_once_whatever_destinations_do(scene: Scene, tmp_path: Path) -> None:
    calm = range(CALM)
    send(scene, tmp_path, calm)
    wait_for(lambda: scene.settled(CALM, dead=0), "calm studies", 120, scene.situation)

    storm = range(CALM, CALM + STUDIES)
    scene.picky.refuses = {uid_of(number) for number in storm[:REFUSED]}
    stop = threading.Event()
    breaking = threading.Thread(target=keep_breaking, args=(scene, stop))
    breaking.start()
    try:
        send(scene, tmp_path, storm)
        everyone = {uid_of(number) for number in storm}
        wait_for(
            lambda: len(scene.delays("archive", everyone)) == 2 * STUDIES,
            "the archive that nothing is wrong with, while others are broken",
            120,
            scene.situation,
        )
    finally:
        stop.set()
        breaking.join()
    assert len(set(scene.met)) > 5, "too few faults were met: the test proves too little"
    assert scene.to_pacs.faulty > 10
    assert scene.to_ehr.faulty > 10
    wait_for(
        lambda: scene.settled(CALM + STUDIES, dead=2 * REFUSED),
        "everything to arrive",
        300,
        scene.situation,
    )
    _the_dead_letters_say_why_and_are_sent_again(scene)
    _check_once_each(scene, CALM + STUDIES)
    _keep_the_ratio(scene, {uid_of(n) for n in calm}, everyone)


def _the_dead_letters_say_why_and_are_sent_again(scene: Scene) -> None:
    letters = json.loads(scene.hub.caidx("delivery", "list", "--state", "dead", "--json").stdout)
    assert letters["total"] == 2 * REFUSED
    assert {letter["destination"] for letter in letters["items"]} == {"picky"}
    assert all("0xC000" in letter["detail"] for letter in letters["items"])
    scene.picky.refuses = set()
    scene.hub.caidx("delivery", "retry", "--all")
    total = CALM + STUDIES
    wait_for(lambda: scene.settled(total, dead=0), "what was refused", 60, scene.situation)


def _check_once_each(scene: Scene, studies: int) -> None:
    for orthanc in (scene.pacs, scene.archive):
        found = Counter(
            (tags["StudyInstanceUID"], tags["Modality"])
            for tags in map(orthanc.tags, orthanc.instances())
        )
        expected = {(uid_of(n), kind): 1 for n in range(studies) for kind in ("SR", "DOC")}
        assert found == expected
    assert len(scene.picky.kept) == 2 * studies
    assert max(scene.picky.kept.values()) == 1
    counts = scene.ehr.counts("DiagnosticReport", "ImagingStudy", "Device")
    assert counts == {"DiagnosticReport": studies, "ImagingStudy": studies, "Device": 1}
    reports = Counter(r["identifier"][0]["value"] for r in scene.ehr.search("DiagnosticReport"))
    assert set(reports.values()) == {1}


def _keep_the_ratio(scene: Scene, calm: set[str], storm: set[str]) -> None:
    attempts = scene.hub.rows("SELECT attempts FROM deliveries WHERE destination = 'archive'")
    assert {row["attempts"] for row in attempts} == {1}
    before, during = (median(scene.delays("archive", uids)) for uids in (calm, storm))
    folder = REPOSITORY / "build"
    folder.mkdir(exist_ok=True)
    kept = {"seconds": {"calm": before, "faults": during}, "ratio": during / before}
    (folder / "faults.json").write_text(json.dumps(kept, indent=2))
