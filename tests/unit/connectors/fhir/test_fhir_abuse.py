"""Requests that are wrong, hostile or too large: each is answered, in FHIR, and costs little."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import httpx
import pytest

from connectors.fhir.endpoint import refuse
from tests.fhir_source import FhirSource, fhir_source, outcome_texts
from tests.unit.connectors.fhir.messages import (
    ASKED,
    PERSON,
    bundle,
    observation,
    order_bundle,
    patient,
    posted,
    service_request,
    task,
)

Json = dict[str, Any]

CANARY = "Canary"


@pytest.fixture(scope="module")
def source() -> Iterator[FhirSource]:
    with fhir_source(maximum_bytes=4_000_000, maximum_entries=100) as running:
        yield running


TASK = json.dumps(task())
BODIES: dict[str, tuple[bytes, int, str]] = {
    "nothing": (b"", 400, "line 1, column 1"),
    "no JSON": (b'{"resourceType": "Task",\n nonsense}', 400, "line 2, column 2"),
    "half of it": (TASK[:-10].encode(), 400, "no JSON"),
    "a list": (b"[]", 400, "no JSON object"),
    "no UTF-8": (b'{"resourceType": "Task", "description": "\xff"}', 400, "no JSON"),
    "UTF-16": (TASK.encode("utf-16"), 400, "no JSON"),
    "half a character": (b'{"resourceType": "Task", "description": "\\ud800"}', 400, "no JSON"),
    "a zero byte": (TASK.replace("T-1", "T-\\u0000").encode(), 400, "control characters"),
    "a name twice": (
        b'{"resourceType": "Task", "status": "draft", "status": "requested"}',
        400,
        "has status twice",
    ),
    "a name twice, deep inside": (
        TASK.replace('"value": "P-7"', '"value": "P-8", "value": "P-7"').encode(),
        400,
        "has value twice",
    ),
    "no number": (b'{"resourceType": "Observation", "x": NaN}', 400, "no JSON"),
    "a number without end": (b'{"x": 1e999}', 400, "no JSON"),
    "digits without end": (b'{"x": ' + b"9" * 5000 + b"}", 400, "no JSON"),
    "depth": (b'{"a":' * 500 + b"1" + b"}" * 500, 400, "nested deeper"),
    "great depth": (b"[" * 100_000 + b"]" * 100_000, 400, "no JSON"),
    "no type": (b"{}", 400, "is no Task"),
    "another type": (json.dumps(observation()).encode(), 400, "the resource is no Task"),
    "too long": (b'{"x": "' + b"y" * 5_000_000 + b'"}', 413, "at most 4000000 bytes"),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_none(source: FhirSource, name: str) -> None:
    body, status, words = BODIES[name]
    answer = source.raw(body, "/Task")
    assert answer.status_code == status, answer.text
    assert words in outcome_texts(answer)[0]
    assert answer.headers["content-type"].startswith("application/fhir+json")


BUNDLES: dict[str, tuple[Json, int, str]] = {
    "a collection": (bundle([posted(task())], "collection"), 400, "transaction or batch"),
    "no type": ({"resourceType": "Bundle"}, 400, "transaction or batch"),
    "no bundle": (task(), 400, "only a Bundle"),
    "no list": ({"resourceType": "Bundle", "type": "batch", "entry": {}}, 400, "no list"),
    "no request": (bundle([{"resource": task()}]), 400, "no request"),
    "no entry": (bundle([1]), 400, "no request"),  # type: ignore[list-item]
    "no method": (bundle([posted(task(), method="BREW")]), 400, "no method"),
    "too many": (bundle([posted(task())] * 101), 413, "at most 100 entries"),
    "the same URL twice": (
        bundle([posted(task(), "urn:uuid:1"), posted(task(), "urn:uuid:1")]),
        400,
        "same fullUrl",
    ),
}


@pytest.mark.parametrize("name", BUNDLES)
def test_a_bundle_that_is_none(source: FhirSource, name: str) -> None:
    message, status, words = BUNDLES[name]
    answer = source.raw(json.dumps(message).encode())
    assert answer.status_code == status, answer.text
    assert words in outcome_texts(answer)[0]


REQUESTS: dict[str, tuple[str, str, dict[str, str], int]] = {
    "XML in": ("POST", "Task", {"Content-Type": "application/fhir+xml"}, 415),
    "no type of body": ("POST", "Task", {}, 415),
    "R5": ("POST", "Task", {"Content-Type": "application/fhir+json; fhirVersion=5.0"}, 415),
    "compressed": (
        "POST",
        "Task",
        {"Content-Type": "application/fhir+json", "Content-Encoding": "gzip"},
        415,
    ),
    "XML out": ("GET", "Task", {"Accept": "application/fhir+xml"}, 406),
    "XML out, by parameter": ("GET", "Task?_format=xml", {}, 406),
    "no such type": ("GET", "Encounter/1", {}, 404),
    "a type to search that is not there": ("GET", "Encounter", {}, 404),
    "no such id": ("GET", "Task/1", {}, 404),
    "an operation": ("GET", "Task/1/$run", {}, 404),
    "a path with dots": ("GET", "Task/..%2F..%2Fetc", {}, 404),
    "the root": ("GET", "", {}, 405),
    "a delete": ("DELETE", "Task/1", {}, 405),
    "a report sent": ("POST", "Device", {"Content-Type": "application/fhir+json"}, 405),
    "metadata sent": ("POST", "metadata", {"Content-Type": "application/fhir+json"}, 404),
    "unknown parameter": ("GET", "Task?colour=red", {"Prefer": "handling=strict"}, 400),
    "a patient by reference": ("GET", "Task?patient=Patient/1", {}, 400),
    "a strange page": ("GET", "Task?_cursor=../1", {}, 400),
    "a strange count": ("GET", "Task?_count=many", {}, 400),
    "very many parameters": ("GET", "Task?" + "a=1&" * 500, {}, 400),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_that_cannot_be(source: FhirSource, name: str) -> None:
    method, path, headers, status = REQUESTS[name]
    content = b"{}" if method == "POST" else None
    url = f"{source.url}/{path}"
    answer = source.client.request(method, url, headers=headers, content=content)
    assert answer.status_code == status, answer.text
    assert outcome_texts(answer)
    if status == 405:
        assert "Allow" in answer.headers


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "Task/1", "not-found"),
        ("GET", "Encounter/1", "not-found"),
        ("GET", "Task?_format=xml", "not-supported"),
        ("GET", "Task?_count=many", "value"),
        ("GET", "Task?colour=red", "not-supported"),
        ("DELETE", "Task/1", "not-supported"),
    ],
)
def test_the_code_of_an_outcome(source: FhirSource, method: str, path: str, code: str) -> None:
    headers = {"Prefer": "handling=strict"}
    answer = source.client.request(method, f"{source.url}/{path}", headers=headers)
    assert [issue["code"] for issue in answer.json()["issue"]] == [code]


def test_what_is_not_sent_to_the_end_harms_nobody(source: FhirSource) -> None:
    def pieces() -> Iterator[bytes]:
        yield b'{"resourceType":'
        raise OSError("the sender is gone")

    headers = {"Content-Type": "application/fhir+json"}
    with pytest.raises(OSError, match="gone"):
        httpx.post(f"{source.url}/Task", content=pieces(), headers=headers)
    assert source.get("metadata").is_success


def test_a_body_of_no_stated_length_is_measured(source: FhirSource) -> None:
    headers = {"Content-Type": "application/fhir+json"}
    pieces = (b"x" * 1_000_000 for _ in range(6))
    answer = source.client.post(f"{source.url}/Task", content=pieces, headers=headers)
    assert answer.status_code == 413


def test_more_at_once_than_can_be_served_are_told_to_come_again() -> None:
    with fhir_source() as source:
        headers = {"Content-Type": "application/fhir+json", "Content-Length": "10"}

        async def crowd() -> list[int]:
            limits = httpx.Limits(max_connections=200)

            async def slow() -> Any:
                yield b"{"
                await asyncio.sleep(2)
                yield b'"a": "b"}'

            async with httpx.AsyncClient(limits=limits, timeout=30) as client:
                url = f"{source.url}/Task"
                asked = [client.post(url, content=slow(), headers=headers) for _ in range(90)]
                return [answer.status_code for answer in await asyncio.gather(*asked)]

        found = asyncio.run(crowd())
        assert found.count(429) == 90 - 64
        assert source.get("metadata").is_success


def test_nothing_of_a_patient_stands_in_an_error(source: FhirSource) -> None:
    """Every element of a message is broken in turn."""
    message = order_bundle()
    message["entry"].append(posted(observation(subject={"reference": "x"})))
    places = _places(message)
    assert len(places) > 50
    for place in places:
        for wrong in ([CANARY], {"x": CANARY}, f"{CANARY}\u2028", 10**20, True, ""):
            broken = deepcopy(message)
            _put(broken, place, wrong)
            answer = source.post(broken)
            assert answer.status_code < 500, (place, wrong, answer.text)
            if not answer.is_success:
                assert CANARY not in answer.text
                assert "P-7" not in answer.text
                assert "19600203" not in answer.text
                assert outcome_texts(answer)


@pytest.mark.parametrize("seed", range(40))
def test_mutations_are_answered(source: FhirSource, seed: int) -> None:
    """Parts of messages in the places of others; never a fault of the hub's."""
    chance = random.Random(seed)
    merged = patient("P-8", link=[{"other": {"reference": PERSON}, "type": "replaced-by"}])
    parts = [*order_bundle()["entry"], posted(merged, ASKED), posted(service_request())]
    pool = [bundle(parts), bundle(parts, "batch"), patient(), observation(), merged]
    message = deepcopy(chance.choice(pool[:2]))
    for _ in range(chance.randint(1, 6)):
        places = _places(message)
        donor = chance.choice(pool)
        taken = _get(donor, chance.choice(_places(donor)))
        _put(message, chance.choice(places), deepcopy(taken))
    answer = source.raw(json.dumps(message).encode())
    assert answer.status_code < 500, answer.text
    if answer.is_success:
        statuses = [entry["response"]["status"] for entry in answer.json().get("entry", [])]
        assert not [status for status in statuses if status.startswith("5")]


