"""Lists, timelines and counts are the same on both databases."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa

from hub.store import fetches, overview, schema
from hub.store.counts import counts
from hub.store.database import Database
from hub.store.fetches import Fetch, FetchKind, FetchState
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


def said_of(seeded: Database, study: str) -> list[str]:
    timeline = overview.study_timeline(seeded, study)
    assert timeline is not None
    return [line for line in timeline.explanation if not line.startswith("revision")]


def test_a_study_tells_what_others_said_of_it(seeded: Database) -> None:
    named = ["1.2.3.3.1", "1.2.3.3.2"]
    with seeded.write() as connection:
        for source, number, uids in (("archive", 9, []), ("order", None, named)):
            connection.execute(
                sa.insert(schema.expectations).values(
                    study_instance_uid=RECEIVING,
                    source=source,
                    number_of_instances=number,
                    sop_instance_uids=uids,
                    series=[],
                    learned_at=RECEIVED_AT,
                )
            )
    assert said_of(seeded, RECEIVING) == [
        "9 images are expected, as an archive says",
        "2 images are expected, as an order says, and names them",
    ]
    assert said_of(seeded, UNMATCHED) == []


def asked(seeded: Database, study: str, number: int, **fields: object) -> None:
    with seeded.write() as connection:
        fetch = Fetch(
            fetch_id=f"fetch-{number}",
            study_instance_uid=study,
            archive="pacs",
            asked_at=RECEIVED_AT + timedelta(seconds=number),
            deadline_at=RECEIVED_AT + timedelta(minutes=1),
            **fields,  # type: ignore[arg-type]
        )
        fetches.add(connection, fetch)


def test_a_study_tells_what_was_fetched_for_it(seeded: Database) -> None:
    asked(seeded, ASSESSED, 1, kind=FetchKind.STUDY)
    asked(
        seeded,
        ASSESSED,
        2,
        kind=FetchKind.MISSING,
        revision=2,
        state=FetchState.TIMED_OUT,
        detail="not within its time limit",
    )
    asked(
        seeded,
        "1.2.9.9",
        3,
        kind=FetchKind.PRIOR,
        request_id=REQUEST,
        state=FetchState.NOTHING_FOUND,
    )
    assert said_of(seeded, ASSESSED) == [
        "archive pacs was asked for this study: running",
        "archive pacs was asked for what revision 2 lacks: timed-out: not within its time limit",
        "archive pacs was asked for the prior 1.2.9.9: nothing-found",
    ]
    asked(seeded, UNMATCHED, 4, kind=FetchKind.PRIOR, request_id=REQUEST, state=FetchState.DONE)
    assert said_of(seeded, UNMATCHED) == ["archive pacs was asked for this study, as a prior: done"]


@pytest.mark.parametrize(
    ("priors", "expected"),
    [
        (
            {"chosen": [["1.2.9.9", "pacs"]], "notes": []},
            "1 prior examinations were found, and are",
        ),
        (
            {
                "chosen": [["1.2.9.9", "pacs"], ["1.2.9.8", ""]],
                "used": ["1.2.9.8"],
                "notes": ["A prior could not be fetched."],
            },
            "2 prior examinations were found, 1 are used: A prior could not be fetched.",
        ),
        ({"used": [], "notes": []}, "0 prior examinations were found, 0 are used"),
    ],
)
def test_a_study_tells_which_priors_its_requests_were_given(
    seeded: Database, priors: dict[str, object], expected: str
) -> None:
    with seeded.write() as connection:
        changed = sa.update(schema.requests).where(schema.requests.c.request_id == REQUEST)
        connection.execute(changed.values(priors=priors))
    (line,) = said_of(seeded, ASSESSED)
    assert line.startswith(f"request {REQUEST}: {expected}")


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
    found = counts(seeded)
    assert found.studies == {"routed": 2, "receiving": 1}
    assert found.requests == {"done": 1}
    assert found.deliveries == {
        ("results", "delivered"): 1,
        ("results", "dead"): 1,
        ("results", "pending"): 1,
    }
    assert found.oldest_undelivered == RECEIVED_AT


def test_an_empty_database_has_no_oldest_delivery(database: Database) -> None:
    assert counts(database).oldest_undelivered is None
