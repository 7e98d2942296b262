"""What is deleted, what is kept, and what a deletion leaves behind."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from hub.domain.process import ProcessIdentity
from hub.domain.routing import RouteMode
from hub.errors import IntegrityError, RejectedError, TransientError
from hub.formats.images.ct_phantom import chest_phantom
from hub.formats.route_expression import compile_expression
from hub.ports import EndOfTransfer
from hub.store import audit, instances, workers
from hub.store.database import Database
from hub.store.housekeeper import EngineRecords, Housekeeper
from hub.store.retention import Kept, RetentionPolicy, StudyKeeper
from hub.store.schema import (
    alerts,
    deliveries,
    documents,
    report_versions,
    requests,
    results,
    route_decisions,
    segments,
    studies,
    study_revisions,
)
from hub.store.schema import instances as instances_table
from hub.store.segments.erasing import Eraser
from tests.unit.test_pipeline import SENDER, Bench, _route, as_received, make_bench

DAY = 86400.0
POLICY = RetentionPolicy(Kept(timedelta(days=10), timedelta(days=20)))
Study = str


class Site:
    """A pipeline and its housekeeper."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.free = 0
        self.forgotten: list[datetime] = []
        pipeline = bench.pipeline
        self.keeper = StudyKeeper(pipeline.database, pipeline.documents, pipeline.journal)

    def housekeeper(self, policy: RetentionPolicy = POLICY, holder: str = "one") -> Housekeeper:
        engine = EngineRecords(
            forget_finished=lambda before: self.forgotten.append(before) or 0,
            holders=lambda: frozenset({"busy"}),
            kept=timedelta(days=30),
        )
        return Housekeeper(
            keeper=self.keeper,
            policy=policy,
            holder=holder,
            free_bytes=lambda: self.free,
            engine=engine,
        )

    def study(self, seed: int = 1) -> Study:
        """A study that was received and dealt with."""
        uid = self.bench.receive(seed=seed)
        self.bench.finish()
        return uid

    def held(self) -> list[Study]:
        """Studies of which there are images."""
        return sorted(set(map(str, self.bench.column(instances_table.c.study_instance_uid))))

    def erase(self) -> int:
        pipeline = self.bench.pipeline
        return Eraser(pipeline.database, self.bench.store.pool, pipeline.journal).turn()

    def set(self, table: sa.Table, **values: object) -> None:
        with self.bench.pipeline.database.write() as connection:
            connection.execute(sa.update(table).values(**values))

    def purges(self) -> list[dict[str, object]]:
        log = audit.events(self.bench.pipeline.database)
        return [dict(e.detail) for e in log if e.action == "study.purged"]


@pytest.fixture
def site(database: Database, tmp_path: Path) -> Iterator[Site]:
    made = make_bench(tmp_path, database)
    yield Site(made)
    made.store.close()


# --- in its time ---------------------------------------------------------------------------


def test_images_go_when_their_time_has_come_and_results_later(site: Site) -> None:
    uid = site.study()
    files = list(site.bench.store.root.rglob("*.segment"))
    content = b"".join(path.read_bytes() for path in files)
    site.bench.clock.advance(10 * DAY - 3)
    site.housekeeper().turn()
    assert site.held() == [uid]

    site.bench.clock.advance(3)
    site.housekeeper().turn()
    assert site.held() == []
    assert site.bench.column(segments.c.state) == ["released"]
    assert site.bench.column(studies.c.purged_at) == [site.bench.clock.now()]
    assert len(list(site.bench.pipeline.documents.root.glob("*/*"))) == 3

    site.bench.clock.advance(10 * DAY)
    site.housekeeper().turn()
    assert list(site.bench.pipeline.documents.root.glob("*/*")) == []
    assert None not in site.bench.column(documents.c.purged_at)
    assert len(site.bench.column(results.c.request_id)) == 1, "what was found stays on record"
    images, reports = site.purges()
    assert images["instances"] == 2
    assert images["reason"] == "its images have had their time"
    assert reports["documents"] == sorted(map(str, site.bench.column(documents.c.sha256)))
    assert audit.verify(site.bench.pipeline.database)[1] is None

    assert site.erase() == 1
    assert site.bench.column(segments.c.segment) == []
    left = b"".join(p.read_bytes() for p in site.bench.store.root.rglob("*") if p.is_file())
    assert b"CAIDXREC" in content
    assert b"CAIDXREC" not in left


def test_a_turn_may_be_repeated(site: Site) -> None:
    site.study()
    site.bench.clock.advance(30 * DAY)
    site.housekeeper().turn()
    site.housekeeper().turn()
    assert len(site.purges()) == 2  # images, results