def test_a_bundle_of_very_many_entries_is_refused_at_once() -> None:
    with fhir_source(maximum_bytes=1 << 26) as source:
        body = json.dumps(bundle([{}] * 200_000)).encode()
        started = time.perf_counter()
        answer = source.raw(body)
        assert answer.status_code == 413
        assert time.perf_counter() - started < 5


HUGE = {
    "very many wrong elements": observation(component=[1] * 1_000_000),
    "very many empty elements": observation(component=[{}] * 500_000),
    "very many unknown elements": {**observation(), **{f"k{n}": 1 for n in range(200_000)}},
    "very many contained": task(contained=[observation(id=str(n)) for n in range(5_000)]),
}


@pytest.mark.parametrize("name", HUGE)
def test_a_huge_resource_costs_little(name: str) -> None:
    with fhir_source() as source:
        started = time.perf_counter()
        answer = source.post(HUGE[name])
        assert answer.status_code == 400, answer.text
        assert answer.json()["issue"][0]["code"] == "too-costly"
        assert len(answer.content) < 100_000
        assert time.perf_counter() - started < 10


def test_the_door_refuses_in_fhir() -> None:
    kind, body = refuse(401, "a key is needed", "/fhir/Task")
    assert kind == "application/fhir+json"
    assert json.loads(body)["issue"][0]["code"] == "login"


