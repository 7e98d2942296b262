"""What a person has to decide on: results and documents that do not belong to whom they should.

A named person releases one, if all that is wrong is whom it says it belongs to, or discards it.
What is released is reported under the request's own identity, and the report says who released
it and why.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from hub.domain.delivery import DeliveryState, Document, DocumentKind
from hub.domain.identity import derived_uuid, identity_mismatches
from hub.domain.inference import InferenceRequest, InferenceResult
from hub.domain.report import Person, ReportCause, ReportStatus
from hub.errors import IntegrityError, RejectedError
from hub.formats.record import Record
from hub.ports import Jobs, at_first_call
from hub.store import deliveries, order_rows, report_versions, results
from hub.store.database import Database
from hub.store.delivery_ledger import DeliveryLedger
from hub.store.documents import DocumentStore
from hub.store.journal import Journal
from hub.store.report_ledger import ReportLedger
from hub.store.report_versions import VersionRow, VersionState
from hub.store.results import FiledDocument, RequestRow, RequestState
from hub.store.schema import deliveries as deliveries_table
from hub.store.schema import requests

QUARANTINED_VERSION = 0
"""Of the record of an answer that is no report (yet)."""
VOXELS_LOST = "the segmentation and maps of this result were not kept while it was in quarantine"
_LONGEST_TEXT = 1000

_decode = at_first_call("hub.formats.record:decode")
_content_of = at_first_call("hub.formats.record:content_of")
_check_identity = at_first_call("hub.formats.encoding:check_document_identity")
_check_result = at_first_call("hub.formats.invariants:check_result")
_contradictions = at_first_call("hub.formats.document_identity:contradictions")


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One request or delivery that waits for a decision."""

    kind: str
    """``request`` or ``delivery``."""
    identifier: str
    request_id: str
    study_instance_uid: str
    reason: str
    since: datetime | None
    destination: str = ""


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Keeps, releases and discards, each with its audit row."""

    database: Database
    documents: DocumentStore
    jobs: Jobs
    journal: Journal

    # --- in ----------------------------------------------------------------------------------

    def filed(self, record: Record) -> FiledDocument:
        """The record of an answer that is quarantined: its bytes are kept from now on, and it goes
        on record with the request.

        Raises:
            TransientError: no space left.
        """
        return self._filed(_without_voxels(record), "quarantine", QUARANTINED_VERSION)

    def _filed(self, record: Record, what: str, version: int) -> FiledDocument:
        request_id = record.request.request_id
        document = Document(
            document_id=str(derived_uuid(what, request_id)),
            kind=DocumentKind.RECORD,
            request_id=request_id,
            identity=record.result.identity,
            content=_content_of(record),
        )
        return FiledDocument(document, self.documents.put(document.content), version, "")

    def waiting(self) -> list[Quarantined]:
        """All that waits, the oldest first."""
        with self.database.read() as connection:
            found = [*_requests(connection), *_deliveries(connection)]
        return sorted(found, key=lambda one: (one.since is None, one.since, one.identifier))

    # --- out ---------------------------------------------------------------------------------

    def release(self, identifier: str, person: Person, reason: str) -> str:
        """A person answers for a request, or for a delivery and all others of its report; returns
        what happens now, for people.

        Raises:
            RejectedError: it is not in quarantine, or something is wrong with it beside whom it
                says it belongs to.
        """
        _check_words(person, reason)
        with self.database.write() as connection:
            request = self._request(connection, identifier)
            if request.state is RequestState.QUARANTINED and identifier == request.request_id:
                self._release_request(connection, request, person, reason)
                return f"request {identifier} is reported under its own identity"
            number = self._release_deliveries(connection, request)
            self._note(connection, request, person, reason)
            return f"{number} documents of request {request.request_id} are sent"

    def discard(self, identifier: str, person: Person, reason: str) -> str:
        """A person decides that it is never sent; returns what was discarded, for people.

        Raises:
            RejectedError: it is not in quarantine.
        """
        _check_words(person, reason)
        with self.database.write() as connection:
            request = self._request(connection, identifier)
            if request.state is RequestState.QUARANTINED and identifier == request.request_id:
                ordered = order_rows.answered_by(connection, identifier)
                results.set_state(connection, identifier, RequestState.DISCARDED, detail=reason)
                order_rows.settle(connection, self.journal, ordered)
                said = f"request {identifier} is discarded"
            else:
                waiting = _quarantined(connection, request.request_id)
                for row in waiting:
                    state = DeliveryState.DISCARDED
                    deliveries.set_state(connection, row.delivery_id, state, detail=reason)
                said = f"{len(waiting)} documents of request {request.request_id} are discarded"
            self._record(connection, request, "quarantine.discarded", person, reason)
        return said

    def _release_request(
        self, connection: sa.Connection, request: RequestRow, person: Person, reason: str
    ) -> None:
        record = self._quarantined_answer(connection, request)
        result = _own(record.request, record.result)
        try:
            _check_identity(record.request, result)
            _check_result(record.request, result, record.card)
        except IntegrityError as error:
            raise RejectedError(f"it cannot be released: {error}") from None
        now = self.journal.clock.now()
        number = len(report_versions.versions_of(connection, request.request_id)) + 1
        released = self._filed(replace(record, result=result), "released", number)
        results.add_documents(connection, [released])
        results.add_result(connection, result, now)
        ordered = order_rows.answered_by(connection, request.request_id)
        results.set_state(connection, request.request_id, RequestState.DONE, detail="")
        order_rows.settle(connection, self.journal, ordered)
        self._note(connection, request, person, reason)
        version = VersionRow(
            request_id=request.request_id,
            version=number,
            status=ReportStatus.PRELIMINARY,
            cause=ReportCause.RELEASED,
            outcome=result.outcome,
            reason=reason,
            person=person,
            actor=self.journal.actor,
            state=VersionState.ASKED,
            made_at=now,
        )
        ReportLedger(self.database, self.jobs, self.journal).ask(connection, request, version)

    def _quarantined_answer(self, connection: sa.Connection, request: RequestRow) -> Record:
        """Not a record of a version: a failure that was reported before has one, too."""
        kinds = (DocumentKind.RECORD,)
        for kept in report_versions.documents_of(connection, request.request_id, kinds):
            if kept.version == QUARANTINED_VERSION:
                record: Record = _decode(self.documents.get(kept.sha256))
                return record
        raise RejectedError(
            f"request {request.request_id} has no answer to release: {request.detail}"
        )

    def _release_deliveries(self, connection: sa.Connection, request: RequestRow) -> int:
        waiting = _quarantined(connection, request.request_id)
        for row in waiting:
            task = deliveries.task(connection, row.delivery_id)
            if task is None:
                continue
            document = task.document(self.documents.get(task.sha256))
            wrong = _contradictions(document, task.identity)
            if wrong:
                raise RejectedError(f"it cannot be released: {', '.join(wrong)}")
        self._ledger().release(connection, [row.delivery_id for row in waiting])
        return len(waiting)

    # --- how ---------------------------------------------------------------------------------

    def _request(self, connection: sa.Connection, identifier: str) -> RequestRow:
        """The request of that identifier, or of a delivery that has it; its study's lines are
        locked from here on, before its own row as everywhere.

        Raises:
            RejectedError: nothing of that name is in quarantine.
        """
        query = sa.select(deliveries_table.c.request_id).where(
            deliveries_table.c.delivery_id == identifier,
            deliveries_table.c.state == DeliveryState.QUARANTINED.value,
        )
        name = connection.execute(query).scalar() or identifier
        of_request = sa.select(requests.c.study_instance_uid).where(requests.c.request_id == name)
        uid = connection.execute(of_request).scalar()
        if uid is not None:
            self._ledger().lock(connection, uid)
            request = results.get_request(connection, name)
            quarantined = request.state is RequestState.QUARANTINED
            if quarantined or _quarantined(connection, name):
                return request
        raise RejectedError(f"{identifier} is not in quarantine")

    def _ledger(self) -> DeliveryLedger:
        return DeliveryLedger(self.database, self.jobs, self.journal)

    def _note(
        self,
        connection: sa.Connection,
        request: RequestRow,
        person: Person,
        reason: str,
    ) -> None:
        """From now on the gate knows that a person answers for it."""
        now = self.journal.clock.now()
        connection.execute(
            sa.update(requests)
            .where(requests.c.request_id == request.request_id)
            .values(released={"by": person.name, "reason": reason, "at": now.isoformat()})
        )
        self._record(connection, request, "quarantine.released", person, reason)

    def _record(
        self,
        connection: sa.Connection,
        request: RequestRow,
        action: str,
        person: Person,
        reason: str,
    ) -> None:
        self.journal.record(
            connection,
            action,
            f"request:{request.request_id}",
            request.study.study_instance_uid,
            by=person.name,
            reason=reason,
        )


def _without_voxels(record: Record) -> Record:
    region, maps = record.result.region, record.result.maps
    result = replace(
        record.result,
        region=None if region is None else region.without_voxels(),
        maps=tuple(one.without_voxels() for one in maps),
    )
    return replace(record, result=result)


def _own(request: InferenceRequest, result: InferenceResult) -> InferenceResult:
    """The answer as one about the request's own patient and order.

    Raises:
        RejectedError: it is about another study.
    """
    mismatches = identity_mismatches(request.study.identity, result.identity)
    if "StudyInstanceUID" in mismatches:
        raise RejectedError("it cannot be released: it is an answer about another study")
    lost = (VOXELS_LOST,) if result.region is not None or result.maps else ()
    return replace(
        result,
        identity=request.study.identity,
        region=None,
        maps=(),
        findings=tuple(replace(one, segment_numbers=()) for one in result.findings),
        warnings=(*result.warnings, *lost),
    )


def _check_words(person: Person, reason: str) -> None:
    if not person.name.strip() or not reason.strip():
        raise RejectedError("whoever decides has to be named, and has to say why")
    if any(len(text) > _LONGEST_TEXT or not text.isprintable() for text in (person.name, reason)):
        raise RejectedError(f"texts are one line of at most {_LONGEST_TEXT} characters")


def _requests(connection: sa.Connection) -> list[Quarantined]:
    query = sa.select(requests).where(requests.c.state == RequestState.QUARANTINED.value)
    return [
        Quarantined(
            kind="request",
            identifier=row.request_id,
            request_id=row.request_id,
            study_instance_uid=row.study_instance_uid,
            reason=row.detail,
            since=row.finished_at,
        )
        for row in connection.execute(query)
    ]


def _deliveries(connection: sa.Connection) -> list[Quarantined]:
    query = sa.select(deliveries_table).where(
        deliveries_table.c.state == DeliveryState.QUARANTINED.value
    )
    return [
        Quarantined(
            kind="delivery",
            identifier=row.delivery_id,
            request_id=row.request_id,
            study_instance_uid=row.study_instance_uid,
            reason=row.detail,
            since=row.created_at,
            destination=row.destination,
        )
        for row in connection.execute(query)
    ]


def _quarantined(connection: sa.Connection, request_id: str) -> list[sa.Row[Any]]:
    query = sa.select(deliveries_table.c.delivery_id).where(
        deliveries_table.c.request_id == request_id,
        deliveries_table.c.state == DeliveryState.QUARANTINED.value,
    )
    return list(connection.execute(query))


__all__ = ["Quarantine", "Quarantined"]
