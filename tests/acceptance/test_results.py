"""One study through a hub whose destinations take every kind of document: all of it arrives, is
valid, and refers to nothing that its receiver has not got. Examinations that were not analysed
reach only those who asked to hear of them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from hub.domain.delivery import DICOM_KINDS, DocumentKind
from hub.domain.identity import PatientIdentity
from hub.store.overview import StudyTimeline
from tests.acceptance.disc_model import findings_of_a_disc, with_disc
from tests.acceptance.models import densities, not_a_number
from tests.acceptance.studies import CT_SMALL, StudyFiles, changed, phantom, sample
from tests.acceptance.webhook_receiver import WebhookReceiver, receiving
from tests.peers import dcmtk
from tests.peers.fhir_server import FhirServer
from tests.peers.hl7_listener import Hl7Listener, field_of, listening, problems_of
from tests.peers.orthanc import Orthanc
from tests.running_hub import EHR, RunningHub, launch_hub, wait_for

pytestmark = pytest.mark.peers

Json = dict[str, Any]

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
PACS, WEB, FEW, RIS, HOOK = "pacs", "web", "few", "ris", "hook"
FILES, NEWS, MISHAPS = "files", "news", "mishaps"
ALL_DICOM = sorted(DICOM_KINDS - {DocumentKind.REJECTION_NOTE})
"""Whatever a first report can have."""
FEW_KINDS = [DocumentKind.SR_3D, DocumentKind.SEG_LABELMAP, DocumentKind.PRESENTATION_STATE]
"""A receiver with another choice: what it gets must not name what the others get."""
FILE_KINDS = [DocumentKind.FHIR_R5, DocumentKind.PDF, DocumentKind.ORU, DocumentKind.SR]
KINDS_AT = {
    PACS: ALL_DICOM,
    WEB: ALL_DICOM,
    FEW: FEW_KINDS,
    EHR: [DocumentKind.FHIR],
    RIS: [DocumentKind.ORU],
    HOOK: [DocumentKind.NOTICE],
    FILES: FILE_KINDS,
    NEWS: [DocumentKind.NOTICE],
}
MISHAP_KINDS = [DocumentKind.NOTICE, DocumentKind.ORU, DocumentKind.FHIR]
EVERY_OUTCOME = ["assessed", "not-assessable", "unsuitable", "failed"]
ARCHIVES = (PACS, WEB, FEW)

MODELS = {
    "DISC": "disc",
    "BLANK": "lung-density",
    "KNEE": "densities",
    "NAN": "not-a-number",
}
"""Accession number of a study -> the model that it goes to."""
OUTCOMES = {
    "DISC": "assessed",
    "BLANK": "not-assessable",
    "KNEE": "unsuitable",
    "NAN": "failed",
}


@dataclass(frozen=True)
class Hospital:
    """A hub, everybody who gets results, and what became of the studies."""

    hub: RunningHub
    archives: dict[str, Orthanc]
    fhir_server: FhirServer
    ris: Hl7Listener
    hook: WebhookReceiver
    studies: dict[str, StudyFiles]
    timelines: dict[str, StudyTimeline]

    def delivered(self, study: str, destination: str) -> Counter[str]:
        """Kinds of the documents that a destination got about a study."""
        return Counter(
            row.kind
            for row in self.timelines[study].deliveries
            if row.destination == destination and row.state == "delivered"
        )

    def objects(self, study: str, destination: str) -> dict[str, Dataset]:
        """What an archive holds of a study, by SOP Instance UID."""
        archive = self.archives[destination]
        held = archive.instances(self.studies[study].study_instance_uid)
        read = (pydicom.dcmread(BytesIO(archive.file(one))) for one in held)
        return {str(one.SOPInstanceUID): one for one in read}

    def files(self, study: str, folder: str = FILES) -> dict[str, bytes]:
        """Document -> content, of what lies in a folder about a study."""
        ids = {row.document_id for row in self.timelines[study].deliveries}
        found = (path for path in (self.hub.folder / folder).rglob("*") if path.is_file())
        return {p.name: p.read_bytes() for p in found if any(i in p.name for i in ids)}


def _destinations(
    folder: Path, archives: dict[str, Orthanc], fhir: FhirServer, ris: int, hook: WebhookReceiver
) -> list[Json]:
    def dicom(name: str, confirm: str) -> Json:
        address = {"host": "127.0.0.1", "port": archives[name].dicom_port}
        title = {"ae_title": archives[name].ae_title}
        return {"name": name, "kind": "dicom", **address, **title, "confirm": confirm}

    def into_folder(name: str, **options: Any) -> Json:
        return {"name": name, "kind": "folder", "folder": str(folder / name), **options}

    web = {"name": WEB, "kind": "dicomweb", "url": archives[WEB].dicomweb_url}
    configured: list[Json] = [
        dicom(PACS, "commitment"),
        {**web, "confirm": "query"},
        dicom(FEW, "query"),
        {"name": EHR, "kind": "fhir", "url": fhir.base_url, "confirm": "read"},
        {"name": RIS, "kind": "hl7v2", "host": "127.0.0.1", "port": ris},
        hook.settings(HOOK, "/results"),
        into_folder(FILES),
        into_folder(NEWS, outcomes=EVERY_OUTCOME),
        into_folder(MISHAPS, outcomes=["unsuitable", "failed"]),
    ]
    wanted = {**KINDS_AT, MISHAPS: MISHAP_KINDS}
    kinds = {name: [str(kind) for kind in given] for name, given in wanted.items()}
    return [{"documents": kinds[one["name"]], **one} for one in configured]


def _sections(folder: Path, destinations: list[Json]) -> Json:
    packages = [
        "builtin:lung-density",
        findings_of_a_disc(folder / "disc-model"),
        densities(folder / "densities-model"),
        not_a_number(folder / "nan-model"),
    ]
    routes = [
        {"name": n.lower(), "when": f'study.accession_number == "{n}"', "model": model}
        for n, model in MODELS.items()
    ]
    return {
        "models": [{"package": str(package)} for package in packages],
        "routes": routes,
        "destinations": destinations,
    }


def _studies(folder: Path) -> dict[str, StudyFiles]:
    plain = phantom(folder / "plain", accession_number="DISC")
    whole = phantom(
        folder / "whole",
        seed=2,
        slices=4,
        accession_number="BLANK",
        patient=PatientIdentity("BLANK-1", patient_name="PHANTOM^BLANK"),
    )

    knee = sample(CT_SMALL, folder / "knee", name="knee", AccessionNumber="KNEE")
    return {
        "DISC": with_disc(plain, folder / "disc"),
        "BLANK": StudyFiles(whole.study_instance_uid, changed(whole, folder / "blank", _blank)),
        "KNEE": StudyFiles(
            knee.study_instance_uid, changed(knee, folder / "mr", _of_magnetic_resonance)
        ),
        "NAN": sample(CT_SMALL, folder / "nan", name="nan", AccessionNumber="NAN"),
    }


def _of_magnetic_resonance(data_set: Dataset) -> None:
    data_set.Modality = "MR"


def _blank(data_set: Dataset) -> None:
    """A body without lungs."""
    data_set.PixelData = np.full_like(data_set.pixel_array, 1000).tobytes()


@pytest.fixture(scope="module")
def hospital(
    tmp_path_factory: pytest.TempPathFactory, module_fhir_server: FhirServer
) -> Iterator[Hospital]:
    folder = tmp_path_factory.mktemp("results")
    with ExitStack() as stack:
        archives = {name: Orthanc(folder / name) for name in ARCHIVES}
        for archive in archives.values():
            archive.start()
            stack.callback(archive.kill)
        ris = stack.enter_context(listening())
        hook = stack.enter_context(receiving())
        destinations = _destinations(folder, archives, module_fhir_server, ris.port, hook)
        hub = launch_hub(folder, sections=_sections(folder, destinations))
        stack.callback(hub.close)
        # who is asked for storage commitment has to know where to answer, and a stranger may not
        # search
        us = {"AET": "CAIDX", "Host": "127.0.0.1", "Port": hub.dicom_port}
        for name in (PACS, FEW):
            httpx.put(f"{archives[name].http_url}/modalities/hub", json=us).raise_for_status()
        studies = _studies(folder)
        for study in studies.values():
            hub.send(study.files)
        timelines = {name: _settled(hub, study) for name, study in studies.items()}
        yield Hospital(hub, archives, module_fhir_server, ris, hook, studies, timelines)


def _settled(hub: RunningHub, study: StudyFiles) -> StudyTimeline:
    """A failure's report is made by a job of its own, after the request has ended."""
    uid = study.study_instance_uid

    def told() -> bool:
        timeline = hub.wait_for_study(uid, timeout=60)
        return bool(timeline.reports) and {row.state for row in timeline.reports} == {"made"}

    wait_for(told, "the report", 60, hub.log_text)
    return hub.wait_for_study(uid)


