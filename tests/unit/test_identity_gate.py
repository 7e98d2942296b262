"""Nothing reaches the wrong patient. Each mixed-up case is shown twice: with the gate, which stops
(or follows) it, and with the gate taken out, which sends it: so the gate is what stops it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from hub.domain.delivery import Document, DocumentKind
from hub.domain.finding import Evidence
from hub.domain.identity import PatientIdentity
from hub.domain.inference import InferenceRequest, InferenceResult
from hub.domain.patient import PatientChange, PatientChangeKind
from hub.domain.report import Person
from hub.errors import RejectedError
from hub.formats.fhir import report as fhir_report
from hub.formats.images.ct_phantom import chest_phantom
from hub.formats.printed import pdf as report_pdf
from hub.identity_gate import FOLLOWED, SHARED_ACCESSION_NUMBER, IdentityGate, Verified
from hub.store import patients
from hub.store.quarantine import Quarantine
from hub.store.schema import alerts, deliveries, documents, report_versions, requests, results
from tests.unit.test_pipeline import Bench, _finding, make_bench

ANNA = PatientIdentity("ANNA-1", "HIS", "TEST^ANNA", "19600101", "F")
BERTA = PatientIdentity("BERTA-2", "HIS", "TEST^BERTA", "19700202", "F")
MERGED = PatientIdentity("ANNA-9", "HIS", "TEST^ANNA", "19600101", "F")
DOCTOR = Person("Doctor^Dora")
REASON = "the RIS confirmed it by phone"

GATES = pytest.mark.parametrize("gate", [True, False], ids=["gate", "no gate"])


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = make_bench(tmp_path)
    yield made
    made.store.close()
    made.pipeline.database.close()


def take_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """No gate, and none of the encoders' own last checks."""

    def verify(
        _: IdentityGate, request: InferenceRequest, result: InferenceResult, _card: object
    ) -> Verified:
        return Verified(request, result, followed=False)

    def nothing(*_: object) -> None: ...

    monkeypatch.setattr(IdentityGate, "verify", verify)
    monkeypatch.setattr(IdentityGate, "check_delivery", nothing)
    monkeypatch.setattr("hub.report_steps._check_documents", nothing)
    for encoder in (fhir_report, report_pdf):
        monkeypatch.setattr(encoder, "check_document_identity", nothing)


def receive(
    bench: Bench, patient: PatientIdentity = ANNA, accession_number: str = "A-1", seed: int = 1
) -> str:
    phantom = chest_phantom(
        slices=2,
        rows=64,
        columns=64,
        patient=patient,
        accession_number=accession_number,
        seed=seed,
    )
    bench.send(phantom.files)
    bench.clock.advance(2)
    return phantom.study_instance_uid


def delivered(bench: Bench) -> list[Document]:
    return [one for d in bench.destinations.values() for one in d.delivered]


def answer(**identity: str) -> Callable[[InferenceRequest], InferenceResult]:
    """A model that answers about somebody else."""

    def infer(request: InferenceRequest) -> InferenceResult:
        result = _finding(request)
        mine = result.identity
        patient = {k: v for k, v in identity.items() if hasattr(mine.patient, k)}
        others = {k: v for k, v in identity.items() if k not in patient}
        return replace(
            result, identity=replace(mine, patient=replace(mine.patient, **patient), **others)
        )

    return infer


def foreign_evidence(request: InferenceRequest) -> InferenceResult:
    result = _finding(request)
    finding = replace(result.findings[0], evidence=(Evidence("2.25.4711"),))
    return replace(result, findings=(finding,))


def tell(bench: Bench, old: PatientIdentity, new: PatientIdentity, name: str = "m1") -> None:
    """ADT^A40: the old record is merged into the new one."""
    change = PatientChange(
        change_id=name,
        kind=PatientChangeKind.MERGED,
        patient_id=old.patient_id,
        issuer_of_patient_id=old.issuer_of_patient_id,
        current=new,
        source="his",
        received_at=bench.clock.now(),
    )
    with bench.pipeline.database.write() as connection:
        assert patients.record_change(connection, bench.pipeline.journal, change)


def subjects(document: Document) -> set[str]:
    entries = [e["resource"] for e in json.loads(document.content)["entry"]]
    found = [resource.get("subject") for resource in entries]
    return {subject["identifier"]["value"] for subject in found if subject is not None}


def quarantine(bench: Bench) -> Quarantine:
    pipeline = bench.pipeline
    return Quarantine(pipeline.database, pipeline.documents, pipeline.jobs, pipeline.journal)


