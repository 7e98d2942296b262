"""The cap on alerts, on both databases: what counts, when it opens again, and two at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa

from hub.store.critical_alerts import AlertState, raise_critical
from hub.store.database import Database
from hub.store.schema import critical_alerts, requests
from tests.builders import RECEIVED_AT

SENT, HELD, ESCALATED = AlertState.SENT, AlertState.HELD, AlertState.ESCALATED
LIMIT = 3


@pytest.fixture
def names(database: Database) -> list[str]:
    """Requests that there are; each raises one alert."""
    made = [f"{number:032x}" for number in range(40)]
    with database.write() as connection:
        for name in made:
            connection.execute(
                sa.insert(requests).values(
                    request_id=name,
                    study_instance_uid="1.2.3",
                    revision=1,
                    route="chest",
                    mode="active",
                    model_id="m",
                    model_version="1",
                    model_sha256="0" * 64,
                    queue="inference-1",
                    priority=10,
                    series=[],
                    deliver_to=[],
                    reasons=[],
                    state="done",
                    attempts=1,
                    detail="",
                    created_at=RECEIVED_AT,
                )
            )
    return made


def raised(
    database: Database, name: str, at: datetime = RECEIVED_AT, route: str = "chest"
) -> AlertState:
    with database.write() as connection:
        alert = raise_critical(
            connection, request_id=name, version=1, route=route, limit=LIMIT, now=at
        )
    return alert.state


def test_beyond_the_limit_one_escalates_and_the_others_are_held(
    database: Database, names: list[str]
) -> None:
    states = [raised(database, name) for name in names[:6]]
    assert states == [SENT, SENT, SENT, ESCALATED, HELD, HELD]


def test_each_route_has_its_own_limit(database: Database, names: list[str]) -> None:
    assert [raised(database, name) for name in names[:4]][-1] is ESCALATED
    assert raised(database, names[5], route="head") is SENT


def test_a_report_that_is_finished_again_counts_once(database: Database, names: list[str]) -> None:
    assert [raised(database, names[0]) for _ in range(5)] == [SENT] * 5
    assert [raised(database, name) for name in names[1:3]] == [SENT, SENT]


def test_the_hour_slides(database: Database, names: list[str]) -> None:
    """Alerts at 0, 20 and 40 minutes: at 59 minutes there is no room, at 60 there is for one."""
    minute = timedelta(minutes=1)
    for name, at in zip(names, (0, 20, 40), strict=False):
        assert raised(database, name, RECEIVED_AT + at * minute) is SENT
    assert raised(database, names[4], RECEIVED_AT + 59 * minute) is ESCALATED
    assert raised(database, names[5], RECEIVED_AT + 60 * minute) is SENT
    assert raised(database, names[6], RECEIVED_AT + 61 * minute) is HELD


def test_there_is_one_escalation_an_hour(database: Database, names: list[str]) -> None:
    """Findings every two minutes for three hours."""
    states = [
        raised(database, name, RECEIVED_AT + timedelta(minutes=4 * number))
        for number, name in enumerate(names[:38])
    ]
    for begin in range(len(states) - 14):
        hour = states[begin : begin + 15]
        assert hour.count(SENT) <= LIMIT
        assert hour.count(ESCALATED) <= 1
    assert states.count(ESCALATED) == 3


def test_workers_that_finish_at_once_share_the_limit(database: Database, names: list[str]) -> None:
    with ThreadPoolExecutor(8) as pool:
        states = list(pool.map(lambda name: raised(database, name), names[:24]))
    assert states.count(SENT) == LIMIT
    assert states.count(ESCALATED) == 1
    with database.read() as connection:
        kept = connection.execute(sa.select(sa.func.count()).select_from(critical_alerts))
        assert kept.scalar_one() == 24
