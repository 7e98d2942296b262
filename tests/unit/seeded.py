"""A database with one study of each fate, for tests of what people and monitoring ask."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path

import sqlalchemy as sa

from hub.domain.audit import AuditEvent
from hub.store import audit, schema
from hub.store.alerts import raise_alert
from hub.store.database import Database
from hub.store.workers import ProcessIdentity, register
from tests.builders import PATIENT, RECEIVED_AT
from tests.migrated import migrated_sqlite

ASSESSED, UNMATCHED, RECEIVING = "1.2.3.1", "1.2.3.2", "1.2.3.3"
REQUEST, DELIVERED, DEAD = "a" * 32, "delivery-1", "delivery-2"
NOW = RECEIVED_AT + timedelta(minutes=10)


class FixedClock:
    def now(self) -> datetime:
        return NOW


def seeded_database(folder: Path) -> Database:
    database = migrated_sqlite(folder / "caidx.sqlite")
    seed(database)
    return database


def seed(database: Database) -> None:
    with database.write() as connection:
        _studies(connection)
        _request(connection)
        _deliveries(connection)
        raise_alert(
            connection,
            kind="delivery.dead",
            entity=f"delivery:{DEAD}",
            message="C-STORE 0xA700",
            at=NOW,
            study_instance_uid=ASSESSED,
        )
        for action in ("study.received", "study.completed", "study.routed"):
            audit.append(
                connection,
                AuditEvent(
                    RECEIVED_AT,
                    "worker:1",
                    action,
                    f"study:{ASSESSED}#1",
                    study_instance_uid=ASSESSED,
                ),
            )
        for role in ("receiver", "indexer", "worker"):
            register(connection, ProcessIdentity(f"h:{role}", "boot", 1, "1"), role, NOW)


def _studies(connection: sa.Connection) -> None:
    for number, (uid, state) in enumerate(
        {ASSESSED: "routed", UNMATCHED: "routed", RECEIVING: "receiving"}.items()
    ):
        at = RECEIVED_AT + timedelta(seconds=number)
        connection.execute(
            sa.insert(schema.studies).values(
                study_instance_uid=uid,
                patient_id="CAIDX-4711",
                issuer_of_patient_id="UMR",
                first_received_at=at,
                problems=[],
            )
        )
        connection.execute(
            sa.insert(schema.study_revisions).values(
                study_instance_uid=uid,
                revision=1,
                state=state,
                due_at=at,
                evidence="association-released",
                received_instances=3,
                last_received_at=at,
                completed_at=at + timedelta(seconds=2) if state == "routed" else None,
            )
        )
        if state == "routed":
            connection.execute(
                sa.insert(schema.route_decisions).values(
                    study_instance_uid=uid,
                    revision=1,
                    route="chest-ct",
                    decision="match" if uid == ASSESSED else "no-match",
                    reasons=["study: true"] if uid == ASSESSED else ["not true: x"],
                    decided_at=at,
                )
            )


def _request(connection: sa.Connection) -> None:
    connection.execute(
        sa.insert(schema.requests).values(
            request_id=REQUEST,
            study_instance_uid=ASSESSED,
            revision=1,
            route="chest-ct",
            mode="active",
            model_id="lung-density",
            model_version="1.0",
            model_sha256="0" * 64,
            queue="inference-1",
            priority=10,
            series=["1.2.3.1.1"],
            deliver_to=["results"],
            reasons=["study: true"],
            state="done",
            attempts=1,
            detail="",
            created_at=RECEIVED_AT,
            started_at=RECEIVED_AT,
            finished_at=RECEIVED_AT + timedelta(seconds=1),
        )
    )
    connection.execute(
        sa.insert(schema.results).values(
            request_id=REQUEST,
            outcome="assessed",
            findings=[],
            reasons=[],
            warnings=[],
            timings={"inference": 0.25},
            made_at=RECEIVED_AT,
        )
    )


def _deliveries(connection: sa.Connection) -> None:
    for delivery_id, kind, state in (
        (DELIVERED, "sr", "delivered"),
        (DEAD, "seg", "dead"),
        ("delivery-3", "fhir", "pending"),
    ):
        connection.execute(
            sa.insert(schema.documents).values(
                document_id=f"document-{kind}",
                request_id=REQUEST,
                kind=kind,
                identity={
                    "study_instance_uid": ASSESSED,
                    "patient": asdict(PATIENT),
                    "accession_number": "",
                    "issuer_of_accession_number": "",
                },
                related_uids=[],
                sha256="0" * 64,
                length=10,
            )
        )
        connection.execute(
            sa.insert(schema.deliveries).values(
                delivery_id=delivery_id,
                document_id=f"document-{kind}",
                request_id=REQUEST,
                study_instance_uid=ASSESSED,
                destination="results",
                queue="delivery-1",
                priority=10,
                kind=kind,
                state=state,
                attempts=1,
                round=0,
                detail="C-STORE 0x0000",
                created_at=RECEIVED_AT,
            )
        )
