"""Priors on their way to a model: found, none, archive down, too late, restart, other patients."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pydicom
import pytest

from hub.domain.inference import ImagingInput, InputRole
from hub.domain.model_input import PriorsInput, VolumeInput
from hub.errors import IntegrityError, RejectedError, TransientError
from hub.fetching import FETCH_JOB, Fetching
from hub.formats.images.ct_phantom import chest_phantom
from hub.ports import RemoteSeries, RemoteStudy
from hub.prior_steps import NONE_FOUND, NOT_TOLD, PRIORS_JOB, TIME_OVER, PriorSteps
from hub.registry import RunningModel
from hub.store.fetches import PRIOR_REASON
from hub.store.schema import alerts, fetches, requests, results, route_decisions
from tests.builders import model_card
from tests.unit.test_fetching import FakeArchive
from tests.unit.test_pipeline import Bench, make_bench

CURRENT, OLDER, NEWER = "1.2.3.1000", "1.2.3.2000", "1.2.3.3000"
PATIENT, BIRTH = "CAIDX-1", "19580217"


def study(uid: str, date: str, slices: int = 2, **elements: Any) -> list[bytes]:
    """The files of a chest CT on a day."""
    files = []
    for number, file in enumerate(chest_phantom(slices=slices, rows=64, columns=64).files):
        data_set = pydicom.dcmread(io.BytesIO(file))
        values = {
            "StudyInstanceUID": uid,
            "SeriesInstanceUID": f"{uid}.1",
            "SOPInstanceUID": f"{uid}.1.{number}",
            "StudyDate": date,
            "PatientID": PATIENT,
            "PatientBirthDate": BIRTH,
            "StudyDescription": "CT Thorax",
            "BodyPartExamined": "CHEST",
            **elements,
        }
        for keyword, value in values.items():
            setattr(data_set, keyword, value)
        data_set.file_meta.MediaStorageSOPInstanceUID = data_set.SOPInstanceUID
        buffer = io.BytesIO()
        pydicom.dcmwrite(buffer, data_set, enforce_file_format=True)
        files.append(buffer.getvalue())
    return files


def told(uid: str, date: str, **fields: Any) -> RemoteStudy:
    values: dict[str, Any] = {
        "patient_id": PATIENT,
        "patient_birth_date": BIRTH,
        "study_date": date,
        "study_description": "CT Thorax",
        "modalities_in_study": ("CT",),
        **fields,
    }
    return RemoteStudy(uid, **values)


@dataclass
class PriorBench:
    """A pipeline whose model wants priors, with one archive."""

    bench: Bench
    archive: FakeArchive

    @property
    def priors(self) -> PriorSteps:
        assert self.bench.pipeline.priors is not None
        return self.bench.pipeline.priors

    def wish(self, **fields: Any) -> None:
        """What the model's manifest says."""
        pipeline = self.bench.pipeline
        (running,) = pipeline.registry.models.values()
        card = replace(
            running.package.card, input=VolumeInput(kind="volume", priors=PriorsInput(**fields))
        )
        model = RunningModel(replace(running.package, card=card), running.adapter)
        registry = replace(pipeline.registry, models={"lung-density": model})
        priors = replace(self.priors, registry=registry)
        self.bench.pipeline = replace(pipeline, registry=registry, priors=priors)

    def hold(self, files: list[bytes]) -> None:
        """The hub has had a study for long."""
        self.bench.send(files)
        self.bench.clock.advance(2.1)
        self.bench.pipeline.complete_due_studies()
        self.bench.jobs.enqueued.clear()

    def offer(self, uid: str, date: str, files: list[bytes] | None = None, **fields: Any) -> None:
        """The archive has a study."""
        self.archive.told.append(told(uid, date, **fields))
        self.archive.files[uid] = study(uid, date) if files is None else files

    def turn(self, seconds: float = 0.0) -> None:
        """Run what is enqueued; delayed jobs too."""
        jobs, pipeline = self.bench.jobs.enqueued, self.bench.pipeline
        assert pipeline.fetching is not None
        work = {
            "study": pipeline.run_study,
            "request": pipeline.run_request,
            "delivery": pipeline.run_delivery,
            FETCH_JOB: pipeline.fetching.run_fetch,
            PRIORS_JOB: self.priors.run_priors,
        }
        batch, jobs[:] = list(jobs), []
        for job in batch:
            work[job.kind](job.argument)
        self.bench.clock.advance(seconds)
        pipeline.complete_due_studies()

    def ask(self, files: list[bytes] | None = None, seconds: float = 150.0) -> None:
        """The current study arrives, and time goes on until nothing is left to do."""
        self.bench.send(study(CURRENT, "20260314") if files is None else files)
        self.bench.clock.advance(2.1)
        self.bench.pipeline.complete_due_studies()
        turns = 0
        while self.bench.jobs.enqueued and turns < seconds:
            self.turn(1.0)
            turns += 1
        assert not self.bench.jobs.enqueued

    @property
    def given(self) -> list[str]:
        """The studies that the model got as priors, in order."""
        (request,) = self.bench.adapter.asked
        return [
            i.series[0].instances[0].study_instance_uid
            for i in request.inputs
            if i.role is InputRole.PRIOR
        ]

    @property
    def warnings(self) -> list[str]:
        (found,) = self.bench.column(results.c.warnings)
        assert isinstance(found, list)
        return found


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[PriorBench]:
    bench = make_bench(tmp_path)
    archive = FakeArchive(bench)
    pipeline = bench.pipeline
    fetching = Fetching(
        database=pipeline.database,
        jobs=bench.jobs,
        journal=pipeline.journal,
        archives={"pacs": archive},
    )
    priors = PriorSteps(
        database=pipeline.database,
        jobs=bench.jobs,
        journal=pipeline.journal,
        requests=pipeline.requests,
        registry=pipeline.registry,
        fetching=fetching,
        archives=("pacs",),
        within=timedelta(seconds=60),
    )
    bench.pipeline = replace(pipeline, fetching=fetching, priors=priors)
    made = PriorBench(bench, archive)
    made.wish()
    yield made
    bench.store.close()
    pipeline.database.close()


