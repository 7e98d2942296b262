"""What takes an order back, and what only looks like it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hub.domain.inference import Priority
from hub.domain.order import OrderState
from tests.fhir_source import FhirSource, fhir_source, outcome_texts
from tests.unit.connectors.fhir.messages import service_request, task


@pytest.fixture
def source() -> Iterator[FhirSource]:
    with fhir_source() as running:
        yield running


CANCEL = {"op": "replace", "path": "/status", "value": "cancelled"}
PATCHES: dict[str, tuple[object, int]] = {
    "another element, too": ([CANCEL, {**CANCEL, "path": "/priority", "value": "stat"}], 422),
    "another status": ([{**CANCEL, "value": "completed"}], 422),
    "a question": ([{**CANCEL, "op": "test"}], 422),
    "a removal": ([{**CANCEL, "op": "remove"}], 422),
    "no value": ([{"op": "replace", "path": "/status"}], 422),
    "nothing": ([], 400),
    "no list": (CANCEL, 400),
    "very many": ([CANCEL] * 11, 400),
}


@pytest.mark.parametrize("name", PATCHES)
def test_a_patch_that_does_not_take_back_is_refused(source: FhirSource, name: str) -> None:
    location = source.post(task()).headers["Location"].split("/_history")[0]
    patch, status = PATCHES[name]
    headers = {"Content-Type": "application/json-patch+json"}
    answer = source.client.patch(location, json=patch, headers=headers)
    assert answer.status_code == status, answer.text
    assert outcome_texts(answer)
    (placed,) = source.orders.placed.values()
    assert (placed.state, placed.order.priority) == (OrderState.PLACED, Priority.ROUTINE)


def test_a_patch_says_that_it_is_one(source: FhirSource) -> None:
    location = source.post(task()).headers["Location"].split("/_history")[0]
    headers = {"Content-Type": "application/fhir+json"}
    assert source.client.patch(location, json=[CANCEL], headers=headers).status_code == 415


def test_a_task_is_not_taken_back_as_a_service_request(source: FhirSource) -> None:
    location = source.post(task()).headers["Location"].split("/_history")[0]
    headers = {"Content-Type": "application/fhir+json"}
    url = location.replace("/Task/", "/ServiceRequest/")
    answer = source.client.put(url, json=service_request(status="revoked"), headers=headers)
    assert answer.status_code == 404, answer.text
    (placed,) = source.orders.placed.values()
    assert placed.state is OrderState.PLACED


def test_two_sources_may_use_the_same_identifiers() -> None:
    with fhir_source(name="one") as one, fhir_source(name="other") as other:
        for source in (one, other):
            assert source.post(task()).status_code == 201
        assert one.orders.placed.keys() != other.orders.placed.keys()
        assert one.orders.messages != other.orders.messages
