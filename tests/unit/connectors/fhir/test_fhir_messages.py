"""Bundles: all or nothing, each for itself, what is not kept, and conditional creates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import httpx
import pytest

from hub.domain.patient import PatientChangeKind
from hub.errors import TransientError
from tests.fhir_source import FhirSource, fhir_source, outcome_texts
from tests.unit.connectors.fhir.messages import (
    ASKED,
    PERSON,
    UID,
    VALUE,
    WISH,
    bundle,
    imaging_study,
    observation,
    order_bundle,
    patient,
    posted,
    service_request,
    task,
)

Json = dict[str, Any]

LABORATORY = "https://lab.example"
ENCOUNTER = {"resourceType": "Encounter", "status": "finished", "class": {"code": "AMB"}}


@pytest.fixture
def source() -> Iterator[FhirSource]:
    with fhir_source() as running:
        yield running


def statuses(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [entry["response"]["status"][:3] for entry in answer.json()["entry"]]


def remarks(answer: httpx.Response) -> list[str]:
    """What each entry's outcome says; empty: it has none."""
    outcomes = [entry["response"].get("outcome") for entry in answer.json()["entry"]]
    return [one["issue"][0]["details"]["text"] if one else "" for one in outcomes]


def known_value(identifier: str, **more: Any) -> Json:
    return observation(identifier=[{"system": LABORATORY, "value": identifier}], **more)


# --- transactions ------------------------------------------------------------------------


def test_the_answer_tells_of_every_entry_in_the_order_of_the_message(source: FhirSource) -> None:
    message = order_bundle()
    message["entry"] += [posted(observation(subject={"reference": PERSON}), VALUE)]
    message["entry"] += [posted(ENCOUNTER)]
    answer = source.post(message)
    assert answer.json()["type"] == "transaction-response"
    assert statuses(answer) == ["200", "200", "201", "201", "200"]
    assert remarks(answer) == [
        "read as the subject of others; no Patient is kept",
        "4 instances are expected; the ImagingStudy itself is not kept",
        "",
        "",
        "not kept: the hub keeps no Encounter",
    ]
    responses = [entry["response"] for entry in answer.json()["entry"]]
    (order_id,), (value_id,) = source.orders.placed, source.orders.values
    assert responses[2]["location"].startswith(f"Task/{order_id}/_history/")
    assert responses[2]["etag"].startswith('W/"')
    assert responses[3]["location"] == f"Observation/{value_id}/_history/1"
    assert "resource" not in answer.json()["entry"][2]


def test_resources_come_back_where_the_client_wants_them(source: FhirSource) -> None:
    answer = source.post(order_bundle(), Prefer="return=representation")
    shown = [entry.get("resource", {}).get("resourceType") for entry in answer.json()["entry"]]
    assert shown == [None, None, "Task"]


def test_the_same_transaction_again_changes_nothing(source: FhirSource) -> None:
    message = bundle([posted(known_value("L-1"), VALUE), posted(task(), WISH)])
    assert statuses(source.post(message)) == ["201", "201"]
    assert statuses(source.post(deepcopy(message))) == ["200", "200"]
    assert (len(source.orders.placed), len(source.orders.values)) == (1, 1)
    assert len(set(source.orders.messages)) == 1, "a message that is sent again has its old name"


BAD = {
    "a bad code": posted(observation(status="finished")),
    "a foreign patient": posted(observation(subject={"reference": "Patient/1"})),
    "an order that is none": posted(task(status="draft")),
    "a delete": {"request": {"method": "DELETE", "url": "Task/1"}},
    "another type than the URL's": posted(observation())
    | {"request": {"method": "POST", "url": "Task"}},
    "a condition that cannot be": posted(observation(), ifNoneExist="code=1"),
    "an id of the client's": posted(observation())
    | {"request": {"method": "PUT", "url": "Observation/mine"}},
    "a route that is not there": posted(
        task(input=[{"type": {"text": "route"}, "valueString": "no-such-route"}])
    ),
}


@pytest.mark.parametrize("position", [0, 3])
@pytest.mark.parametrize("name", BAD)
def test_one_bad_entry_and_nothing_of_a_transaction_is_done(
    source: FhirSource, name: str, position: int
) -> None:
    good = [posted(patient(), PERSON), posted(imaging_study()), posted(known_value("L-1"))]
    good.insert(position, BAD[name])
    answer = source.post(bundle(good))
    assert answer.is_client_error, answer.text
    assert outcome_texts(answer)
    assert not source.orders.values
    assert not source.orders.placed
    assert source.knowledge.expectations == []