# --- found -----------------------------------------------------------------------------------


def test_a_prior_in_the_archive_is_fetched_and_given_to_the_model(parts: PriorBench) -> None:
    parts.offer(OLDER, "20240101")
    parts.ask()
    assert parts.given == [OLDER]
    assert parts.warnings == []
    (request,) = parts.bench.adapter.asked
    assert {i.study_instance_uid for s in request.series for i in s.instances} == {CURRENT}


def test_what_was_fetched_as_a_prior_is_not_analysed_itself(parts: PriorBench) -> None:
    parts.offer(OLDER, "20240101")
    parts.ask()
    with parts.bench.pipeline.database.read() as connection:
        rows = connection.execute(route_decisions.select()).all()
    found = {row.study_instance_uid: (row.decision, row.reasons) for row in rows}
    assert found[OLDER] == ("no-match", [PRIOR_REASON])
    assert found[CURRENT][0] == "match"
    assert parts.bench.column(requests.c.study_instance_uid) == [CURRENT]


def test_a_prior_that_the_hub_holds_is_not_fetched_again(parts: PriorBench) -> None:
    parts.hold(study(OLDER, "20240101"))
    parts.offer(OLDER, "20240101")
    parts.ask()
    assert [r.study.study_instance_uid for r in parts.bench.adapter.asked] == [CURRENT]
    assert parts.given == [OLDER]
    assert parts.archive.retrieved == []


def test_the_newest_are_given_the_newest_first(parts: PriorBench) -> None:
    parts.wish(maximum=2)
    parts.offer("1.2.3.4000", "20200101")
    parts.offer(NEWER, "20250101")
    parts.offer(OLDER, "20240101")
    parts.ask()
    assert parts.given == [NEWER, OLDER]


def test_only_what_the_manifest_wants_is_a_prior(parts: PriorBench) -> None:
    parts.wish(maximum=5, same=("modality", "body-part"), maximum_age_days=1000)
    parts.offer(OLDER, "20200101")  # too old
    parts.offer("1.2.3.4001", "20250101", modalities_in_study=("MR",))
    parts.offer("1.2.3.4002", "20250102")
    parts.archive.series["1.2.3.4002"] = [RemoteSeries("1.2.3.4002.1", "CT", "", "HEAD")]
    parts.offer("1.2.3.4003", "20270101")  # later than the current one
    parts.offer(CURRENT, "20260313")  # the study itself
    parts.offer(NEWER, "20250103")
    parts.ask()
    assert parts.given == [NEWER]
    assert [uid for uid, _ in parts.archive.retrieved] == [NEWER]


