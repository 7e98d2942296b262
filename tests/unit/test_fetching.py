"""What archives are asked: how many images a study has, missing images, whole studies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from hub.domain.study import StudyKey
from hub.errors import RejectedError, TransientError
from hub.fetching import FETCH_JOB, AskRule, Fetching
from hub.formats.images.ct_phantom import chest_phantom
from hub.ports import (
    EndOfTransfer,
    RemoteSeries,
    RemoteStudy,
    Sender,
    StudyQuery,
)
from hub.store.fetches import FetchState
from hub.store.schema import alerts, documents, expectations, fetches, requests, study_revisions
from tests.unit.test_pipeline import Bench, as_received, make_bench

RULE = AskRule("pacs", after=timedelta(seconds=0.5))


@dataclass
class FakeArchive:
    """hub.ports.Archive that holds files, and sends them into a bench."""

    bench: Bench
    files: dict[str, list[bytes]] = field(default_factory=dict)
    """Study Instance UID -> Part 10 files."""
    told: list[RemoteStudy] = field(default_factory=list)
    series: dict[str, list[RemoteSeries]] = field(default_factory=dict)
    error: Exception | None = None
    queries: list[StudyQuery] = field(default_factory=list)
    retrieved: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    on_retrieve: Callable[[], None] = lambda: None

    def _work(self) -> None:
        if self.error is not None:
            raise self.error

    def find_studies(self, query: StudyQuery, limit: int) -> Sequence[RemoteStudy]:
        self.queries.append(query)
        self._work()
        return [
            s
            for s in self.told
            if query.study_instance_uid in {"", s.study_instance_uid}
            and query.patient_id in {"", s.patient_id}
        ]

    def find_series(self, study_instance_uid: str) -> Sequence[RemoteSeries]:
        self._work()
        return self.series.get(study_instance_uid, [])

    def find_instances(self, study_instance_uid: str) -> Mapping[str, str]:
        self._work()
        files = self.files.get(study_instance_uid, [])
        return {as_received(f).sop_instance_uid: f"{study_instance_uid}.s" for f in files}

    def retrieve(
        self,
        study_instance_uid: str,
        series_instance_uid: str = "",
        sop_instance_uids: Sequence[str] = (),
        *,
        within: float,
    ) -> None:
        self.retrieved.append((study_instance_uid, tuple(sop_instance_uids)))
        self.on_retrieve()
        self._work()
        if study_instance_uid not in self.files:
            raise RejectedError("does not have it")
        objects = [as_received(file) for file in self.files[study_instance_uid]]
        wanted = set(sop_instance_uids)
        sent = [o for o in objects if not wanted or o.sop_instance_uid in wanted]
        self.bench.store.store(sent, EndOfTransfer.RELEASED, Sender("pacs", "PACS"))

    def check(self) -> str:
        return "fake"

    def close(self) -> None: ...


@dataclass
class FetchBench:
    """A pipeline with one archive, which the source ``dicom`` asks."""

    bench: Bench
    archive: FakeArchive

    @property
    def fetching(self) -> Fetching:
        fetching = self.bench.pipeline.fetching
        assert fetching is not None
        return fetching

    def use(self, rule: AskRule) -> None:
        fetching = replace(self.fetching, rules={"dicom": rule})
        self.bench.pipeline = replace(self.bench.pipeline, fetching=fetching)

    def run_fetches(self) -> int:
        """Run the fetches that are enqueued; everything else stays."""
        jobs = self.bench.jobs.enqueued
        mine = [job for job in jobs if job.kind == FETCH_JOB]
        jobs[:] = [job for job in jobs if job.kind != FETCH_JOB]
        for job in mine:
            self.fetching.run_fetch(job.argument)
        return len(mine)

    def revision(self) -> sa.Row[tuple[object, ...]]:
        with self.bench.pipeline.database.read() as connection:
            return connection.execute(sa.select(study_revisions)).one()


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[FetchBench]:
    bench = make_bench(tmp_path)
    archive = FakeArchive(bench)
    fetching = Fetching(
        database=bench.pipeline.database,
        jobs=bench.jobs,
        journal=bench.pipeline.journal,
        archives={"pacs": archive},
        rules={"dicom": RULE},
    )
    bench.pipeline = replace(bench.pipeline, fetching=fetching)
    yield FetchBench(bench, archive)
    bench.store.close()


def phantom(slices: int = 3) -> tuple[str, list[bytes]]:
    """A study's UID and its files."""
    made = chest_phantom(slices=slices, rows=64, columns=64, seed=5)
    return made.study_instance_uid, list(made.files)


