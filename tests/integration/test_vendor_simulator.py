"""The simulated vendor over real HTTP: every behaviour does what it says."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from hub.domain.inference import (
    Deferred,
    InferenceRequest,
    InferenceResult,
    Unsuitable,
)
from hub.errors import IntegrityError, RejectedError
from hub.formats.contract.messages import decode_answer, encode_request
from hub.formats.encoding import check_document_identity
from hub.simulator.answers import MadeUpAnswers
from hub.simulator.behaviours import (
    BY_WEBHOOK,
    WRONG_STUDY_INSTANCE_UID,
    Behaviour,
    usual_answering,
)
from hub.simulator.server import STATISTICS, VendorServer
from hub.simulator.vendor import Vendor, VendorOptions
from hub.transport.webhook_signature import key_of, verified
from tests.acceptance.webhook_receiver import WebhookReceiver, receiving
from tests.builders import chest_ct_study, request_for
from tests.peers.vendor import API_KEY, SECRET

KEY = key_of(SECRET)
PATIENCE = 20.0
Start = Callable[..., "Running"]


class Running:
    """A vendor in this process, asked over its socket."""

    def __init__(self, server: VendorServer) -> None:
        self.url = server.url
        self.vendor = server.vendor
        self.client = httpx.Client(timeout=10)

    def ask(self, request: InferenceRequest, **options: Any) -> httpx.Response:
        return self.client.post(self.url, **asking(request, **options))

    def statistics(self) -> dict[str, Any]:
        root = self.url.rpartition("/")[0]
        found: dict[str, Any] = self.client.get(root + STATISTICS).json()
        return found


def asking(
    request: InferenceRequest, *, callback_url: str = "", api_key: str = ""
) -> dict[str, Any]:
    """A request as the hub posts it."""
    headers = {"Content-Type": "application/json", "Idempotency-Key": request.request_id}
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    return {"content": encode_request(request, callback_url=callback_url), "headers": headers}


@pytest.fixture
def start() -> Iterator[Start]:
    """``start(Behaviour.SLOW, delay_seconds=0.5)``"""
    with ExitStack() as opened:

        def begin(behaviour: Behaviour = Behaviour.OK, **options: Any) -> Running:
            options.setdefault("answering", usual_answering(behaviour))
            options.setdefault("delay_seconds", 0.2)
            client = opened.enter_context(httpx.Client(timeout=5))
            vendor = Vendor(
                VendorOptions(behaviour=behaviour, webhook_key=KEY, **options),
                MadeUpAnswers(),
                client,
            )
            server = VendorServer(("127.0.0.1", 0), vendor)
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
            opened.callback(server.server_close)
            opened.callback(server.shutdown)
            opened.callback(vendor.close)
            running = Running(server)
            opened.enter_context(running.client)
            return running

        yield begin


@pytest.fixture
def request_() -> InferenceRequest:
    return request_for(chest_ct_study(2))


def read(
    response: httpx.Response, request: InferenceRequest
) -> InferenceResult | Unsuitable | Deferred:
    return decode_answer(response.content, request, received_at=datetime.now(UTC))


def eventually(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


# --- answers ---------------------------------------------------------------------------------


def test_a_made_up_answer_passes_the_identity_gate(
    start: Start, request_: InferenceRequest
) -> None:
    response = start().ask(request_)
    assert response.status_code == 200
    result = read(response, request_)
    assert isinstance(result, InferenceResult)
    check_document_identity(request_, result)


def test_the_same_request_is_worked_on_once(start: Start, request_: InferenceRequest) -> None:
    """However often and however much at once it is asked."""
    vendor = start(Behaviour.SLOW)
    answers: list[bytes] = []
    asks = [
        threading.Thread(target=lambda: answers.append(vendor.ask(request_).content))
        for _ in range(8)
    ]
    for ask in asks:
        ask.start()
    for ask in asks:
        ask.join(PATIENCE)
    other = replace(request_, request_id="another")
    vendor.ask(other)
    assert len(answers) == 8
    assert len(set(answers)) == 1
    statistics = vendor.statistics()
    assert statistics["computed"] == {request_.request_id: 1, "another": 1}
    assert statistics["counts"]["asked"] == 9


def test_a_slow_vendor_takes_its_time(start: Start, request_: InferenceRequest) -> None:
    begun = time.monotonic()
    assert start(Behaviour.SLOW, delay_seconds=0.6).ask(request_).status_code == 200
    assert time.monotonic() - begun >= 0.6


def test_a_polled_vendor_defers_and_has_the_answer_later(
    start: Start, request_: InferenceRequest
) -> None:
    vendor = start(Behaviour.POLL, delay_seconds=0.5)
    response = vendor.ask(request_)
    assert response.status_code == 202
    job = read(response, request_)
    assert isinstance(job, Deferred)
    assert job.job_reference
    where = f"{vendor.url}/{job.job_reference}"
    assert vendor.client.get(where).status_code == 202
    eventually(lambda: vendor.client.get(where).status_code == 200)
    assert isinstance(read(vendor.client.get(where), request_), InferenceResult)
    assert vendor.client.get(f"{vendor.url}/job-other").status_code == 404


def test_a_job_that_nobody_waits_for_is_gone(start: Start, request_: InferenceRequest) -> None:
    vendor = start(Behaviour.NEVER)
    job = read(vendor.ask(request_), request_)
    assert isinstance(job, Deferred)
    where = f"{vendor.url}/{job.job_reference}"
    time.sleep(0.3)
    assert vendor.client.get(where).status_code == 202
    assert vendor.client.delete(where).status_code == 204
    assert vendor.client.get(where).status_code == 404
    assert vendor.client.delete(where).status_code == 404
    assert vendor.statistics()["cancelled"] == 1


def test_unsuitable_and_failed_are_answers(start: Start, request_: InferenceRequest) -> None:
    assert isinstance(read(start(Behaviour.UNSUITABLE).ask(request_), request_), Unsuitable)
    with pytest.raises(RejectedError, match="internal-error"):
        read(start(Behaviour.FAILED).ask(request_), request_)


@pytest.mark.parametrize(
    ("behaviour", "told"),
    [
        (Behaviour.WRONG_STUDY, "StudyInstanceUID"),
        (Behaviour.WRONG_REQUEST, "request_id"),
        (Behaviour.WRONG_MODEL, "model"),
    ],
)
def test_an_answer_about_something_else_is_stopped_by_the_gate(
    start: Start, request_: InferenceRequest, behaviour: Behaviour, told: str
) -> None:
    result = read(start(behaviour).ask(request_), request_)
    assert isinstance(result, InferenceResult)
    with pytest.raises(IntegrityError, match=told):
        check_document_identity(request_, result)
    if behaviour is Behaviour.WRONG_STUDY:
        assert result.identity.study_instance_uid == WRONG_STUDY_INSTANCE_UID


@pytest.mark.parametrize(
    ("behaviour", "told"),
    [(Behaviour.GARBAGE, "findings.0.lateralty"), (Behaviour.NOT_JSON, "is not JSON")],
)
def test_what_breaks_the_contract_is_refused(
    start: Start, request_: InferenceRequest, behaviour: Behaviour, told: str
) -> None:
    response = start(behaviour).ask(request_)
    assert response.status_code == 200
    with pytest.raises(RejectedError, match=told):
        read(response, request_)


# --- misbehaviour ----------------------------------------------------------------------------


def test_statuses_are_as_told(start: Start, request_: InferenceRequest) -> None:
    assert start(Behaviour.HTTP_500).ask(request_).status_code == 500
    assert start(Behaviour.HTTP_401).ask(request_).status_code == 401
    busy = start(Behaviour.HTTP_429).ask(request_)
    assert (busy.status_code, busy.headers["retry-after"]) == (429, "1")


def test_only_the_first_requests_meet_the_behaviour(
    start: Start, request_: InferenceRequest
) -> None:
    vendor = start(Behaviour.HTTP_500, fail_first=2)
    assert [vendor.ask(request_).status_code for _ in range(4)] == [500, 500, 200, 200]
    vendor = start(Behaviour.GARBAGE, fail_first=1)
    with pytest.raises(RejectedError):
        read(vendor.ask(request_), request_)
    assert isinstance(read(vendor.ask(request_), request_), InferenceResult)
    assert vendor.statistics()["computed"] == {request_.request_id: 1}


def test_a_redirect_leads_to_where_somebody_counts(
    start: Start, request_: InferenceRequest
) -> None:
    vendor = start(Behaviour.REDIRECT)
    response = vendor.ask(request_)
    assert response.status_code == 307
    assert "redirected" not in vendor.statistics()["counts"]
    assert vendor.client.post(response.headers["location"], content=b"{}").status_code == 404
    assert vendor.statistics()["counts"]["redirected"] == 1


@pytest.mark.parametrize("behaviour", [Behaviour.CLOSE, Behaviour.LOST_REPLY])
def test_a_vendor_hangs_up(start: Start, request_: InferenceRequest, behaviour: Behaviour) -> None:
    vendor = start(behaviour)
    with pytest.raises(httpx.RemoteProtocolError):
        vendor.ask(request_)
    if behaviour is Behaviour.LOST_REPLY:
        assert isinstance(read(vendor.ask(request_), request_), InferenceResult)
        assert vendor.statistics()["computed"] == {request_.request_id: 1}
    else:
        assert vendor.statistics()["computed"] == {}


@pytest.mark.parametrize("behaviour", [Behaviour.HANG, Behaviour.DRIP])
def test_a_vendor_does_not_come_to_an_end(
    start: Start, request_: InferenceRequest, behaviour: Behaviour
) -> None:
    """It says nothing, or a byte now and then."""
    vendor = start(behaviour)
    pieces = []
    with (
        suppress(httpx.ReadTimeout),
        httpx.stream("POST", vendor.url, timeout=1.0, **asking(request_)) as response,
    ):
        until = time.monotonic() + 1.0
        for piece in response.iter_bytes():
            pieces.append(piece)
            if time.monotonic() > until:
                break
        else:
            pytest.fail("it came to an end")
    assert bool(pieces) == (behaviour is Behaviour.DRIP)
    assert all(len(piece) == 1 for piece in pieces)


def test_a_vendor_answers_without_end(start: Start, request_: InferenceRequest) -> None:
    vendor = start(Behaviour.HUGE)
    seen = 0
    with httpx.stream("POST", vendor.url, timeout=10, **asking(request_)) as response:
        for piece in response.iter_bytes():
            seen += len(piece)
            if seen > 32 << 20:
                break
    assert seen > 32 << 20


# --- webhooks --------------------------------------------------------------------------------


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with receiving() as receiver:
        yield receiver


def _checked(post: Any) -> str:
    headers = {name.lower(): value for name, value in post.headers.items()}
    return verified(headers, post.body, [KEY], datetime.now(UTC))


def _posts(
    vendor: Running, receiver: WebhookReceiver, request: InferenceRequest, count: int
) -> list[Any]:
    response = vendor.ask(request, callback_url=f"{receiver.url}/{request.request_id}")
    assert response.status_code == 202
    path = f"/{request.request_id}"
    eventually(lambda: len(receiver.to(path)) >= count)
    time.sleep(0.2)
    found = receiver.to(path)
    assert len(found) == count
    return found


def test_an_answer_is_posted_and_signed(
    start: Start, receiver: WebhookReceiver, request_: InferenceRequest
) -> None:
    vendor = start(Behaviour.LATE_WEBHOOK)
    (post,) = _posts(vendor, receiver, request_, 1)
    assert _checked(post).startswith("msg-")
    assert isinstance(
        decode_answer(post.body, request_, received_at=datetime.now(UTC)), InferenceResult
    )


def test_any_behaviour_can_answer_by_webhook(
    start: Start, receiver: WebhookReceiver, request_: InferenceRequest
) -> None:
    vendor = start(Behaviour.WRONG_STUDY, answering="webhook")
    (post,) = _posts(vendor, receiver, request_, 1)
    _checked(post)
    assert post.notice["study_instance_uid"] == WRONG_STUDY_INSTANCE_UID


def test_a_webhook_comes_twice_under_one_name(
    start: Start, receiver: WebhookReceiver, request_: InferenceRequest
) -> None:
    first, second = _posts(start(Behaviour.DUPLICATE_WEBHOOK), receiver, request_, 2)
    assert _checked(first) == _checked(second)


def test_a_webhook_without_or_with_an_old_signature(
    start: Start, receiver: WebhookReceiver, request_: InferenceRequest
) -> None:
    (post,) = _posts(start(Behaviour.UNSIGNED_WEBHOOK), receiver, request_, 1)
    with pytest.raises(RejectedError, match="not signed"):
        _checked(post)
    late = replace(request_, request_id="late")
    (post,) = _posts(start(Behaviour.OLD_WEBHOOK), receiver, late, 1)
    with pytest.raises(RejectedError, match="too old"):
        _checked(post)


def test_an_overheard_webhook_is_sent_again_and_to_another_request(
    start: Start, receiver: WebhookReceiver, request_: InferenceRequest
) -> None:
    vendor = start(Behaviour.REPLAYED_WEBHOOK)
    first, again = _posts(vendor, receiver, request_, 2)
    assert (first.body, first.headers["webhook-signature"]) == (
        again.body,
        again.headers["webhook-signature"],
    )
    other = replace(request_, request_id="another")
    foreign, own, _ = _posts(vendor, receiver, other, 3)
    assert foreign.body == first.body
    assert own.notice["request_id"] == "another"


def test_a_webhook_that_is_not_taken_is_sent_until_it_is(
    start: Start, receiver: WebhookReceiver, request_: InferenceRequest
) -> None:
    receiver.status = 503  # answers of this status have a length
    vendor = start(Behaviour.LATE_WEBHOOK)
    vendor.ask(request_, callback_url=f"{receiver.url}/x")
    eventually(lambda: len(receiver.to("/x")) >= 2)
    receiver.status = 204
    eventually(lambda: [w["status"] for w in vendor.statistics()["webhooks"]][-1:] == [204])
    names = {_checked(post) for post in receiver.to("/x")}
    assert len(names) == 1


def test_every_webhook_behaviour_has_a_test() -> None:
    assert len(BY_WEBHOOK) == 5


# --- who may, and what is read ---------------------------------------------------------------


def test_only_who_has_the_key_is_let_in(start: Start, request_: InferenceRequest) -> None:
    vendor = start(api_key=API_KEY)
    assert vendor.ask(request_).status_code == 401
    assert vendor.ask(request_, api_key="wrong").status_code == 401
    assert vendor.client.get(f"{vendor.url}/job").status_code == 401
    assert vendor.client.delete(f"{vendor.url}/job").status_code == 401
    assert vendor.ask(request_, api_key=API_KEY).status_code == 200
    shown = vendor.url.replace("/inference", "/received")
    assert httpx.get(shown).status_code == 401, "tokens for images stand in what it received"
    headers = asking(request_)["headers"] | {"X-API-Key": API_KEY}
    content = asking(request_)["content"]
    assert vendor.client.post(vendor.url, content=content, headers=headers).status_code == 200
    statistics = vendor.statistics()
    assert statistics["counts"]["unauthorized"] == 5
    assert statistics["computed"] == {request_.request_id: 1}


def test_what_is_no_request_of_the_contract_is_refused(
    start: Start, request_: InferenceRequest
) -> None:
    vendor = start()
    headers = {"Content-Type": "application/json", "Idempotency-Key": request_.request_id}
    body = encode_request(request_)
    for content, changed, told in (
        (b"{}", {}, "contract: is required"),
        (body.replace(b'"1.0"', b'"2.0"'), {}, "contract: must look like"),
        (body, {"Content-Type": "text/plain"}, "Content-Type"),
        (body, {"Idempotency-Key": "another"}, "Idempotency-Key"),
    ):
        answer = vendor.client.post(vendor.url, content=content, headers=headers | changed)
        assert answer.status_code == 422
        assert told in answer.json()["error"]
    assert vendor.client.post(f"{vendor.url}/x", content=body, headers=headers).status_code == 404
    assert vendor.statistics()["computed"] == {}
