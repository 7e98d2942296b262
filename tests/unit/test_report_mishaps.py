"""What goes wrong between two versions of a report: quarantine, destinations that are gone,
reports of an older release."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from hub.domain.delivery import DocumentKind, Receipt
from hub.domain.identity import PatientIdentity
from hub.domain.inference import InferenceRequest, InferenceResult, Outcome
from hub.domain.patient import PatientChange, PatientChangeKind
from hub.domain.report import ReportCause
from hub.domain.routing import RouteMode
from hub.errors import IntegrityError, RejectedError, TransientError
from hub.ports import Job
from hub.store import patients
from hub.store.quarantine import Quarantine
from hub.store.report_ledger import NotDecidableError
from hub.store.schema import alerts, deliveries, documents, report_versions, requests
from tests.unit.test_corrections import (
    ANNA,
    answered,
    decide,
    got,
    last,
    late_images,
    make_corrections_bench,
    request_ids,
    states,
    versions,
    with_destination,
)
from tests.unit.test_pipeline import Bench, _finding, _route

WHY = "the RIS confirmed it"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = make_corrections_bench(tmp_path)
    yield made
    made.store.close()
    made.pipeline.database.close()


def quarantine(bench: Bench) -> Quarantine:
    pipeline = bench.pipeline
    return Quarantine(pipeline.database, pipeline.documents, pipeline.jobs, pipeline.journal)


def of_somebody_else(request: InferenceRequest) -> InferenceResult:
    result = _finding(request)
    patient = replace(result.identity.patient, patient_id="X")
    return replace(result, identity=replace(result.identity, patient=patient))


def without(bench: Bench, *names: str) -> None:
    """Destinations are taken out of the configuration."""
    registry = bench.pipeline.registry
    left = {name: one for name, one in registry.destinations.items() if name not in names}
    bench.pipeline = replace(bench.pipeline, registry=replace(registry, destinations=left))


def rename(bench: Bench, patient: PatientIdentity) -> None:
    change = PatientChange(
        change_id="m1",
        kind=PatientChangeKind.UPDATED,
        patient_id=patient.patient_id,
        issuer_of_patient_id=patient.issuer_of_patient_id,
        current=replace(patient, patient_name="NEW^NAME", patient_id="NEW-1"),
        source="his",
        received_at=bench.clock.now(),
    )
    with bench.pipeline.database.write() as connection:
        patients.record_change(connection, bench.pipeline.journal, change)


def delivery_jobs(bench: Bench, destination: str) -> list[Job]:
    return [job for job in bench.jobs.enqueued if job.partition == destination]


# --- quarantine ------------------------------------------------------------------------------


def test_what_is_released_after_a_failure_is_the_answer_and_not_the_failure(bench: Bench) -> None:
    with_destination(bench, "ehr", outcomes=frozenset(Outcome))
    bench.adapter.answers = [RejectedError("the model returned NaN"), of_somebody_else]
    request_id = answered(bench)
    assert last(bench, "ehr", DocumentKind.FHIR)["outcome"] == "failed"
    assert bench.pipeline.requests.ask_again(request_id)
    bench.finish()
    assert bench.column(requests.c.state) == ["quarantined"]
    quarantine(bench).release(request_id, ANNA, WHY)
    bench.finish()
    report = last(bench, "ehr", DocumentKind.FHIR)
    assert (report["outcome"], report["answers"]) == ("assessed", [4200.0])
    assert [row.outcome for row in versions(bench, request_id)] == ["failed", "assessed"]
    decide(bench, request_id, ReportCause.ACCEPTED)  # from the same record
    bench.finish()
    assert last(bench, "ehr", DocumentKind.FHIR)["answers"] == [4200.0]


def test_an_answer_that_never_came_is_not_released_in_the_words_of_a_failure(bench: Bench) -> None:
    bench.adapter.answers = [RejectedError("the model returned NaN")]
    request_id = answered(bench)
    bench.adapter.answers = [IntegrityError("the study is held back")]
    assert bench.pipeline.requests.ask_again(request_id)
    bench.finish()
    with pytest.raises(RejectedError, match="no answer to release"):
        quarantine(bench).release(request_id, ANNA, WHY)


def test_what_may_have_arrived_before_its_quarantine_is_withdrawn(bench: Bench) -> None:
    bench.destinations["ehr"].answers = [TransientError("timed out"), IntegrityError("held back")]
    request_id = answered(bench)
    assert states(bench, "ehr") == {("fhir", 1): "quarantined"}
    bench.destinations["ehr"].answers = [Receipt("ok")]
    decide(bench, request_id, ReportCause.RETRACTED)
    bench.run()
    bench.run()
    assert states(bench, "ehr")["fhir", 2] != "superseded"


def test_what_was_discarded_is_not_named_as_if_it_had_been_sent(bench: Bench) -> None:
    bench.destinations["pacs"].answers = [IntegrityError("held back"), Receipt("ok")]
    bench.receive()
    bench.pipeline.complete_due_studies()
    for _ in range(3):
        bench.run()
    (request_id,) = request_ids(bench)
    (waiting,) = quarantine(bench).waiting()
    quarantine(bench).discard(waiting.identifier, ANNA, WHY)
    with bench.pipeline.database.read() as connection:
        table = deliveries.c
        query = sa.select(table.document_id).where(table.state == "discarded")
        discarded = connection.execute(query).scalar_one()
    decide(bench, request_id, ReportCause.RETRACTED)
    bench.pipeline.run_report(f"{request_id}#2")
    with bench.pipeline.database.read() as connection:
        kept = connection.execute(
            sa.select(documents.c.sha256).where(documents.c.kind == "rejection_note")
        ).scalar_one()
    assert discarded.encode() not in bench.pipeline.documents.get(kept)


def test_nothing_is_withdrawn_where_all_was_discarded_unsent(bench: Bench) -> None:
    bench.destinations["ehr"].answers = [IntegrityError("held back")]
    request_id = answered(bench)
    (waiting,) = quarantine(bench).waiting()
    quarantine(bench).discard(waiting.identifier, ANNA, WHY)
    decide(bench, request_id, ReportCause.RETRACTED)
    bench.finish()
    assert states(bench, "ehr") == {("fhir", 1): "discarded", ("fhir", 2): "superseded"}


@pytest.mark.parametrize("discarded", [True, False])
def test_a_newer_report_that_is_not_sent_takes_no_ones_place(
    bench: Bench, *, discarded: bool
) -> None:
    """The older one was true when it was made, and nothing else would arrive."""
    bench.destinations["ehr"].answers = [TransientError("down")]
    bench.receive()
    bench.pipeline.complete_due_studies()
    for _ in range(3):
        bench.run()
    (request_id,) = request_ids(bench)
    bench.jobs.enqueued.clear()
    decide(bench, request_id, ReportCause.ACCEPTED)
    bench.pipeline.run_report(f"{request_id}#2")
    with bench.pipeline.database.write() as connection:
        newer = sa.select(documents.c.document_id).where(documents.c.version == 2)
        connection.execute(
            sa.update(deliveries)
            .where(deliveries.c.document_id.in_(newer))
            .values(state="discarded" if discarded else "quarantined")
        )
        of_first = sa.select(documents.c.document_id).where(documents.c.version == 1)
        first = connection.execute(
            sa.select(deliveries.c.delivery_id).where(
                deliveries.c.document_id.in_(of_first), deliveries.c.destination == "ehr"
            )
        ).scalar_one()
    bench.destinations["ehr"].answers = [Receipt("ok")]
    task = bench.pipeline.deliveries.task(first)
    assert task is not None
    assert not bench.pipeline.deliveries.supersede(task)


# --- destinations that are gone --------------------------------------------------------------


def test_a_report_that_nobody_is_left_to_get_is_told(bench: Bench) -> None:
    bench.receive()
    bench.pipeline.complete_due_studies()
    bench.run()  # routed
    without(bench, "pacs", "ehr")
    bench.finish()
    assert bench.column(requests.c.state) == ["done"]
    assert bench.column(alerts.c.kind) == ["delivery.no-destination"] * 2


def test_a_withdrawal_that_cannot_reach_who_has_the_report_is_told(bench: Bench) -> None:
    request_id = answered(bench)
    without(bench, "ehr")
    decide(bench, request_id, ReportCause.RETRACTED)
    bench.finish()
    assert ("rejection_note", 2) in got(bench, "pacs")
    assert bench.column(alerts.c.kind) == ["delivery.no-destination"]


def test_a_fault_about_a_destination_that_is_gone_is_a_dead_letter(bench: Bench) -> None:
    bench.receive()
    bench.pipeline.complete_due_studies()
    bench.run()
    bench.run()
    (job,) = delivery_jobs(bench, "ehr")
    without(bench, "ehr")
    bench.pipeline.delivery_failed(job.argument, "fault of the hub: KeyError")
    assert states(bench, "ehr") == {("fhir", 1): "dead"}


def test_those_behind_a_document_whose_destination_is_gone_get_their_turn(bench: Bench) -> None:
    bench.receive()
    bench.pipeline.complete_due_studies()
    bench.run()
    bench.run()
    without(bench, "pacs")
    bench.finish()
    assert set(states(bench, "pacs").values()) == {"dead"}


# --- shadow ----------------------------------------------------------------------------------


def test_a_word_on_a_shadow_result_says_nothing_of_the_report_that_was_sent(bench: Bench) -> None:
    bench.destinations["ehr"].answers = [TransientError("down")]
    bench.receive()
    bench.pipeline.complete_due_studies()
    for _ in range(3):
        bench.run()
    bench.jobs.enqueued.clear()
    bench.pipeline = replace(bench.pipeline, routes=(_route(mode=RouteMode.SHADOW),))
    shadow = late_images(bench)
    decide(bench, shadow, ReportCause.RETRACTED)
    bench.finish()
    with bench.pipeline.database.read() as connection:
        table = deliveries.c
        query = sa.select(table.delivery_id).where(table.destination == "ehr")
        waiting = connection.execute(query).scalar_one()
    task = bench.pipeline.deliveries.task(waiting)
    assert task is not None
    assert not bench.pipeline.deliveries.supersede(task)


# --- reports of the release before, which kept no records --------------------------------------


def of_the_release_before(bench: Bench) -> None:
    with bench.pipeline.database.write() as connection:
        record = documents.c.kind == "record"
        connection.execute(sa.delete(documents).where(record))
        connection.execute(sa.delete(report_versions))


def test_a_report_without_a_record_cannot_be_changed_and_it_is_said_why(bench: Bench) -> None:
    request_id = answered(bench)
    of_the_release_before(bench)
    with pytest.raises(NotDecidableError, match="kept no record"):
        decide(bench, request_id, ReportCause.RETRACTED)


def test_a_report_without_a_record_of_a_patient_who_changed_waits_for_a_person(
    bench: Bench,
) -> None:
    bench.receive()
    bench.pipeline.complete_due_studies()
    bench.run()
    bench.run()
    of_the_release_before(bench)
    rename(bench, bench.adapter.asked[0].study.patient)
    bench.finish()
    assert states(bench, "ehr") == {("fhir", 1): "quarantined"}
    assert "delivery.quarantined" in bench.column(alerts.c.kind)
