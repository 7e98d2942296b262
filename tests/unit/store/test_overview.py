"""Lists, timelines and counts are the same on both databases."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from hub.store import overview, schema
from hub.store.database import Database
from tests.builders import RECEIVED_AT
from tests.unit.seeded import ASSESSED, DEAD, RECEIVING, REQUEST, UNMATCHED, seed


@pytest.fixture
def seeded(database: Database) -> Database:
    seed(database)
    return database


def test_lists_are_newest_first_in_pages(seeded: Database) -> None:
    page = overview.list_studies(seeded, limit=2)
    assert [row.study_instance_uid for row in page.items] == [RECEIVING, UNMATCHED]
    assert page.total == 3
    rest = overview.list_studies(seeded, limit=2, offset=2)
    assert [row.study_instance_uid for row in rest.items] == [ASSESSED]


def test_lists_can_be_narrowed(seeded: Database) -> None:
    assert overview.list_studies(seeded, state="receiving").total == 1
    assert overview.list_requests(seeded, state="done").items[0].outcome == "assessed"
    assert overview.list_results(seeded, outcome="unsuitable").total == 0
    dead = overview.list_deliveries(seeded, state="dead", destination="results")
    assert [row.delivery_id for row in dead.items] == [DEAD]
    assert overview.list_deliveries(seeded, destination="elsewhere").total == 0
    assert overview.list_alerts(seeded).items[0].kind == "delivery.dead"
    assert overview.request_exists(seeded, REQUEST)
    assert not overview.request_exists(seeded, "none")


def test_the_timeline_of_one_study_holds_nothing_of_another(seeded: Database) -> None:
    timeline = overview.study_timeline(seeded, ASSESSED)
    assert timeline is not None
    assert [row.kind for row in timeline.documents] == ["fhir", "seg", "sr"]
    assert len(timeline.deliveries) == 3
    assert len(timeline.events) == 3
    other = overview.study_timeline(seeded, UNMATCHED)
    assert other is not None
    assert other.requests == other.deliveries == other.events == ()
    assert overview.study_timeline(seeded, "9.9.9") is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"problems": ["two patients"]}, "held back, no AI is run: two patients"),
        ({"state": "complete"}, "waits for a worker to apply the rules"),
        ({"state": "receiving", "expected_instances": 9}, "3 of 9 instances so far"),
    ],
)
def test_a_study_without_ai_says_why(
    seeded: Database, changes: dict[str, object], expected: str
) -> None:
    table = schema.studies if "problems" in changes else schema.study_revisions
    with seeded.write() as connection:
        connection.execute(
            sa.update(table).where(table.c.study_instance_uid == UNMATCHED).values(**changes)
        )
    timeline = overview.study_timeline(seeded, UNMATCHED)
    assert timeline is not None
    assert any(expected in line for line in timeline.explanation)


@pytest.mark.parametrize(
    ("decision", "expected"),
    [
        ("no-match", "rule chest-ct does not match, AI was not run: because"),
        ("rule-error", "rule chest-ct failed and has to be mended, AI was not run: because"),
    ],
)
def test_each_rule_answers_for_itself(seeded: Database, decision: str, expected: str) -> None:
    table = schema.route_decisions
    with seeded.write() as connection:
        connection.execute(
            sa.update(table)
            .where(table.c.study_instance_uid == UNMATCHED)
            .values(decision=decision, reasons=["because"])
        )
    timeline = overview.study_timeline(seeded, UNMATCHED)
    assert timeline is not None
    assert timeline.explanation[-1] == f"revision 1: {expected}"


def test_no_rule_is_an_answer_too(seeded: Database) -> None:
    with seeded.write() as connection:
        connection.execute(sa.delete(schema.route_decisions))
    timeline = overview.study_timeline(seeded, UNMATCHED)
    assert timeline is not None
    assert timeline.explanation[-1] == "revision 1: AI was not run: no rule is configured"


def test_counts_are_by_state(seeded: Database) -> None:
    found = overview.counts(seeded)
    assert found.studies == {"routed": 2, "receiving": 1}
    assert found.requests == {"done": 1}
    assert found.deliveries == {
        ("results", "delivered"): 1,
        ("results", "dead"): 1,
        ("results", "pending"): 1,
    }
    assert found.oldest_undelivered == RECEIVED_AT


def test_an_empty_database_has_no_oldest_delivery(database: Database) -> None:
    assert overview.counts(database).oldest_undelivered is None
