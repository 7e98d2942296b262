"""The reports that are read from the hub, as FHIR: which version, and by what they are found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from hub.domain.assessment import Decision
from hub.domain.identity import PatientIdentity
from hub.domain.report import Person, ReportCause
from hub.errors import TransientError
from hub.ports import ReportBundle, ReportQuery
from hub.store.database import Database
from hub.store.report_bundles import StoredReports
from hub.store.report_ledger import ReportLedger
from hub.store.schema import documents, requests
from hub.store.schema_orders import fhir_resources
from tests.unit.ordering import OrderBench, make_order_bench, order


@pytest.fixture
def parts(database: Database, tmp_path: Path) -> Iterator[OrderBench]:
    made = make_order_bench(tmp_path, database)
    made.bench.pipeline = replace(made.bench.pipeline, shows_reports=True)
    yield made
    made.bench.store.close()


def reports(parts: OrderBench) -> StoredReports:
    return StoredReports(parts.bench.pipeline.database, parts.bench.pipeline.documents)


def find(parts: OrderBench, **query: object) -> list[ReportBundle]:
    return list(reports(parts).find(ReportQuery(**query), 10))  # type: ignore[arg-type]


def test_a_report_is_found_by_everything_that_it_is_about(parts: OrderBench) -> None:
    uid = parts.bench.receive()
    parts.finish()
    patient = parts.study(uid).patient
    parts.orders.place(order(uid, patient=patient))
    parts.finish()
    (request_id,) = parts.bench.column(requests.c.request_id)
    (found,) = find(parts, request_id=request_id)
    assert (found.bundle["type"], found.version, found.order_id) == ("transaction", 1, "")
    with parts.bench.pipeline.database.read() as connection:
        shown = connection.execute(sa.select(fhir_resources)).all()
    assert shown
    for query in (
        {"study_instance_uid": uid},
        {"patient": PatientIdentity(patient.patient_id)},
        {"order_id": "a" * 32},
        {"model": ("lung-density", "1.0.0")},
        {"resource": (shown[0].resource_type, shown[0].resource_id)},
        {"sop_instance_uid": parts.bench.column(documents.c.document_id)[0]},
        {},
    ):
        assert find(parts, **query) == [found], query
    for query in (
        {"study_instance_uid": "1.2"},
        {"patient": PatientIdentity("SOMEBODY")},
        {"patient": PatientIdentity(patient.patient_id, "OTHER")},
        {"order_id": "b" * 32},
        {"model": ("lung-density", "2.0.0")},
        {"resource": ("Device", "x")},
        {"sop_instance_uid": "1.2"},
        {"accession_number": "A-1"},
    ):
        assert find(parts, **query) == [], query
    assert reports(parts).find(ReportQuery(), 10, 1) == []


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ({"patient": PatientIdentity("P-1", "UMR")}, "ix_documents_patient_id"),
        ({"accession_number": "A-1"}, "ix_documents_accession_number"),
        ({"order_id": "a" * 32}, "ix_documents_request_id"),
        ({"request_id": "a" * 32}, "ix_documents_request_id"),
        ({"resource": ("Device", "x")}, "ix_documents_request_id"),
        ({"sop_instance_uid": "1.2"}, "ix_documents_request_id"),
    ],
)
def test_reports_are_found_by_an_index_however_many_there_are(
    parts: OrderBench, query: dict[str, object], index: str
) -> None:
    engine = parts.bench.pipeline.database.engine
    is_sqlite = engine.dialect.name == "sqlite"
    words = "EXPLAIN QUERY PLAN" if is_sqlite else "EXPLAIN"
    plans: list[str] = []

    def explain(raw: sa.Connection, _c: object, text: str, values: object, *_: object) -> None:
        if text.startswith("SELECT documents"):
            if not is_sqlite:  # a table that is empty is read as a whole
                raw.exec_driver_sql("SET LOCAL enable_seqscan = off")
            asked = raw.exec_driver_sql(f"{words} {text}", values)  # type: ignore[arg-type]
            plans.extend(str(row[-1]) for row in asked)

    sa.event.listen(engine, "before_cursor_execute", explain)
    find(parts, **query)
    sa.event.remove(engine, "before_cursor_execute", explain)
    assert any(index in plan for plan in plans), plans
    assert not any("SCAN" in plan or "Seq Scan" in plan for plan in plans), plans


def test_the_last_version_counts(parts: OrderBench) -> None:
    parts.bench.receive()
    parts.finish()
    (request_id,) = parts.bench.column(requests.c.request_id)
    pipeline = parts.bench.pipeline
    ledger = ReportLedger(pipeline.database, parts.bench.jobs, pipeline.journal)
    ledger.decide(str(request_id), Decision(ReportCause.ACCEPTED, Person("Who^Dr")))
    parts.finish()
    (found,) = find(parts, request_id=request_id)
    assert found.version == 2
    assert '"final"' in str(found.bundle).replace("'", '"')


def test_a_report_whose_bytes_are_damaged_is_not_no_report(parts: OrderBench) -> None:
    parts.bench.receive()
    parts.finish()
    for path in parts.bench.pipeline.documents.root.glob("*/*"):
        path.chmod(0o600)
        path.write_bytes(b"x")
    with pytest.raises(TransientError, match="cannot be read"):
        find(parts)