def test_every_mistake_of_a_transaction_is_named_with_its_place(source: FhirSource) -> None:
    wrong = [posted(observation(status="finished")), posted(task(colour=1)), posted(ENCOUNTER)]
    issues = source.post(bundle(wrong)).json()["issue"]
    assert [issue["expression"] for issue in issues] == [
        ["Bundle.entry[0].resource.status"],
        ["Bundle.entry[1].resource.colour"],
    ]


def test_of_very_many_mistakes_the_first_are_named(source: FhirSource) -> None:
    wrong = [posted(observation(status="finished"))] * 50
    places = [issue["expression"] for issue in source.post(bundle(wrong)).json()["issue"]]
    assert places == [[f"Bundle.entry[{number}].resource.status"] for number in range(20)]


def test_reading_within_a_transaction_sees_what_it_wrote(source: FhirSource) -> None:
    read = {"request": {"method": "GET", "url": "Task?identifier=T-1"}}
    answer = source.post(bundle([read, posted(task(), WISH)]))
    found = answer.json()["entry"][0]["resource"]
    assert [entry["resource"]["status"] for entry in found["entry"]] == ["accepted"]
    assert statuses(answer) == ["200", "201"]


def test_what_the_hub_cannot_record_now_is_told_to_come_again(source: FhirSource) -> None:
    source.orders.error = TransientError("the database is away", retry_after=7)
    answer = source.post(order_bundle())
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "7")
    assert answer.json()["issue"][0]["code"] == "transient"
    assert source.knowledge.expectations == [], "the order comes first: nothing is half done"


def test_types_that_are_not_kept_can_be_refused() -> None:
    with fhir_source(unknown_resources="refuse") as source:
        answer = source.post(bundle([posted(ENCOUNTER), posted(task())]))
        assert answer.status_code == 422
        assert source.orders.placed == {}


def test_a_plain_request_in_a_bundle_is_no_order(source: FhirSource) -> None:
    plain = service_request()
    del plain["supportingInfo"]
    answer = source.post(bundle([posted(plain), posted(task())]))
    assert statuses(answer) == ["200", "201"]
    assert remarks(answer)[0].startswith("not kept: no order for AI")
    with fhir_source(unknown_resources="refuse") as strict:
        assert strict.post(bundle([posted(plain), posted(task())])).status_code == 422


# --- batches -----------------------------------------------------------------------------


def test_each_entry_of_a_batch_stands_for_itself(source: FhirSource) -> None:
    wrong_route = task(
        identifier=[{"value": "T-2"}],
        input=[{"type": {"text": "route"}, "valueString": "no-such-route"}],
    )
    entries = [
        posted(observation(status="finished")),
        posted(known_value("L-1")),
        posted(wrong_route),
        posted(task()),
        {"request": {"method": "GET", "url": "Task/none"}},
        {"request": {"method": "DELETE", "url": "Task/none"}},
        {"request": {"method": "GET", "url": "metadata"}},
    ]
    answer = source.post(bundle(entries, "batch"))
    assert answer.json()["type"] == "batch-response"
    assert statuses(answer) == ["400", "201", "422", "201", "404", "405", "200"]
    assert (len(source.orders.values), len(source.orders.placed)) == (1, 1)


def test_values_of_a_batch_are_kept_in_one_piece(source: FhirSource) -> None:
    entries = [posted(known_value(f"L-{number}")) for number in range(5)]
    assert statuses(source.post(bundle(entries, "batch"))) == ["201"] * 5
    assert len(source.orders.messages) == 1


def test_a_batch_of_nothing_that_can_be_kept_now(source: FhirSource) -> None:
    source.orders.error = TransientError("the database is away")
    answer = source.post(bundle([posted(observation()), posted(patient())], "batch"))
    assert statuses(answer) == ["503", "200"]


# --- conditional create ------------------------------------------------------------------


@pytest.mark.parametrize("resource", [task(), known_value("T-1")], ids=["Task", "Observation"])
def test_conditional_create(source: FhirSource, resource: Json) -> None:
    system = resource["identifier"][0]["system"]
    condition = f"identifier={system}|T-1"
    first = source.post(resource, If_None_Exist=condition)
    changed = deepcopy(resource)
    changed.pop("identifier")
    changed["note" if resource["resourceType"] == "Observation" else "description"] = (
        [{"text": "other"}] if resource["resourceType"] == "Observation" else "other"
    )
    second = source.post(changed, If_None_Exist=condition)
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.headers["Location"] == second.headers["Location"]
    message = bundle([posted(changed, ifNoneExist=condition)])
    assert statuses(source.post(message)) == ["200"]


