"""A database of the release before, with reports on their way, goes on with this one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from hub.domain.delivery import DocumentKind
from hub.domain.report import ReportCause
from hub.store import audit
from hub.store import database as database_module
from hub.store.database import Database, migrate, open_database, schema_version, sqlite_url
from hub.store.report_ledger import NotDecidableError
from hub.store.schema import alerts, audit_head, deliveries, documents, metadata, report_versions
from tests.unit.test_corrections import (
    decide,
    got,
    last,
    late_images,
    make_corrections_bench,
    request_ids,
    states,
)
from tests.unit.test_pipeline import Bench
from tests.unit.test_report_mishaps import rename

NOT_KEPT = {"documents": documents.c.kind != "record"}


@pytest.fixture(params=["sqlite", "postgresql"])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """Tables of the release before, with nothing in them."""
    postgres = request.param == "postgresql"
    url = request.getfixturevalue("postgres_database") if postgres else ""
    opened = open_database(url or sqlite_url(tmp_path / "old.sqlite"))
    config = Config()
    config.set_main_option(
        "script_location", str(Path(database_module.__file__).parent / "migrations")
    )
    config.attributes["engine"] = opened.engine
    command.upgrade(config, "0002")
    yield opened
    opened.close()


def _fill(old: Database, new: Database) -> None:
    """What the release before had written in its place."""
    with new.read() as source, old.write() as target:
        there = sa.inspect(target)
        target.execute(sa.delete(audit_head))
        for table in metadata.sorted_tables:
            if not there.has_table(table.name):
                continue
            names = [column["name"] for column in there.get_columns(table.name)]
            query = sa.select(*(table.c[name] for name in names))
            if table.name in NOT_KEPT:
                query = query.where(NOT_KEPT[table.name])
            rows = [dict(row) for row in source.execute(query).mappings()]
            if rows:
                target.execute(sa.insert(table), rows)


@pytest.fixture
def bench(old: Database, tmp_path: Path) -> Iterator[Bench]:
    """A study was answered, its reports were not sent yet; then the hub is updated."""
    before = make_corrections_bench(tmp_path)
    before.receive()
    before.pipeline.complete_due_studies()
    before.run()
    before.run()
    _fill(old, before.pipeline.database)
    jobs = list(before.jobs.enqueued)
    before.store.close()
    before.pipeline.database.close()
    migrate(old)
    after = make_corrections_bench(tmp_path, old)
    after.clock.moment = before.clock.moment
    after.adapter.asked.extend(before.adapter.asked)
    after.jobs.enqueued.extend(jobs)
    yield after
    after.store.close()


def test_reports_on_their_way_arrive(bench: Bench) -> None:
    database = bench.pipeline.database
    assert schema_version(database)[0] == schema_version(database)[1]
    assert bench.column(report_versions.c.request_id) == []
    bench.finish()
    assert got(bench, "pacs") == [("seg", 1), ("sr", 1)]
    assert got(bench, "ehr") == [("fhir", 1)]
    assert audit.verify(database)[1] is None


def test_a_report_of_the_release_before_is_refused_a_change_in_words(bench: Bench) -> None:
    bench.finish()
    (request_id,) = request_ids(bench)
    for cause in (ReportCause.ACCEPTED, ReportCause.RETRACTED):
        with pytest.raises(NotDecidableError, match="kept no record"):
            decide(bench, request_id, cause)


def test_a_report_of_the_release_before_waits_for_a_person_when_its_patient_changed(
    bench: Bench,
) -> None:
    rename(bench, bench.adapter.asked[0].study.patient)
    bench.finish()
    assert set(bench.column(deliveries.c.state)) == {"quarantined"}
    assert set(bench.column(alerts.c.kind)) == {"delivery.quarantined"}


def test_late_images_amend_a_report_of_the_release_before_and_can_be_withdrawn(
    bench: Bench,
) -> None:
    bench.finish()
    second = late_images(bench)
    report = last(bench, "pacs", DocumentKind.SR)
    assert (report["status"], [kind for kind, *_ in report["predecessors"]]) == (
        "amended",
        ["seg", "sr"],
    )
    decide(bench, second, ReportCause.RETRACTED)
    bench.finish()
    note = last(bench, "pacs", DocumentKind.REJECTION_NOTE)
    assert [kind for kind, *_ in note["predecessors"]] == ["seg", "seg", "sr", "sr"]
    assert "superseded" not in states(bench, "pacs").values()