WRONG_ANSWERS: dict[str, tuple[Callable[[InferenceRequest], InferenceResult], str]] = {
    "another study": (answer(study_instance_uid="2.25.99"), "StudyInstanceUID"),
    "another patient": (answer(patient_id="BERTA-2"), "PatientID"),
    "another issuer": (answer(issuer_of_patient_id="OTHER"), "IssuerOfPatientID"),
    "another order": (answer(accession_number="A-2"), "AccessionNumber"),
    "another issuer of the order": (
        answer(issuer_of_accession_number="OTHER"),
        "IssuerOfAccessionNumber",
    ),
    "another study's images": (foreign_evidence, "evidence outside the study"),
}


@GATES
@pytest.mark.parametrize("case", WRONG_ANSWERS)
def test_a_model_that_answers_about_somebody_else(
    case: str, bench: Bench, monkeypatch: pytest.MonkeyPatch, *, gate: bool
) -> None:
    if not gate:
        take_out(monkeypatch)
    wrong, field = WRONG_ANSWERS[case]
    bench.adapter.answers = [wrong]
    receive(bench)
    bench.finish()
    if not gate:
        assert len(delivered(bench)) == 2  # wrong: it is believed
        return
    assert bench.column(requests.c.state) == ["quarantined"]
    assert delivered(bench) == []
    assert bench.column(alerts.c.kind) == ["inference.quarantined"]
    (detail,) = bench.column(requests.c.detail)
    assert field in str(detail)
    assert "BERTA" not in str(detail)
    assert bench.column(documents.c.kind) == ["record"]


@GATES
def test_equal_accession_numbers_of_two_patients(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, *, gate: bool
) -> None:
    if not gate:
        take_out(monkeypatch)
    receive(bench, ANNA)
    receive(bench, BERTA)
    bench.finish()
    if not gate:
        assert len(delivered(bench)) == 4
        return
    assert bench.column(requests.c.state) == ["quarantined", "quarantined"]
    assert bench.column(requests.c.detail) == [SHARED_ACCESSION_NUMBER] * 2
    assert delivered(bench) == []


@GATES
def test_equal_accession_numbers_are_noticed_until_the_last_moment(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, *, gate: bool
) -> None:
    """The other study comes when the report is made already, and has not gone out."""
    if not gate:
        take_out(monkeypatch)
    receive(bench, ANNA)
    bench.pipeline.complete_due_studies()
    bench.run()
    bench.run()
    receive(bench, BERTA)
    bench.run()
    if not gate:
        assert len(delivered(bench)) == 2
        return
    assert bench.column(deliveries.c.state) == ["quarantined", "quarantined"]
    assert delivered(bench) == []
    assert bench.column(alerts.c.kind) == ["delivery.quarantined"] * 2


@pytest.mark.parametrize("case", ["same patient", "other number", "no number", "merged", "allowed"])
def test_accession_numbers_that_stop_nothing(case: str, bench: Bench) -> None:
    second, number = (BERTA, "A-1")
    if case == "same patient":
        second = ANNA
    elif case == "other number":
        number = "A-2"
    elif case == "merged":
        tell(bench, BERTA, ANNA)
    elif case == "allowed":
        bench.pipeline = replace(bench.pipeline, unique_accession_numbers=False)
    first = "" if case == "no number" else "A-1"
    receive(bench, ANNA, first, seed=1)
    receive(bench, second, first and number, seed=2)
    bench.finish()
    assert bench.column(requests.c.state) == ["done", "done"]
    assert len(delivered(bench)) == 4


@GATES
def test_a_patient_who_is_merged_while_the_model_works_is_followed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, *, gate: bool
) -> None:
    if not gate:
        take_out(monkeypatch)

    def infer(request: InferenceRequest) -> InferenceResult:
        tell(bench, ANNA, MERGED)
        return _finding(request)

    bench.adapter.answers = [infer]
    receive(bench)
    bench.finish()
    (report,) = bench.destinations["ehr"].delivered
    if not gate:
        assert subjects(report) == {"ANNA-1"}  # wrong: the record is no more
        return
    assert subjects(report) == {"ANNA-9"}
    assert bench.column(requests.c.state) == ["done"]
    assert bench.column(results.c.warnings) == [[FOLLOWED]]
    assert "patient.followed" in bench.actions()
    assert bench.column(report_versions.c.version) == [1]


def test_a_model_may_answer_with_the_patient_of_the_images_or_the_merged_one(bench: Bench) -> None:
    tell(bench, ANNA, MERGED)
    for number, said in enumerate(("ANNA-1", "ANNA-9")):
        bench.adapter.answers = [answer(patient_id=said)]
        receive(bench, seed=number)
        bench.finish()
    assert bench.column(requests.c.state) == ["done", "done"]
    assert [subjects(d) for d in bench.destinations["ehr"].delivered] == [{"ANNA-9"}] * 2


