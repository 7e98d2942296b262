"""What the hub expects of every source that is part of its HTTP server
(hub.ports.Connector.build_endpoint)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest

from connectors.dicomweb import CONNECTOR as DICOMWEB
from connectors.dicomweb.config import DicomWebSourceConfig
from connectors.fhir import CONNECTOR as FHIR
from connectors.fhir.config import FhirSourceConfig
from hub.ports import Connector, HttpEndpoint
from tests.contracts.recording import RecordingIntake
from tests.dicomweb_server import MemoryHoldings, serving
from tests.fhir_source import MemoryOrders, MemoryReports

PATH = "/a/path-of.its_own"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND")


@dataclass
class Harness:
    """An endpoint that is served."""

    connector: Connector
    endpoint: HttpEndpoint
    url: str


KINDS = {
    "dicomweb": (DICOMWEB, DicomWebSourceConfig(path=PATH), "application/problem+json"),
    "fhir": (FHIR, FhirSourceConfig(path=PATH), "application/fhir+json"),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def harness(kind: str) -> Iterator[Harness]:
    connector, config, _ = KINDS[kind]
    intake = RecordingIntake()
    context = replace(intake.context(), orders=MemoryOrders(), reports=MemoryReports())
    assert connector.build_endpoint is not None
    endpoint = connector.build_endpoint(config, context, MemoryHoldings(intake))
    with serving(endpoint.application) as port:
        yield Harness(connector, endpoint, f"http://127.0.0.1:{port}")


def test_it_is_a_source_and_has_no_port_of_its_own(harness: Harness) -> None:
    assert harness.connector.source_config is not None
    assert harness.connector.build_source is None


def test_it_is_served_where_the_configuration_says(harness: Harness) -> None:
    assert harness.endpoint.path == PATH


@pytest.mark.parametrize("path", ["", "/", "/none", "/none/1", "/none/1/2/3/4", "/%00", "/../.."])
@pytest.mark.parametrize("method", METHODS)
def test_every_request_is_answered_in_its_own_protocol(
    harness: Harness, kind: str, method: str, path: str
) -> None:
    answer = httpx.request(method, f"{harness.url}{PATH}{path}", content=b"x")
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400 and method != "HEAD":
        assert answer.headers["content-type"].startswith(KINDS[kind][2])
        json.loads(answer.content)


def test_what_is_no_http_is_left_alone(harness: Harness) -> None:
    async def called() -> list[Any]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            return {"type": "lifespan.startup"}

        await harness.endpoint.application({"type": "lifespan"}, receive, send)
        return sent

    assert asyncio.run(called()) == []


def test_the_door_can_refuse_in_its_words(harness: Harness, kind: str) -> None:
    if harness.endpoint.refuse is not None:
        media_type, body = harness.endpoint.refuse(401, "a key is needed", f"{PATH}/1")
        assert media_type == KINDS[kind][2]
        assert "a key is needed" in json.dumps(json.loads(body))
