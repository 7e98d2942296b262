"""Nothing reaches the wrong patient: each mixed-up case of DESIGN 8 through the whole hub. That the
gate is what stops them is shown in tests/unit/test_identity_gate.py, where it is taken out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread

from hub.bootstrap.clock import SystemClock
from hub.domain.identity import PatientIdentity
from hub.domain.patient import PatientChange, PatientChangeKind
from hub.store import patients
from hub.store.journal import Journal
from hub.store.overview import StudyTimeline
from tests.acceptance import liar, stranger
from tests.acceptance.models import densities
from tests.acceptance.studies import CT_SMALL, StudyFiles, changed, sample
from tests.running_hub import RunningHub, launch_hub, wait_for

pytestmark = pytest.mark.peers

MODEL, POSTBOX = "said", "postbox"
RELEASE = ("--by", "Doctor^Dora", "--reason", "confirmed by phone")


@dataclass
class Site:
    hub: RunningHub
    folder: Path
    liar: liar.Liar

    def send(self, name: str, **attributes: object) -> StudyFiles:
        """One image as a study of its own, of a patient and an order of its own."""
        own = {"PatientID": f"P-{name}", "AccessionNumber": f"A-{name}"[:16], **attributes}
        study = sample(CT_SMALL, self.folder / name, name=name, **own)
        self.hub.send(study.files)
        return study

    def settled(self, study: StudyFiles) -> StudyTimeline:
        return self.hub.wait_for_study(study.study_instance_uid)

    def delivered(self, study: StudyFiles) -> list[Dataset]:
        """The reports about a study that are in the box."""
        box = self.folder / POSTBOX
        found = [dcmread(BytesIO(file.read_bytes())) for file in sorted(box.glob("*"))]
        return [one for one in found if study.study_instance_uid == one.StudyInstanceUID]

    def alerts(self, study: StudyFiles) -> list[str]:
        uid = study.study_instance_uid
        rows = self.hub.rows("SELECT kind FROM alerts WHERE study_instance_uid = :uid", uid=uid)
        return [row["kind"] for row in rows]

    def quarantined(self) -> set[str]:
        """Studies that wait for a person, as the command line tells it."""
        listed = json.loads(self.hub.caidx("quarantine", "list", "--json").stdout)
        return {one["study_instance_uid"] for one in listed}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("identity")
    environment = stranger.install(folder / "site")
    liar.install(folder / "site")
    hub = launch_hub(
        folder,
        environment=environment,
        sections={
            "models": [
                {"package": str(densities(folder / MODEL, model_id=MODEL)), "adapter": "liar"}
            ],
            "routes": [{"name": "all", "when": "true", "model": MODEL}],
            "adapters": {"liar": {"folder": str(folder / "lies")}},
            "destinations": [{"name": POSTBOX, "kind": POSTBOX, "box": str(folder / POSTBOX)}],
        },
    )
    (folder / "lies").mkdir(exist_ok=True)
    yield Site(hub, folder, liar.Liar(folder / "lies"))
    hub.close()


def test_an_answer_about_the_right_study_is_delivered(site: Site) -> None:
    """Else none of what follows would show anything."""
    site.liar.will_say()
    study = site.send("right")
    site.settled(study)
    (report,) = site.delivered(study)
    assert report.PatientID == "P-right"


@pytest.mark.parametrize(
    "lie",
    [
        {"study_instance_uid": "2.25.99"},
        {"patient": {"patient_id": "SOMEBODY"}},
        {"patient": {"issuer_of_patient_id": "ELSEWHERE"}},
        {"accession_number": "A-other"},
    ],
    ids=["study", "patient", "issuer", "order"],
)
def test_a_vendor_that_answers_about_somebody_else(site: Site, lie: dict[str, object]) -> None:
    site.liar.will_say(**lie)
    study = site.send(f"lie-{'-'.join(lie)}-{len(str(lie))}")
    (request,) = site.settled(study).requests
    site.liar.will_say()
    assert request.state == "quarantined"
    assert site.delivered(study) == []
    assert site.alerts(study) == ["inference.quarantined"]
    assert study.study_instance_uid in site.quarantined()


def test_a_named_person_releases_one_and_discards_another(site: Site) -> None:
    site.liar.will_say(patient={"patient_id": "SOMEBODY"})
    released, discarded = site.send("released"), site.send("discarded")
    (first,), (second,) = (site.settled(study).requests for study in (released, discarded))
    site.liar.will_say()
    refused = site.hub.caidx("quarantine", "release", first.request_id, check=False)
    assert refused.returncode != 0  # nobody is named
    site.hub.caidx("quarantine", "release", first.request_id, *RELEASE)
    site.hub.caidx("quarantine", "discard", second.request_id, *RELEASE)
    wait_for(lambda: bool(site.delivered(released)), "the released report")
    (report,) = site.delivered(released)
    assert report.PatientID == "P-released"
    assert "SOMEBODY" not in report.to_json()
    (row,) = site.settled(discarded).requests
    assert row.state == "discarded"
    assert site.delivered(discarded) == []
    assert not {released.study_instance_uid, discarded.study_instance_uid} & site.quarantined()


def test_what_is_about_another_study_cannot_be_released(site: Site) -> None:
    site.liar.will_say(study_instance_uid="2.25.99")
    study = site.send("not-released")
    (request,) = site.settled(study).requests
    site.liar.will_say()
    done = site.hub.caidx("quarantine", "release", request.request_id, *RELEASE, check=False)
    assert done.returncode == 1
    assert "another study" in done.stderr
    assert site.delivered(study) == []


def test_mixed_patients_in_one_association(site: Site) -> None:
    study = sample(CT_SMALL, site.folder / "mixed", name="mixed", PatientID="P-1")

    def another(data_set: Dataset) -> None:
        data_set.SOPInstanceUID += ".2"
        data_set.PatientID = "P-2"

    others = changed(study, site.folder / "mixed-2", another)
    site.hub.send([*study.files, *others])
    timeline = site.settled(study)
    assert {request.state for request in timeline.requests} <= {"quarantined"}
    assert site.delivered(study) == []
    assert "study.held" in site.alerts(study)


def test_equal_accession_numbers_of_two_patients(site: Site) -> None:
    site.liar.wait()
    one, other = (site.send(name, AccessionNumber="A-EQUAL") for name in ("equal-1", "equal-2"))
    for study in (one, other):
        uid = study.study_instance_uid
        wait_for(lambda uid=uid: site.liar.was_asked(uid), "the model to be asked")  # type: ignore[misc]
    site.liar.go_on()
    for study in (one, other):
        (request,) = site.settled(study).requests
        assert request.state == "quarantined"
        assert site.delivered(study) == []


def test_a_patient_who_is_merged_between_request_and_result(site: Site) -> None:
    site.liar.wait()
    study = site.send("merged", PatientID="OLD-7")
    wait_for(lambda: site.liar.was_asked(study.study_instance_uid), "the model to be asked")
    change = PatientChange(
        change_id="adt-1",
        kind=PatientChangeKind.MERGED,
        patient_id="OLD-7",
        issuer_of_patient_id="",
        current=PatientIdentity("NEW-8"),
        source="his",
        received_at=datetime.now(UTC),
    )
    with site.hub.database.write() as connection:
        patients.record_change(connection, Journal(SystemClock(), "source:his"), change)
    site.liar.go_on()
    (request,) = site.settled(study).requests
    assert request.state == "done"
    (report,) = site.delivered(study)
    assert report.PatientID == "NEW-8"
    assert "OLD-7" not in report.to_json()
    assert "identification was changed" in report.to_json()
