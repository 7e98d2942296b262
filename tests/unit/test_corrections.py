"""Versions of a report: what is made, what refers to what, who gets it, and what is not sent."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
import sqlalchemy as sa
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import Comprehensive3DSRStorage, ExplicitVRLittleEndian, SegmentationStorage

from hub.corrections import FAILED_REASON
from hub.domain.assessment import Decision, FindingChange
from hub.domain.delivery import DICOM_KINDS, DeliveryState, Document, DocumentKind, Receipt
from hub.domain.finding import Finding
from hub.domain.identity import PatientIdentity, StudyIdentity
from hub.domain.inference import InferenceRequest, InferenceResult, ModelKey, Outcome
from hub.domain.model_card import ModelCard
from hub.domain.patient import PatientChange, PatientChangeKind
from hub.domain.report import Person, ReportCause, ReportStatus
from hub.domain.routing import RouteMode
from hub.errors import RejectedError, TransientError
from hub.formats import record
from hub.formats.encoding import Encoder, EncodingContext, document_uid, document_uuid, series_uid
from hub.formats.images.ct_phantom import chest_phantom
from hub.ports import ModelPackage
from hub.registry import RunningDestination, RunningModel
from hub.store import audit, patients, report_versions
from hub.store.database import Database
from hub.store.report_ledger import NoSuchRequestError, NotDecidableError
from hub.store.report_versions import VersionRow, VersionState
from hub.store.results import get_request
from hub.store.schema import alerts, deliveries, documents, requests
from tests.unit.test_pipeline import Bench, _card, _finding, _route, make_bench

ANNA = Person("Weiß^Änne", "12345", "urn:oid:1.2.276.0.76.4.16", "Radiologie Rostock")
KINDS = {
    "pacs": (DocumentKind.SEG, DocumentKind.SR, DocumentKind.REJECTION_NOTE),
    "ehr": (DocumentKind.FHIR,),
}
SOP_CLASSES = {
    DocumentKind.SR: Comprehensive3DSRStorage,
    DocumentKind.SEG: SegmentationStorage,
    DocumentKind.REJECTION_NOTE: "1.2.840.10008.5.1.4.1.1.88.59",
}


# --- encoders that say what they were given ---------------------------------------------------


def _encoder(kind: DocumentKind) -> Encoder:
    """As the real ones: segmentations only of voxels, rejection notes only of what is withdrawn."""

    def encode(
        request: InferenceRequest,
        result: InferenceResult,
        card: ModelCard,
        context: EncodingContext,
        related: Mapping[DocumentKind, Document],
    ) -> Document | None:
        report = context.report
        if kind is DocumentKind.SEG and (
            report.cause is not ReportCause.MODEL or result.outcome is not Outcome.ASSESSED
        ):
            return None
        if kind is DocumentKind.REJECTION_NOTE and not report.is_withdrawn:
            return None
        said = {
            "entry": [],  # as a Bundle has it
            "version": report.number,
            "status": report.status.value,
            "cause": report.cause.value,
            "outcome": result.outcome.value,
            "reason": report.reason,
            "person": report.person.name if report.person else "",
            "answers": [finding.value for finding in result.findings],
            "critical": [finding.critical for finding in result.findings],
            "replaced": [finding.value for finding in report.replaced_findings],
            "predecessors": sorted(
                (one.kind.value, one.sop_instance_uid, one.sop_class_uid, one.series_instance_uid)
                for one in report.predecessors
            ),
            "related": sorted(one.value for one in related),
            "made_at": context.made_at.isoformat(),
            "model": card.name,
            "patient": result.identity.patient.patient_id,
            "amends": request.amends_revision,
            "reasons": list(result.reasons),
        }
        content = json.dumps(said).encode()
        name = document_uuid(kind, request, context)
        if kind in DICOM_KINDS:
            name = document_uid(kind, request, context)
            series = series_uid(kind, request, context)
            content = _file(kind, name, series, content, result.identity)
        return Document(name, kind, request.request_id, result.identity, content)

    return encode


def _file(kind: DocumentKind, uid: str, series: str, said: bytes, identity: StudyIdentity) -> bytes:
    data_set = Dataset()
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data_set.SOPClassUID, data_set.SOPInstanceUID = SOP_CLASSES[kind], uid
    data_set.SeriesInstanceUID = series
    data_set.StudyInstanceUID = identity.study_instance_uid
    data_set.PatientID = identity.patient.patient_id
    data_set.IssuerOfPatientID = identity.patient.issuer_of_patient_id
    data_set.AccessionNumber = identity.accession_number
    data_set.TextValue = said.decode()
    buffer = BytesIO()
    data_set.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def said(document: Document) -> dict[str, Any]:
    """What an encoder was given when it made this document."""
    content = document.content
    if document.kind in DICOM_KINDS:
        content = str(pydicom.dcmread(BytesIO(content)).TextValue).encode()
    found: dict[str, Any] = json.loads(content)
    return found


# --- the bench ---------------------------------------------------------------------------------


def make_corrections_bench(tmp_path: Path, database: Database | None = None) -> Bench:
    """A pipeline with an archive and an EHR, whose encoders say what they were given."""
    made = make_bench(tmp_path, database)
    pipeline = made.pipeline
    known = pipeline.registry.destinations
    destinations = {name: replace(known[name], documents=KINDS[name]) for name in known}
    encoders = {kind: _encoder(kind) for kinds in KINDS.values() for kind in kinds}
    encoders[DocumentKind.RECORD] = record.encode
    made.pipeline = replace(
        pipeline,
        registry=replace(pipeline.registry, destinations=destinations),
        encoders=encoders,
    )
    return made


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = make_corrections_bench(tmp_path)
    yield made
    made.store.close()
    made.pipeline.database.close()


def with_destination(bench: Bench, name: str, **fields: object) -> None:
    registry = bench.pipeline.registry
    changed = replace(registry.destinations[name], **fields)
    everywhere = {**registry.destinations, name: changed}
    bench.pipeline = replace(bench.pipeline, registry=replace(registry, destinations=everywhere))


def answered(bench: Bench) -> str:
    """A study with a report at both destinations; the identifier of its request."""
    bench.receive()
    bench.finish()
    return request_ids(bench)[-1]


def late_images(bench: Bench) -> str:
    """Another image of the same study; the identifier of the request about both."""
    uid = chest_phantom(slices=2, rows=64, columns=64).study_instance_uid
    bench.send(chest_phantom(slices=3, rows=64, columns=64, study_instance_uid=uid).files[2:])
    bench.clock.advance(2)
    bench.finish()
    return request_ids(bench)[-1]


def request_ids(bench: Bench) -> list[str]:
    with bench.pipeline.database.read() as connection:
        query = sa.select(requests.c.request_id).order_by(requests.c.created_at)
        return list(connection.execute(query).scalars())


def decide(
    bench: Bench, request_id: str, cause: ReportCause, **fields: object
) -> tuple[VersionRow, bool]:
    values: dict[str, Any] = {"person": ANNA, "reason": "wrong patient position", **fields}
    return bench.pipeline.corrections.ledger.decide(request_id, Decision(cause, **values))


def versions(bench: Bench, request_id: str) -> tuple[VersionRow, ...]:
    with bench.pipeline.database.read() as connection:
        return report_versions.versions_of(connection, request_id)


def got(bench: Bench, destination: str) -> list[tuple[str, int]]:
    """(kind, version) of what a destination got, in that order."""
    return [
        (one.kind.value, said(one)["version"]) for one in bench.destinations[destination].delivered
    ]


def last(bench: Bench, destination: str, kind: DocumentKind) -> dict[str, Any]:
    found = [one for one in bench.destinations[destination].delivered if one.kind is kind]
    return said(found[-1])


def states(bench: Bench, destination: str) -> dict[tuple[str, int], str]:
    with bench.pipeline.database.read() as connection:
        rows = connection.execute(
            sa.select(deliveries.c.kind, documents.c.version, deliveries.c.state)
            .join(documents, documents.c.document_id == deliveries.c.document_id)
            .where(deliveries.c.destination == destination)
        )
        return {(row.kind, row.version): row.state for row in rows}


# --- the first version -------------------------------------------------------------------------


def test_an_answer_is_the_first_version_and_is_kept_with_its_record(bench: Bench) -> None:
    request_id = answered(bench)
    (first,) = versions(bench, request_id)
    assert (first.version, first.status) == (1, ReportStatus.PRELIMINARY)
    assert (first.cause, first.state) == (ReportCause.MODEL, VersionState.MADE)
    assert got(bench, "pacs") == [("seg", 1), ("sr", 1)]
    with bench.pipeline.database.read() as connection:
        (kept,) = report_versions.documents_of(connection, request_id, (DocumentKind.RECORD,))
    found = record.decode(bench.pipeline.documents.get(kept.sha256))
    assert found.request == bench.adapter.asked[0]
    assert [finding.value for finding in found.result.findings] == [4200.0]
    assert "record" not in bench.column(deliveries.c.kind)


def test_a_route_in_shadow_mode_keeps_the_record_and_sends_nothing(bench: Bench) -> None:
    bench.pipeline = replace(bench.pipeline, routes=(_route(mode=RouteMode.SHADOW),))
    request_id = answered(bench)
    assert [row.state for row in versions(bench, request_id)] == [VersionState.MADE]
    assert bench.column(documents.c.kind) == ["record"]
    assert bench.column(deliveries.c.kind) == []


# --- people ------------------------------------------------------------------------------------


def test_accepting_makes_a_final_report_for_whoever_got_the_first(bench: Bench) -> None:
    request_id = answered(bench)
    row, is_new = decide(bench, request_id, ReportCause.ACCEPTED, reason="")
    assert is_new
    assert (row.version, row.status) == (2, ReportStatus.FINAL)
    bench.clock.advance(60)
    bench.finish()
    report = last(bench, "ehr", DocumentKind.FHIR)
    assert (report["status"], report["person"]) == ("final", ANNA.name)
    assert report["answers"] == [4200.0]
    assert got(bench, "pacs") == [("seg", 1), ("sr", 1), ("sr", 2)]  # no second segmentation
    assert last(bench, "pacs", DocumentKind.SR)["related"] == ["seg"]
    assert report["made_at"] == row.made_at.isoformat()
    assert versions(bench, request_id)[-1].state is VersionState.MADE


def test_a_version_names_what_the_same_destination_got_before(bench: Bench) -> None:
    request_id = answered(bench)
    segmentation, report = (one.document_id for one in bench.destinations["pacs"].delivered)
    decide(bench, request_id, ReportCause.ACCEPTED)
    bench.finish()
    named = last(bench, "pacs", DocumentKind.SR)["predecessors"]
    assert [(kind, uid, sop_class) for kind, uid, sop_class, _ in named] == [
        ("seg", segmentation, SegmentationStorage),
        ("sr", report, Comprehensive3DSRStorage),
    ]
    first = bench.destinations["pacs"].delivered[1]
    series = pydicom.dcmread(BytesIO(first.content)).SeriesInstanceUID
    assert named[1][3] == series


def test_modified_findings_replace_the_models_and_those_are_named(bench: Bench) -> None:
    request_id = answered(bench)
    change = FindingChange(tracking_uid="2.25.7", value=3900.0)
    decide(bench, request_id, ReportCause.MODIFIED, changes=(change,))
    bench.finish()
    report = last(bench, "ehr", DocumentKind.FHIR)
    assert (report["status"], report["cause"]) == ("amended", "modified")
    assert report["answers"] == [3900.0]
    assert versions(bench, request_id)[-1].changes == (
        replace(_finding(bench.adapter.asked[0]).findings[0], value=3900.0),
    )
    decide(bench, request_id, ReportCause.ACCEPTED, person=Person("Second^Reader"))
    bench.finish()
    assert last(bench, "ehr", DocumentKind.FHIR)["answers"] == [3900.0]


def test_a_dropped_finding_is_still_named_as_replaced(bench: Bench) -> None:
    def two(request: InferenceRequest) -> InferenceResult:
        result = _finding(request)
        second = replace(result.findings[0], tracking_uid="2.25.8", value=1.0)
        return replace(result, findings=(*result.findings, second))

    bench.adapter.answers = [two]
    request_id = answered(bench)
    change = FindingChange(tracking_uid="2.25.7", drop=True)
    decide(bench, request_id, ReportCause.MODIFIED, changes=(change,))
    bench.finish()
    report = last(bench, "ehr", DocumentKind.FHIR)
    assert report["answers"] == [1.0]
    assert sorted(report["replaced"]) == [1.0, 4200.0]


@pytest.mark.parametrize("cause", [ReportCause.REJECTED, ReportCause.RETRACTED])
def test_what_is_withdrawn_says_so_everywhere_and_rejects_every_object(
    bench: Bench, cause: ReportCause
) -> None:
    request_id = answered(bench)
    decide(bench, request_id, ReportCause.ACCEPTED)
    bench.finish()
    decide(bench, request_id, cause, reason="wrong series")
    bench.finish()
    report = last(bench, "ehr", DocumentKind.FHIR)
    assert (report["status"], report["reason"]) == ("entered-in-error", "wrong series")
    assert got(bench, "pacs")[3:] == [("sr", 3), ("rejection_note", 3)]
    note = last(bench, "pacs", DocumentKind.REJECTION_NOTE)
    assert [kind for kind, *_ in note["predecessors"]] == ["seg", "sr", "sr"]
    assert note["related"] == ["sr"]  # nothing new refers to the segmentation


def test_the_same_word_again_is_one_version(bench: Bench) -> None:
    request_id = answered(bench)
    change = FindingChange(tracking_uid="2.25.7", value=3900.0)
    first = decide(bench, request_id, ReportCause.MODIFIED, changes=(change,))
    assert decide(bench, request_id, ReportCause.MODIFIED, changes=(change,)) == (first[0], False)
    bench.finish()
    again = decide(bench, request_id, ReportCause.MODIFIED, changes=(change,))
    assert (again[0].version, again[1]) == (2, False)
    assert not bench.jobs.enqueued
    other = decide(bench, request_id, ReportCause.ACCEPTED, person=Person("Somebody^Else"))
    assert (other[0].version, other[1]) == (3, True)


def test_who_decides_stands_in_the_audit_log_and_nobody_elses_name(bench: Bench) -> None:
    request_id = answered(bench)
    decide(bench, request_id, ReportCause.ACCEPTED)
    bench.finish()
    decide(bench, request_id, ReportCause.RETRACTED, reason="wrong series")
    bench.finish()
    events = audit.events(bench.pipeline.database)
    told = {event.action: event.detail for event in events if event.detail.get("by")}
    assert set(told) == {"result.assessed", "report.made", "result.retracted"}
    assert {detail["by"] for detail in told.values()} == {ANNA.name}
    assert told["result.retracted"]["reason"] == "wrong series"
    asked = bench.adapter.asked[0].study.patient
    everything = json.dumps([dict(event.detail) for event in events])
    assert asked.patient_name not in everything
    assert asked.patient_id not in everything
    assert audit.verify(bench.pipeline.database)[1] is None


def test_nobody_decides_on_what_is_withdrawn_replaced_or_not_answered(bench: Bench) -> None:
    with pytest.raises(NoSuchRequestError):
        decide(bench, "0" * 32, ReportCause.ACCEPTED)
    first = answered(bench)
    second = late_images(bench)
    with pytest.raises(NotDecidableError, match="replaced by that of revision 2"):
        decide(bench, first, ReportCause.ACCEPTED)
    decide(bench, second, ReportCause.RETRACTED)
    for cause in (ReportCause.ACCEPTED, ReportCause.REJECTED):
        with pytest.raises(NotDecidableError, match="withdrawn"):
            decide(bench, second, cause)


def test_nobody_decides_on_a_failure(bench: Bench) -> None:
    bench.adapter.answers = [RejectedError("the model returned NaN")]
    request_id = answered(bench)
    with pytest.raises(NotDecidableError, match="no answer"):
        decide(bench, request_id, ReportCause.ACCEPTED)


def test_what_was_deleted_cannot_be_changed(bench: Bench) -> None:
    request_id = answered(bench)
    with bench.pipeline.database.write() as connection:
        connection.execute(sa.update(documents).values(purged_at=bench.clock.now()))
    with pytest.raises(NotDecidableError, match="deleted"):
        decide(bench, request_id, ReportCause.RETRACTED)


def test_of_two_decisions_that_wait_only_the_last_is_sent(bench: Bench) -> None:
    request_id = answered(bench)
    decide(bench, request_id, ReportCause.ACCEPTED)
    decide(bench, request_id, ReportCause.RETRACTED)
    bench.finish()
    assert [row.state for row in versions(bench, request_id)] == [
        VersionState.MADE,
        VersionState.PASSED_OVER,
        VersionState.MADE,
    ]
    assert got(bench, "ehr") == [("fhir", 1), ("fhir", 3)]


def test_a_decision_that_comes_while_another_is_made_is_the_last_word(bench: Bench) -> None:
    request_id = answered(bench)
    fhir = bench.pipeline.encoders[DocumentKind.FHIR]

    def slow(*arguments: Any) -> Document | None:
        if arguments[3].report.number == 2 and len(versions(bench, request_id)) == 2:
            decide(bench, request_id, ReportCause.RETRACTED)
        return fhir(*arguments)

    encoders = {**bench.pipeline.encoders, DocumentKind.FHIR: slow}
    bench.pipeline = replace(bench.pipeline, encoders=encoders)
    decide(bench, request_id, ReportCause.ACCEPTED)
    bench.finish()
    assert got(bench, "ehr") == [("fhir", 1), ("fhir", 3)]
    assert versions(bench, request_id)[1].state is VersionState.PASSED_OVER


def test_the_job_of_a_version_may_run_twice(bench: Bench) -> None:
    request_id = answered(bench)
    decide(bench, request_id, ReportCause.ACCEPTED)
    bench.finish()
    before = bench.actions()
    bench.pipeline.run_report(f"{request_id}#2")
    assert bench.actions() == before
    assert not bench.jobs.enqueued


def test_a_version_that_cannot_be_made_is_told_and_asked_for_again(bench: Bench) -> None:
    request_id = answered(bench)
    good = bench.pipeline.encoders

    def broken(*_: object) -> None:
        raise RejectedError("no such unit")

    bench.pipeline = replace(bench.pipeline, encoders={**good, DocumentKind.FHIR: broken})
    decide(bench, request_id, ReportCause.RETRACTED)
    bench.finish()
    assert versions(bench, request_id)[-1].state is VersionState.FAILED
    assert bench.column(alerts.c.kind) == ["report.not-made"]
    bench.pipeline = replace(bench.pipeline, encoders=good)
    bench.clock.advance(1)
    row, is_new = decide(bench, request_id, ReportCause.RETRACTED)
    assert (row.version, is_new) == (2, False)
    bench.finish()
    assert last(bench, "ehr", DocumentKind.FHIR)["status"] == "entered-in-error"


def test_a_fault_in_the_job_of_a_version_is_told(bench: Bench) -> None:
    request_id = answered(bench)
    decide(bench, request_id, ReportCause.RETRACTED)
    bench.pipeline.report_failed(f"{request_id}#2", "fault of the hub: KeyError in x:1")
    assert bench.column(alerts.c.kind) == ["report.not-made"]
    assert versions(bench, request_id)[-1].state is VersionState.FAILED


# --- when the model, or the images, are gone ----------------------------------------------------


def test_a_report_is_withdrawn_after_its_model_and_images_were_removed(bench: Bench) -> None:
    request_id = answered(bench)
    bench.pipeline = replace(bench.pipeline, registry=replace(bench.pipeline.registry, models={}))
    with bench.pipeline.database.write() as connection:
        connection.execute(sa.text("DELETE FROM instances"))
    decide(bench, request_id, ReportCause.RETRACTED)
    bench.finish()
    assert last(bench, "ehr", DocumentKind.FHIR)["model"] == _card().name


def test_a_version_has_the_card_as_it_is_registered_now(bench: Bench) -> None:
    request_id = answered(bench)
    key = ModelKey("lung-density", "1.0.0", "0" * 64)
    package = ModelPackage(key, replace(_card(), name="Renamed"), Path())
    models = {"lung-density": RunningModel(package, bench.adapter)}
    registry = replace(bench.pipeline.registry, models=models)
    bench.pipeline = replace(bench.pipeline, registry=registry)
    decide(bench, request_id, ReportCause.ACCEPTED)
    bench.finish()
    assert last(bench, "ehr", DocumentKind.FHIR)["model"] == "Renamed"


def test_a_version_is_about_the_patient_as_he_is_now(bench: Bench) -> None:
    request_id = answered(bench)
    merge(bench)
    decide(bench, request_id, ReportCause.RETRACTED)
    bench.finish()
    assert last(bench, "ehr", DocumentKind.FHIR)["patient"] == "SURVIVOR"


def merge(bench: Bench) -> None:
    """The patient of the first answer into another one."""
    old = bench.adapter.asked[0].study.patient
    change = PatientChange(
        "1",
        PatientChangeKind.MERGED,
        old.patient_id,
        old.issuer_of_patient_id,
        PatientIdentity("SURVIVOR", old.issuer_of_patient_id),
        "adt",
        bench.clock.now(),
    )
    with bench.pipeline.database.write() as connection:
        patients.record_change(connection, bench.pipeline.journal, change)


def test_a_verified_report_of_a_merged_patient_refers_to_nothing_of_the_old_one(
    bench: Bench,
) -> None:
    """Objects of the first version are, as far as their bytes say, another patient's."""
    request_id = answered(bench)
    decide(bench, request_id, ReportCause.ACCEPTED)
    bench.finish()
    assert "seg" in last(bench, "pacs", DocumentKind.SR)["related"]
    merge(bench)
    decide(bench, request_id, ReportCause.ACCEPTED, person=replace(ANNA, name="Other^Person"))
    bench.finish()
    again = last(bench, "pacs", DocumentKind.SR)
    assert (again["patient"], again["cause"], again["version"]) == ("SURVIVOR", "accepted", 3)
    assert "seg" not in again["related"]


