"""What sources ask for, and what becomes of it: on SQLite and on PostgreSQL."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pydicom
import pytest
import sqlalchemy as sa
from pydantic import TypeAdapter

from hub.domain.identity import PatientIdentity
from hub.domain.inference import Outcome, Priority
from hub.domain.order import Order, OrderState
from hub.domain.patient import PatientChange, PatientChangeKind
from hub.domain.routing import LateImages, RouteMode, RouteTrigger
from hub.errors import RejectedError, TransientError, UnsuitableError
from hub.formats.images.ct_phantom import chest_phantom
from hub.order_steps import NOT_HERE
from hub.ports import PlacedOrder
from hub.store import audit
from hub.store.database import Database
from hub.store.order_rows import look_of, order_job
from hub.store.patients import record_change
from hub.store.schema import alerts, expectations, fetches, requests, route_decisions
from hub.store.schema_orders import orders
from hub.study_steps import Rerouting
from tests.unit.ordering import (
    ALT,
    AST,
    PATIENT,
    OrderBench,
    lab_route,
    make_order_bench,
    order,
    value,
)
from tests.unit.test_fetching import FakeArchive, known, phantom
from tests.unit.test_pipeline import _route

ON_ORDER = {"trigger": RouteTrigger.ORDER}


@pytest.fixture
def parts(database: Database, tmp_path: Path) -> Iterator[OrderBench]:
    made = make_order_bench(tmp_path, database)
    yield made
    made.bench.store.close()


def ordered(parts: OrderBench, uid: str, **fields: object) -> PlacedOrder:
    """Place an order about a study that is here, as the patient that it names."""
    patient = parts.study(uid).patient
    return parts.orders.place(order(uid, **{"patient": patient} | fields))


def _changed(file: bytes, **values: str) -> bytes:
    header = pydicom.dcmread(io.BytesIO(file))
    for keyword, text in values.items():
        setattr(header, keyword, text)
    written = io.BytesIO()
    header.save_as(written)
    return written.getvalue()


def _patient_of(files: list[bytes]) -> PatientIdentity:
    header = pydicom.dcmread(io.BytesIO(files[0]), stop_before_pixels=True)
    return PatientIdentity(str(header.PatientID), str(header.get("IssuerOfPatientID", "")))


# --- a study that is here ----------------------------------------------------------------------


def test_an_order_has_its_route_applied_to_a_study_that_is_here(parts: OrderBench) -> None:
    parts.use(_route(**ON_ORDER))
    uid = parts.bench.receive()
    parts.finish()
    assert parts.bench.column(requests.c.request_id) == [], "a rule for orders waits for one"

    deadline = parts.bench.clock.now() + timedelta(hours=1)
    based_on = ('{"reference": "ServiceRequest/7"}',)
    placed = ordered(
        parts, uid, route="chest", priority=Priority.STAT, deadline=deadline, based_on=based_on
    )
    assert (placed.state, placed.is_new) == (OrderState.PLACED, True)
    parts.look()
    assert parts.placed().state is OrderState.IN_PROGRESS
    parts.finish()

    (asked,) = parts.bench.adapter.asked
    assert (asked.priority, asked.deadline, asked.based_on) == (Priority.STAT, deadline, based_on)
    assert asked.order_id == placed.order.order_id
    done = parts.placed()
    assert done.state is OrderState.COMPLETED
    assert [(r.state, r.outcome) for r in done.requests] == [("done", Outcome.ASSESSED.value)]
    assert parts.bench.column(route_decisions.c.decision) == ["match"]
    log = [e for e in audit.events(parts.bench.pipeline.database) if e.action == "order.changed"]
    assert [e.detail["state"] for e in log] == ["in-progress", "completed"]


def test_the_same_order_again_is_the_same_order(parts: OrderBench) -> None:
    uid = parts.bench.receive()
    parts.finish()
    ordered(parts, uid)
    assert not ordered(parts, uid).is_new
    assert parts.look() == 1
    parts.finish()
    assert len(parts.bench.adapter.asked) == 1
    with pytest.raises(RejectedError, match="another order has the same identifiers"):
        ordered(parts, uid, route="chest")


def test_what_a_rule_asked_is_not_asked_again(parts: OrderBench) -> None:
    uid = parts.bench.receive()
    parts.finish()
    ordered(parts, uid)
    parts.finish()
    assert len(parts.bench.adapter.asked) == 1
    assert parts.placed().state is OrderState.COMPLETED
    assert [r.route for r in parts.placed().requests] == ["chest"]


def test_an_order_that_comes_before_the_rules_were_applied_waits_for_them(
    parts: OrderBench,
) -> None:
    uid = parts.bench.receive()
    parts.bench.pipeline.complete_due_studies()
    (study_job,) = parts.bench.jobs.enqueued
    parts.bench.jobs.enqueued.clear()
    ordered(parts, uid)
    parts.look()
    assert parts.placed().state is OrderState.WAITING
    parts.bench.pipeline.run_study(study_job.argument)
    parts.finish()
    assert len(parts.bench.adapter.asked) == 1, "rule and order ask once"
    assert parts.placed().state is OrderState.COMPLETED


def test_every_look_may_happen_twice(parts: OrderBench) -> None:
    parts.use(_route(**ON_ORDER))
    uid = parts.bench.receive()
    parts.finish()
    ordered(parts, uid)
    (look,) = parts.bench.jobs.enqueued
    parts.steps.run_order(look.argument)
    before = parts.bench.actions()
    parts.steps.run_order(look.argument)
    assert parts.bench.actions() == before
    assert len(parts.bench.column(requests.c.request_id)) == 1


@pytest.mark.parametrize("priority", Priority)
def test_every_look_is_as_urgent_as_its_order(priority: Priority) -> None:
    wish = order("1.2.3", priority=priority)
    first = order_job(wish)
    later = look_of(first.argument).job(wish, delay_seconds=5.0)
    assert (first.priority, later.priority) == (priority, priority)


def test_an_order_of_another_patient_runs_nothing(parts: OrderBench) -> None:
    parts.use(_route(**ON_ORDER))
    uid = parts.bench.receive()
    parts.finish()
    ordered(parts, uid, patient=PatientIdentity("SOMEBODY-ELSE"))
    parts.finish()
    placed = parts.placed()
    assert placed.state is OrderState.REJECTED
    assert "PatientID" in placed.reasons[0]
    assert "SOMEBODY" not in placed.reasons[0]
    assert parts.bench.column(requests.c.request_id) == []
    assert parts.bench.column(alerts.c.kind) == ["order.mismatched"]


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"issuer_of_patient_id": "OTHER"}, "IssuerOfPatientID"),
        ({"patient_birth_date": "18990101"}, "PatientBirthDate"),
    ],
)
def test_an_order_that_contradicts_the_header_runs_nothing(
    parts: OrderBench, fields: dict[str, str], name: str
) -> None:
    uid = parts.bench.receive()
    parts.finish()
    ordered(parts, uid, patient=replace(parts.study(uid).patient, **fields))
    parts.finish()
    assert parts.placed().state is OrderState.REJECTED
    assert name in parts.placed().reasons[0]


def test_an_order_with_another_accession_number_runs_nothing(parts: OrderBench) -> None:
    uid, files = phantom(2)
    parts.bench.send([_changed(file, AccessionNumber="A-1") for file in files])
    parts.bench.clock.advance(2)
    parts.finish()
    ordered(parts, uid, accession_number="A-2")
    parts.finish()
    assert parts.placed().state is OrderState.REJECTED
    assert "AccessionNumber" in parts.placed().reasons[0]


def test_a_merged_patient_is_the_patient_of_the_order(parts: OrderBench) -> None:
    uid = parts.bench.receive()
    parts.finish()
    old = parts.study(uid).patient
    merged = PatientChange(
        change_id="c",
        kind=PatientChangeKind.MERGED,
        patient_id=old.patient_id,
        issuer_of_patient_id=old.issuer_of_patient_id,
        current=PatientIdentity("MERGED"),
        source="adt",
        received_at=parts.bench.clock.now(),
    )
    with parts.bench.pipeline.database.write() as connection:
        record_change(connection, parts.bench.pipeline.journal, merged)
    ordered(parts, uid, patient=PatientIdentity("MERGED"))
    parts.finish()
    assert parts.placed().state is OrderState.COMPLETED


def test_a_patient_who_turns_out_to_be_another_after_the_order_is_quarantined(
    parts: OrderBench,
) -> None:
    parts.use(_route(**ON_ORDER))
    uid = parts.bench.receive()
    parts.finish()
    ordered(parts, uid)
    parts.look()
    with parts.bench.pipeline.database.write() as connection:
        content = replace(parts.placed().order, patient=PatientIdentity("SOMEBODY-ELSE"))
        kept = TypeAdapter(Order).dump_python(content, mode="json")
        connection.execute(sa.update(orders).values(content=kept))
    parts.finish()
    assert parts.bench.column(requests.c.state) == ["quarantined"]
    assert parts.bench.destinations["ehr"].delivered == []
    assert parts.placed().state is OrderState.IN_PROGRESS
    assert "a person decides" in parts.placed().reasons[0]


def test_no_rule_that_matches_is_an_answer(parts: OrderBench) -> None:
    uid = parts.bench.receive()
    parts.use(lab_route())
    parts.finish()
    ordered(parts, uid)
    parts.finish()
    assert parts.placed().state is OrderState.REJECTED
    assert parts.placed().reasons == ("lab: its model reads measured values, not images",)


def test_without_any_route_an_order_says_so(parts: OrderBench) -> None:
    uid = parts.bench.receive()
    parts.finish()
    parts.use()
    ordered(parts, uid)
    parts.finish()
    assert parts.placed().reasons == ("there is no route that an order may start",)


def test_an_answer_outside_the_intended_use_rejects_the_order(parts: OrderBench) -> None:
    parts.use(_route(**ON_ORDER))
    parts.bench.adapter.answers = [UnsuitableError(("too few slices",))]
    uid = parts.bench.receive()
    parts.finish()
    ordered(parts, uid)
    parts.finish()
    assert (parts.placed().state, parts.placed().reasons) == (
        OrderState.REJECTED,
        ("chest: too few slices",),
    )


def test_a_model_that_fails_fails_the_order_and_a_new_order_asks_again(parts: OrderBench) -> None:
    good = parts.bench.adapter.answers
    parts.bench.adapter.answers = [RejectedError("broken")]
    uid = parts.bench.receive()
    parts.finish()
    ordered(parts, uid, order_id="b" * 32)
    parts.look()
    assert parts.placed("b" * 32).state is OrderState.IN_PROGRESS, "it is asked again"
    parts.finish()
    assert parts.placed("b" * 32).state is OrderState.FAILED
    assert "broken" in parts.placed("b" * 32).reasons[0]
    parts.bench.adapter.answers = good
    ordered(parts, uid)
    parts.finish()
    assert parts.placed().state is OrderState.COMPLETED


def test_late_images_are_for_a_route_that_an_order_had_applied(parts: OrderBench) -> None:
    parts.use(_route(**ON_ORDER))
    files = list(chest_phantom(slices=3, rows=64, columns=64, seed=1).files)
    parts.bench.send(files[:2])
    parts.bench.clock.advance(2)
    parts.finish()
    uid = str(parts.bench.column(route_decisions.c.study_instance_uid)[0])
    ordered(parts, uid)
    parts.finish()
    parts.bench.send(files[2:])
    parts.bench.clock.advance(2)
    parts.finish()
    assert [r.study.key.revision for r in parts.bench.adapter.asked] == [1, 2]
    assert parts.bench.adapter.asked[1].order_id == "a" * 32
    assert parts.placed().state is OrderState.COMPLETED


def test_a_result_that_a_rule_keeps_answers_an_order_on_later_images(parts: OrderBench) -> None:
    parts.use(_route(late_images=LateImages.KEEP))
    uid, files = phantom(3)
    for some in (files[:2], files[2:]):
        parts.bench.send(some)
        parts.bench.clock.advance(2)
        parts.finish()
    ordered(parts, uid)
    parts.finish()
    assert [r.study.key.revision for r in parts.bench.adapter.asked] == [1]
    assert parts.placed().state is OrderState.COMPLETED
    assert "is kept" in str(parts.bench.column(route_decisions.c.reasons)[-1])


def test_unknown_and_silent_routes_are_refused_at_once(parts: OrderBench) -> None:
    parts.use(_route(mode=RouteMode.SHADOW))
    for route, words in (("nope", "there is no route nope"), ("chest", "shadow mode")):
        with pytest.raises(RejectedError, match=words):
            parts.orders.place(order("1.2.3", route=route))
    assert parts.orders.find("a" * 32) is None
    assert parts.bench.jobs.enqueued == []


# --- a study that is not here --------------------------------------------------------------------


def test_an_order_before_the_images_waits_and_tells_how_many_there_will_be(
    parts: OrderBench,
) -> None:
    uid, files = phantom(2)
    parts.orders.place(order(uid, patient=_patient_of(files), number_of_instances=2))
    parts.look()
    assert (parts.placed().state, parts.placed().reasons) == (OrderState.WAITING, (NOT_HERE,))
    assert parts.bench.column(expectations.c.number_of_instances) == [2]
    parts.bench.send(files)
    parts.finish()  # without waiting: all of it is there
    assert parts.placed().state is OrderState.COMPLETED
    assert len(parts.bench.adapter.asked) == 1


def test_a_study_is_fetched_from_the_archive_that_knows_it(parts: OrderBench) -> None:
    uid, files = phantom(2)
    silent, pacs = FakeArchive(parts.bench), FakeArchive(parts.bench)
    pacs.told, pacs.files = [known(uid, 2)], {uid: files}
    parts.fetch_from(archives={"old": silent, "pacs": pacs})
    parts.orders.place(order(uid, patient=_patient_of(files), number_of_instances=2))
    parts.finish()
    assert pacs.retrieved == [(uid, ())]
    assert silent.retrieved == []
    assert parts.bench.column(fetches.c.archive) == ["pacs"]
    assert parts.placed().state is OrderState.COMPLETED


def test_an_endpoint_that_is_a_configured_archive_is_asked_as_such(parts: OrderBench) -> None:
    uid, files = phantom(2)
    pacs = FakeArchive(parts.bench)
    pacs.files = {uid: files}
    parts.fetch_from(archives={"pacs": pacs}, urls={"pacs": "https://pacs/dicom-web"})
    endpoint = "https://pacs/dicom-web/"
    parts.orders.place(order(uid, patient=_patient_of(files), endpoint=endpoint))
    parts.look()
    assert parts.bench.column(fetches.c.archive) == ["pacs"]


def test_an_endpoint_of_the_order_is_opened_for_it(parts: OrderBench) -> None:
    uid, files = phantom(2)
    opened: list[str] = []
    service = FakeArchive(parts.bench)
    service.files = {uid: files}

    def open_endpoint(url: str) -> FakeArchive:
        opened.append(url)
        return service

    parts.fetch_from(open_endpoint=open_endpoint)
    endpoint = "https://elsewhere/dicom-web"
    parts.orders.place(order(uid, patient=_patient_of(files), endpoint=endpoint))
    parts.look()
    assert parts.bench.column(fetches.c.archive) == [f"order:{'a' * 32}"]
    parts.finish()
    parts.bench.clock.advance(2)
    parts.finish()
    assert opened == [endpoint]
    assert parts.placed().state is OrderState.COMPLETED


def test_an_endpoint_that_does_not_have_it_fails_the_order(parts: OrderBench) -> None:
    parts.fetch_from(open_endpoint=lambda _url: FakeArchive(parts.bench))
    parts.orders.place(order("1.2.3", endpoint="https://elsewhere/dicom-web"))
    parts.finish()
    assert parts.placed().state is OrderState.FAILED
    assert parts.placed().reasons == ("the study could not be fetched: does not have it",)
    assert parts.bench.column(alerts.c.kind) == ["fetch.failed"]


def test_an_archive_that_cannot_be_asked_is_asked_again_and_says_so(parts: OrderBench) -> None:
    uid, files = phantom(2)
    pacs = FakeArchive(parts.bench, error=TransientError("away"))
    parts.fetch_from(archives={"pacs": pacs})
    parts.orders.place(order(uid, patient=_patient_of(files)))
    parts.look()
    assert "archive pacs could not be asked: away" in parts.placed().reasons[0]
    pacs.error, pacs.told, pacs.files = None, [known(uid, 2)], {uid: files}
    assert parts.look(delayed=True) == 1
    parts.finish()
    parts.bench.clock.advance(2)
    parts.finish()
    assert parts.placed().state is OrderState.COMPLETED


def test_after_the_deadline_nobody_waits(parts: OrderBench) -> None:
    deadline = parts.bench.clock.now() + timedelta(minutes=5)
    parts.orders.place(order("1.2.3", deadline=deadline))
    parts.look()
    (later,) = parts.bench.jobs.enqueued
    assert later.delay_seconds == 300
    parts.bench.clock.advance(300)
    parts.look(delayed=True)
    assert parts.placed().state is OrderState.FAILED
    assert parts.placed().reasons[0] == "the study did not arrive in time"
    assert parts.bench.column(alerts.c.kind) == ["order.failed"]


# --- taking it back ----------------------------------------------------------------------------


def test_a_waiting_order_that_was_cancelled_does_nothing(parts: OrderBench) -> None:
    uid, files = phantom(2)
    parts.use(_route(**ON_ORDER))
    parts.orders.place(order(uid, patient=_patient_of(files)))
    parts.look()
    assert parts.orders.cancel("a" * 32, "not needed").state is OrderState.CANCELLED
    parts.bench.send(files)
    parts.bench.clock.advance(2)
    parts.finish()
    assert parts.bench.adapter.asked == []
    with pytest.raises(RejectedError, match="it is cancelled"):
        parts.orders.cancel("a" * 32, "again")


def test_a_request_that_did_not_begin_never_does_and_may_be_ordered_again(
    parts: OrderBench,
) -> None:
    parts.use(_route(**ON_ORDER))
    uid = parts.bench.receive()
    parts.finish()
    ordered(parts, uid)
    parts.look()
    parts.orders.cancel("a" * 32, "")
    parts.finish()
    assert parts.bench.column(requests.c.state) == ["discarded"]
    assert parts.bench.adapter.asked == []
    assert parts.placed().state is OrderState.CANCELLED
    ordered(parts, uid, order_id="b" * 32)
    parts.finish()
    assert parts.placed("b" * 32).state is OrderState.COMPLETED


def test_what_a_rule_asked_goes_on_when_an_order_is_cancelled(parts: OrderBench) -> None:
    uid = parts.bench.receive()
    parts.bench.pipeline.complete_due_studies()
    (job,) = parts.bench.jobs.enqueued
    parts.bench.jobs.enqueued.clear()
    parts.bench.pipeline.run_study(job.argument)  # its request is enqueued, and has not begun
    ordered(parts, uid)
    parts.look()
    assert parts.placed().state is OrderState.IN_PROGRESS
    parts.orders.cancel("a" * 32, "")
    parts.finish()
    assert parts.bench.column(requests.c.state) == ["done"]


# --- finding it --------------------------------------------------------------------------------


def test_orders_are_found_by_patient_and_identifier_and_what_they_are_based_on(
    parts: OrderBench,
) -> None:
    resource = '{"resourceType": "Task", "identifier": [{"system": "urn:t", "value": "T%_1"}]}'
    based_on = (
        '{"reference": "ServiceRequest/1", "identifier": {"system": "urn:p", "value": "Ä9"}}',
    )
    placer = ("urn:placer", "47")
    parts.orders.place(
        order("1.2", resource=resource, based_on=based_on, placer_order_number=placer)
    )
    parts.orders.place(order("1.3", order_id="b" * 32, patient=PatientIdentity("P-2", "X")))
    search = parts.orders.search

    def ids(found: object) -> list[str]:
        return [one.order.order_id[0] for one in found]  # type: ignore[attr-defined]

    assert ids(search(patient=PatientIdentity("P-1"))) == ["a"]
    assert ids(search(patient=PatientIdentity("P-2"))) == ["b"]
    assert ids(search(patient=PatientIdentity("P-2", "Y"))) == []
    assert ids(search(identifier=placer)) == ["a"]
    assert ids(search(identifier=("", "47"))) == ["a"]
    assert ids(search(identifier=("", "7"))) == []
    assert ids(search(identifier=("urn:t", "T%_1"))) == ["a"]
    assert ids(search(identifier=("urn:t", "Tx_1"))) == []
    assert ids(search(based_on="ServiceRequest/1")) == ["a"]
    assert ids(search(based_on="urn:p|Ä9")) == ["a"]
    assert ids(search(limit=1)) == ["a"]
    assert ids(search(limit=1, offset=1)) == ["b"]


# --- measured values ---------------------------------------------------------------------------


def test_an_order_of_values_becomes_a_case_and_a_request(parts: OrderBench) -> None:
    parts.use(lab_route(trigger=RouteTrigger.ORDER), _route())
    parts.record.values = [value(ALT, 30, source="ehr")]
    parts.record.known = replace(PATIENT, patient_name="Doe^Jane")
    patient = PatientIdentity("P-1")
    told = value(AST, 40, patient=patient)
    placed = parts.orders.place(
        order(patient=patient, observations=(told,), accession_number="L-1")
    )
    parts.finish()
    (request,) = parts.bench.adapter.asked
    assert {o.value for o in request.observations} == {40.0, 30.0}
    study = request.study
    assert study.is_case
    assert study.patient == replace(PATIENT, patient_name="Doe^Jane"), "the record told the rest"
    assert (study.accession_number, study.study_instance_uid) == (
        "L-1",
        placed.order.study_instance_uid,
    )
    assert parts.placed().state is OrderState.COMPLETED
    assert dict(
        zip(
            parts.bench.column(route_decisions.c.route),
            parts.bench.column(route_decisions.c.decision),
            strict=True,
        )
    ) == {"lab": "match"}
    assert [c.code_value for _, codes in parts.record.asked for c in codes] == ["1920-8", "1742-6"]


def test_a_record_that_is_away_is_never_read_as_no_value(parts: OrderBench) -> None:
    parts.use(lab_route(trigger=RouteTrigger.ORDER))
    parts.record.error = TransientError("away")
    parts.orders.place(order(observations=(value(AST, 40),)))
    parts.look()
    assert parts.placed().state is OrderState.WAITING
    assert parts.placed().reasons == ("health record ehr could not be asked: away",)
    parts.look(delayed=True)
    assert parts.bench.adapter.asked == []
    parts.bench.clock.advance(3600)
    parts.look(delayed=True)
    assert parts.placed().state is OrderState.FAILED
    assert parts.bench.column(alerts.c.kind) == ["order.failed"]


def test_a_record_that_comes_back_is_asked_again(parts: OrderBench) -> None:
    parts.use(lab_route(trigger=RouteTrigger.ORDER))
    parts.record.error = TransientError("away")
    parts.orders.place(order(observations=(value(AST, 40), value(ALT, 30))))
    parts.look()
    parts.record.error = None
    parts.look(delayed=True)
    parts.finish()
    assert parts.placed().state is OrderState.COMPLETED


@pytest.mark.parametrize(
    ("known_patient", "words"),
    [
        (replace(PATIENT, patient_birth_date="19700101"), "another birth date"),
        (replace(PATIENT, patient_sex="M"), "another sex"),
        (replace(PATIENT, patient_id="P-2"), "another patient"),
    ],
)
def test_a_record_that_contradicts_the_order_stops_it(
    parts: OrderBench, known_patient: PatientIdentity, words: str
) -> None:
    parts.use(lab_route(trigger=RouteTrigger.ORDER))
    parts.record.known = known_patient
    parts.orders.place(order(observations=(value(AST, 40),)))
    parts.finish()
    assert parts.placed().state is OrderState.REJECTED
    assert words in parts.placed().reasons[0]
    assert parts.bench.adapter.asked == []


def test_a_record_whose_answer_cannot_be_used_is_a_fault_and_no_refused_order(
    parts: OrderBench,
) -> None:
    """Whoever ordered has done nothing wrong, and a person has to mend the access."""
    parts.use(lab_route(trigger=RouteTrigger.ORDER))
    parts.record.refusal = RejectedError("more than 5 resources")
    parts.orders.place(order(observations=(value(AST, 40),)))
    parts.finish()
    assert parts.placed().state is OrderState.FAILED
    assert parts.placed().reasons == ("health record ehr: more than 5 resources",)
    assert parts.bench.column(alerts.c.kind) == ["order.failed"]
    assert parts.bench.adapter.asked == []


def test_values_of_another_patient_are_refused_with_the_order(parts: OrderBench) -> None:
    stranger = value(AST, 40, patient=PatientIdentity("P-2"))
    with pytest.raises(RejectedError, match="of another patient"):
        parts.orders.take([order(observations=(stranger,))], [value(ALT, 1)], "t")
    assert parts.orders.observations() == []
    assert parts.orders.find("a" * 32) is None


def test_the_newest_version_of_a_value_counts(parts: OrderBench) -> None:
    parts.use(lab_route(trigger=RouteTrigger.ORDER))
    parts.record.values = [value(AST, 44, source="ehr")]
    parts.orders.place(order(observations=(value(AST, 40), value(ALT, 30))))
    parts.finish()
    (request,) = parts.bench.adapter.asked
    assert sorted(o.value or 0 for o in request.observations) == [30.0, 44.0]


def test_values_that_nobody_asked_about_start_the_routes_of_values(parts: OrderBench) -> None:
    parts.use(lab_route(), _route())
    told = [value(AST, 40), value(ALT, 30)]
    assert len(parts.orders.observed(told, "bundle-1")) == 2
    parts.finish()
    (request,) = parts.bench.adapter.asked
    assert (request.study.source, len(request.observations)) == ("lis", 2)
    assert parts.orders.observed(told, "bundle-1") == ()
    assert parts.orders.observed(told, "bundle-2") == ()
    parts.finish()
    assert len(parts.bench.adapter.asked) == 1, "the same values change nothing"
    assert parts.orders.search() == [], "nobody placed it"


def test_values_that_no_route_waits_for_are_only_kept(parts: OrderBench) -> None:
    parts.use(lab_route(trigger=RouteTrigger.ORDER), _route())
    parts.orders.observed([value(AST, 40)], "bundle-1")
    parts.finish()
    assert parts.bench.column(requests.c.request_id) == []
    assert parts.bench.actions() == ["observations.received"]
    assert [o.value for o in parts.orders.observations(patient=PATIENT)] == [40.0]


def test_a_corrected_value_amends_the_report_of_the_old_one(parts: OrderBench) -> None:
    parts.use(lab_route())
    parts.orders.observed([value(AST, 40), value(ALT, 30)], "bundle-1")
    parts.finish()
    corrected = value(AST, 400, status="corrected")
    parts.orders.observed([corrected], "bundle-2")
    parts.finish()
    first, second = parts.bench.adapter.asked
    assert second.study.study_instance_uid == first.study.study_instance_uid
    assert (second.study.key.revision, second.amends_revision) == (2, 1)
    assert sorted(o.value or 0 for o in second.observations) == [30.0, 400.0]
    assert [o.value for o in parts.orders.observations(identifier=None)].count(40.0) == 0
    old = parts.orders.observations(observation_id=value(AST, 40).observation_id)
    assert [o.value for o in old] == [40.0], "what it was before can be read by its own number"


def test_values_and_an_order_of_one_message_are_one_question(parts: OrderBench) -> None:
    parts.use(lab_route())
    told = [value(AST, 40), value(ALT, 30)]
    taken = parts.orders.take([order()], told, "bundle-1")
    assert len(taken.new_observations) == 2
    parts.finish()
    assert len(parts.bench.adapter.asked) == 1
    assert parts.placed().state is OrderState.COMPLETED


def test_a_case_can_be_asked_about_again_by_a_person(parts: OrderBench) -> None:
    pipeline = parts.bench.pipeline
    parts.orders.place(order(observations=(value(AST, 40),)))
    parts.finish()
    assert parts.placed().state is OrderState.REJECTED
    uid = parts.placed().order.study_instance_uid
    with pytest.raises(RejectedError):
        Rerouting(pipeline.database, parts.bench.jobs, pipeline.journal).again(uid)
    parts.use(lab_route(when=_route().when))
    parts.orders.place(order(order_id="b" * 32, observations=(value(AST, 40), value(ALT, 30))))
    parts.finish()
    assert parts.placed("b" * 32).state is OrderState.REJECTED
    parts.use(lab_route())
    uid = parts.placed("b" * 32).order.study_instance_uid
    Rerouting(pipeline.database, parts.bench.jobs, pipeline.journal).again(uid)
    parts.finish()
    assert parts.placed("b" * 32).state is OrderState.COMPLETED


def test_no_name_or_birth_date_is_in_the_audit_log(parts: OrderBench) -> None:
    parts.use(lab_route())
    parts.record.known = replace(PATIENT, patient_name="Doe^Jane")
    parts.orders.place(order(observations=(value(AST, 40),)))
    parts.finish()
    parts.orders.observed([value(AST, 41)], "bundle")
    parts.finish()
    text = repr([dict(e.detail) for e in audit.events(parts.bench.pipeline.database)])
    assert "Doe" not in text
    assert "19600101" not in text
    assert "P-1" not in text
