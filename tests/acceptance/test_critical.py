"""Findings that a person has to know at once: they overtake what waits, the pager gets them and
nothing else, a flood of them becomes one escalation, and every format marks them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest

from hub.domain.inference import Priority
from tests.acceptance.disc_model import findings_of_a_disc, with_disc
from tests.acceptance.models import densities
from tests.acceptance.studies import CT_SMALL, StudyFiles, phantom, sample
from tests.acceptance.webhook_receiver import WebhookReceiver, receiving
from tests.peers.fhir_server import FhirServer
from tests.peers.hl7_listener import Hl7Listener, field_of, listening
from tests.running_hub import EHR, RunningHub, launch_hub, wait_for

pytestmark = pytest.mark.peers

Json = dict[str, Any]

DESK, PAGER, RIS, FILES = "desk", "pager", "ris", "files"
ALERTS_PER_HOUR = 2
CRITICAL = 4
"""Studies with a critical finding: two alerts, one escalation, one that is held."""
BY = ("--by", "Doctor^Dora", "--reason", "artefact of a stent")


@dataclass
class Hospital:
    hub: RunningHub
    folder: Path
    hook: WebhookReceiver
    ris: Hl7Listener
    fhir_server: FhirServer

    def calm(self, number: int) -> StudyFiles:
        """A study without anything critical."""
        name = f"calm-{number}"
        own = {"PatientID": f"CALM-{number}", "AccessionNumber": f"CALM-{number}"}
        study = sample(CT_SMALL, self.folder / name, name=name, **own)
        self.hub.send(study.files)
        return study

    def critical(self, number: int) -> StudyFiles:
        """A study with a disc in it."""
        plain = phantom(
            self.folder / f"plain-{number}", seed=number, accession_number=f"DISC-{number}"
        )
        study = with_disc(plain, self.folder / f"disc-{number}")
        self.hub.send(study.files)
        return study

    def to(self, destination: str) -> list[Json]:
        return self.hook.notices(f"/{destination}")

    def about(self, study: StudyFiles, destination: str) -> list[Json]:
        uid = study.study_instance_uid
        return [one for one in self.to(destination) if one["study_instance_uid"] == uid]

    def request_of(self, study: StudyFiles) -> str:
        (request,) = self.hub.wait_for_study(study.study_instance_uid).requests
        return request.request_id


@dataclass(frozen=True)
class Day:
    """What happened, in this order."""

    hospital: Hospital
    calm: list[StudyFiles]
    first: StudyFiles
    """The critical one that came while the desk had too much to do."""
    flood: list[StudyFiles]
    paged_while_the_desk_was_busy: bool
    order_at_the_desk: list[str]
    """Accession numbers."""


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory, module_fhir_server: FhirServer) -> Iterator[Day]:
    folder = tmp_path_factory.mktemp("critical")
    with receiving() as hook, listening() as ris:
        hub = launch_hub(folder, sections=_sections(folder, hook, ris, module_fhir_server))
        try:
            yield _spend(Hospital(hub, folder, hook, ris, module_fhir_server))
        finally:
            hub.close()


def _sections(
    folder: Path, hook: WebhookReceiver, ris: Hl7Listener, fhir_server: FhirServer
) -> Json:
    route = {"name": "disc", "when": 'study.accession_number.startsWith("DISC")', "model": "disc"}
    packages = [findings_of_a_disc(folder / "disc-model"), densities(folder / "densities")]
    return {
        "models": [{"package": str(package)} for package in packages],
        "routes": [
            {**route, "alerts_per_hour": ALERTS_PER_HOUR},
            {
                "name": "calm",
                "when": 'study.accession_number.startsWith("CALM")',
                "model": "densities",
            },
        ],
        "destinations": [
            hook.settings(DESK, "/desk", concurrency=1, timeout=60),
            hook.settings(PAGER, "/pager", critical_only=True),
            {"name": EHR, "kind": "fhir", "url": fhir_server.base_url},
            {"name": RIS, "kind": "hl7v2", "host": "127.0.0.1", "port": ris.port},
            {"name": FILES, "kind": "folder", "folder": str(folder / FILES), "documents": ["sr"]},
        ],
    }


def _spend(hospital: Hospital) -> Day:
    hub, hook = hospital.hub, hospital.hook
    hook.hold("/desk")
    calm = [hospital.calm(number) for number in range(4)]
    for study in calm:
        wait_for(lambda s=study: _is_on_its_way(hub, s), "a calm report")  # type: ignore[misc]
    wait_for(lambda: len(hook.to("/desk")) == 1, "the desk to be busy")
    first = hospital.critical(1)
    wait_for(lambda: _is_on_its_way(hub, first), "the critical report")
    wait_for(lambda: bool(hospital.to(PAGER)), "the pager", 60, hub.log_text)
    paged = len(hook.to("/desk")) == 1
    hook.let_go()
    for study in (*calm, first):
        hub.wait_for_study(study.study_instance_uid)
    order = [notice["accession_number"] for notice in hospital.to(DESK)]
    flood = []
    for number in range(2, CRITICAL + 1):
        flood.append(hospital.critical(number))
        hub.wait_for_study(flood[-1].study_instance_uid)
    return Day(hospital, calm, first, flood, paged, order)


def _is_on_its_way(hub: RunningHub, study: StudyFiles) -> bool:
    timeline = hub.timeline(study.study_instance_uid)
    return timeline is not None and bool(timeline.deliveries)


# --- who is told, and how soon -------------------------------------------------------------------


def test_what_is_critical_overtakes_what_waits(day: Day) -> None:
    calm = [f"CALM-{number}" for number in range(4)]
    first, second, *later = day.order_at_the_desk
    assert first in calm, "the desk was busy with it already"
    assert second == "DISC-1"
    assert sorted((first, *later)) == calm
    rows = day.hospital.hub.rows(
        "SELECT DISTINCT priority FROM deliveries WHERE study_instance_uid = :uid",
        uid=day.first.study_instance_uid,
    )
    assert rows == [{"priority": int(Priority.STAT)}]


def test_the_pager_does_not_wait_for_the_desk(day: Day) -> None:
    assert day.paged_while_the_desk_was_busy


def test_the_pager_gets_nothing_but_what_is_critical(day: Day) -> None:
    assert all(post.is_signed for post in day.hospital.hook.posts)
    for study in day.calm:
        assert len(day.hospital.about(study, DESK)) == 1
        assert day.hospital.about(study, PAGER) == []
    notice = day.hospital.about(day.first, PAGER)[0]
    assert (notice["event"], notice["critical"]) == ("report.made", True)
    assert [f["tracking_identifier"] for f in notice["findings"] if f["critical"]] == ["disc 1"]


def test_a_flood_becomes_one_escalation(day: Day) -> None:
    hospital = day.hospital
    alerted, escalated, held = day.flood
    assert [one["event"] for one in hospital.about(alerted, PAGER)] == ["report.made"]
    (escalation,) = hospital.about(escalated, PAGER)
    assert escalation["event"] == "escalation"
    assert (escalation["route"], escalation["alerts_per_hour"]) == ("disc", ALERTS_PER_HOUR)
    assert escalation["critical_in_last_hour"] == ALERTS_PER_HOUR + 1
    assert hospital.about(held, PAGER) == []
    alerts = hospital.hub.rows("SELECT entity FROM alerts WHERE kind = 'critical.flood'")
    assert alerts == [{"entity": "route:disc"}]


def test_everybody_else_gets_every_report_of_a_flood(day: Day) -> None:
    hospital = day.hospital
    for study in (day.first, *day.flood):
        uid = study.study_instance_uid
        (notice,) = [n for n in hospital.about(study, DESK) if n["event"] == "report.made"]
        assert notice["critical"] is True
        assert [m for m in hospital.ris.messages if uid in str(m)]
        rows = hospital.hub.timeline(uid)
        assert rows is not None
        states = {row.state for row in rows.deliveries}
        assert states == {"delivered"}, states


# --- how it is marked ----------------------------------------------------------------------------


def test_the_record_is_flagged_and_somebody_is_asked_to_tell(day: Day) -> None:
    server = day.hospital.fhir_server
    flags = server.search("Flag", _count="100")
    assert [one["status"] for one in flags] == ["active"] * CRITICAL
    asked = server.search("CommunicationRequest", _count="100")
    assert [(one["status"], one["priority"]) for one in asked] == [("active", "stat")] * CRITICAL
    marked = [
        one
        for one in server.search("Observation", _count="100")
        if {"AA", "HH", "LL"} & _codes(one.get("interpretation", []))
    ]
    assert len(marked) == CRITICAL
    reports = server.search("DiagnosticReport", _count="100")
    assert len([one for one in reports if "CRITICAL" in one["conclusion"]]) == CRITICAL
    assert len(reports) == CRITICAL + len(day.calm)


def _codes(concepts: list[Json]) -> set[str]:
    return {coding["code"] for one in concepts for coding in one.get("coding", ())}


def test_the_ris_gets_a_priority_and_abnormal_flags(day: Day) -> None:
    for study, priority in ((day.first, "S"), (day.calm[0], "R")):
        uid = study.study_instance_uid
        (message,) = (m for m in day.hospital.ris.messages if uid in str(m))
        assert field_of(message, "OBR", 5) == priority
        assert field_of(message, "TQ1", 9) == priority
        flags = {str(obx[8]) for obx in message.segments("OBX")} - {""}
        assert flags == ({"AA"} if priority == "S" else set())


def test_the_structured_report_says_so_before_anything_else(day: Day) -> None:
    read = [
        pydicom.dcmread(BytesIO(path.read_bytes()))
        for path in (day.hospital.folder / FILES).rglob("*")
        if path.is_file()
    ]
    said = {str(one.StudyInstanceUID): one.to_json() for one in read}
    for study in (day.first, *day.flood):
        assert "CRITICAL FINDING: disc 1." in said[study.study_instance_uid]
    for study in day.calm:
        assert "CRITICAL" not in said[study.study_instance_uid]


# --- afterwards ----------------------------------------------------------------------------------


def test_whoever_was_paged_hears_that_it_was_wrong(day: Day) -> None:
    """And who was not paged does not: there is nothing to take back."""
    hospital = day.hospital
    held = day.flood[-1]
    for study in (day.first, held):
        hospital.hub.caidx("result", "retract", hospital.request_of(study), *BY)
    for study in (day.first, held):
        wait_for(lambda s=study: len(hospital.about(s, DESK)) == 2, "the word to the desk", 60)  # type: ignore[misc]
        hospital.hub.wait_for_study(study.study_instance_uid)
    events = [one["event"] for one in hospital.about(day.first, PAGER)]
    assert events == ["report.made", "report.retracted"]
    assert hospital.about(day.first, PAGER)[-1]["report"]["withdrawn"] is True
    assert hospital.about(held, PAGER) == []
    flags = [one["status"] for one in hospital.fhir_server.search("Flag", _count="100")]
    assert sorted(flags) == ["active"] * (CRITICAL - 2) + ["entered-in-error"] * 2
