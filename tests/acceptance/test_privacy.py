"""No patient data in logs, metrics, temporary files, file names, jobs or resources about machines.

Every study carries canaries: values that occur nowhere else. Afterwards everything that the hub
wrote is searched, after good studies and after every kind of failure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
import pytest
import sqlalchemy as sa
from hl7.client import MLLPClient
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt

from hub.domain.identity import derived_uid
from tests.acceptance.models import not_a_number
from tests.acceptance.raw_store import raw_store
from tests.acceptance.studies import CT_SMALL, StudyFiles, changed, phantom, sample, sample_data_set
from tests.acceptance.test_bad_input import encoded
from tests.acceptance.webhook_receiver import WebhookReceiver, receiving
from tests.peers import free_port
from tests.peers.fhir_server import FhirServer
from tests.peers.hl7_listener import listening
from tests.peers.orthanc import Orthanc
from tests.running_hub import EHR, PACS, RunningHub, launch_hub, wait_for

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore:Invalid value for VR UI"),  # on purpose
]

CANARIES = {
    "PatientName": "Kanarienvogel^Zitrone",
    "PatientID": "CANARY4711ID",
    "PatientBirthDate": "19471113",
    "AccessionNumber": "ACCCANARY9",
    "ReferringPhysicianName": "Ueberweiserin^Kanaria",
    "OperatorsName": "Bedienerin^Kanaria",
    "StudyDescription": "Verdacht Kanarienlunge",
    "PatientComments": "ruft Kanarienkommentar",
    "AdditionalPatientHistory": "hat Kanarienhistorie",
    "PatientAddress": "Kanariengasse 5",
}
ORDINARY_WORDS = {"Verdacht", "hat", "ruft", "5"}
NEEDLES = {
    part.encode(): keyword
    for keyword, value in CANARIES.items()
    for part in re.split(r"[\^ ]", value)
    if part not in ORDINARY_WORDS
}
"""What is searched for -> the attribute that it came in."""
BELONGS_IN_TABLES = {"instances", "studies", "documents", "patient_changes"}
BELONGS_IN_FOLDERS = {"objects", "documents"}
DATABASE = "caidx.sqlite"

ROUTES = [
    {
        "name": "chest",
        "when": "true",
        "series": 'series.body_part_examined == "CHEST"',
        "model": "lung-density",
    },
    {
        "name": "broken-rule",
        "when": "int(study.study_description) > 0",
        "series": "true",
        "model": "lung-density",
    },
    {
        "name": "nan",
        "when": "true",
        "series": 'series.body_part_examined == "KNEE"',
        "model": "not-a-number",
    },
]


RIS, HOOK, RECORD, WEB, STORE = "ris", "hook", "record", "web-archive", "store"
"""Destinations that repeat what they were sent when they refuse it."""
ECHO = " ".join(CANARIES.values()).replace("^", " ")
ADMISSION = (
    "MSH|^~\\&|HIS|KH|CAIDX|KH|20260314||{kind}|{number}|P|2.5.1||||||UNICODE UTF-8\r"
    "EVN||20260314\rPID|1||{identifier}||Kanarienvogel^Zitrone||19471113|F|||Kanariengasse 5\r"
)


@dataclass(frozen=True)
class Aftermath:
    hub: RunningHub
    orthanc: Orthanc
    fhir_server: FhirServer
    good: StudyFiles
    hook: WebhookReceiver
    admission_answers: list[str]
    """What the hub said to messages of an ADT feed."""


def found(where: str, content: bytes) -> list[str]:
    """Which canaries stand in a text, and where."""
    lower = content.lower()
    return [f"{needle.decode()} in {where}" for needle in NEEDLES if needle.lower() in lower]


def with_canaries(data_set: Dataset) -> None:
    for keyword, value in CANARIES.items():
        setattr(data_set, keyword, value)


@pytest.fixture(scope="module")
def aftermath(
    tmp_path_factory: pytest.TempPathFactory,
    module_orthanc: Orthanc,
    module_fhir_server: FhirServer,
) -> Iterator[Aftermath]:
    folder, adt_port = tmp_path_factory.mktemp("privacy"), free_port()
    models = [{"package": "builtin:lung-density"}, {"package": str(not_a_number(folder / "nan"))}]
    module_orthanc.stop()
    with _hostile() as (hook, hostile):
        hub = launch_hub(
            folder,
            sections={
                "routes": ROUTES,
                "models": models,
                "destinations": [*_friendly(module_orthanc, module_fhir_server), *hostile],
            },
            further_sources=[{"name": "his", "kind": "hl7v2", "port": adt_port}],
        )
        answers = _admissions(adt_port)
        good = _pass_through(hub, folder, module_orthanc)
        yield Aftermath(hub, module_orthanc, module_fhir_server, good, hook, answers)
        hub.close()


def _friendly(orthanc: Orthanc, fhir_server: FhirServer) -> list[dict[str, Any]]:
    address = {"host": "127.0.0.1", "port": orthanc.dicom_port, "ae_title": orthanc.ae_title}
    return [
        {"name": PACS, "kind": "dicom", **address},
        {"name": EHR, "kind": "fhir", "url": fhir_server.base_url},
    ]


@contextmanager
def _hostile() -> Iterator[tuple[WebhookReceiver, list[dict[str, Any]]]]:
    """Everybody who refuses, and says whom."""
    with (
        listening("AE/207", "AE/204", "AE/204", "AE/204") as ris,
        receiving() as hook,
        receiving() as record,
        receiving() as web,
        _refusing_store() as store_port,
    ):
        ris.echo = ECHO
        hook.status, hook.answer = 422, ECHO.encode() + b" %BODY%"
        issue = {"severity": "error", "code": "invalid", "diagnostics": ECHO}
        outcome = {"resourceType": "OperationOutcome", "issue": [issue]}
        record.status, record.answer = 422, json.dumps(outcome).encode()
        web.status, web.answer = 409, json.dumps({"00000902": {"Value": [ECHO]}}).encode()
        here = {"host": "127.0.0.1"}
        yield (
            hook,
            [
                {"name": RIS, "kind": "hl7v2", "port": ris.port, **here},
                hook.settings(HOOK, "/hook"),
                {"name": RECORD, "kind": "fhir", "url": record.url, "guard": False},
                {"name": WEB, "kind": "dicomweb", "url": web.url},
                {"name": STORE, "kind": "dicom", "ae_title": "STORE", "port": store_port, **here},
            ],
        )


@contextmanager
def _refusing_store() -> Iterator[int]:
    """A Storage SCP that says in an Error Comment (0000,0902) whose object it refuses."""

    def refuse(event: Any) -> Dataset:
        status = Dataset()
        status.Status = 0xC000
        status.ErrorComment = f"{event.dataset.PatientName} {ECHO}"[:64]
        return status

    entity = AE(ae_title="STORE")
    for context in AllStoragePresentationContexts:
        entity.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES)
    port = free_port()
    handlers = [(evt.EVT_C_STORE, refuse)]
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
    try:
        yield port
    finally:
        server.shutdown()


def _admissions(port: int) -> list[str]:
    """Our answers to a change that is taken, and to messages with all that can be wrong."""
    known = f"{CANARIES['PatientID']}^^^^MR"
    messages = [
        ADMISSION.format(kind="ADT^A08", number="1", identifier=known),
        ADMISSION.format(kind="ADT^A08", number="2", identifier=""),
        ADMISSION.format(kind="ADT^A40", number="3", identifier=known),
        ADMISSION.format(kind="ORM^O01", number="4", identifier=known),
        ADMISSION.format(kind="Kanarienvogel^A08", number="5", identifier=known),
    ]
    with MLLPClient("127.0.0.1", port) as client:
        return [client.send_message(one.encode()).decode() for one in messages]


def _pass_through(hub: RunningHub, folder: Path, orthanc: Orthanc) -> StudyFiles:
    made = phantom(folder / "plain", slices=4)
    good = StudyFiles(made.study_instance_uid, changed(made, folder / "good", with_canaries))
    hub.send(good.files)
    for study in _bad_studies(hub, folder):
        hub.send(study.files)
        hub.wait_for_study(study.study_instance_uid, "answered")
    _bad_objects(hub)
    retried = "SELECT 1 FROM deliveries WHERE destination = 'pacs' AND attempts > 0"
    wait_for(lambda: bool(hub.rows(retried)), "a delivery that fails", 60, hub.log_text)
    orthanc.start()
    hub.wait_for_study(good.study_instance_uid)
    other = {**CANARIES, "PatientID": f"{CANARIES['PatientID']}X", "BodyPartExamined": "CHEST"}
    shared = sample(CT_SMALL, folder / "shared", name="shared", **other)
    hub.send(shared.files)
    hub.wait_for_study(shared.study_instance_uid, "answered")
    hub.wait_for_study(good.study_instance_uid)
    return good


def _bad_studies(hub: RunningHub, folder: Path) -> Iterator[StudyFiles]:
    yield sample(CT_SMALL, folder / "knee", name="knee", BodyPartExamined="KNEE", **CANARIES)

    two = phantom(folder / "two", seed=2, slices=2)

    def other_patient(data_set: Dataset) -> None:
        with_canaries(data_set)
        number = int(data_set.InstanceNumber)
        data_set.PatientID = f"{CANARIES['PatientID']}{number}"
        data_set.AccessionNumber += "B"

    yield StudyFiles(two.study_instance_uid, changed(two, folder / "two-patients", other_patient))

    uneven = phantom(folder / "uneven", seed=3, slices=4)
    files = changed(uneven, folder / "uneven-slices", with_canaries)
    yield StudyFiles(uneven.study_instance_uid, (files[0], files[1], files[3]))
    # The same instances once more, with other bytes.
    again = changed(uneven, folder / "conflict", _blank)
    yield StudyFiles(uneven.study_instance_uid, again[:2])

    broken = phantom(folder / "undecodable", seed=4, slices=1)

    def undecodable(data_set: Dataset) -> None:
        with_canaries(data_set)
        data_set.file_meta.TransferSyntaxUID = pydicom.uid.JPEG2000Lossless
        data_set.PixelData = encapsulate([b"\xff\x4f no stream of " + b"Kanarienvogel"])
        data_set["PixelData"].VR = "OB"

    files = changed(broken, folder / "undecodable-pixels", undecodable)
    yield StudyFiles(broken.study_instance_uid, files)


def _blank(data_set: Dataset) -> None:
    with_canaries(data_set)
    data_set.PixelData = bytes(len(data_set.PixelData))


def _bad_objects(hub: RunningHub) -> None:
    data_set = sample_data_set(CT_SMALL)
    with_canaries(data_set)
    data_set.SOPInstanceUID = derived_uid("privacy")
    whole = encoded(data_set)
    name = whole.index(b"Kanarienvogel")
    data_set.StudyInstanceUID = CANARIES["PatientID"]
    for content in (
        whole[:-5000],
        whole[: name + 4],
        whole[: name - 2] + b"\xff\xff" + whole[name:],
        whole.replace(b"Kanarienvogel", b"\xff\xfe\x00anarienvogel"),
        encoded(data_set),
        b"Kanarienvogel^Zitrone",
    ):
        raw_store(hub.dicom_port, content, sop_instance_uid=str(data_set.SOPInstanceUID))


def test_every_kind_of_failure_has_happened(aftermath: Aftermath) -> None:
    actions = {row["action"] for row in aftermath.hub.rows("SELECT action FROM audit_log")}
    assert actions >= {
        "delivery.delivered",
        "delivery.retrying",
        "inference.failed",
        "inference.finished",
        "inference.quarantined",
        "instance.conflict",
        "object.rejected",
        "route.error",
        "study.held",
        "patient.changed",
    }
    rows = aftermath.hub.rows("SELECT DISTINCT destination, state FROM deliveries")
    ends = {(row["destination"], row["state"]) for row in rows}
    assert ends >= {(PACS, "delivered"), (EHR, "delivered")}
    refused = {name for name, state in ends if state == "dead"}
    assert refused == {RIS, HOOK, RECORD, WEB, STORE}
    taken, *others = aftermath.admission_answers
    assert "MSA|AA|1" in taken
    assert all("MSA|AR|" in one for one in others)


def test_the_search_finds_canaries_where_they_belong(aftermath: Aftermath, tmp_path: Path) -> None:
    hub = aftermath.hub
    for table in BELONGS_IN_TABLES:
        assert found(table, _rows(hub, table)), table
    for folder in BELONGS_IN_FOLDERS:
        assert _in_files(hub.data / folder), folder
    (hub.temporary / "planted").write_bytes(b"... ZITRONE ...")
    assert _in_files(hub.temporary) == [f"Zitrone in {hub.temporary / 'planted'}"]
    (hub.temporary / "planted").unlink()
    named = tmp_path / "CANARY4711ID.txt"
    named.touch()
    assert _in_names(tmp_path)


def test_the_pacs_and_the_record_get_the_patient(aftermath: Aftermath) -> None:
    held = aftermath.orthanc.instances(aftermath.good.study_instance_uid)
    assert len(held) == 3
    for one in held:
        assert aftermath.orthanc.tags(one)["PatientName"] == CANARIES["PatientName"]
    (report,) = aftermath.fhir_server.search("DiagnosticReport")
    assert report["subject"]["identifier"]["value"] == CANARIES["PatientID"]


def test_logs_at_debug_level_hold_no_patient_data(aftermath: Aftermath) -> None:
    text = aftermath.hub.log_text()
    for event in ("dicom.store.refused", "role.started"):
        assert event in text
    assert found("the log", text.encode()) == []


def test_the_tables_hold_patient_data_only_where_it_belongs(aftermath: Aftermath) -> None:
    tables = set(sa.inspect(aftermath.hub.database.engine).get_table_names())
    assert tables > BELONGS_IN_TABLES | {"workflow_status", "audit_log", "results", "alerts"}
    for table in sorted(tables - BELONGS_IN_TABLES):
        assert found(table, _rows(aftermath.hub, table)) == []
    assert _rows(aftermath.hub, "workflow_status")


def test_files_hold_patient_data_only_where_it_belongs(aftermath: Aftermath) -> None:
    hub = aftermath.hub
    assert _in_files(hub.temporary) == []
    others = [
        path
        for path in hub.data.iterdir()
        if path.name not in BELONGS_IN_FOLDERS and not path.name.startswith(DATABASE)
    ]
    assert [hit for path in others for hit in _in_files(path)] == []


def test_programs_are_told_neither_name_nor_birth_date(aftermath: Aftermath) -> None:
    posts = aftermath.hook.to("/hook")
    assert posts
    for post in posts:
        told = found("the notice", post.body) + found("its headers", str(post.headers).encode())
        assert told == [f"{CANARIES['AccessionNumber']} in the notice"]


def test_our_acknowledgements_repeat_nothing_of_the_patient(aftermath: Aftermath) -> None:
    for answer in aftermath.admission_answers:
        assert found("the answer", answer.encode()) == []


def test_dead_letters_say_why_and_not_whom(aftermath: Aftermath) -> None:
    listed = aftermath.hub.caidx("delivery", "list", "--state", "dead", "--json").stdout
    for reason in ("HL7 AE, error 204", "HTTP 422", "0xC000"):
        assert reason in listed
    assert found("the list", listed.encode()) == []


def test_no_file_is_named_after_a_patient(aftermath: Aftermath) -> None:
    assert list(aftermath.hub.data.rglob("*"))
    assert _in_names(aftermath.hub.data) == []
    assert _in_names(aftermath.hub.temporary) == []


def test_no_identity_leaks_through_shared_memory(aftermath: Aftermath) -> None:
    assert _in_names(Path("/dev/shm")) == []


@pytest.mark.parametrize(
    "path",
    [
        "/metrics",
        "/health/ready",
        "/api/v1/studies",
        "/api/v1/requests",
        "/api/v1/results",
        "/api/v1/deliveries",
        "/api/v1/models",
        "/api/v1/audit",
    ],
)
def test_the_web_role_tells_nothing_about_patients(aftermath: Aftermath, path: str) -> None:
    answer = aftermath.hub.get(path)
    assert answer.status_code == 200, answer.text
    assert len(answer.content) > 20
    assert found(path, answer.content) == []


def test_a_study_in_the_web_role_tells_nothing_about_its_patient(aftermath: Aftermath) -> None:
    uid = aftermath.good.study_instance_uid
    answer = aftermath.hub.get(f"/api/v1/studies/{uid}")
    assert uid in answer.text
    assert found("the study", answer.content) == []


def test_the_command_line_tells_nothing_about_patients(aftermath: Aftermath) -> None:
    uid = aftermath.good.study_instance_uid
    commands = (
        ["study", "list"],
        ["study", "show", uid],
        ["audit", "list"],
        ["quarantine", "list"],
    )
    for arguments in commands:
        done = aftermath.hub.caidx(*arguments)
        assert found(" ".join(arguments), (done.stdout + done.stderr).encode()) == []


def test_resources_about_machines_hold_no_patient_data(aftermath: Aftermath) -> None:
    for kind in ("Device", "Provenance"):
        held = aftermath.fhir_server.search(kind)
        assert held
        assert found(kind, repr(held).encode()) == []


def test_the_record_gets_no_more_of_the_patient_than_the_identifiers(
    aftermath: Aftermath,
) -> None:
    told = {
        keyword
        for kind in ("DiagnosticReport", "Observation", "ImagingStudy")
        for one in aftermath.fhir_server.search(kind)
        for needle, keyword in NEEDLES.items()
        if needle.decode().lower() in _without_attachments(one).lower()
    }
    assert told <= {"PatientName", "PatientID", "AccessionNumber", "StudyDescription"}
    assert "PatientID" in told


def _without_attachments(resource: dict[str, Any]) -> str:
    return repr({name: value for name, value in resource.items() if name != "presentedForm"})


def _rows(hub: RunningHub, table: str) -> bytes:
    return repr(hub.rows(f'SELECT * FROM "{table}"')).encode()


def _in_files(place: Path) -> list[str]:
    files = [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]
    return [hit for path in files for hit in found(str(path), path.read_bytes())]


def _in_names(folder: Path) -> list[str]:
    paths = [str(path.relative_to(folder)) for path in folder.rglob("*")]
    return [hit for path in paths for hit in found(path, path.encode())]
