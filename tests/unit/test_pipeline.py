"""The story with fake models and destinations: what is decided, recorded and enqueued."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from hub.domain.coding import Code
from hub.domain.delivery import DeliveryState, Document, DocumentKind, Receipt, RetryPolicy
from hub.domain.finding import Finding
from hub.domain.inference import (
    InferenceRequest,
    InferenceResult,
    ModelKey,
    Outcome,
    Priority,
    Unsuitable,
)
from hub.domain.model_card import ModelCard
from hub.domain.model_input import VolumeInput
from hub.domain.routing import Route, RouteMode
from hub.domain.study import StudyKey
from hub.errors import IntegrityError, RejectedError, TransientError, UnsuitableError
from hub.formats import record
from hub.formats.dicom.part10 import split_part10
from hub.formats.encoding import EncodingContext
from hub.formats.fhir import report as fhir_report
from hub.formats.images.ct_phantom import chest_phantom
from hub.formats.printed import pdf as report_pdf
from hub.formats.route_expression import compile_expression
from hub.pipeline import DocumentStore, Pipeline
from hub.ports import EndOfTransfer, ModelPackage, ReceivedObject, Sender
from hub.registry import Registry, RunningDestination, RunningModel
from hub.store import audit
from hub.store.database import Database
from hub.store.delivery_ledger import DeliveryLedger
from hub.store.index_batch import QuietTimes
from hub.store.journal import Journal
from hub.store.overview import list_deliveries
from hub.store.request_ledger import RequestLedger
from hub.store.schema import alerts, requests, results, route_decisions
from hub.store.schema import deliveries as deliveries_table
from tests.builders import model_card
from tests.fakes import FakeAdapter, FakeDestination, FrozenClock, RecordingJobs
from tests.migrated import migrated_sqlite
from tests.stored import StoreBench

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
SENDER = Sender("dicom", "SCANNER")
KEY = ModelKey("lung-density", "1.0.0", "0" * 64)
ENCODERS = {
    DocumentKind.PDF: report_pdf.encode,
    DocumentKind.FHIR: fhir_report.encode,
    DocumentKind.RECORD: record.encode,
}


@dataclass
class Bench:
    """A pipeline whose jobs run when the test says so."""

    pipeline: Pipeline
    store: StoreBench
    jobs: RecordingJobs
    clock: FrozenClock
    adapter: FakeAdapter
    destinations: dict[str, FakeDestination]

    def send(self, files: Iterable[bytes], end: EndOfTransfer = EndOfTransfer.RELEASED) -> None:
        """One transfer, indexed; a study is complete 2 s after its release."""
        self.store.store(map(as_received, files), end, SENDER)

    def receive(self, *, slices: int = 2, seed: int = 1) -> str:
        """Store a phantom and end the transfer; returns its Study Instance UID."""
        self.send(chest_phantom(slices=slices, rows=64, columns=64, seed=seed).files)
        self.clock.advance(2)
        with self.pipeline.database.read() as connection:
            rows = connection.execute(
                sa.text("SELECT study_instance_uid FROM studies ORDER BY first_received_at DESC")
            )
            return str(rows.scalars().first())

    def run(self) -> None:
        """Run the jobs that are enqueued now, not those that they enqueue."""
        work = {
            "study": self.pipeline.run_study,
            "request": self.pipeline.run_request,
            "abandon": self.pipeline.run_abandon,
            "report": self.pipeline.run_report,
            "delivery": self.pipeline.run_delivery,
        }
        batch, self.jobs.enqueued[:] = list(self.jobs.enqueued), []
        for job in batch:
            work[job.kind](job.argument)

    def finish(self) -> None:
        """Complete what is due and run jobs until there are none."""
        self.pipeline.complete_due_studies()
        while self.jobs.enqueued:
            self.run()

    def column(self, column: sa.Column[object]) -> list[object]:
        with self.pipeline.database.read() as connection:
            return list(connection.execute(sa.select(column)).scalars())

    def actions(self) -> list[str]:
        return [event.action for event in audit.events(self.pipeline.database)]


def as_received(file: bytes) -> ReceivedObject:
    """A Part 10 file of a CT image as a source hands it over."""
    syntax, data_set = split_part10(file)
    at = data_set.index(b"\x08\x00\x18\x00UI")
    length = int.from_bytes(data_set[at + 6 : at + 8], "little")
    uid = data_set[at + 8 : at + 8 + length].rstrip(b"\0").decode()
    return ReceivedObject(CT_IMAGE_STORAGE, uid, syntax, data_set)


def _finding(request: InferenceRequest) -> InferenceResult:
    finding = Finding(
        tracking_uid="2.25.7",
        tracking_identifier="lungs",
        code=Code("118565006", "SCT", "Volume"),
        value=4200.0,
        unit=Code("mL", "UCUM", "mL"),
    )
    return InferenceResult(
        request_id=request.request_id,
        model=request.model,
        identity=request.study.identity,
        outcome=Outcome.ASSESSED,
        findings=(finding,),
    )


def _route(**fields: object) -> Route:
    values: dict[str, object] = {
        "name": "chest",
        "when": compile_expression("'CT' in study.modalities_in_study", names=("study",)),
        "series": compile_expression("series.modality == 'CT'", names=("study", "series")),
        "model": "lung-density",
        "priority": Priority.ROUTINE,
        "deliver_to": ("pacs", "ehr"),
        **fields,
    }
    return Route(**values)


def _card() -> ModelCard:
    card = model_card()
    return replace(
        card,
        input=VolumeInput(kind="volume"),
        intended_use=replace(card.intended_use, minimum_instances=1),
    )


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = make_bench(tmp_path)
    yield made
    made.store.close()
    made.pipeline.database.close()


def make_bench(tmp_path: Path, database: Database | None = None) -> Bench:
    """A pipeline with one model, one route and two destinations, in an empty folder."""
    clock, jobs = FrozenClock(), RecordingJobs()
    if database is None:
        database = migrated_sqlite(tmp_path / "hub.sqlite")
    adapter = FakeAdapter(clock, [_finding])
    destinations = {"pacs": FakeDestination(), "ehr": FakeDestination()}
    kinds = {"pacs": (DocumentKind.PDF,), "ehr": (DocumentKind.FHIR,)}
    retry = RetryPolicy(attempts=3)
    journal = Journal(clock, "worker:test")
    pipeline = Pipeline(
        database=database,
        documents=DocumentStore(tmp_path / "documents"),
        jobs=jobs,
        journal=journal,
        requests=RequestLedger(database, jobs, journal, retry),
        deliveries=DeliveryLedger(database, jobs, journal),
        registry=Registry(
            models={"lung-density": RunningModel(ModelPackage(KEY, _card(), tmp_path), adapter)},
            destinations={
                name: RunningDestination(d, kinds[name], retry, 2)
                for name, d in destinations.items()
            },
        ),
        routes=(_route(),),
        encoders=ENCODERS,
        context=lambda: EncodingContext(
            made_at=clock.now(), institution_name="Test", software_version="0"
        ),
    )
    quiet = QuietTimes(timedelta(seconds=2), timedelta(seconds=30))
    store = StoreBench(database, tmp_path / "objects", clock, {"dicom": quiet})
    return Bench(pipeline, store, jobs, clock, adapter, destinations)


def test_a_study_becomes_a_report_at_each_destination(bench: Bench) -> None:
    bench.receive()
    bench.finish()
    assert [d.kind for d in bench.destinations["pacs"].delivered] == [DocumentKind.PDF]
    assert [d.kind for d in bench.destinations["ehr"].delivered] == [DocumentKind.FHIR]
    assert bench.column(requests.c.state) == ["done"]
    assert bench.actions() == [
        "study.received",
        "study.completed",
        "study.routed",
        "inference.started",
        "inference.finished",
        "delivery.delivered",
        "delivery.delivered",
    ]
    assert audit.verify(bench.pipeline.database)[1] is None


def test_every_job_may_run_twice_and_changes_nothing(bench: Bench) -> None:
    uid = bench.receive()
    bench.finish()
    before = bench.actions()
    (request_id,) = bench.column(requests.c.request_id)
    bench.pipeline.study_steps.complete(StudyKey(uid, 1))
    bench.pipeline.run_study(f"{uid}#1")
    bench.pipeline.run_request(str(request_id))
    with bench.pipeline.database.read() as connection:
        everything = (
            connection.execute(sa.text("SELECT delivery_id FROM deliveries")).scalars().all()
        )
    for delivery_id in everything:
        bench.pipeline.run_delivery(delivery_id)
    assert bench.actions() == before
    assert not bench.jobs.enqueued
    assert len(bench.destinations["pacs"].delivered) == 1


def test_sending_the_same_study_again_changes_nothing(bench: Bench) -> None:
    bench.receive()
    bench.finish()
    before = bench.actions()
    bench.receive()
    bench.clock.advance(60)
    bench.finish()
    assert bench.actions() == [*before, "study.received"]  # the transfer itself, nothing else


def test_no_matching_rule_is_a_recorded_answer(bench: Bench) -> None:
    when = compile_expression("'MR' in study.modalities_in_study", names=("study",))
    bench.pipeline = replace(bench.pipeline, routes=(_route(when=when),))
    bench.receive()
    bench.finish()
    assert bench.column(route_decisions.c.decision) == ["no-match"]
    assert bench.column(requests.c.request_id) == []
    assert bench.column(alerts.c.kind) == []


def test_a_rule_that_fails_raises_an_alert_and_the_other_rules_go_on(bench: Bench) -> None:
    broken = compile_expression("study.no_such_field == 1", names=("study",))
    bench.pipeline = replace(bench.pipeline, routes=(_route(name="broken", when=broken), _route()))
    bench.receive()
    bench.finish()
    assert sorted(map(str, bench.column(route_decisions.c.decision))) == ["match", "rule-error"]
    assert bench.column(alerts.c.kind) == ["route.error"]
    assert bench.column(requests.c.state) == ["done"]


def test_a_match_whose_model_cannot_run_is_an_error_not_a_silence(bench: Bench) -> None:
    registry = replace(bench.pipeline.registry, models={}, broken_models={"lung-density": "gone"})
    bench.pipeline = replace(bench.pipeline, registry=registry)
    bench.receive()
    bench.finish()
    assert bench.column(route_decisions.c.decision) == ["rule-error"]
    assert bench.column(alerts.c.kind) == ["route.error"]


def test_outside_intended_use_is_a_result_and_the_model_is_not_asked(bench: Bench) -> None:
    card = _card()
    strict = replace(card, intended_use=replace(card.intended_use, minimum_instances=100))
    package = ModelPackage(KEY, strict, Path())
    registry = replace(
        bench.pipeline.registry,
        models={"lung-density": RunningModel(package, bench.adapter)},
    )
    bench.pipeline = replace(bench.pipeline, registry=registry)
    bench.receive()
    bench.finish()
    assert finished(bench) == ("unsuitable", "")  # nobody was asked
    assert bench.column(results.c.outcome) == ["unsuitable"]
    assert bench.adapter.asked == []
    assert bench.destinations["ehr"].delivered == []
    assert bench.column(alerts.c.kind) == []


def test_the_audit_log_says_who_called_an_input_unsuitable(bench: Bench) -> None:
    bench.adapter.answers = [lambda r: Unsuitable(r.request_id, ("too thick",), ran_on="there")]
    bench.receive()
    bench.finish()
    assert finished(bench) == ("unsuitable", "there")


def finished(bench: Bench) -> tuple[object, object]:
    events = audit.events(bench.pipeline.database)
    (event,) = [one for one in events if one.action == "inference.finished"]
    return event.detail["result"], event.detail["ran_on"]


def test_input_that_only_the_model_can_refuse_is_unsuitable_too(bench: Bench) -> None:
    bench.adapter.answers = [UnsuitableError(("the slices are tilted",))]
    bench.receive()
    bench.finish()
    assert bench.column(results.c.reasons) == [["the slices are tilted"]]


def test_a_failed_attempt_is_tried_again_later(bench: Bench) -> None:
    bench.adapter.answers = [TransientError("worker died"), _finding]
    bench.receive()
    bench.finish()
    assert bench.column(requests.c.state) == ["done"]
    assert bench.column(requests.c.attempts) == [2]
    assert "inference.retrying" in bench.actions()


def test_too_many_attempts_end_as_a_dead_letter_that_can_be_asked_for_again(
    bench: Bench,
) -> None:
    bench.adapter.answers = [TransientError("worker died")]
    bench.receive()
    bench.finish()
    assert bench.column(requests.c.state) == ["failed"]
    assert bench.column(requests.c.attempts) == [3]
    assert bench.column(alerts.c.kind) == ["inference.failed"]
    assert bench.column(results.c.outcome) == []  # a failure is never a result
    bench.adapter.answers = [_finding]
    (request_id,) = bench.column(requests.c.request_id)
    assert bench.pipeline.requests.ask_again(str(request_id))
    assert not bench.pipeline.requests.ask_again(str(request_id))
    bench.finish()
    assert bench.column(requests.c.state) == ["done"]


def test_a_broken_answer_fails_at_once(bench: Bench) -> None:
    bench.adapter.answers = [RejectedError("the model returned NaN")]
    bench.receive()
    bench.finish()
    assert bench.column(requests.c.state) == ["failed"]
    assert bench.column(requests.c.attempts) == [1]
    assert bench.destinations["ehr"].delivered == []


@pytest.mark.parametrize("what", ["study", "patient", "accession", "model", "request"])
def test_an_answer_that_belongs_to_somebody_else_is_quarantined(bench: Bench, what: str) -> None:
    def foreign(request: InferenceRequest) -> InferenceResult:
        result = _finding(request)
        patient = replace(result.identity.patient, patient_id="SOMEBODY")
        return {
            "study": replace(result, identity=replace(result.identity, study_instance_uid="1.2")),
            "patient": replace(result, identity=replace(result.identity, patient=patient)),
            "accession": replace(result, identity=replace(result.identity, accession_number="X")),
            "model": replace(result, model=ModelKey("other", "1", "1" * 64)),
            "request": replace(result, request_id="0"),
        }[what]

    bench.adapter.answers = [foreign]
    bench.receive()
    bench.finish()
    assert bench.column(requests.c.state) == ["quarantined"]
    assert bench.column(alerts.c.kind) == ["inference.quarantined"]
    assert bench.destinations["pacs"].delivered == []


def test_a_foreign_answer_is_quarantined_even_where_nothing_would_be_sent(bench: Bench) -> None:
    bench.pipeline = replace(bench.pipeline, routes=(_route(mode=RouteMode.SHADOW),))
    bench.adapter.answers = [lambda r: replace(_finding(r), request_id="0")]
    bench.receive()
    bench.finish()
    assert bench.column(requests.c.state) == ["quarantined"]
    assert bench.column(results.c.outcome) == []


def test_two_workers_with_the_same_request_record_one_answer(bench: Bench) -> None:
    def while_another_worker_answers(request: InferenceRequest) -> InferenceResult:
        bench.adapter.answers = [_finding]
        bench.pipeline.run_request(request.request_id)  # it was thought dead, and was not
        return _finding(request)

    bench.adapter.answers = [while_another_worker_answers]
    bench.receive()
    bench.finish()
    assert bench.actions().count("inference.finished") == 1
    assert len(bench.destinations["ehr"].delivered) == 1


def test_two_workers_with_the_same_delivery_record_it_once(bench: Bench) -> None:
    def while_another_worker_delivers(document: Document) -> Receipt:
        bench.destinations["ehr"].answers = [Receipt("ok")]
        with bench.pipeline.database.read() as connection:
            query = sa.select(deliveries_table.c.delivery_id).where(
                deliveries_table.c.document_id == document.document_id
            )
            bench.pipeline.run_delivery(connection.execute(query).scalar_one())
        raise TransientError("this worker lost the connection")

    bench.destinations["ehr"].answers = [while_another_worker_delivers]
    bench.receive()
    bench.finish()
    assert bench.actions().count("delivery.delivered") == 2  # one for each destination
    assert "delivery.retrying" not in bench.actions()


def test_a_request_keeps_the_model_that_it_was_pinned_to(bench: Bench) -> None:
    bench.receive()
    bench.pipeline.complete_due_studies()
    bench.run()  # routed, not yet inferred
    newer = ModelPackage(ModelKey("lung-density", "2.0.0", "2" * 64), _card(), Path())
    registry = replace(
        bench.pipeline.registry, models={"lung-density": RunningModel(newer, bench.adapter)}
    )
    bench.pipeline = replace(bench.pipeline, registry=registry)
    bench.finish()
    assert bench.column(requests.c.state) == ["failed"]
    assert "pinned to lung-density|1.0.0" in str(bench.column(requests.c.detail)[0])


def test_a_shadow_route_runs_the_model_and_delivers_nothing(bench: Bench) -> None:
    bench.pipeline = replace(bench.pipeline, routes=(_route(mode=RouteMode.SHADOW),))
    bench.receive()
    bench.finish()
    assert bench.column(results.c.outcome) == ["assessed"]
    assert bench.destinations["ehr"].delivered == []


def test_a_dead_destination_delays_nobody_else(bench: Bench) -> None:
    bench.destinations["pacs"].answers = [TransientError("connection refused")]
    bench.receive()
    bench.finish()
    assert len(bench.destinations["ehr"].delivered) == 1
    (letter,) = list_deliveries(bench.pipeline.database, state=DeliveryState.DEAD).items
    dead = letter.delivery_id
    assert "delivery.dead" in bench.column(alerts.c.kind)
    bench.destinations["pacs"].answers = [Receipt("stored")]
    assert bench.pipeline.deliveries.resend(dead)
    assert not bench.pipeline.deliveries.resend(dead)
    bench.finish()
    assert len(bench.destinations["pacs"].delivered) == 1


def test_waits_grow_between_attempts(bench: Bench) -> None:
    bench.destinations["pacs"].answers = [
        TransientError("busy"),
        TransientError("busy", retry_after=90),
        TransientError("busy"),
    ]
    bench.receive()
    bench.pipeline.complete_due_studies()
    delays = []
    while bench.jobs.enqueued:
        delays += [job.delay_seconds for job in bench.jobs.enqueued if job.delay_seconds]
        bench.run()
    assert delays == [30.0, 90]


def test_what_a_destination_will_never_take_is_a_dead_letter_at_once(bench: Bench) -> None:
    bench.destinations["ehr"].answers = [RejectedError("422")]
    bench.receive()
    bench.finish()
    assert bench.actions().count("delivery.dead") == 1
    assert "delivery.retrying" not in bench.actions()


def test_a_document_that_was_changed_on_disk_is_not_sent(bench: Bench) -> None:
    bench.receive()
    bench.pipeline.complete_due_studies()
    bench.run()
    bench.run()
    for file in bench.pipeline.documents.root.glob("*/*"):
        file.write_bytes(b"tampered")
    bench.finish()
    assert bench.destinations["ehr"].delivered == []
    assert bench.actions().count("delivery.dead") == 2


def test_a_late_image_makes_a_new_revision_with_its_own_request(bench: Bench) -> None:
    bench.receive(slices=2)
    bench.finish()
    uid = chest_phantom(slices=2, rows=64, columns=64).study_instance_uid
    bench.send(chest_phantom(slices=3, rows=64, columns=64, study_instance_uid=uid).files[2:])
    bench.clock.advance(2)
    bench.finish()
    assert sorted(map(int, bench.column(requests.c.revision))) == [1, 2]
    assert len(bench.destinations["ehr"].delivered) == 2


def test_an_integrity_error_of_an_encoder_is_never_sent(bench: Bench) -> None:
    def broken(*_: object) -> None:
        raise IntegrityError("a reference does not resolve")

    bench.pipeline = replace(bench.pipeline, encoders={DocumentKind.FHIR: broken})
    bench.receive()
    bench.finish()
    assert bench.column(requests.c.state) == ["quarantined"]