# --- late images ---------------------------------------------------------------------------------


def test_late_images_amend_the_report_and_name_what_they_replace(bench: Bench) -> None:
    first = answered(bench)
    decide(bench, first, ReportCause.ACCEPTED)
    bench.finish()
    objects = [one.document_id for one in bench.destinations["pacs"].delivered]
    bench.adapter.answers = [
        lambda request: replace(
            _finding(request),
            findings=(replace(_finding(request).findings[0], tracking_uid="2.25.9", value=1.5),),
        )
    ]
    late_images(bench)
    report = last(bench, "pacs", DocumentKind.SR)
    assert (report["version"], report["status"], report["amends"]) == (1, "amended", 1)
    assert [uid for _, uid, *_ in report["predecessors"]] == [objects[0], objects[2]]
    assert report["replaced"] == [4200.0]


def test_the_withdrawal_of_an_amended_report_rejects_what_it_had_replaced(bench: Bench) -> None:
    answered(bench)
    second = late_images(bench)
    decide(bench, second, ReportCause.RETRACTED)
    bench.finish()
    note = last(bench, "pacs", DocumentKind.REJECTION_NOTE)
    assert [kind for kind, *_ in note["predecessors"]] == ["seg", "seg", "sr", "sr"]


# --- failures and answers outside the intended use -----------------------------------------------


