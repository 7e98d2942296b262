"""What comes late, what is missing, and what begins before all is there."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest

from hub.domain.delivery import Receipt
from hub.domain.identity import derived_uid
from hub.domain.routing import LateImages, RouteMode, RouteStart, WhenIncomplete
from hub.domain.study import StudyKey
from hub.errors import RejectedError, TransientError
from hub.formats.images.ct_phantom import chest_phantom
from hub.formats.route_expression import compile_expression
from hub.ports import EndOfTransfer, Expectation, ExpectationSource, NamedSeries, ProcedureStep
from hub.store import audit, studies
from hub.store.knowledge import StoreKnowledge
from hub.store.schema import alerts, deliveries, requests, route_decisions, study_revisions
from hub.study_steps import Rerouting
from tests.unit.test_pipeline import SENDER, Bench, _finding, _route, as_received, make_bench

STUDY = "1.2.826.0.1.3680043.8.498.77"
SLICES = chest_phantom(slices=6, rows=64, columns=64, study_instance_uid=STUDY).files
THIN, THICK = "THIN", "THICK"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = make_bench(tmp_path)
    made.pipeline = replace(made.pipeline, routes=(_route(series=of_series(THIN)),))
    yield made
    made.store.close()
    made.pipeline.database.close()


def of_series(description: str) -> object:
    text = f"series.series_description == '{description}'"
    return compile_expression(text, names=("study", "series"))


def series(description: str, *numbers: int) -> list[bytes]:
    """Images of a series of that description, of one study."""
    files = []
    for number in numbers:
        image = pydicom.dcmread(io.BytesIO(SLICES[number]))
        image.SeriesDescription = description
        image.SeriesInstanceUID = derived_uid(STUDY, description)
        image.SOPInstanceUID = derived_uid(STUDY, description, str(number))
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        image.InstanceNumber = number + 1
        buffer = io.BytesIO()
        image.save_as(buffer, enforce_file_format=True)
        files.append(buffer.getvalue())
    return files


def send(bench: Bench, *files: bytes) -> None:
    """One transfer that ends, and the quiet time after it, and all that follows."""
    bench.send(files)
    bench.clock.advance(2)
    bench.finish()


def expect(bench: Bench, number: int) -> None:
    expectation = Expectation(STUDY, ExpectationSource.ARCHIVE, number_of_instances=number)
    with bench.pipeline.database.write() as connection:
        studies.expect(connection, expectation, bench.clock.now())


def reasons(bench: Bench) -> list[str]:
    """Of each decision, in order."""
    return [str(r[-1]) for r in bench.column(route_decisions.c.reasons) if isinstance(r, list)]


def conclusions(bench: Bench) -> list[str]:
    """Of each FHIR report that was delivered."""
    return [
        entry["resource"]["conclusion"]
        for document in bench.destinations["ehr"].delivered
        for entry in json.loads(document.content)["entry"]
        if entry["resource"]["resourceType"] == "DiagnosticReport"
    ]


# --- late images -----------------------------------------------------------------------------


def test_late_images_of_the_input_are_asked_about_and_the_report_amends(bench: Bench) -> None:
    send(bench, *series(THIN, 0, 1))
    send(bench, *series(THIN, 2))
    assert [len(r.series[0].instances) for r in bench.adapter.asked] == [2, 3]
    first, second = conclusions(bench)
    assert "AMENDED" not in first
    assert (
        "AMENDED: revision 2 of the study; replaces the earlier AI result of revision 1" in second
    )


def test_late_images_of_another_series_change_nothing(bench: Bench) -> None:
    send(bench, *series(THIN, 0, 1))
    send(bench, *series(THICK, 2))
    assert len(bench.adapter.asked) == 1
    assert bench.column(route_decisions.c.decision) == ["match", "match"]
    assert reasons(bench)[1] == "same images as revision 1: its result stands"
    assert len(conclusions(bench)) == 1


def test_images_that_come_while_the_model_works_do_not_ask_twice(bench: Bench) -> None:
    bench.send(series(THIN, 0, 1))
    bench.clock.advance(2)
    bench.pipeline.complete_due_studies()
    bench.run()  # routed; the request waits
    send(bench, *series(THICK, 2))
    assert len(bench.adapter.asked) == 1


def test_a_request_that_failed_does_not_stand_for_the_next(bench: Bench) -> None:
    bench.adapter.answers = [RejectedError("the model returned NaN"), _finding]
    send(bench, *series(THIN, 0, 1))
    send(bench, *series(THICK, 2))
    assert sorted(map(str, bench.column(requests.c.state))) == ["done", "failed"]
    (only,) = conclusions(bench)
    assert "AMENDED" not in only, "there was no earlier result"


def test_a_result_in_shadow_mode_does_not_stand_for_one_that_is_delivered(bench: Bench) -> None:
    (route,) = bench.pipeline.routes
    bench.pipeline = replace(bench.pipeline, routes=(replace(route, mode=RouteMode.SHADOW),))
    send(bench, *series(THIN, 0, 1))
    bench.pipeline = replace(bench.pipeline, routes=(route,))
    send(bench, *series(THICK, 2))
    (only,) = conclusions(bench)
    assert "AMENDED" not in only


def test_a_route_may_keep_its_first_result(bench: Bench) -> None:
    (route,) = bench.pipeline.routes
    kept = replace(route, late_images=LateImages.KEEP)
    bench.pipeline = replace(bench.pipeline, routes=(kept,))
    send(bench, *series(THIN, 0, 1))
    send(bench, *series(THIN, 2))
    assert len(bench.adapter.asked) == 1
    assert reasons(bench)[1] == "late images: the result of revision 1 is kept"


def test_a_report_that_is_late_itself_never_replaces_the_one_that_amends_it(bench: Bench) -> None:
    bench.destinations["ehr"].answers = [TransientError("busy"), Receipt("stored")]
    bench.send(series(THIN, 0, 1))
    bench.clock.advance(2)
    bench.pipeline.complete_due_studies()
    for _ in range(3):  # route, infer, deliver: the server is busy
        bench.run()
    late, bench.jobs.enqueued[:] = list(bench.jobs.enqueued), []
    assert len(late) == 1
    send(bench, *series(THIN, 2))
    assert len(conclusions(bench)) == 1
    bench.jobs.enqueued += late
    bench.finish()
    (only,) = conclusions(bench)
    assert "AMENDED: revision 2" in only
    assert sorted(map(str, bench.column(deliveries.c.state))) == [
        "delivered",
        "delivered",
        "delivered",
        "superseded",
    ]
    assert "delivery.superseded" in bench.actions()
    assert len(bench.destinations["pacs"].delivered) == 2, "DICOM objects stand side by side"


# --- missing images --------------------------------------------------------------------------


def test_a_report_of_an_incomplete_study_says_of_how_many_images(bench: Bench) -> None:
    expect(bench, 5)
    send(bench, *series(THIN, 0, 1))  # nothing of it: the release does not make it complete
    bench.clock.advance(60)
    bench.finish()
    (only,) = conclusions(bench)
    assert "INCOMPLETE: computed on 2 of 5 images." in only


def test_a_route_may_refuse_an_incomplete_study_until_the_images_come(bench: Bench) -> None:
    (route,) = bench.pipeline.routes
    refusing = replace(route, incomplete=WhenIncomplete.REFUSE)
    bench.pipeline = replace(bench.pipeline, routes=(refusing,))
    expect(bench, 3)
    send(bench, *series(THIN, 0, 1))
    bench.clock.advance(60)
    bench.finish()
    assert bench.adapter.asked == []
    assert bench.column(route_decisions.c.decision) == ["incomplete"]
    assert bench.column(alerts.c.kind) == ["route.incomplete"]
    send(bench, *series(THIN, 2))
    assert bench.column(route_decisions.c.decision) == ["incomplete", "match"]
    (only,) = conclusions(bench)
    assert "INCOMPLETE" not in only


# --- starting with a series --------------------------------------------------------------------


@pytest.fixture
def early(bench: Bench) -> Bench:
    """One route begins with the thin series, another one waits for the study."""
    (route,) = bench.pipeline.routes
    urgent = replace(route, name="urgent", start=RouteStart.SERIES)
    every = compile_expression("true", names=("study", "series"))
    whole = replace(route, name="whole", series=every)
    bench.pipeline = replace(bench.pipeline, routes=(urgent, whole))
    return bench


def asked(bench: Bench) -> list[tuple[str, int, int]]:
    """(route, revision, images) of every question."""
    return [
        (r.route, r.study.key.revision, sum(len(s.instances) for s in r.series))
        for r in bench.adapter.asked
    ]


def start_early(bench: Bench) -> int:
    started = bench.pipeline.start_complete_series()
    bench.finish()
    return started


def test_a_series_that_is_complete_is_not_kept_waiting_by_the_rest(early: Bench) -> None:
    urgent, whole = early.pipeline.routes
    thick = replace(whole, series=of_series(THICK))
    early.pipeline = replace(early.pipeline, routes=(urgent, thick))
    reception = early.store.open(SENDER)
    for file in [*series(THIN, 0, 1), *series(THICK, 2)]:
        reception.store(as_received(file))
        early.clock.advance(0.1)
    early.store.index()
    assert start_early(early) == 0, "the sender may only have taken turns"
    early.clock.advance(1)
    assert start_early(early) == 1
    assert asked(early) == [("urgent", 1, 2)]
    assert start_early(early) == 0
    reception.store(as_received(series(THICK, 3)[0]))
    reception.close(EndOfTransfer.RELEASED)
    early.store.index()
    early.clock.advance(2)
    early.finish()
    assert asked(early) == [("urgent", 1, 2), ("whole", 2, 2)]
    assert not any("AMENDED" in text for text in conclusions(early))
    assert early.column(study_revisions.c.scope) == ["series", "study"]
    assert early.column(study_revisions.c.evidence) == ["series-complete", "association-released"]
    (completed, _) = (
        e for e in audit.events(early.pipeline.database) if e.action == "study.completed"
    )
    assert completed.detail["because"]["series"] == {derived_uid(STUDY, THIN): "next-series"}


def test_a_study_of_one_series_is_still_completed_for_the_other_routes(early: Bench) -> None:
    reception = early.store.open(SENDER)
    for file in series(THIN, 0, 1):
        reception.store(as_received(file))
    early.store.index()
    early.clock.advance(5)  # quiet, and the transfer is still open
    assert start_early(early) == 1
    early.clock.advance(30)
    early.finish()
    assert asked(early) == [("urgent", 1, 2), ("whole", 2, 2)]
    assert reasons(early)[1:] == [
        "same images as revision 1: its result stands",
        "series: true (1 selected)",
    ]


def test_images_of_the_series_that_come_late_are_asked_about_again(early: Bench) -> None:
    reception = early.store.open(SENDER)
    for file in series(THIN, 0, 1):
        reception.store(as_received(file))
    early.store.index()
    early.clock.advance(5)
    start_early(early)
    reception.store(as_received(series(THIN, 2)[0]))
    reception.close(EndOfTransfer.RELEASED)
    early.store.index()
    early.clock.advance(1.9)
    assert start_early(early) == 0, "a series is begun with once"
    early.clock.advance(0.1)
    early.finish()
    assert asked(early) == [("urgent", 1, 2), ("urgent", 2, 3), ("whole", 2, 3)]
    amended = ["AMENDED" in text for text in conclusions(early)]
    assert sorted(amended) == [False, False, True]


def uid(description: str, number: int) -> str:
    return derived_uid(STUDY, description, str(number))


def named(description: str, *numbers: int) -> NamedSeries:
    uids = tuple(uid(description, number) for number in numbers)
    return NamedSeries(derived_uid(STUDY, description), uids)


def step(status: str, *made: NamedSeries, name: str = "1.2.9.1") -> ProcedureStep:
    return ProcedureStep(name, STUDY, status, made)


def knowledge(bench: Bench) -> StoreKnowledge:
    return StoreKnowledge(bench.pipeline.database, bench.store.objects, bench.clock)


def because(bench: Bench) -> list[object]:
    """Why series were complete, of each revision."""
    return [
        event.detail["because"]["series"]
        for event in audit.events(bench.pipeline.database)
        if event.action == "study.completed"
    ]


def test_a_series_whose_procedure_step_is_completed_is_begun_with_at_once(early: Bench) -> None:
    told = knowledge(early)
    told.keep_procedure_step(step("IN PROGRESS", name="1.2.9.2"))
    reception = early.store.open(SENDER)
    for file in series(THIN, 0, 1):
        reception.store(as_received(file))
    early.store.index()
    told.keep_procedure_step(step("IN PROGRESS", named(THIN, 0, 1)))
    assert start_early(early) == 0, "it may make more images"
    told.keep_procedure_step(step("COMPLETED", named(THIN, 0, 1)))
    assert start_early(early) == 1
    assert asked(early) == [("urgent", 1, 2)]
    assert because(early) == [{derived_uid(STUDY, THIN): "named-instances"}]


def test_a_series_that_is_notified_is_begun_with_when_its_last_image_is_there(
    early: Bench,
) -> None:
    urgent, whole = early.pipeline.routes
    thick = replace(whole, series=of_series(THICK))
    early.pipeline = replace(early.pipeline, routes=(urgent, thick))
    every = (named(THIN, 0, 1), named(THICK, 2, 3))
    source = ExpectationSource.AVAILABILITY_NOTIFICATION
    uids = tuple(name for one in every for name in one.sop_instance_uids)
    knowledge(early).expect(Expectation(STUDY, source, sop_instance_uids=uids, series=every))
    reception = early.store.open(SENDER)
    reception.store(as_received(series(THIN, 0)[0]))
    early.store.index()
    assert start_early(early) == 0
    reception.store(as_received(series(THIN, 1)[0]))
    early.store.index()
    assert start_early(early) == 1
    assert asked(early) == [("urgent", 1, 2)]
    for file in series(THICK, 2, 3):
        reception.store(as_received(file))
    early.store.index()
    early.finish()
    assert asked(early) == [("urgent", 1, 2), ("whole", 2, 2)]
    assert early.column(study_revisions.c.evidence) == ["series-complete", "expected-count"]


def test_a_series_that_lacks_a_named_image_waits_for_silence(early: Bench) -> None:
    told = knowledge(early)
    told.keep_procedure_step(step("IN PROGRESS", name="1.2.9.2"))
    told.keep_procedure_step(step("COMPLETED", named(THIN, 0, 1, 2)))
    reception = early.store.open(SENDER)
    for file in [*series(THIN, 0, 1), *series(THICK, 3)]:
        reception.store(as_received(file))
        early.clock.advance(0.1)
    early.store.index()
    early.clock.advance(2)  # its transfer has gone on with another series
    assert start_early(early) == 0
    early.clock.advance(4)
    assert start_early(early) == 1
    assert because(early)[0][derived_uid(STUDY, THIN)] == "quiet-time"  # type: ignore[index]


def test_what_two_procedure_steps_made_of_a_series_is_waited_for(early: Bench) -> None:
    told = knowledge(early)
    told.keep_procedure_step(step("IN PROGRESS", name="1.2.9.3"))
    told.keep_procedure_step(step("COMPLETED", named(THIN, 0)))
    told.keep_procedure_step(step("IN PROGRESS", named(THIN, 1), name="1.2.9.2"))
    reception = early.store.open(SENDER)
    reception.store(as_received(series(THIN, 0)[0]))
    early.store.index()
    assert start_early(early) == 0, "another step works on it"
    told.keep_procedure_step(step("COMPLETED", named(THIN, 1), name="1.2.9.2"))
    assert start_early(early) == 0, "an image of the other step is missing"
    reception.store(as_received(series(THIN, 1)[0]))
    early.store.index()
    assert start_early(early) == 1


def test_what_a_discontinued_step_made_tells_nothing_of_a_series(early: Bench) -> None:
    told = knowledge(early)
    told.keep_procedure_step(step("IN PROGRESS", name="1.2.9.2"))
    told.keep_procedure_step(step("DISCONTINUED", named(THIN, 0)))
    reception = early.store.open(SENDER)
    reception.store(as_received(series(THIN, 0)[0]))
    early.store.index()
    assert start_early(early) == 0


def test_a_series_that_no_route_wants_starts_nothing(early: Bench) -> None:
    reception = early.store.open(SENDER)
    reception.store(as_received(series(THICK, 0)[0]))
    early.store.index()
    early.clock.advance(6)
    assert start_early(early) == 0
    assert early.column(study_revisions.c.revision) == [1]


def test_without_a_route_that_starts_with_a_series_nothing_is_even_read(bench: Bench) -> None:
    bench.pipeline.database.close()
    unreachable = replace(bench.pipeline, database=None)  # type: ignore[arg-type]
    assert unreachable.start_complete_series() == 0


# --- asking again by hand ----------------------------------------------------------------------


def test_a_mended_rule_is_applied_to_a_study_that_was_routed(bench: Bench) -> None:
    (route,) = bench.pipeline.routes
    broken = compile_expression("study.no_such_field == 1", names=("study",))
    bench.pipeline = replace(bench.pipeline, routes=(replace(route, when=broken),))
    send(bench, *series(THIN, 0, 1))
    assert bench.column(route_decisions.c.decision) == ["rule-error"]
    bench.pipeline = replace(bench.pipeline, routes=(route,))
    again(bench)
    assert bench.column(route_decisions.c.decision) == ["match"]
    assert len(conclusions(bench)) == 1
    again(bench)
    assert len(bench.adapter.asked) == 1, "what was answered stands"


def test_a_study_that_a_fault_kept_from_being_routed_is_routed_by_hand(bench: Bench) -> None:
    bench.send(series(THIN, 0, 1))
    bench.clock.advance(2)
    bench.pipeline.complete_due_studies()
    bench.jobs.enqueued.clear()
    bench.pipeline.study_failed(str(StudyKey(STUDY, 1)), "fault of the hub: KeyError")
    assert "`caidx study route`" in str(bench.column(alerts.c.message))
    again(bench)
    assert len(conclusions(bench)) == 1


def test_what_never_arrived_is_not_routed(bench: Bench) -> None:
    with pytest.raises(RejectedError, match="has arrived"):
        Rerouting(bench.pipeline.database, bench.jobs, bench.pipeline.journal).again("1.2.3")


def again(bench: Bench) -> None:
    Rerouting(bench.pipeline.database, bench.jobs, bench.pipeline.journal).again(STUDY)
    bench.finish()