def references(content: Dataset) -> set[str]:
    """Every SOP Instance UID that an object refers to, however deep."""
    found = set()
    for element in content.iterall():
        if element.keyword == "ReferencedSOPInstanceUID":
            found.add(str(element.value))
    return found


# --- one study, everybody -----------------------------------------------------------------------


def test_everything_arrives_everywhere(hospital: Hospital) -> None:
    for name, kinds in KINDS_AT.items():
        assert hospital.delivered("DISC", name) == Counter(str(kind) for kind in kinds), name
    states = Counter(row.state for row in hospital.timelines["DISC"].deliveries)
    assert set(states) == {"delivered"}
    for name in ARCHIVES:
        assert len(hospital.objects("DISC", name)) == len(KINDS_AT[name]), name
    assert len(hospital.files("DISC")) == len(FILE_KINDS)


@pytest.mark.parametrize(
    ("destination", "says"),
    [
        (PACS, "storage commitment: kept"),
        (WEB, "QIDO-RS"),
        (FEW, "C-FIND"),
        (EHR, "read"),
    ],
)
def test_who_confirms_has_confirmed(hospital: Hospital, destination: str, says: str) -> None:
    rows = [r for r in hospital.timelines["DISC"].deliveries if r.destination == destination]
    assert rows
    assert [row.detail for row in rows if says not in row.detail] == []