def test_a_failure_is_told_to_those_who_take_failures(bench: Bench) -> None:
    with_destination(bench, "ehr", outcomes=frozenset(Outcome))
    bench.adapter.answers = [RejectedError("the model returned NaN")]
    request_id = answered(bench)
    report = last(bench, "ehr", DocumentKind.FHIR)
    assert (report["outcome"], report["answers"]) == ("failed", [])
    assert report["reasons"] == [FAILED_REASON]
    assert got(bench, "pacs") == []
    (row,) = versions(bench, request_id)
    assert (row.outcome, row.state) == (Outcome.FAILED, VersionState.MADE)


def test_an_earlier_report_never_stands_beside_a_failure(bench: Bench) -> None:
    answered(bench)
    bench.adapter.answers = [RejectedError("the model returned NaN")]
    late_images(bench)
    assert last(bench, "ehr", DocumentKind.FHIR)["outcome"] == "failed"
    report = last(bench, "pacs", DocumentKind.SR)
    assert (report["outcome"], report["status"]) == ("failed", "amended")
    assert report["replaced"] == [4200.0]
    assert [kind for kind, *_ in report["predecessors"]] == ["seg", "sr"]


def test_a_failed_request_that_is_answered_at_last_makes_the_second_version(bench: Bench) -> None:
    with_destination(bench, "ehr", outcomes=frozenset(Outcome))
    bench.adapter.answers = [RejectedError("the model returned NaN"), _finding]
    request_id = answered(bench)
    assert bench.pipeline.requests.ask_again(request_id)
    bench.finish()
    assert got(bench, "ehr") == [("fhir", 1), ("fhir", 2)]
    report = last(bench, "ehr", DocumentKind.FHIR)
    assert (report["outcome"], report["status"]) == ("assessed", "preliminary")
    assert ("sr", 2) in got(bench, "pacs")
    decide(bench, request_id, ReportCause.ACCEPTED)
    bench.finish()
    assert last(bench, "ehr", DocumentKind.FHIR)["answers"] == [4200.0]