def _another_transfer(site: Site) -> None:
    file = chest_phantom(slices=2, rows=64, columns=64, seed=1).files[0]
    reception = site.bench.store.open(SENDER)
    reception.store(as_received(file))
    site.bench.store.index()


BLOCKS: dict[str, Callable[[Site], None]] = {
    "being received": lambda s: s.set(study_revisions, state="receiving"),
    "not routed": lambda s: s.set(study_revisions, state="complete"),
    "a transfer is open": _another_transfer,
    "a request is open": lambda s: s.set(requests, state="retrying"),
    "a request failed": lambda s: s.set(requests, state="failed"),
    "an answer was foreign": lambda s: s.set(requests, state="quarantined"),
    "a delivery is pending": lambda s: s.set(deliveries, state="retrying"),
    "a delivery is dead": lambda s: s.set(deliveries, state="dead"),
    "a report is being made": lambda s: s.set(report_versions, state="asked"),
    "a report could not be changed": lambda s: s.set(report_versions, state="failed"),
    "held back": lambda s: s.set(studies, problems=["two patients"]),
    "a rule failed": lambda s: s.set(route_decisions, decision="rule-error"),
    "legal hold": lambda s: s.set(studies, legal_hold="a case (user:x)"),
}


@pytest.mark.parametrize("what", BLOCKS)
def test_what_is_not_dealt_with_is_kept(site: Site, what: str) -> None:
    uid = site.study()
    BLOCKS[what](site)
    site.bench.clock.advance(1000 * DAY)
    full = replace(POLICY, minimum_free_bytes=1)
    site.housekeeper(full).turn()
    site.keeper.purge(uid, "chosen before that happened", images=True, results=True)
    assert site.held() == [uid]
    assert len(list(site.bench.pipeline.documents.root.glob("*/*"))) == 3
    if what == "legal hold":
        with pytest.raises(RejectedError, match="legal hold"):
            site.keeper.purge_by_hand(uid, "space", force=True)


def test_a_study_that_an_open_request_has_as_a_prior_is_kept(site: Site) -> None:
    old, new = site.study(1), site.study(2)
    with site.bench.pipeline.database.write() as connection:
        connection.execute(
            sa.update(requests)
            .where(requests.c.study_instance_uid == new)
            .values(state="queued", priors=[{"study_instance_uid": old}])
        )
    site.bench.clock.advance(1000 * DAY)
    site.housekeeper().turn()
    assert site.held() == sorted([old, new])


def test_the_longest_of_the_matching_routes_counts(site: Site) -> None:
    never = compile_expression("false", names=("study",))
    names = {"short": 5, "long": 50, "elsewhere": 500}
    routes = tuple(
        _route(name=name, when=never) if name == "elsewhere" else _route(name=name)
        for name in names
    )
    site.bench.pipeline = replace(site.bench.pipeline, routes=routes)
    uid = site.study()
    by_route = {n: Kept(timedelta(days=d), timedelta(days=d)) for n, d in names.items()}
    site.bench.clock.advance(49 * DAY)
    site.housekeeper(replace(POLICY, by_route=by_route)).turn()
    assert site.held() == [uid]
    site.bench.clock.advance(2 * DAY)
    site.housekeeper(replace(POLICY, by_route=by_route)).turn()
    assert site.held() == []


def test_a_route_may_keep_shorter_than_is_usual(site: Site) -> None:
    site.study()
    site.bench.clock.advance(2 * DAY)
    short = {"chest": Kept(timedelta(days=1), timedelta(days=1))}
    site.housekeeper(replace(POLICY, by_route=short)).turn()
    assert site.held() == []


@pytest.mark.parametrize("route", ["removed", "chest"])
def test_without_a_matching_route_the_general_time_counts(site: Site, route: str) -> None:
    """Also where the route that matched was taken out of the configuration."""
    if route == "chest":
        never = compile_expression("false", names=("study",))
        site.bench.pipeline = replace(site.bench.pipeline, routes=(_route(when=never),))
    uid = site.study()
    other = "chest" if route == "chest" else "another"
    policy = replace(POLICY, by_route={other: Kept(timedelta(0), timedelta(0))})
    site.bench.clock.advance(9 * DAY)
    site.housekeeper(policy).turn()
    assert site.held() == [uid]
    site.bench.clock.advance(2 * DAY)
    site.housekeeper(policy).turn()
    assert site.held() == []


# --- when the disk is nearly full ------------------------------------------------------------