@pytest.mark.parametrize("name", ARCHIVES)
def test_nothing_refers_to_what_its_receiver_has_not_got(hospital: Hospital, name: str) -> None:
    images = {str(h.SOPInstanceUID) for h in hospital.studies["DISC"].headers}
    objects = hospital.objects("DISC", name)
    every: set[str] = set()
    for uid, content in objects.items():
        named = references(content)
        assert named <= images | set(objects) - {uid}, content.SeriesDescription
        every |= named
    assert every & images
    assert every & set(objects), "no object refers to another: the test proves too little"


@pytest.mark.parametrize("name", ARCHIVES)
def test_every_object_is_valid_and_marked_as_made_by_ai(
    hospital: Hospital, name: str, tmp_path: Path
) -> None:
    for uid, content in hospital.objects("DISC", name).items():
        file = tmp_path / uid
        as_known_to_dciodvfy(content).save_as(file)
        assert dcmtk.dciodvfy(file) == [], content.SeriesDescription
        assert content.SeriesDescription.startswith("AI ")
        assert content.PatientID == "PHANTOM-CHEST"
        assert content.AccessionNumber == "DISC"
        assert content.StudyInstanceUID == hospital.studies["DISC"].study_instance_uid


def as_known_to_dciodvfy(content: Dataset) -> Dataset:
    """Debian's dciodvfy is older than label maps: they are shown to it as fractional ones, which
    have the same modules, without the background."""
    if content.get("SegmentationType") != "LABELMAP":
        return content
    found = deepcopy(content)
    found.SOPClassUID = found.file_meta.MediaStorageSOPClassUID = SEGMENTATION
    found.SegmentationType, found.SegmentationFractionalType = "FRACTIONAL", "PROBABILITY"
    found.MaximumFractionalValue = 255
    del found.SegmentSequence[0]
    for frame in found.PerFrameFunctionalGroupsSequence:
        frame.SegmentIdentificationSequence = [Dataset()]
        frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber = 1
    return found