def test_a_model_may_not_answer_with_whoever_was_merged_elsewhere(bench: Bench) -> None:
    tell(bench, ANNA, BERTA)
    bench.adapter.answers = [answer(patient_id="ANNA-9")]
    receive(bench)
    bench.finish()
    assert bench.column(requests.c.state) == ["quarantined"]


@GATES
def test_a_patient_who_is_merged_before_delivery_gets_another_report(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, *, gate: bool
) -> None:
    if not gate:
        take_out(monkeypatch)
    receive(bench)
    bench.pipeline.complete_due_studies()
    bench.run()
    bench.run()
    tell(bench, ANNA, MERGED)
    bench.finish()
    sent = [subjects(d) for d in bench.destinations["ehr"].delivered]
    if not gate:
        assert sent == [{"ANNA-1"}]
        return
    assert sent == [{"ANNA-9"}]
    assert bench.column(report_versions.c.cause) == ["model", "patient-changed"]
    assert len(bench.destinations["pacs"].delivered) == 1
    states = sorted(map(str, bench.column(deliveries.c.state)))
    assert states == ["delivered", "delivered", "superseded", "superseded"]
    assert bench.column(alerts.c.kind) == []


@pytest.mark.parametrize("before", [True, False], ids=["before the study", "before delivery"])
def test_a_patient_who_is_renamed_gets_one_report(bench: Bench, *, before: bool) -> None:
    """ADT^A08: the ID stays, so nothing but the time tells which documents have the old name."""
    renamed = replace(ANNA, patient_name="NOW^ANNA")
    if before:
        tell(bench, ANNA, renamed)
    receive(bench)
    bench.pipeline.complete_due_studies()
    bench.run()
    bench.run()
    if not before:
        bench.clock.advance(1)
        tell(bench, ANNA, renamed)
        bench.clock.advance(1)
    bench.finish()
    causes = ["model"] if before else ["model", "patient-changed"]
    assert bench.column(report_versions.c.cause) == causes
    assert [len(bench.destinations[name].delivered) for name in ("pacs", "ehr")] == [1, 1]


@GATES
def test_a_document_of_another_patient_under_this_ones_name(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, *, gate: bool
) -> None:
    """Two rows that were mixed up in the database: the bytes are somebody else's."""
    if not gate:
        take_out(monkeypatch)
    receive(bench, ANNA, "A-1")
    receive(bench, BERTA, "B-2")
    bench.pipeline.complete_due_studies()
    bench.run()
    bench.run()
    swap(bench)
    bench.run()
    wrong = [
        d
        for d in bench.destinations["ehr"].delivered
        if subjects(d) != {d.identity.patient.patient_id}
    ]
    if not gate:
        assert len(wrong) == 2
        return
    assert wrong == []
    assert (
        sorted(map(str, bench.column(deliveries.c.state)))
        == ["delivered"] * 2 + ["quarantined"] * 2
    )
    (waiting, _) = quarantine(bench).waiting()
    with pytest.raises(RejectedError, match=r"cannot be released: .*PatientID"):
        quarantine(bench).release(waiting.identifier, DOCTOR, REASON)


def swap(bench: Bench) -> None:
    """Exchange the bytes of the two FHIR documents."""
    table = documents
    with bench.pipeline.database.write() as connection:
        query = sa.select(table.c.document_id, table.c.sha256).where(table.c.kind == "fhir")
        (one, first), (other, second) = connection.execute(query).all()
        for uid, sha256 in ((one, second), (other, first)):
            connection.execute(
                sa.update(table).where(table.c.document_id == uid).values(sha256=sha256)
            )


@GATES
def test_a_strangers_image_that_comes_when_the_report_is_made(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, *, gate: bool
) -> None:
    if not gate:
        take_out(monkeypatch)
    uid = receive(bench)
    bench.pipeline.complete_due_studies()
    bench.run()
    bench.run()
    stranger = chest_phantom(slices=3, rows=64, columns=64, patient=BERTA, study_instance_uid=uid)
    bench.send(stranger.files[2:])
    bench.run()
    if not gate:
        assert len(delivered(bench)) == 2
        return
    assert delivered(bench) == []
    assert bench.column(deliveries.c.state) == ["quarantined"] * 2


# --- quarantine -----------------------------------------------------------------------------


def test_a_person_releases_an_answer_under_the_requests_own_identity(bench: Bench) -> None:
    bench.adapter.answers = [answer(patient_id="BERTA-2", accession_number="X")]
    receive(bench)
    bench.finish()
    (waiting,) = quarantine(bench).waiting()
    assert waiting.kind == "request"
    quarantine(bench).release(waiting.identifier, DOCTOR, REASON)
    bench.finish()
    (report,) = bench.destinations["ehr"].delivered
    assert subjects(report) == {"ANNA-1"}
    assert len(bench.destinations["pacs"].delivered) == 1
    assert bench.column(requests.c.state) == ["done"]
    assert bench.column(results.c.outcome) == ["assessed"]
    assert bench.column(report_versions.c.cause) == ["released"]
    assert bench.column(report_versions.c.reason) == [REASON]
    assert "quarantine.released" in bench.actions()
    assert quarantine(bench).waiting() == []
    with pytest.raises(RejectedError, match="is not in quarantine"):
        quarantine(bench).release(waiting.identifier, DOCTOR, REASON)