def test_with_little_space_the_oldest_delivered_studies_go_first(site: Site) -> None:
    undelivered = site.study(1)
    with site.bench.pipeline.database.write() as connection:
        connection.execute(sa.update(deliveries).values(state="pending"))
    site.bench.clock.advance(60)
    oldest = site.study(2)
    site.bench.clock.advance(60)
    newer = site.study(3)
    site.bench.clock.advance(2 * DAY)
    youngest = site.study(4)
    watermark = replace(POLICY, minimum_free_bytes=1000)

    site.free = 1000
    site.housekeeper(watermark).turn()
    assert len(site.held()) == 4
    site.free = 999
    site.housekeeper(watermark).turn()
    assert site.held() == sorted([undelivered, newer, youngest])
    assert site.purges()[0]["reason"] == "the disk is nearly full"

    site.housekeeper(watermark).turn()
    assert newer in site.held(), "what was given up is still to become free"
    site.erase()
    site.housekeeper(watermark).turn()
    assert site.held() == sorted([undelivered, youngest])
    assert oldest not in site.held()
    site.erase()
    for _ in range(2):
        site.housekeeper(watermark).turn()
    assert site.held() == sorted([undelivered, youngest])
    assert site.bench.column(alerts.c.kind) == ["retention.no-space"]
    assert site.bench.actions().count("retention.no-space") == 1


def test_a_result_that_nobody_gets_goes_in_its_time_with_its_record(site: Site) -> None:
    bench = site.bench
    bench.pipeline = replace(bench.pipeline, routes=(_route(mode=RouteMode.SHADOW),))
    site.study()
    assert bench.column(documents.c.kind) == ["record"]
    bench.clock.advance(30 * DAY)
    site.housekeeper().turn()
    assert site.held() == []
    assert list(bench.pipeline.documents.root.glob("*/*")) == []


# --- by hand -----------------------------------------------------------------------------------


def test_a_person_may_delete_at_once_and_has_to_say_why(site: Site) -> None:
    uid = site.study()
    purged = site.keeper.purge_by_hand(uid, "the patient asked for it", force=False)
    assert (purged.instances, purged.documents) == (2, 3)
    assert site.held() == []
    assert list(site.bench.pipeline.documents.root.glob("*/*")) == []
    (row,) = site.purges()
    assert row["reason"] == "the patient asked for it"
    with pytest.raises(RejectedError, match="is held any more"):
        site.keeper.purge_by_hand(uid, "again", force=False)
    with pytest.raises(RejectedError, match="has arrived"):
        site.keeper.purge_by_hand("1.2.3", "gone", force=True)


def test_a_person_may_give_up_what_failed_but_not_what_is_under_way(site: Site) -> None:
    uid = site.study()
    site.set(deliveries, state="dead")
    with pytest.raises(RejectedError, match="could not be delivered"):
        site.keeper.purge_by_hand(uid, "space", force=False)
    site.set(requests, state="running")
    with pytest.raises(RejectedError, match="a model is still asked"):
        site.keeper.purge_by_hand(uid, "space", force=True)
    site.set(requests, state="done")
    assert site.keeper.purge_by_hand(uid, "space", force=True).instances == 2


def test_a_legal_hold_is_set_and_released_by_name(site: Site) -> None:
    uid = site.study()
    site.keeper.hold(uid, "case 7")
    with pytest.raises(RejectedError, match=r"legal hold is on it: case 7 \(worker:test\)"):
        site.keeper.purge_by_hand(uid, "space", force=True)
    site.keeper.release_hold(uid, "case closed")
    with pytest.raises(RejectedError, match="no legal hold"):
        site.keeper.release_hold(uid, "again")
    with pytest.raises(RejectedError, match="no study"):
        site.keeper.hold("1.2.3", "case 7")
    assert site.keeper.purge_by_hand(uid, "space", force=False).instances == 2
    assert site.bench.actions()[-3:] == [
        "study.legal-hold",
        "study.legal-hold-released",
        "study.purged",
    ]


# --- afterwards ----------------------------------------------------------------------------------


def test_a_deleted_study_that_is_sent_again_is_received_anew(site: Site) -> None:
    uid = site.study()
    site.set(studies, problems=["two patients"])
    site.keeper.purge_by_hand(uid, "mixed up", force=True)
    site.erase()
    assert site.study() == uid
    assert site.held() == [uid]
    assert site.bench.column(studies.c.purged_at) == [None]
    assert site.bench.column(studies.c.problems) == [[]]
    assert site.bench.column(study_revisions.c.received_instances) == [2, 2]
    with site.bench.pipeline.database.read() as connection:
        query = sa.select(instances_table.c.segment, instances_table.c.revision)
        rows = connection.execute(query).all()
    assert {row.revision for row in rows} == {2}
    assert {row.segment for row in rows} == {
        path.name for path in site.bench.store.root.rglob("used/*/*.segment")
    }
    assert len(site.bench.adapter.asked) == 1, "the same images: the first result stands"


