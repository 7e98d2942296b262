"""Requests whose models answer later: the job at the vendor, and the answer that came of itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

import sqlalchemy as sa

from hub.domain.inference import Deferred
from hub.store.database import insert_new
from hub.store.schema_vendors import callbacks, deferred_answers

LONGEST_REFERENCE = 255
"""Characters of what a vendor calls a job."""


@dataclass(frozen=True, slots=True)
class DeferredAnswer:
    """Whom a request waits for."""

    job: Deferred
    """Its reference is empty where the vendor's answer was here before its word that it would
    come."""
    asked_at: datetime
    questions: int = 0
    """How often it was put off: each one has a job of its own."""
    answer: bytes | None = field(default=None, repr=False)
    """What came to the callback, whose signature was right."""
    answered_at: datetime | None = None


def get(connection: sa.Connection, request_id: str) -> DeferredAnswer | None:
    """Whom a request waits for; None: nobody said that the answer comes later."""
    query = sa.select(deferred_answers).where(deferred_answers.c.request_id == request_id)
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    return DeferredAnswer(
        job=Deferred(row.request_id, row.job_reference, row.not_before),
        asked_at=row.asked_at,
        questions=row.questions,
        answer=row.answer,
        answered_at=row.answered_at,
    )


def put_off(connection: sa.Connection, job: Deferred, now: datetime) -> DeferredAnswer:
    """Note that a request is waited for; an answer that is here already stays."""
    held = get(connection, job.request_id)
    questions = 1 if held is None else held.questions + 1
    values = {"job_reference": job.job_reference, "not_before": job.not_before}
    table = deferred_answers
    if held is None:
        row = {"request_id": job.request_id, "asked_at": now, "questions": questions, **values}
        connection.execute(sa.insert(table).values(**row))
        return DeferredAnswer(job, now, questions)
    connection.execute(
        sa.update(table)
        .where(table.c.request_id == job.request_id)
        .values(questions=questions, **values)
    )
    return DeferredAnswer(job, held.asked_at, questions, held.answer, held.answered_at)


def keep_answer(connection: sa.Connection, request_id: str, answer: bytes, now: datetime) -> None:
    """Note what came to the callback, also before the vendor's word that it would."""
    insert_new(
        connection,
        deferred_answers,
        request_id=request_id,
        job_reference="",
        asked_at=now,
        not_before=now,
        questions=0,
    )
    connection.execute(
        sa.update(deferred_answers)
        .where(deferred_answers.c.request_id == request_id)
        .values(answer=answer, answered_at=now)
    )


def forget(connection: sa.Connection, request_id: str) -> None:
    """The request has ended."""
    connection.execute(
        sa.delete(deferred_answers).where(deferred_answers.c.request_id == request_id)
    )


def forget_callbacks(connection: sa.Connection, before: datetime) -> None:
    """Drop the identifiers of messages of long ago: their signatures are too old by now."""
    connection.execute(sa.delete(callbacks).where(callbacks.c.received_at < before))