def test_a_request_whose_process_dies_again_and_again_is_told_too(bench: Bench) -> None:
    with_destination(bench, "ehr", outcomes=frozenset(Outcome))
    bench.receive()
    bench.pipeline.complete_due_studies()
    bench.run()
    with bench.pipeline.database.write() as connection:
        connection.execute(sa.update(requests).values(state="running", attempts=10))
    bench.finish()
    assert last(bench, "ehr", DocumentKind.FHIR)["outcome"] == "failed"


def test_a_failure_in_shadow_mode_is_nobodys_report(bench: Bench) -> None:
    with_destination(bench, "ehr", outcomes=frozenset(Outcome))
    bench.pipeline = replace(bench.pipeline, routes=(_route(mode=RouteMode.SHADOW),))
    bench.adapter.answers = [RejectedError("the model returned NaN")]
    request_id = answered(bench)
    assert versions(bench, request_id) == ()
    assert got(bench, "ehr") == []


def _strict(bench: Bench) -> None:
    """From now on every study is outside the intended use."""
    card = _card()
    strict = replace(card, intended_use=replace(card.intended_use, minimum_instances=100))
    package = ModelPackage(ModelKey("lung-density", "1.0.0", "0" * 64), strict, Path())
    models = {"lung-density": RunningModel(package, bench.adapter)}
    registry = replace(bench.pipeline.registry, models=models)
    bench.pipeline = replace(bench.pipeline, registry=registry)