def test_a_request_about_deleted_images_fails_with_the_reason(site: Site) -> None:
    site.bench.adapter.answers = [RejectedError("NaN")]
    uid = site.study()
    site.keeper.purge_by_hand(uid, "space", force=True)
    (request_id,) = site.bench.column(requests.c.request_id)
    assert site.bench.pipeline.requests.ask_again(str(request_id))
    site.bench.finish()
    assert site.bench.column(requests.c.state) == ["failed"]
    assert "images of this revision of the study were deleted" in str(
        site.bench.column(requests.c.detail)
    )
    with site.bench.pipeline.database.read() as connection, pytest.raises(RejectedError):
        instances.load_study(connection, site.bench.adapter.asked[0].study.key)


def test_a_report_that_was_deleted_is_not_sent_again_in_silence(site: Site) -> None:
    site.bench.destinations["pacs"].answers = [TransientError("away")]
    uid = site.study()
    site.keeper.purge_by_hand(uid, "space", force=True)
    with site.bench.pipeline.database.read() as connection:
        dead = connection.execute(
            sa.select(deliveries.c.delivery_id).where(deliveries.c.state == "dead")
        ).scalar_one()
    assert site.bench.pipeline.deliveries.resend(dead)
    site.bench.finish()
    with site.bench.pipeline.database.read() as connection:
        query = sa.select(deliveries.c.detail).where(deliveries.c.delivery_id == dead)
        assert "its study was deleted" in str(connection.execute(query).scalar_one())


def test_files_that_a_crash_left_go_and_those_that_are_needed_stay(site: Site) -> None:
    site.study()
    store = site.bench.pipeline.documents
    needed = set(store.root.glob("*/*"))
    orphan = store.put(b"of a request whose answer was never recorded")
    partial = next(iter(needed)).with_name("0.partial")
    partial.write_bytes(b"torn")
    young = store.put(b"begun just now")
    long_ago = site.bench.clock.now().timestamp() - 2 * DAY
    for path in store.root.glob("*/*"):
        os.utime(path, (long_ago, long_ago))
    os.utime(store.root / young[:2] / young)
    site.housekeeper().turn()
    assert set(store.root.glob("*/*")) == needed | {store.root / young[:2] / young}
    with pytest.raises(IntegrityError):
        store.get(orphan)


def test_one_process_at_a_time(site: Site) -> None:
    site.study()
    site.housekeeper(holder="one").turn()
    site.bench.clock.advance(30 * DAY)
    with site.bench.pipeline.database.write() as connection:
        connection.execute(sa.text("UPDATE claims SET holder = 'two'"))
        until = site.bench.clock.now() + timedelta(minutes=1)
        connection.execute(
            sa.text("UPDATE claims SET until = :until").bindparams(
                until=int(until.timestamp() * 1e6)
            )
        )
    site.housekeeper(holder="one").turn()
    assert len(site.held()) == 1
    site.bench.clock.advance(61)
    site.housekeeper(holder="one").turn()
    assert site.held() == []


def test_records_of_what_ended_long_ago_are_forgotten_once_an_hour(site: Site) -> None:
    clock, database = site.bench.clock, site.bench.pipeline.database
    names = ("ended", "busy", "here")
    with database.write() as connection:
        for name in names:
            process = ProcessIdentity(name, "boot", 1, "1")
            workers.register(connection, process, "worker", clock.now())
        for name in names[:2]:
            workers.mark_gone(connection, name, clock.now())
    clock.advance(31 * DAY)
    with database.write() as connection:
        workers.beat(connection, "here", {}, clock.now())
    for _ in range(3):
        site.housekeeper().turn()
        clock.advance(60)
    assert len(site.forgotten) == 1
    with database.read() as connection:
        left = connection.execute(sa.text("SELECT executor_id FROM workers")).scalars().all()
    assert sorted(left) == ["busy", "here"]
    clock.advance(3600)
    site.housekeeper().turn()
    assert len(site.forgotten) == 2


def test_an_association_that_broke_off_does_not_keep_a_study_for_ever(site: Site) -> None:
    file = chest_phantom(slices=2, rows=64, columns=64, seed=1).files[0]
    site.bench.send([file], EndOfTransfer.ABORTED)
    site.bench.clock.advance(30)
    site.bench.finish()
    site.bench.clock.advance(11 * DAY)
    site.housekeeper().turn()
    assert site.held() == []
