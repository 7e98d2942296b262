"""What vendors send and fetch by HTTP: what is answered, how long a message may be, who may."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import structlog
from fastapi.testclient import TestClient

from hub.bootstrap.vendor_door import RetrievalTokens, SignedDoor
from hub.bootstrap.vendor_requests import RequestImages, RequestOverError, VendorRequests
from hub.domain.inference import InferenceRequest
from hub.domain.study import Location
from hub.errors import IntegrityError, RejectedError, TransientError
from hub.store.callbacks import Taken
from hub.web.api.callbacks import MOST_BYTES
from hub.web.app import create_app
from tests.builders import chest_ct_study, request_for
from tests.fakes import FrozenClock
from tests.unit.web.keys import client_with_key
from tests.unit.web.test_app import context_over, database

__all__ = ["database"]

ID = "a" * 32
SIGNED = {"webhook-id": "m-1", "webhook-timestamp": "1", "webhook-signature": "v1,x"}
REQUEST = request_for(chest_ct_study())
INSTANCES = tuple(i for s in REQUEST.series for i in s.instances)


@dataclass
class FakeVendors:
    """As `hub.bootstrap.vendor_requests.VendorRequests`."""

    outcome: Taken | Exception = Taken.NEW
    unknown: Exception | None = None
    taken: list[tuple[object, Mapping[str, str], bytes]] = field(default_factory=list)

    def request(self, request_id: str) -> str:
        if self.unknown is not None:
            raise self.unknown
        return f"row {request_id}"

    def take(self, row: object, headers: Mapping[str, str], body: bytes) -> Taken:
        self.taken.append((row, headers, body))
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def images(self, request_id: str, token: str) -> RequestImages:
        assert request_id == ID
        if isinstance(self.outcome, Exception):
            raise self.outcome
        if token != "r.right":
            raise RejectedError("the token is not for this request")
        return RequestImages(INSTANCES, Files())


class Files:
    """`hub.ports.ObjectStore`"""

    def read(self, location: Location) -> bytes:
        return f"file at {location.offset}".encode()


@pytest.fixture
def vendors() -> FakeVendors:
    return FakeVendors()


@pytest.fixture
def client(database: object, vendors: FakeVendors) -> TestClient:
    context = replace(context_over(database), vendors=vendors)  # type: ignore[arg-type]
    return client_with_key(create_app(context), None)


# --- callbacks ----------------------------------------------------------------------------------


def test_a_message_is_handed_on_as_it_came(client: TestClient, vendors: FakeVendors) -> None:
    answer = client.post(f"/api/v1/callbacks/{ID}", content=b'{"x": 1}', headers=SIGNED)
    assert (answer.status_code, answer.json()) == (200, {"request_id": ID, "taken": "new"})
    ((row, headers, body),) = vendors.taken
    assert (row, body) == (f"row {ID}", b'{"x": 1}')
    assert SIGNED.items() <= headers.items()


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (Taken.AGAIN, 200),
        (Taken.REPLAYED, 409),
        (Taken.SECOND, 409),
        (Taken.NOT_ASKED, 409),
        (Taken.LATE, 410),
        (RejectedError("no signature is right"), 401),
        (TransientError("database: OperationalError"), 503),
    ],
)
def test_each_outcome_has_its_status(
    client: TestClient, vendors: FakeVendors, outcome: Taken | Exception, status: int
) -> None:
    vendors.outcome = outcome
    answer = client.post(f"/api/v1/callbacks/{ID}", content=b"{}", headers=SIGNED)
    assert answer.status_code == status
    if status != 200:
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (Taken.REPLAYED, "replayed-answer"),
        (Taken.SECOND, "second-answer"),
        (Taken.NOT_ASKED, "unasked-answer"),
        (Taken.LATE, "late-answer"),
        (RejectedError("no signature is right"), "wrong-signature"),
    ],
)
def test_what_is_refused_is_counted_and_logged_once_in_a_while(
    database: object, vendors: FakeVendors, outcome: Taken | Exception, reason: str
) -> None:
    vendors.outcome = outcome
    context = replace(context_over(database), vendors=vendors)  # type: ignore[arg-type]
    client = client_with_key(create_app(context), None)
    with structlog.testing.capture_logs() as lines:
        for _ in range(5):
            client.post(f"/api/v1/callbacks/{ID}", content=b"{}", headers=SIGNED)
    assert context.refusals.counts[reason] == 5
    assert [line["event"] for line in lines] == ["request refused", "callback.refused"]


def test_of_a_request_that_is_not_known_nothing_is_kept(
    client: TestClient, vendors: FakeVendors
) -> None:
    vendors.unknown = RejectedError("no request of yours")
    answer = client.post(f"/api/v1/callbacks/{ID}", content=b"{}", headers=SIGNED)
    assert (answer.status_code, vendors.taken) == (401, [])


def test_an_answer_may_be_long_and_not_longer(client: TestClient, vendors: FakeVendors) -> None:
    path = f"/api/v1/callbacks/{ID}"
    assert client.post(path, content=bytes(MOST_BYTES), headers=SIGNED).status_code == 200
    assert client.post(path, content=bytes(MOST_BYTES + 1), headers=SIGNED).status_code == 413
    assert len(vendors.taken) == 1


@pytest.mark.parametrize("missing", sorted(SIGNED))
def test_without_a_signature_nobody_is_asked(
    client: TestClient, vendors: FakeVendors, missing: str
) -> None:
    headers = {name: value for name, value in SIGNED.items() if name != missing}
    answer = client.post(f"/api/v1/callbacks/{ID}", content=b"{}", headers=headers)
    assert (answer.status_code, vendors.taken) == (401, [])


# --- images -------------------------------------------------------------------------------------

BASE = f"/api/v1/requests/{ID}/dicom-web/studies/{REQUEST.study.study_instance_uid}"
SERIES = f"{BASE}/series/{REQUEST.series[0].series_instance_uid}"
ONE = f"{SERIES}/instances/{INSTANCES[0].sop_instance_uid}"
TOKEN = {"Authorization": "Bearer r.right"}


@pytest.mark.parametrize(("path", "count"), [(BASE, 3), (SERIES, 3), (ONE, 1)])
def test_images_are_given_below_the_path(client: TestClient, path: str, count: int) -> None:
    answer = client.get(path, headers=TOKEN)
    assert answer.status_code == 200
    kind, _, boundary = answer.headers["content-type"].partition("; boundary=")
    assert kind == 'multipart/related; type="application/dicom"'
    parts = answer.content.split(f"--{boundary}".encode())
    assert (parts[0], parts[-1], len(parts)) == (b"", b"--\r\n", count + 2)
    assert all(b"Content-Type: application/dicom; transfer-syntax=1.2" in p for p in parts[1:-1])
    assert all(p.partition(b"\r\n\r\n")[2].startswith(b"file at ") for p in parts[1:-1])


def test_one_is_given_alone_where_that_is_accepted(client: TestClient) -> None:
    answer = client.get(ONE, headers={**TOKEN, "Accept": "application/dicom"})
    assert answer.headers["content-type"] == "application/dicom"
    assert answer.content.startswith(b"file at ")


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        (BASE.replace("2.25.1001", "2.25.1002"), TOKEN, 404),
        (f"{BASE}/series/2.25.1001.2", TOKEN, 404),
        (f"{SERIES}/instances/2.25.1001.1.9", TOKEN, 404),
        (f"{BASE}/metadata", TOKEN, 401),
        (SERIES, {**TOKEN, "Accept": "application/dicom+json"}, 406),
        (SERIES, {"Authorization": "Bearer r.wrong"}, 401),
        (SERIES, {"Authorization": "Bearer operator"}, 401),
        (SERIES, {"Authorization": "Basic r.right"}, 401),
        (SERIES, {}, 401),
    ],
)
def test_other_images_are_not(
    client: TestClient, path: str, headers: dict[str, str], status: int
) -> None:
    assert client.get(path, headers=headers).status_code == status


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RequestOverError("the request has ended"), 410),
        (IntegrityError("segment gone"), 500),
        (TransientError("database"), 503),
    ],
)
def test_why_there_are_no_images(
    client: TestClient, vendors: FakeVendors, error: Exception, status: int
) -> None:
    vendors.outcome = error
    assert client.get(SERIES, headers=TOKEN).status_code == status


# --- tokens -------------------------------------------------------------------------------------

NOON, ONE_OCLOCK = (datetime(2026, 1, 2, hour, tzinfo=UTC) for hour in (12, 13))


def test_a_token_is_for_one_request_and_a_time(tmp_path: Path) -> None:
    token = RetrievalTokens(tmp_path).issued(ID, ONE_OCLOCK)
    tokens = RetrievalTokens(tmp_path)  # another process
    assert tokens.opens(token, ID, NOON)
    assert not tokens.opens(token, "b" * 32, NOON)
    assert not tokens.opens(token, ID, ONE_OCLOCK)
    assert not tokens.opens(token.replace(".17", ".18"), ID, NOON)
    for wrong in ("", "r.", "r.1.2", token[:-1], f"{token}0", token.upper()):
        assert not tokens.opens(wrong, ID, NOON)


def test_another_hub_has_another_secret(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    token = RetrievalTokens(tmp_path / "other").issued(ID, ONE_OCLOCK)
    assert not RetrievalTokens(tmp_path).opens(token, ID, NOON)


def test_the_secret_is_the_hubs_own(tmp_path: Path) -> None:
    RetrievalTokens(tmp_path).issued(ID, ONE_OCLOCK)
    (file,) = tmp_path.iterdir()
    assert (file.stat().st_mode & 0o777, file.stat().st_size) == (0o600, 32)
    file.write_bytes(b"")
    with pytest.raises(IntegrityError, match="damaged"):
        RetrievalTokens(tmp_path).issued(ID, ONE_OCLOCK)


def test_the_door_tells_vendors_where(tmp_path: Path) -> None:
    door = SignedDoor("https://hub.example/", RetrievalTokens(tmp_path))
    request: InferenceRequest = replace(REQUEST, request_id=ID)
    given = door.images(request, ONE_OCLOCK.replace(microsecond=7))
    assert given.url == f"https://hub.example/api/v1/requests/{ID}/dicom-web"
    assert given.valid_until == ONE_OCLOCK
    assert RetrievalTokens(tmp_path).opens(given.authorization[7:], ID, NOON)
    assert given.authorization not in repr(given)
    assert door.callback_url(ID) == f"https://hub.example/api/v1/callbacks/{ID}"


def test_without_a_token_nobody_gets_as_far_as_the_database(tmp_path: Path) -> None:
    vendors = VendorRequests.__new__(VendorRequests)
    vendors._tokens = RetrievalTokens(tmp_path)
    vendors._hub = SimpleNamespace(clock=FrozenClock())  # type: ignore[assignment]  # no database
    end = FrozenClock().now() + timedelta(minutes=1)
    right = vendors._tokens.issued(ID, end)
    for token in ("", "r.", right[:-1] + "x", vendors._tokens.issued("b" * 32, end)):
        with pytest.raises(RejectedError, match="the token is not for this request"):
            vendors.images(ID, token)
    with pytest.raises(AttributeError, match="database"):
        vendors.images(ID, right)