def test_unsuitable_is_told_to_those_who_take_it_and_to_nobody_else(bench: Bench) -> None:
    with_destination(bench, "ehr", outcomes=frozenset({Outcome.UNSUITABLE}))
    _strict(bench)
    answered(bench)
    assert last(bench, "ehr", DocumentKind.FHIR)["outcome"] == "unsuitable"
    assert got(bench, "pacs") == []


def test_an_earlier_report_never_stands_beside_unsuitable(bench: Bench) -> None:
    answered(bench)
    _strict(bench)
    late_images(bench)
    assert last(bench, "pacs", DocumentKind.SR)["outcome"] == "unsuitable"


def test_a_pager_gets_only_what_is_critical(bench: Bench) -> None:
    with_destination(bench, "pacs", critical_only=True)
    answered(bench)
    assert got(bench, "pacs") == []
    assert got(bench, "ehr") == [("fhir", 1)]


# --- what is not sent any more ----------------------------------------------------------------


def _away(bench: Bench, destination: str, times: int = 1) -> Callable[[], None]:
    """The destination does not answer; returns how it comes back."""
    bench.destinations[destination].answers = [TransientError("connection refused")]

    def back() -> None:
        bench.destinations[destination].answers = [Receipt("ok")]

    return back


def _answered_while_away(bench: Bench, destination: str) -> tuple[str, Callable[[], None]]:
    """A report of which one attempt at the destination failed, and the next one waits."""
    back = _away(bench, destination)
    bench.receive()
    bench.pipeline.complete_due_studies()
    bench.run()
    bench.run()
    bench.run()
    return request_ids(bench)[-1], back