Place = tuple[str | int, ...]


def _places(value: Any, at: Place = ()) -> list[Place]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    found: list[Place] = []
    for name, inner in pairs:
        found.append((*at, name))
        if isinstance(inner, dict | list):
            found += _places(inner, (*at, name))
    return found


def _get(value: Any, place: Place) -> Any:
    for step in place:
        value = value[step]
    return value


def _put(value: Any, place: Place, new: Any) -> None:
    _get(value, place[:-1])[place[-1]] = new


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "Task/1", {"GET", "HEAD", "PUT", "PATCH"}),
        ("DELETE", "Task", {"GET", "HEAD", "POST", "PUT"}),
        ("DELETE", "ServiceRequest/1", {"GET", "HEAD", "PUT"}),
        ("DELETE", "Observation/1", {"GET", "HEAD"}),
        ("DELETE", "Device/1", {"GET", "HEAD"}),
        ("GET", "", {"POST"}),
    ],
)
def test_a_method_that_is_not_offered_says_which_are(
    source: FhirSource, method: str, path: str, allowed: set[str]
) -> None:
    """RFC 9110 section 15.5.6."""
    answer = source.client.request(method, f"{source.url}/{path}")
    assert answer.status_code == 405
    assert set(answer.headers["Allow"].split(", ")) == allowed


def test_an_observation_at_an_id_is_told_what_can_be_done_there(source: FhirSource) -> None:
    body = observation(id="mine")
    headers = {"Content-Type": "application/fhir+json"}
    answer = source.client.put(f"{source.url}/Observation/mine", json=body, headers=headers)
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD")