def test_a_person_releases_reports_with_an_equal_accession_number(bench: Bench) -> None:
    receive(bench, ANNA)
    receive(bench, BERTA)
    bench.finish()
    for waiting in quarantine(bench).waiting():
        quarantine(bench).release(waiting.identifier, DOCTOR, REASON)
    bench.finish()
    assert sorted(map(sorted, map(subjects, bench.destinations["ehr"].delivered))) == [
        ["ANNA-1"],
        ["BERTA-2"],
    ]


def test_a_person_releases_deliveries_with_an_equal_accession_number(bench: Bench) -> None:
    receive(bench, ANNA)
    bench.pipeline.complete_due_studies()
    bench.run()
    bench.run()
    receive(bench, BERTA)
    bench.run()
    waiting = quarantine(bench).waiting()
    assert {one.kind for one in waiting} == {"delivery"}
    quarantine(bench).release(waiting[0].identifier, DOCTOR, REASON)
    bench.run()
    assert bench.column(deliveries.c.state) == ["delivered", "delivered"]


@pytest.mark.parametrize(
    ("case", "refusal"),
    [
        ("another study", "an answer about another study"),
        ("another study's images", "evidence outside the study"),
    ],
)
def test_what_is_wrong_otherwise_cannot_be_released(case: str, refusal: str, bench: Bench) -> None:
    bench.adapter.answers = [WRONG_ANSWERS[case][0]]
    receive(bench)
    bench.finish()
    (waiting,) = quarantine(bench).waiting()
    with pytest.raises(RejectedError, match=refusal):
        quarantine(bench).release(waiting.identifier, DOCTOR, REASON)
    assert bench.column(requests.c.state) == ["quarantined"]
    assert not bench.jobs.enqueued


def test_what_was_never_answered_cannot_be_released(bench: Bench) -> None:
    uid = receive(bench)
    bench.pipeline.complete_due_studies()
    bench.run()
    stranger = chest_phantom(slices=3, rows=64, columns=64, patient=BERTA, study_instance_uid=uid)
    bench.send(stranger.files[2:])
    bench.run()
    (waiting,) = quarantine(bench).waiting()
    with pytest.raises(RejectedError, match="no answer to release"):
        quarantine(bench).release(waiting.identifier, DOCTOR, REASON)


@pytest.mark.parametrize("of_a_delivery", [True, False], ids=["deliveries", "request"])
def test_a_person_discards_what_is_in_quarantine(bench: Bench, *, of_a_delivery: bool) -> None:
    receive(bench, ANNA)
    if of_a_delivery:
        bench.pipeline.complete_due_studies()
        bench.run()
        bench.run()
        receive(bench, BERTA)
        bench.run()
    else:
        bench.adapter.answers = [answer(patient_id="X")]
        bench.finish()
    (waiting, *_) = quarantine(bench).waiting()
    quarantine(bench).discard(waiting.identifier, DOCTOR, REASON)
    assert quarantine(bench).waiting() == []
    states = bench.column(deliveries.c.state if of_a_delivery else requests.c.state)
    assert set(states) == {"discarded"}
    assert "quarantine.discarded" in bench.actions()
    with pytest.raises(RejectedError, match="is not in quarantine"):
        quarantine(bench).discard(waiting.identifier, DOCTOR, REASON)


@pytest.mark.parametrize(("name", "reason"), [(" ", REASON), ("Dora", ""), ("Dora", "a\nb")])
def test_nobody_decides_without_a_name_and_a_reason(name: str, reason: str, bench: Bench) -> None:
    bench.adapter.answers = [answer(patient_id="X")]
    receive(bench)
    bench.finish()
    (waiting,) = quarantine(bench).waiting()
    decide: Any
    for decide in (quarantine(bench).release, quarantine(bench).discard):
        with pytest.raises(RejectedError):
            decide(waiting.identifier, Person(name), reason)


def test_a_released_report_says_who_released_it(bench: Bench) -> None:
    bench.adapter.answers = [answer(patient_id="X")]
    receive(bench)
    bench.finish()
    (waiting,) = quarantine(bench).waiting()
    quarantine(bench).release(waiting.identifier, DOCTOR, REASON)
    bench.finish()
    (report,) = bench.destinations["ehr"].delivered
    assert report.kind is DocumentKind.FHIR
    assert REASON in report.content.decode()