def known(uid: str, number: int | None) -> RemoteStudy:
    return RemoteStudy(uid, number_of_instances=number)


# --- how many images -------------------------------------------------------------------------


def test_a_study_of_which_all_is_there_is_complete_at_once(parts: FetchBench) -> None:
    uid, files = phantom()
    parts.archive.told = [known(uid, 3)]
    parts.bench.send(files, EndOfTransfer.ABORTED)  # would wait for 30 s
    assert parts.fetching.ask_archives() == 0  # not quiet yet
    parts.bench.clock.advance(0.6)
    assert parts.fetching.ask_archives() == 1
    assert parts.bench.pipeline.complete_due_studies() == 1
    row = parts.revision()
    assert (row.evidence, row.expected_instances) == ("expected-count", 3)


def test_a_study_that_lacks_images_waits_as_before_and_says_so(parts: FetchBench) -> None:
    uid, files = phantom()
    parts.archive.told = [known(uid, 5)]
    parts.bench.send(files)
    parts.bench.clock.advance(0.6)
    parts.fetching.ask_archives()
    assert parts.bench.pipeline.complete_due_studies() == 0
    parts.bench.clock.advance(2)
    assert parts.bench.pipeline.complete_due_studies() == 1
    row = parts.revision()
    assert (row.evidence, row.expected_instances) == ("association-released", 5)
    assert (row.received_instances, parts.archive.retrieved) == (3, [])


def test_an_archive_that_counts_no_instances_has_them_counted(parts: FetchBench) -> None:
    uid, files = phantom()
    parts.archive.told, parts.archive.files = [known(uid, None)], {uid: files}
    parts.bench.send(files)
    parts.bench.clock.advance(0.6)
    parts.fetching.ask_archives()
    assert parts.revision().expected_instances == 3


def own_results(parts: FetchBench, uid: str, *document_ids: str) -> None:
    """The hub made these of the study before, and the archive has them."""
    now = parts.bench.clock.now()
    request = {name: [] for name in ("series", "deliver_to", "reasons")} | {
        "request_id": "r" * 32,
        "study_instance_uid": uid,
        "revision": 1,
        "route": "any",
        "mode": "active",
        "model_id": "m",
        "model_version": "1",
        "model_sha256": "0" * 64,
        "queue": "inference-1",
        "priority": 10,
        "state": "done",
        "attempts": 1,
        "detail": "",
        "created_at": now,
    }
    with parts.bench.pipeline.database.write() as connection:
        connection.execute(sa.insert(requests).values(**request))
        for document_id in document_ids:
            connection.execute(
                sa.insert(documents).values(
                    document_id=document_id,
                    request_id="r" * 32,
                    kind="sr",
                    identity={},
                    related_uids=[],
                    sha256="0" * 64,
                    length=1,
                )
            )


def test_the_hubs_own_results_in_the_archive_are_not_waited_for(parts: FetchBench) -> None:
    uid, files = phantom()
    ours = as_received(files[2]).sop_instance_uid  # as if the third were a result
    parts.archive.told, parts.archive.files = [known(uid, 3)], {uid: files}
    own_results(parts, uid, ours)
    parts.bench.send(files[:2])
    parts.bench.clock.advance(0.6)
    parts.fetching.ask_archives()
    row = parts.revision()
    assert (row.evidence, row.expected_instances) == ("expected-count", 2)