@pytest.mark.parametrize("source", [EHR, FILES])
def test_fhir_reports_name_only_objects_that_somebody_has(hospital: Hospital, source: str) -> None:
    """A server without DICOM is told of those objects that the archive with most of them has."""
    images = hospital.studies["DISC"].headers
    known = {str(getattr(h, k)) for h in images for k in ("SOPInstanceUID", "SeriesInstanceUID")}
    known |= {str(images[0].StudyInstanceUID)}
    reach = PACS if source == EHR else FILES
    made = hospital.objects("DISC", PACS)
    if reach == FILES:
        (report,) = (c for c in hospital.files("DISC").values() if c[128:132] == b"DICM")
        sr = pydicom.dcmread(BytesIO(report))
        made = {str(sr.SOPInstanceUID): sr}
    known |= {uid for one in made.values() for uid in (one.SOPInstanceUID, one.SeriesInstanceUID)}
    named = dicom_uids(fhir_resources(hospital, source))
    (notice,) = (n for n in hospital.hook.notices("/results") if n["accession_number"] == "DISC")
    tracked = {one["tracking_uid"] for one in notice["findings"]}
    assert named - known - tracked == set()
    assert named & set(made)


def fhir_resources(hospital: Hospital, source: str) -> list[Json]:
    """What the FHIR server, or the R5 bundle in the folder, says of the study."""
    if source == FILES:
        (bundle,) = (c for c in hospital.files("DISC").values() if c.startswith(b'{"resource'))
        every = [entry["resource"] for entry in json.loads(bundle)["entry"]]
        return [one for one in every if one["resourceType"] != "Device"]  # it has a UID, too
    (study,) = (
        one
        for one in hospital.fhir_server.search("ImagingStudy", _count="100")
        if hospital.studies["DISC"].study_instance_uid in json.dumps(one)
    )
    reports = hospital.fhir_server.search("DiagnosticReport", _count="100")
    named = [one for one in reports if f"ImagingStudy/{study['id']}" in json.dumps(one)]
    assert len(named) == 1
    found = [hospital.fhir_server.read(o["reference"]) for o in named[0]["result"]]
    return [study, *named, *found]


def dicom_uids(resources: list[Json]) -> set[str]:
    """``urn:oid:`` identifiers, and the UIDs of an ImagingStudy's series and instances."""
    found = set()

    def look(value: Any) -> None:
        if isinstance(value, dict):
            if isinstance(value.get("uid"), str):
                found.add(value["uid"])
            if value.get("system") == "urn:dicom:uid":
                found.add(str(value["value"]).removeprefix("urn:oid:"))
            for one in value.values():
                look(one)
        elif isinstance(value, list):
            for one in value:
                look(one)

    look(resources)
    return found


def test_programs_are_told_by_a_signed_notice(hospital: Hospital) -> None:
    uid = hospital.studies["DISC"].study_instance_uid
    (post,) = (p for p in hospital.hook.to("/results") if p.notice["study_instance_uid"] == uid)
    assert post.is_signed
    assert post.headers["webhook-id"]
    notice = post.notice
    assert (notice["outcome"], notice["critical"]) == ("assessed", True)
    objects = hospital.objects("DISC", PACS)
    named = {d["id"] for d in notice["documents"] if d["kind"] in {str(k) for k in ALL_DICOM}}
    assert named == set(objects)
    (finding,) = (f for f in notice["findings"] if "presence" in f)
    assert finding["presence"] == "present"