def test_a_model_that_wants_none_is_not_made_to_wait(parts: PriorBench) -> None:
    (running,) = parts.bench.pipeline.registry.models.values()
    card = replace(running.package.card, input=VolumeInput(kind="volume"))
    model = RunningModel(replace(running.package, card=card), running.adapter)
    registry = replace(parts.bench.pipeline.registry, models={"lung-density": model})
    priors = replace(parts.priors, registry=registry)
    parts.bench.pipeline = replace(parts.bench.pipeline, registry=registry, priors=priors)
    parts.offer(OLDER, "20240101")
    parts.ask()
    assert (parts.given, parts.warnings, parts.archive.queries) == ([], [], [])


# --- none ------------------------------------------------------------------------------------


def test_without_any_prior_the_model_runs_and_the_result_says_so(parts: PriorBench) -> None:
    parts.ask()
    assert (parts.given, parts.warnings) == ([], [NONE_FOUND])


def test_a_model_that_needs_a_prior_is_not_asked_without(parts: PriorBench) -> None:
    parts.wish(minimum=1)
    parts.ask()
    assert parts.bench.adapter.asked == []
    assert parts.bench.column(results.c.outcome) == ["unsuitable"]
    ((reason,),) = parts.bench.column(results.c.reasons)
    assert "needs 1 prior" in reason


def test_without_a_patient_id_nothing_is_looked_for(parts: PriorBench) -> None:
    parts.offer(OLDER, "20240101", patient_id="")
    parts.ask(study(CURRENT, "20260314", PatientID=""))
    assert parts.warnings == [NOT_TOLD, NONE_FOUND]
    assert parts.archive.queries == []


# --- archive down, time limit ----------------------------------------------------------------


@pytest.mark.parametrize("error", [TransientError("pacs cannot be reached"), RejectedError("no")])
def test_an_archive_that_is_down_is_no_reason_not_to_answer(
    parts: PriorBench, error: Exception
) -> None:
    parts.archive.error = error
    parts.ask()
    assert parts.given == []
    assert any("Archive pacs could not be asked" in text for text in parts.warnings)
    assert NONE_FOUND in parts.warnings


def test_what_the_hub_holds_is_used_while_the_archive_is_down(parts: PriorBench) -> None:
    parts.hold(study(OLDER, "20240101"))
    parts.archive.error = TransientError("away")
    parts.ask()
    assert parts.given == [OLDER]


def test_a_prior_that_does_not_come_in_time_is_gone_without(parts: PriorBench) -> None:
    parts.offer(OLDER, "20240101", files=[])  # sent, it says, and nothing arrives
    begun = parts.bench.clock.now()
    parts.ask()
    assert (parts.given, parts.warnings) == ([], [TIME_OVER, NONE_FOUND])
    waited = (parts.bench.clock.now() - begun).total_seconds()
    assert 60 <= waited <= 75


def test_a_retrieval_that_fails_ends_the_wait_and_is_told(parts: PriorBench) -> None:
    parts.offer(OLDER, "20240101")
    del parts.archive.files[OLDER]
    begun = parts.bench.clock.now()
    parts.ask()
    assert parts.given == []
    assert any("could not be fetched from pacs" in text for text in parts.warnings)
    assert (parts.bench.clock.now() - begun).total_seconds() < 30


def test_half_a_prior_is_not_given(parts: PriorBench) -> None:
    files = study(OLDER, "20240101")
    parts.offer(OLDER, "20240101", files=files[:1])

    original = parts.archive.retrieve

    def half(*arguments: Any, **options: Any) -> None:
        original(*arguments, **options)
        raise TransientError("1 of 2 instances could not be sent")

    parts.archive.retrieve = half  # type: ignore[method-assign]
    parts.ask()
    assert parts.given == []
    assert any("1 of 2" in text for text in parts.warnings)


# --- other patients --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        {"patient_birth_date": "19700101"},
        {"patient_id": "CAIDX-10"},
        {"patient_id": ""},
        {"issuer_of_patient_id": "ELSEWHERE", "patient_birth_date": ""},
    ],
)
def test_another_patients_examination_is_never_fetched(
    parts: PriorBench, other: dict[str, str]
) -> None:
    parts.offer(OLDER, "20240101", **other)
    parts.ask(study(CURRENT, "20260314", IssuerOfPatientID="UMR"))
    assert parts.archive.retrieved == []
    assert parts.given == []