def test_the_hubs_own_results_are_not_fetched_back(parts: FetchBench) -> None:
    uid = lacking_two(parts)
    missing = [as_received(file).sop_instance_uid for file in parts.archive.files[uid][3:]]
    own_results(parts, uid, missing[0])
    parts.run_fetches()
    ((_, wanted),) = parts.archive.retrieved
    assert list(wanted) == missing[1:]


def test_each_revision_is_asked_about_once(parts: FetchBench) -> None:
    uid, files = phantom()
    parts.archive.told = [known(uid, 9)]
    parts.bench.send(files[:2])
    parts.bench.clock.advance(1)
    assert [parts.fetching.ask_archives() for _ in range(3)] == [1, 0, 0]
    parts.bench.clock.advance(2)
    parts.bench.pipeline.complete_due_studies()
    parts.bench.send(files)
    parts.bench.clock.advance(1)
    assert parts.fetching.ask_archives() == 1  # the late image's revision


@pytest.mark.parametrize("error", [TransientError("away"), RejectedError("no")])
def test_an_archive_that_cannot_tell_stops_nothing(parts: FetchBench, error: Exception) -> None:
    _, files = phantom()
    parts.archive.error = error
    parts.bench.send(files)
    parts.bench.clock.advance(2.1)
    parts.fetching.ask_archives()
    assert parts.bench.pipeline.complete_due_studies() == 1
    assert "archive.not-asked" in parts.bench.actions()


def test_an_unknown_study_is_expected_to_have_nothing(parts: FetchBench) -> None:
    _, files = phantom()
    parts.bench.send(files)
    parts.bench.clock.advance(0.6)
    parts.fetching.ask_archives()
    assert parts.bench.column(expectations.c.source) == []
    assert parts.bench.pipeline.complete_due_studies() == 0


def test_only_sources_with_an_archive_are_asked_about(parts: FetchBench) -> None:
    _, files = phantom()
    fetching = replace(parts.fetching, rules={"other": RULE})
    parts.bench.send(files)
    parts.bench.clock.advance(1)
    assert fetching.ask_archives() == 0
    assert parts.archive.queries == []


# --- missing images --------------------------------------------------------------------------


def lacking_two(parts: FetchBench, number: int = 5) -> str:
    """A quiet study of which the archive has more than arrived."""
    uid, files = phantom(number)
    parts.use(replace(RULE, fetch_missing=True, fetch_within=timedelta(seconds=60)))
    parts.archive.told, parts.archive.files = [known(uid, number)], {uid: files}
    parts.bench.send(files[:3])
    parts.bench.clock.advance(2.1)
    parts.fetching.ask_archives()
    assert parts.bench.pipeline.complete_due_studies() == 0
    return uid


def test_missing_images_are_fetched_and_no_others(parts: FetchBench) -> None:
    uid = lacking_two(parts)
    assert parts.run_fetches() == 1
    ((_, wanted),) = parts.archive.retrieved
    missing = [as_received(file).sop_instance_uid for file in parts.archive.files[uid][3:]]
    assert sorted(wanted) == sorted(missing)
    assert parts.bench.pipeline.complete_due_studies() == 1  # at once: all is there
    row = parts.revision()
    assert (row.evidence, row.received_instances, row.revision) == ("expected-count", 5, 1)


def test_missing_images_that_do_not_come_are_not_waited_for_longer(parts: FetchBench) -> None:
    lacking_two(parts)
    parts.archive.error = TransientError("away")
    for _ in range(12):  # every 5 s until the time limit
        parts.run_fetches()
        parts.bench.clock.advance(5)
    parts.run_fetches()
    assert parts.bench.column(fetches.c.state) == [FetchState.TIMED_OUT]
    assert parts.bench.pipeline.complete_due_studies() == 1
    row = parts.revision()
    assert (row.received_instances, row.expected_instances) == (3, 5)
    assert parts.bench.column(alerts.c.kind) == []


def test_missing_images_that_the_archive_refuses_end_the_wait(parts: FetchBench) -> None:
    lacking_two(parts)
    parts.archive.error = RejectedError("no")
    parts.run_fetches()
    assert parts.bench.column(fetches.c.state) == [FetchState.NOTHING_FOUND]
    parts.bench.clock.advance(1.1)
    assert parts.bench.pipeline.complete_due_studies() == 1