@pytest.mark.parametrize("make", [task, observation])
def test_several_that_fit_a_condition_are_an_error(
    source: FhirSource, make: Callable[..., Json]
) -> None:
    for system in ("urn:a", "urn:b"):
        made = source.post(make(identifier=[{"system": system, "value": "T-1"}]))
        assert made.status_code == 201
    answer = source.post(make(), If_None_Exist="identifier=T-1")
    assert answer.status_code == 412
    assert answer.json()["issue"][0]["code"] == "multiple-matches"


def test_a_condition_is_about_resources_of_its_own_type(source: FhirSource) -> None:
    """One number may name the request and the Task that fulfils it."""
    named = [{"system": "urn:a", "value": "N-1"}]
    for expected in (201, 200):
        for one in (task(identifier=named), service_request(identifier=named)):
            answer = source.post(one, If_None_Exist="identifier=urn:a|N-1")
            assert answer.status_code == expected, answer.text
            assert answer.json()["resourceType"] == one["resourceType"]
    assert len(source.orders.placed) == 2


@pytest.mark.parametrize("condition", ["status=final", "identifier=", "identifier=a|1&code=2"])
def test_conditions_that_cannot_be_judged_are_refused(source: FhirSource, condition: str) -> None:
    answer = source.post(task(), If_None_Exist=condition)
    assert answer.status_code in (400, 412)
    assert source.orders.placed == {}


# --- studies, values and patients of their own --------------------------------------------


def test_a_study_alone_tells_what_to_wait_for(source: FhirSource) -> None:
    answer = source.post(imaging_study())
    assert answer.status_code == 200
    assert outcome_texts(answer) == [
        "4 instances are expected; the ImagingStudy itself is not kept"
    ]
    (expected,) = source.knowledge.expectations
    assert expected.study_instance_uid == UID


def test_a_study_that_tells_nothing_is_refused_alone(source: FhirSource) -> None:
    study = imaging_study()
    del study["numberOfInstances"]
    assert source.post(study).status_code == 422
    assert statuses(source.post(bundle([posted(study)]))) == ["200"]
    assert source.knowledge.expectations == []


def test_a_value_alone(source: FhirSource) -> None:
    answer = source.post(known_value("L-1"))
    assert answer.status_code == 201
    (value,) = source.orders.values.values()
    assert (value.value, value.patient.key, value.source) == (21.9, ("P-7", "UMR"), "ehr")
    assert answer.json()["valueQuantity"]["value"] == 21.9
    assert source.post(known_value("L-1")).status_code == 200


def test_a_value_is_updated_by_its_identifier(source: FhirSource) -> None:
    source.post(known_value("L-1"))
    corrected = known_value("L-1", value=31.0, status="corrected")
    url = f"{source.url}/Observation?identifier={LABORATORY}|L-1"
    headers = {"Content-Type": "application/fhir+json"}
    assert source.client.put(url, json=corrected, headers=headers).status_code == 201
    assert [one.value for one in source.orders.values.values()] == [21.9, 31.0]


def test_where_a_value_stands_is_kept(source: FhirSource) -> None:
    url = "https://ehr.example/fhir/Observation/7"
    source.post(bundle([posted(observation(), url), posted(observation("6768-6"), VALUE)]))
    assert [one.reference for one in source.orders.values.values()] == [url, ""]


def test_a_patient_alone_is_only_somebody(source: FhirSource) -> None:
    """A create may name a part of the person's data: it never renames anybody."""
    assert outcome_texts(source.post(patient())) == [
        "read as the subject of others; no Patient is kept"
    ]
    assert source.knowledge.changes == []


def test_an_update_of_a_patient_is_told_to_the_results(source: FhirSource) -> None:
    headers = {"Content-Type": "application/fhir+json"}
    answer = source.client.put(f"{source.url}/Patient/1", json=patient(id="1"), headers=headers)
    assert answer.status_code == 200
    (change,) = source.knowledge.changes
    assert (change.kind, change.patient_id) == (PatientChangeKind.UPDATED, "P-7")
    assert change.current.patient_name == "Canary^Yellow"


def test_a_merge_is_told_to_the_results(source: FhirSource) -> None:
    gone = patient("P-8", link=[{"other": {"reference": PERSON}, "type": "replaced-by"}])
    answer = source.post(bundle([posted(patient(), PERSON), posted(gone, ASKED)]))
    assert statuses(answer) == ["200", "200"]
    (change,) = source.knowledge.changes
    assert (change.kind, change.patient_id) == (PatientChangeKind.MERGED, "P-8")
    assert change.current.key == ("P-7", "UMR")


def test_a_merge_into_nobody_is_refused(source: FhirSource) -> None:
    link = [{"other": {"reference": "Patient/9"}, "type": "replaced-by"}]
    answer = source.post(patient(link=link))
    assert answer.status_code == 422
    assert source.knowledge.changes == []