def test_an_older_version_never_takes_the_place_of_a_newer_one(bench: Bench) -> None:
    request_id, back = _answered_while_away(bench, "ehr")
    assert states(bench, "ehr") == {("fhir", 1): "retrying"}
    decide(bench, request_id, ReportCause.ACCEPTED)
    bench.pipeline.run_report(f"{request_id}#2")  # before the next attempt
    back()
    bench.finish()
    assert got(bench, "ehr") == [("fhir", 2)]
    assert states(bench, "ehr") == {("fhir", 1): "superseded", ("fhir", 2): "delivered"}


def test_objects_of_an_accepted_report_are_sent_in_order(bench: Bench) -> None:
    request_id, back = _answered_while_away(bench, "pacs")
    decide(bench, request_id, ReportCause.ACCEPTED)
    back()
    bench.finish()
    assert got(bench, "pacs") == [("seg", 1), ("sr", 1), ("sr", 2)]


def test_objects_that_were_not_sent_when_the_report_was_withdrawn_never_are(bench: Bench) -> None:
    request_id, back = _answered_while_away(bench, "pacs")
    decide(bench, request_id, ReportCause.RETRACTED)
    back()
    bench.finish()
    # The first attempt at the segmentation may have arrived: its answer alone may have been lost.
    assert got(bench, "pacs") == [("sr", 2), ("rejection_note", 2)]
    assert states(bench, "pacs")[("sr", 1)] == "superseded"