def test_headers_decide_where_the_archive_says_too_little(parts: PriorBench) -> None:
    """The same patient ID, but another birth date in the images."""
    files = study(OLDER, "20240101", PatientBirthDate="19700101")
    parts.offer(OLDER, "20240101", files=files, patient_birth_date="")
    parts.ask()
    assert [uid for uid, _ in parts.archive.retrieved] == [OLDER]
    assert parts.given == []
    assert any("not surely the same patient" in text for text in parts.warnings)


def test_a_held_study_of_another_patient_with_that_id_is_left_out(parts: PriorBench) -> None:
    parts.hold(study(OLDER, "20240101", PatientBirthDate="19700101"))
    parts.ask()
    assert [r.study.study_instance_uid for r in parts.bench.adapter.asked] == [CURRENT]
    assert parts.given == []


def test_the_gate_stops_a_prior_of_another_patient_before_the_model(parts: PriorBench) -> None:
    """Whatever selected it: as if a record had been changed."""
    parts.hold(study(OLDER, "20240101", PatientBirthDate="19700101"))
    parts.bench.send(study(CURRENT, "20260314"))
    parts.bench.clock.advance(2.1)
    parts.bench.pipeline.complete_due_studies()
    parts.turn()
    with parts.bench.pipeline.database.write() as connection:
        wrong = {"used": [OLDER], "notes": []}
        connection.execute(
            requests.update().where(requests.c.study_instance_uid == CURRENT).values(priors=wrong)
        )
        found = connection.execute(
            requests.select().where(requests.c.study_instance_uid == CURRENT)
        ).one()
    parts.bench.pipeline.run_request(found.request_id)
    assert parts.bench.adapter.asked == []
    assert "inference.quarantined" in parts.bench.column(alerts.c.kind)


def test_a_result_on_another_patients_prior_never_leaves(parts: PriorBench) -> None:
    """The second gate, before documents are made."""
    parts.hold(study(OLDER, "20240101"))
    parts.ask()
    (request,) = parts.bench.adapter.asked
    (prior,) = [i for i in request.inputs if i.role is InputRole.PRIOR]
    other = replace(prior.series[0].instances[0].patient, patient_birth_date="19700101")
    changed = replace(
        prior.series[0],
        instances=tuple(replace(i, patient=other) for i in prior.series[0].instances),
    )
    inputs = (request.inputs[0], ImagingInput(InputRole.PRIOR, (changed,)))
    answer = parts.bench.adapter.infer(request)
    with pytest.raises(IntegrityError, match="prior of another patient"):
        parts.bench.pipeline.verify(replace(request, inputs=inputs), answer, model_card())  # type: ignore[arg-type]


# --- restarts --------------------------------------------------------------------------------


def test_every_step_may_run_twice(parts: PriorBench) -> None:
    """A worker that dies in between leaves its job to another one."""
    parts.offer(OLDER, "20240101")
    parts.bench.send(study(CURRENT, "20260314"))
    parts.bench.clock.advance(2.1)
    parts.bench.pipeline.complete_due_studies()
    for _ in range(30):
        again = list(parts.bench.jobs.enqueued)
        parts.turn(1.0)
        (request_id,) = parts.bench.column(requests.c.request_id) or [None]
        for job in again:
            if job.kind == PRIORS_JOB:
                parts.priors.run_priors(job.argument)
            elif job.kind == FETCH_JOB:
                parts.priors.fetching.run_fetch(job.argument)
        assert request_id is not None
        if not parts.bench.jobs.enqueued:
            break
    assert parts.given == [OLDER]
    assert parts.bench.column(fetches.c.state) == ["done"]
    assert parts.archive.retrieved == [(OLDER, ())]


def test_a_fault_while_looking_lets_the_request_go_on(parts: PriorBench) -> None:
    parts.offer(OLDER, "20240101")
    parts.bench.send(study(CURRENT, "20260314"))
    parts.bench.clock.advance(2.1)
    parts.bench.pipeline.complete_due_studies()
    parts.turn()
    (request_id,) = parts.bench.column(requests.c.request_id)
    parts.priors.priors_failed(str(request_id), "a fault")
    parts.bench.jobs.enqueued[:] = [j for j in parts.bench.jobs.enqueued if j.kind != PRIORS_JOB]
    parts.turn()
    assert parts.bench.column(requests.c.state) == ["done"]
    assert "Priors could not be looked for: a fault." in parts.warnings