def test_a_fetch_whose_job_is_lost_does_not_hold_the_study(parts: FetchBench) -> None:
    lacking_two(parts)
    parts.bench.jobs.enqueued.clear()
    parts.bench.clock.advance(59)
    assert parts.bench.pipeline.complete_due_studies() == 0
    parts.bench.clock.advance(1)
    assert parts.bench.pipeline.complete_due_studies() == 1


# --- studies that somebody names -------------------------------------------------------------


def test_a_named_study_is_fetched_and_routed_like_any_other(parts: FetchBench) -> None:
    uid, files = phantom()
    parts.archive.files = {uid: files}
    parts.fetching.fetch_study(uid, "pacs")
    assert parts.run_fetches() == 1
    assert parts.bench.column(fetches.c.state) == [FetchState.DONE]
    parts.bench.clock.advance(40)
    parts.bench.finish()
    assert len(parts.bench.adapter.asked) == 1


def test_a_fetch_runs_once_however_often_its_job_does(parts: FetchBench) -> None:
    uid, files = phantom()
    parts.archive.files = {uid: files}
    fetch = parts.fetching.fetch_study(uid, "pacs")
    parts.fetching.run_fetch(fetch.fetch_id)
    parts.fetching.run_fetch(fetch.fetch_id)
    assert parts.archive.retrieved == [(uid, ())]


def test_a_named_study_that_no_archive_has_is_an_alert(parts: FetchBench) -> None:
    parts.fetching.fetch_study("1.2.3.4", "pacs")
    parts.run_fetches()
    assert parts.bench.column(alerts.c.kind) == ["fetch.failed"]
    with pytest.raises(RejectedError, match="no archive"):
        parts.fetching.fetch_study("1.2.3.4", "elsewhere")


def test_a_fault_of_the_hub_ends_a_fetch(parts: FetchBench) -> None:
    uid = lacking_two(parts)
    (fetch_id,) = parts.bench.column(fetches.c.fetch_id)
    parts.fetching.fetch_failed(str(fetch_id), "a fault")
    parts.fetching.run_fetch(str(fetch_id))
    assert parts.bench.column(fetches.c.state) == [FetchState.FAILED]
    assert parts.archive.retrieved == []
    parts.bench.clock.advance(1.1)
    assert parts.bench.pipeline.study_steps.complete(StudyKey(uid, 1))


def test_a_part_of_what_is_missing_does_not_end_the_wait(parts: FetchBench) -> None:
    """An archive sends series by series, each in a transfer of its own."""
    uid = lacking_two(parts)
    first, second = map(as_received, parts.archive.files[uid][3:])
    parts.bench.store.store([first], EndOfTransfer.RELEASED, Sender("pacs", "PACS"))
    parts.bench.clock.advance(5)
    assert parts.bench.pipeline.complete_due_studies() == 0
    parts.bench.store.store([second], EndOfTransfer.RELEASED, Sender("pacs", "PACS"))
    parts.run_fetches()
    parts.bench.clock.advance(1.1)
    assert parts.bench.pipeline.complete_due_studies() == 1
    assert parts.revision().received_instances == 5


def test_what_is_said_while_the_first_image_is_indexed_counts(parts: FetchBench) -> None:
    """On PostgreSQL neither of the two transactions sees the other."""
    uid, files = phantom(5)
    parts.bench.send(files[:3])
    with parts.bench.pipeline.database.write() as connection:
        values = {
            "source": "archive",
            "number_of_instances": 5,
            "learned_at": parts.bench.clock.now(),
        }
        said = {"study_instance_uid": uid, "sop_instance_uids": [], "series": [], **values}
        connection.execute(sa.insert(expectations).values(said))
    parts.bench.clock.advance(2.1)
    parts.bench.pipeline.complete_due_studies()
    assert parts.revision().expected_instances == 5
