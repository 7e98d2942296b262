"""Which versions of reports there are, and who got what of them: the same on both databases."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
import sqlalchemy as sa

from hub.domain.coding import Code
from hub.domain.delivery import Delivery, DeliveryState, Document, DocumentKind
from hub.domain.finding import Finding
from hub.domain.identity import PatientIdentity, StudyIdentity
from hub.domain.inference import InferenceResult, ModelKey, Outcome, Priority
from hub.domain.report import Person, ReportCause, ReportStatus
from hub.domain.study import StudyKey
from hub.store import deliveries, report_versions, results, schema
from hub.store.database import Database
from hub.store.report_versions import VersionRow, VersionState
from hub.store.results import FiledDocument, RequestRow, RequestState
from hub.store.superseding import why_not_sent
from tests.fakes import FrozenClock

STUDY = "1.2.3"
IDENTITY = StudyIdentity(STUDY, PatientIdentity("4711"))
MODEL = ModelKey("m", "1", "cd" * 32)
VOLUME = Finding(
    tracking_uid="2.25.7",
    tracking_identifier="lungs",
    code=Code("118565006", "SCT", "Volume"),
    value=4200.0,
    unit=Code("mL", "UCUM", "mL"),
)


@dataclass
class Kept:
    """Requests of one study, their reports and deliveries, written row by row."""

    database: Database
    clock: FrozenClock

    def request(self, name: str, revision: int = 1, *, shadow: bool = False) -> RequestRow:
        self.clock.advance(1)
        row = RequestRow(
            request_id=name,
            study=StudyKey(STUDY, revision),
            route="chest",
            shadow=shadow,
            model=MODEL,
            queue="inference-1",
            priority=Priority.ROUTINE,
            series_instance_uids=("1.2.3.1",),
            deliver_to=("pacs",),
            reasons=(),
            state=RequestState.DONE,
            attempts=1,
            detail="",
            created_at=self.clock.now(),
        )
        with self.database.write() as connection:
            results.add_request(connection, row)
        return row

    def version(self, request: RequestRow, number: int, **fields: object) -> VersionRow:
        row = VersionRow(
            request_id=request.request_id,
            version=number,
            status=ReportStatus.PRELIMINARY,
            cause=ReportCause.MODEL,
            outcome=Outcome.ASSESSED,
            actor="worker:1",
            state=VersionState.MADE,
            made_at=self.clock.now(),
        )
        row = replace(row, **fields)
        with self.database.write() as connection:
            report_versions.add(connection, row)
        return row

    def answer(self, request: RequestRow, *findings: Finding) -> None:
        result = InferenceResult(
            request_id=request.request_id,
            model=MODEL,
            identity=IDENTITY,
            outcome=Outcome.ASSESSED,
            findings=findings,
        )
        with self.database.write() as connection:
            results.add_result(connection, result, self.clock.now())

    def document(
        self,
        request: RequestRow,
        uid: str,
        kind: DocumentKind = DocumentKind.SR,
        version: int = 1,
        **sent: DeliveryState,
    ) -> None:
        """One document, and how far it is at each destination."""
        document = Document(uid, kind, request.request_id, IDENTITY, b"")
        with self.database.write() as connection:
            results.add_documents(connection, [FiledDocument(document, f"of {uid}", version, "")])
            for destination, state in sent.items():
                deliveries.add(
                    connection,
                    self.delivery(request, uid, kind, destination, state),
                    queue="delivery-1",
                    priority=0,
                    at=self.clock.now(),
                    position=0,
                )

    @staticmethod
    def delivery(
        request: RequestRow,
        uid: str,
        kind: DocumentKind = DocumentKind.SR,
        destination: str = "pacs",
        state: DeliveryState = DeliveryState.PENDING,
    ) -> Delivery:
        name = f"{uid}>{destination}"
        return Delivery(name, destination, uid, kind, request.request_id, STUDY, state, 0)


@pytest.fixture
def kept(database: Database, clock: FrozenClock) -> Kept:
    return Kept(database, clock)


def test_a_version_is_read_as_it_was_written(kept: Kept) -> None:
    request = kept.request("a")
    first = kept.version(request, 1)
    second = kept.version(
        request,
        2,
        status=ReportStatus.AMENDED,
        cause=ReportCause.MODIFIED,
        reason="wrong side",
        person=Person("Weiß^Änne", "12345", "urn:oid:1.2.3", "Rostock"),
        changes=(VOLUME,),
        state=VersionState.ASKED,
    )
    with kept.database.write() as connection:
        assert report_versions.versions_of(connection, "a") == (first, second)
        report_versions.set_state(connection, "a", 2, VersionState.FAILED)
        assert [r.state for r in report_versions.versions_of(connection, "a")] == ["made", "failed"]
        assert report_versions.versions_of(connection, "b") == ()


def test_a_version_is_recorded_once(kept: Kept) -> None:
    request = kept.request("a")
    kept.version(request, 1)
    with pytest.raises(sa.exc.IntegrityError):
        kept.version(request, 1)


def test_reports_of_one_study_route_and_model_replace_each_other(kept: Kept) -> None:
    first = kept.request("a")
    shadow = kept.request("s", 2, shadow=True)
    second = kept.request("b", 2)
    with kept.database.read() as connection:
        assert report_versions.line_of(connection, second) == ("b", "a")
        assert report_versions.line_of(connection, first) == ("a",)
        assert report_versions.line_of(connection, shadow) == ("s",)
        assert report_versions.revision_of_replacement(connection, first) is None
    kept.version(second, 1)
    with kept.database.read() as connection:
        assert report_versions.revision_of_replacement(connection, first) == 2
        assert report_versions.revision_of_replacement(connection, second) is None
        assert report_versions.revision_of_replacement(connection, shadow) is None


def test_findings_that_are_replaced_are_named_as_they_were_last(kept: Kept) -> None:
    first, second = kept.request("a"), kept.request("b", 2)
    kept.answer(first, VOLUME)
    kept.answer(second, replace(VOLUME, tracking_uid="2.25.8", value=1.0))
    kept.version(first, 1)
    changed = replace(VOLUME, value=4000.0)
    kept.version(first, 2, cause=ReportCause.MODIFIED, changes=(changed,))
    with kept.database.read() as connection:
        found = report_versions.replaced_findings(connection, ("b", "a"))
        assert report_versions.findings_of(connection, ("a", "none")) == {"a": (VOLUME,)}
    assert [finding.value for finding in found] == [1.0, 4000.0]


@pytest.mark.parametrize("state", list(DeliveryState))
def test_objects_that_were_never_sent_are_not_named(kept: Kept, state: DeliveryState) -> None:
    request = kept.request("a")
    kept.document(request, "1.1", pacs=state, other=DeliveryState.DELIVERED)
    kept.document(request, "1.2", DocumentKind.FHIR, pacs=DeliveryState.DELIVERED)
    unsent = (DeliveryState.SUPERSEDED, DeliveryState.QUARANTINED, DeliveryState.DISCARDED)
    with kept.database.write() as connection:
        found = report_versions.sent_objects(connection, ("a",), ("pacs",))
        assert [one.document_id for one in found] == ([] if state in unsent else ["1.1"])
        connection.execute(sa.update(schema.deliveries).values(attempts=1))  # it may have arrived
        found = report_versions.sent_objects(connection, ("a",), ("pacs",))
        assert [one.document_id for one in found] == ["1.1"]
        assert report_versions.receivers(connection, ("a",)) == {"pacs", "other"}


def test_documents_whose_bytes_are_gone_are_no_longer_kept(kept: Kept) -> None:
    request = kept.request("a")
    kept.version(request, 1)
    kept.document(request, "r1", DocumentKind.RECORD)
    kept.document(request, "r2", DocumentKind.RECORD, 2)
    kept.document(request, "1.1", pacs=DeliveryState.DELIVERED)
    with kept.database.write() as connection:
        of_record = (DocumentKind.RECORD,)
        found = report_versions.documents_of(connection, "a", of_record)
        assert [(one.document_id, one.version, one.sha256) for one in found] == [
            ("r2", 2, "of r2"),
            ("r1", 1, "of r1"),
        ]
        assert report_versions.has_record(connection, "a")
        assert report_versions.version_of(connection, "r2") == 2
        connection.execute(sa.update(schema.documents).values(purged_at=kept.clock.now()))
        assert report_versions.documents_of(connection, "a", of_record) == ()
        assert not report_versions.has_record(connection, "a")
        assert report_versions.sent_objects(connection, ("a",), ("pacs",)) == ()


# --- what is not sent any more -----------------------------------------------------------------


@pytest.mark.parametrize("shadow", [True, False])
def test_a_withdrawal_holds_back_the_reports_before_it(kept: Kept, *, shadow: bool) -> None:
    first = kept.request("a")
    kept.document(first, "1.1", pacs=DeliveryState.PENDING)
    later = kept.request("b", 2, shadow=shadow)
    kept.version(later, 1, cause=ReportCause.RETRACTED)
    with kept.database.read() as connection:
        reason = why_not_sent(connection, kept.delivery(first, "1.1"))
    assert (reason is None) is shadow


@pytest.mark.parametrize("state", list(DeliveryState))
def test_what_is_updated_in_place_waits_for_nobody_who_does_not_come(
    kept: Kept, state: DeliveryState
) -> None:
    request, kind = kept.request("a"), DocumentKind.FHIR
    kept.document(request, "1.1", kind, ehr=DeliveryState.RETRYING)
    kept.document(request, "1.2", kind, 2, ehr=state)
    gone = (DeliveryState.DEAD, DeliveryState.QUARANTINED, DeliveryState.DISCARDED)
    with kept.database.read() as connection:
        reason = why_not_sent(connection, kept.delivery(request, "1.1", kind, "ehr"))
        assert reason == (None if state in gone else "the report of version 2 takes its place")
        newer = kept.delivery(request, "1.2", kind, "ehr")
        assert why_not_sent(connection, newer) is None


@pytest.mark.parametrize("attempts", [0, 1])
@pytest.mark.parametrize("state", ["superseded", "quarantined", "discarded"])
def test_a_withdrawal_goes_wherever_the_report_may_have_arrived(
    kept: Kept, state: str, attempts: int
) -> None:
    request = kept.request("a")
    kept.document(request, "1.1", pacs=DeliveryState(state))
    with kept.database.write() as connection:
        connection.execute(sa.update(schema.deliveries).values(attempts=attempts))
    kept.clock.moment += timedelta(seconds=1)
    kept.version(request, 2, cause=ReportCause.RETRACTED)
    kept.document(request, "1.2", version=2, pacs=DeliveryState.PENDING)
    with kept.database.read() as connection:
        reason = why_not_sent(connection, kept.delivery(request, "1.2"))
    assert (reason is None) is bool(attempts)