def test_where_nothing_was_sent_nothing_is_withdrawn(bench: Bench) -> None:
    bench.receive()
    bench.pipeline.complete_due_studies()
    bench.run()
    bench.run()  # answered; the first deliveries wait
    (request_id,) = request_ids(bench)
    decide(bench, request_id, ReportCause.RETRACTED)
    bench.finish()
    assert got(bench, "pacs") == []
    assert got(bench, "ehr") == []
    assert set(states(bench, "pacs").values()) == {DeliveryState.SUPERSEDED.value}


def test_a_dead_letter_of_an_older_version_is_not_sent_when_asked_for(bench: Bench) -> None:
    back = _away(bench, "ehr")
    request_id = answered(bench)
    assert states(bench, "ehr") == {("fhir", 1): "dead"}
    back()
    decide(bench, request_id, ReportCause.ACCEPTED)
    bench.finish()
    with bench.pipeline.database.read() as connection:
        dead = connection.execute(
            sa.select(deliveries.c.delivery_id).where(deliveries.c.state == "dead")
        ).scalar_one()
    assert bench.pipeline.deliveries.resend(dead)
    bench.finish()
    assert got(bench, "ehr") == [("fhir", 2)]


def test_a_destination_that_was_added_later_gets_no_withdrawal(bench: Bench) -> None:
    bench.pipeline = replace(bench.pipeline, routes=(_route(deliver_to=("ehr", "later")),))
    request_id = answered(bench)
    registry = bench.pipeline.registry
    later = RunningDestination(
        bench.destinations["pacs"], (DocumentKind.SR,), registry.destinations["ehr"].retry, 2
    )
    destinations = {**registry.destinations, "later": later}
    bench.pipeline = replace(bench.pipeline, registry=replace(registry, destinations=destinations))
    decide(bench, request_id, ReportCause.RETRACTED)
    bench.finish()
    assert got(bench, "pacs") == []
    assert got(bench, "ehr") == [("fhir", 1), ("fhir", 2)]


def test_the_request_row_is_left_as_it_was(bench: Bench) -> None:
    request_id = answered(bench)
    with bench.pipeline.database.read() as connection:
        before = get_request(connection, request_id)
    decide(bench, request_id, ReportCause.RETRACTED)
    bench.finish()
    with bench.pipeline.database.read() as connection:
        assert get_request(connection, request_id) == before
    assert not bench.pipeline.requests.ask_again(request_id)  # a withdrawn report stays withdrawn


def test_findings_are_compared_as_they_were_recorded(bench: Bench) -> None:
    request_id = answered(bench)
    with bench.pipeline.database.read() as connection:
        found: dict[str, tuple[Finding, ...]] = report_versions.findings_of(
            connection, (request_id,)
        )
    assert found == {request_id: _finding(bench.adapter.asked[0]).findings}
