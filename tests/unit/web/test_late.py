"""Health is answered at once; whoever asks for more waits until the API is made."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from hub.web import late
from hub.web.late import Application, LateApplication, Receive, Scope, Send

Log = list[tuple[str, str]]


def answering(name: str, log: Log) -> Application:
    async def application(scope: Scope, _receive: Receive, _send: Send) -> None:
        log.append((name, scope.get("path", scope["type"])))

    return application


def call(application: LateApplication, *paths: str) -> None:
    async def all_at_once() -> None:
        scopes: list[dict[str, Any]] = [{"type": "http", "path": path} for path in paths]
        nothing: Any = None
        await asyncio.gather(*(application(scope, nothing, nothing) for scope in scopes))

    asyncio.run(asyncio.wait_for(all_at_once(), 10))


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late, "_QUIET_SECONDS", 60.0)


def test_health_is_answered_before_the_rest_is_made_and_by_the_rest_afterwards() -> None:
    log: Log = []
    application = LateApplication(
        answering("first", log), "/health/", lambda: answering("whole", log)
    )
    application.start(on_failure=pytest.fail)
    call(application, "/health/ready")
    assert log == [("first", "/health/ready")]
    call(application, "/api/v1/studies")  # asks for it, and waits
    call(application, "/health/ready")
    assert log[1:] == [("whole", "/api/v1/studies"), ("whole", "/health/ready")]


def test_requests_that_come_too_early_wait_and_do_not_hold_up_health() -> None:
    log: Log = []
    made = threading.Event()

    def make() -> Application:
        assert made.wait(10)
        return answering("whole", log)

    application = LateApplication(answering("first", log), "/health/", make)
    application.start(on_failure=pytest.fail)
    waiting = threading.Thread(target=call, args=(application, "/metrics", "/api/v1/alerts"))
    waiting.start()
    call(application, "/health/live")
    assert log == [("first", "/health/live")]
    made.set()
    waiting.join(timeout=10)
    assert {path for name, path in log if name == "whole"} == {"/metrics", "/api/v1/alerts"}


def test_it_is_made_without_being_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late, "_QUIET_SECONDS", 0.01)
    made = threading.Event()
    log: Log = []

    def make() -> Application:
        made.set()
        return answering("whole", log)

    LateApplication(answering("first", log), "/health/", make).start(on_failure=pytest.fail)
    assert made.wait(10)


def test_what_fails_is_told_and_raised_again() -> None:
    failed = threading.Event()

    def make() -> Application:
        raise ZeroDivisionError

    application = LateApplication(answering("first", []), "/health/", make)
    application.start(on_failure=failed.set)
    with pytest.raises(ZeroDivisionError):
        call(application, "/metrics")
    assert failed.wait(10)
    with pytest.raises(ZeroDivisionError):
        application.raise_failure()