def test_the_ris_gets_a_valid_message_with_the_same_numbers(
    hospital: Hospital, tmp_path: Path
) -> None:
    uid = hospital.studies["DISC"].study_instance_uid
    (message,) = (one for one in hospital.ris.messages if uid in str(one))
    assert problems_of(str(message), tmp_path / "report") == []
    values = [str(obx[5]) for obx in message.segments("OBX") if str(obx[2]) == "NM"]
    (notice,) = (n for n in hospital.hook.notices("/results") if n["study_instance_uid"] == uid)
    (diameter,) = (f["value"] for f in notice["findings"] if f.get("unit") == "mm")
    assert diameter == pytest.approx(36.4)
    assert any(float(value) == pytest.approx(diameter) for value in values)
    assert field_of(message, "PID", 3) == "PHANTOM-CHEST"


# --- every outcome ------------------------------------------------------------------------------


@pytest.mark.parametrize(("study", "outcome"), OUTCOMES.items())
def test_each_outcome_reaches_those_who_take_it(
    hospital: Hospital, study: str, outcome: str
) -> None:
    timeline = hospital.timelines[study]
    assert [row.outcome for row in timeline.reports] == [outcome]
    got = {row.destination for row in timeline.deliveries}
    answered = {PACS, WEB, FEW, EHR, RIS, HOOK, FILES, NEWS}
    expected = answered if outcome in ("assessed", "not-assessable") else {NEWS, MISHAPS}
    assert got == expected
    assert {row.state for row in timeline.deliveries} == {"delivered"}


@pytest.mark.parametrize(("study", "outcome"), OUTCOMES.items())
def test_each_outcome_is_told_as_what_it_is(hospital: Hospital, study: str, outcome: str) -> None:
    (content,) = hospital.files(study, NEWS).values()
    notice = json.loads(content)
    assert notice["outcome"] == outcome
    said = {one["presence"] for one in notice["findings"] if "presence" in one}
    expected = {"assessed": {"present"}, "not-assessable": {"not-assessable"}}
    assert said == expected.get(outcome, set())
    assert any("value" in one for one in notice["findings"]) is (outcome == "assessed")


@pytest.mark.parametrize("study", ["KNEE", "NAN"])
def test_what_was_not_analysed_never_looks_like_no_finding(
    hospital: Hospital, study: str, tmp_path: Path
) -> None:
    contents = hospital.files(study, MISHAPS).values()
    assert len(contents) == len(MISHAP_KINDS)
    (message,) = (c.decode() for c in contents if c.startswith(b"MSH"))
    assert problems_of(message.replace("\n", "\r"), tmp_path / "report") == []
    segments = [line.split("|") for line in message.splitlines()]
    assert {s[25] for s in segments if s[0] == "OBR"} == {"X"}
    (bundle,) = (json.loads(c) for c in contents if c.startswith(b'{"resource'))
    by_type: dict[str, list[Json]] = {}
    for entry in bundle["entry"]:
        by_type.setdefault(entry["resource"]["resourceType"], []).append(entry["resource"])
    (report,) = by_type["DiagnosticReport"]
    assert report["status"] == "cancelled"
    assert not any("valueQuantity" in one for one in by_type.get("Observation", ()))
    words = {"KNEE": "not analysed", "NAN": "failed"}[study]
    assert words in report["conclusion"].lower()
    for destination in (PACS, FEW):
        assert hospital.objects(study, destination) == {}


def test_what_cannot_be_assessed_says_so_and_why(hospital: Hospital) -> None:
    reports = [one for one in hospital.objects("BLANK", PACS).values() if one.Modality == "SR"]
    assert len(reports) == 2
    for one in reports:
        assert "not assess" in one.to_json()
    uid = hospital.studies["BLANK"].study_instance_uid
    (notice,) = (n for n in hospital.hook.notices("/results") if n["study_instance_uid"] == uid)
    assert (notice["outcome"], notice["critical"]) == ("not-assessable", False)
