"""Tasks and ServiceRequests as orders: what is read out of them, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from hub.domain.inference import Priority
from hub.domain.order import Order, OrderState, OrderSubject
from tests.fhir_source import NOW, PATIENTS, FhirSource, fhir_source, outcome_texts
from tests.unit.connectors.fhir.messages import (
    ASKED,
    IMAGES,
    PERSON,
    UID,
    VALUE,
    WISH,
    bundle,
    identified,
    imaging_study,
    numbered,
    observation,
    order_bundle,
    patient,
    posted,
    service_request,
    study_by_uid,
    task,
    value_input,
)

Json = dict[str, Any]

ENDPOINT = "https://pacs.example/dicom-web"


@pytest.fixture
def source() -> Iterator[FhirSource]:
    with fhir_source() as running:
        yield running


def ordered(source: FhirSource, message: Json) -> Order:
    """The one order that a message places."""
    answer = source.post(message)
    assert answer.is_success, answer.text
    (placed,) = source.orders.placed.values()
    return placed.order


# --- what is read ------------------------------------------------------------------------


def test_a_task_by_identifiers_alone(source: FhirSource) -> None:
    order = ordered(source, task())
    assert order.subject is OrderSubject.STUDY
    assert order.study_instance_uid == UID
    assert order.patient.key == ("P-7", "UMR")
    assert order.source == "ehr"
    assert order.priority is Priority.ROUTINE
    assert (order.ordered_at, order.deadline, order.route, order.endpoint) == (NOW, None, "", "")
    assert orjson.loads(order.resource)["identifier"] == task()["identifier"]


def test_a_transaction_whose_parts_refer_to_each_other(source: FhirSource) -> None:
    order = ordered(source, order_bundle())
    assert order.patient.patient_name == "Canary^Yellow"
    assert order.patient.patient_birth_date == "19600203"
    assert order.patient.patient_sex == "F"
    assert (order.study_instance_uid, order.number_of_instances) == (UID, 4)
    (expected,) = source.knowledge.expectations
    assert (expected.study_instance_uid, expected.number_of_instances) == (UID, 4)


CONTAINED = task(
    contained=[patient(id="p"), imaging_study(id="s", subject={"reference": "#p"})],
    **{"for": {"reference": "#p"}, "focus": {"reference": "#s"}},
)
RELATIVE = bundle(
    [
        posted(patient(id="p1"), "https://ehr.example/fhir/Patient/p1"),
        posted(
            imaging_study(id="s1", subject={"reference": "Patient/p1"}),
            "https://ehr.example/fhir/ImagingStudy/s1",
        ),
        posted(
            task(
                **{
                    "for": {"reference": "Patient/p1"},
                    "focus": {"reference": "https://ehr.example/fhir/ImagingStudy/s1/_history/2"},
                }
            ),
            "https://ehr.example/fhir/Task/t1",
        ),
    ]
)
ELSEWHERE = task(
    focus={"reference": "https://ehr.example/fhir/ImagingStudy/9", **study_by_uid()},
)
CONDITIONAL = task(**{"for": {"reference": f"Patient?identifier={PATIENTS}|P-7"}})
BY_INPUT = {
    **{name: value for name, value in task().items() if name != "focus"},
    "input": [value_input(study_by_uid())],
}
BY_REQUEST = bundle(
    [
        posted(service_request(), ASKED),
        posted(task(focus={"reference": ASKED}), WISH),
    ]
)


@pytest.mark.parametrize(
    "message",
    [CONTAINED, RELATIVE, ELSEWHERE, CONDITIONAL, BY_INPUT, BY_REQUEST, service_request()],
    ids=["contained", "relative", "elsewhere", "conditional", "input", "request", "no task"],
)
def test_every_way_to_refer_leads_to_study_and_patient(source: FhirSource, message: Json) -> None:
    order = ordered(source, message)
    assert (order.study_instance_uid, order.patient.key) == (UID, ("P-7", "UMR"))


@pytest.mark.parametrize(
    ("word", "priority"),
    [
        ("routine", Priority.ROUTINE),
        ("urgent", Priority.URGENT),
        ("asap", Priority.URGENT),
        ("stat", Priority.STAT),
    ],
)
def test_priorities(source: FhirSource, word: str, priority: Priority) -> None:
    assert ordered(source, task(priority=word)).priority is priority


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-22T12:00:00+01:00", datetime(2026, 11, 22, 11, tzinfo=UTC)),
        ("2026-11-23", datetime(2026, 11, 23, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_the_deadline(source: FhirSource, text: str, moment: datetime) -> None:
    order = ordered(source, task(restriction={"period": {"end": text}}))
    assert order.deadline == moment


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-20T08:00:00Z", datetime(2026, 11, 20, 8, tzinfo=UTC)),
        ("2026-11-23T08:00:00Z", NOW),
        ("2026-11-20", NOW),
    ],
    ids=["said", "in the future", "a mere day"],
)
def test_the_moment_of_the_order(source: FhirSource, text: str, moment: datetime) -> None:
    assert ordered(source, task(authoredOn=text)).ordered_at == moment


@pytest.mark.parametrize("kind", [{"text": "route"}, {"coding": [{"code": "route"}]}])
def test_the_route_that_is_asked_for(source: FhirSource, kind: Json) -> None:
    order = ordered(source, task(input=[{"type": kind, "valueString": "chest-ct"}]))
    assert order.route == "chest-ct"


def test_numbers_of_the_request_that_a_task_fulfils(source: FhirSource) -> None:
    """The request is not an order of its own: there is one Task, and one order."""
    accession = numbered("ACSN", "A-77", "https://ris.example/accession")
    asked = service_request()
    asked["identifier"].append(accession)
    message = bundle(
        [posted(asked, ASKED), posted(task(basedOn=[{"reference": ASKED}]), WISH)],
    )
    order = ordered(source, message)
    assert order.placer_order_number == ("https://ehr.example/orders", "PL-9")
    assert order.filler_order_number == ("https://ris.example/orders", "FI-9")
    assert order.accession_number == "A-77"
    (based_on,) = map(orjson.loads, order.based_on)
    assert based_on["type"] == "ServiceRequest"
    assert based_on["identifier"]["value"] == "PL-9"


def test_based_on_what_only_the_record_has(source: FhirSource) -> None:
    references = [
        {"reference": "ServiceRequest/12", "display": "for Yellow Canary"},
        {"reference": "Task/9"},
    ]
    order = ordered(source, task(basedOn=references))
    assert order.based_on == ('{"reference":"ServiceRequest/12"}',)


def test_the_endpoint_of_the_study(source: FhirSource) -> None:
    study = imaging_study(
        id="s",
        subject=identified(),
        endpoint=[{"reference": "#e"}],
    )
    endpoint = {
        "resourceType": "Endpoint",
        "id": "e",
        "status": "active",
        "connectionType": {"code": "dicom-wado-rs"},
        "payloadType": [{"text": "DICOM"}],
        "address": f"{ENDPOINT}/",
    }
    message = task(contained=[study, endpoint], focus={"reference": "#s"})
    assert ordered(source, message).endpoint == ENDPOINT


def test_values_in_the_message_and_values_sent_before(source: FhirSource) -> None:
    named = observation("1742-6", identifier=[{"system": "https://lab.example", "value": "L-1"}])
    early = source.post(named)
    told = [
        value_input({"reference": VALUE}),
        value_input({"reference": "#c"}),
        value_input({"reference": early.headers["Location"].split("/fhir/")[1].split("/_")[0]}),
        value_input({"type": "Observation", "identifier": named["identifier"][0]}),
    ]
    wish = task(contained=[observation("2160-0", 0.9, "mg/dL", id="c")], input=told)
    del wish["focus"]
    order = ordered(source, bundle([posted(observation(), VALUE), posted(wish, WISH)]))
    assert order.subject is OrderSubject.OBSERVATIONS
    found = [one.codes[0].code_value for one in order.observations]
    assert found == ["1920-8", "2160-0", "1742-6", "1742-6"]
    assert order.study_instance_uid.startswith("2.25.")
    assert len(source.orders.values) == 2


def test_the_members_of_a_panel_and_the_results_of_a_report_are_followed(
    source: FhirSource,
) -> None:
    panel = observation(hasMember=[{"reference": VALUE}])
    laboratory = {
        "resourceType": "DiagnosticReport",
        "id": "lab",
        "status": "final",
        "code": {"text": "Liver"},
        "subject": identified(),
        "result": [{"reference": ASKED}, {"reference": ASKED}],
    }
    wish = task(contained=[laboratory], focus={"reference": "#lab"})
    entries = [posted(observation("6768-6"), VALUE), posted(panel, ASKED), posted(wish, WISH)]
    order = ordered(source, bundle(entries))
    assert [one.codes[0].code_value for one in order.observations] == ["1920-8", "6768-6"]


def test_a_task_without_inputs_is_about_values_of_the_record(source: FhirSource) -> None:
    wish = task()
    del wish["focus"]
    order = ordered(source, wish)
    assert (order.subject, order.observations) == (OrderSubject.OBSERVATIONS, ())


def test_references_in_a_circle_end(source: FhirSource) -> None:
    one = observation(hasMember=[{"reference": VALUE}, {"reference": ASKED}])
    other = observation("6768-6", hasMember=[{"reference": VALUE}])
    wish = task(focus={"reference": VALUE})
    order = ordered(source, bundle([posted(one, VALUE), posted(other, ASKED), posted(wish)]))
    assert len(order.observations) == 2


# --- what is refused ---------------------------------------------------------------------

Change = Callable[[Json], None]


def _set(**fields: Any) -> Change:
    return lambda message: message.update(fields)


OTHER = "is to another patient"
REFUSED: dict[str, tuple[Json, int, str]] = {
    "already accepted": (task(status="accepted"), 422, "Task.status"),
    "a draft": (task(status="draft"), 422, "Task.status"),
    "a proposal": (task(intent="proposal"), 422, "Task.intent"),
    "no code of R4": (task(status="wanted"), 400, "no code of R4"),
    "priority": (task(priority="soon"), 400, "no code of R4"),
    "no status": ({k: v for k, v in task().items() if k != "status"}, 400, "status is missing"),
    "unknown element": (task(colour="red"), 400, "no element of R4"),
    "an empty element": (task(code={}), 400, "empty"),
    "a null": (task(description=None), 400, "empty"),
    "another deed": (
        task(code={"coding": [{"system": "urn:caidx:task-codes", "code": "delete"}]}),
        422,
        "something else",
    ),
    "abort": (
        task(
            code={
                "coding": [{"system": "http://hl7.org/fhir/CodeSystem/task-code", "code": "abort"}]
            }
        ),
        422,
        "something else",
    ),
    "a patient of an unknown system": (
        task(**{"for": identified(system="urn:elsewhere")}),
        422,
        "identifier_systems",
    ),
    "a patient of no system in a hub that knows some": (
        task(**{"for": {"reference": "Patient/1"}}),
        422,
        "put an identifier beside",
    ),
    "for a group": (task(**{"for": {"reference": "Group/1"}}), 422, "leads to a Group"),
    "a study elsewhere": (task(focus={"reference": "ImagingStudy/1"}), 422, "identifier beside"),
    "a contained study that is not there": (task(focus={"reference": "#x"}), 422, "contained"),
    "an entry that is not there": (task(focus={"reference": IMAGES}), 422, "leads to no entry"),
    "no DICOM UID": (task(focus=study_by_uid("1.2.x")), 422, "no DICOM UID"),
    "two studies": (
        task(input=[value_input(study_by_uid("1.2.3"))]),
        422,
        "one study",
    ),
    "a value that nobody sent": (
        task(input=[value_input({"reference": "Observation/4711"})]),
        422,
        "nor was it sent before",
    ),
    "a document": (
        task(input=[value_input({"reference": "DocumentReference/1"})]),
        422,
        "cannot read",
    ),
    "two routes": (
        task(input=[{"type": {"text": "route"}, "valueString": name} for name in ("a", "b")]),
        422,
        "one route",
    ),
    "a route that is not there": (
        task(input=[{"type": {"text": "route"}, "valueString": "no-such-route"}]),
        422,
        "no such route",
    ),
    "a deadline in the past": (
        task(restriction={"period": {"end": (NOW - timedelta(hours=1)).isoformat()}}),
        422,
        "passed already",
    ),
    "a withdrawn study": (
        task(
            contained=[imaging_study(id="s", subject=identified(), status="entered-in-error")],
            focus={"reference": "#s"},
        ),
        422,
        "withdrawn",
    ),
    "a plain request": (
        {k: v for k, v in service_request().items() if k != "supportingInfo"},
        422,
        "no order for AI",
    ),
    "a revoked request": (service_request(status="revoked"), 422, "ServiceRequest.status"),
    "two accession numbers": (
        task(
            contained=[
                imaging_study(
                    id="s",
                    subject=identified(),
                    identifier=[
                        imaging_study()["identifier"][0],
                        numbered("ACSN", "A-1", "urn:a"),
                        numbered("ACSN", "A-2", "urn:a"),
                    ],
                )
            ],
            focus={"reference": "#s"},
        ),
        422,
        "different accession numbers",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_order_is_refused_and_nothing_is_recorded(source: FhirSource, name: str) -> None:
    message, status, words = REFUSED[name]
    answer = source.post(message)
    assert answer.status_code == status, answer.text
    assert any(words in text for text in outcome_texts(answer)), answer.text
    assert source.orders.placed == {}
    assert not source.orders.values


WRONG_PATIENT = {
    "the study's": order_bundle(**{"for": identified("P-8")}),
    "a value's": bundle(
        [
            posted(observation(subject=identified("P-8")), VALUE),
            posted(task(input=[value_input({"reference": VALUE})]), WISH),
        ]
    ),
    "the request's": bundle(
        [
            posted(service_request(subject=identified("P-8")), ASKED),
            posted(task(basedOn=[{"reference": ASKED}]), WISH),
        ]
    ),
    "the identifier beside the reference": bundle(
        [
            posted(patient(), PERSON),
            posted(task(**{"for": {"reference": PERSON, **identified("P-8")}}), WISH),
        ]
    ),
    "one that only the record knows": task(
        contained=[imaging_study(id="s", subject={"reference": "Patient/1"})],
        focus={"reference": "#s"},
    ),
}


@pytest.mark.parametrize("name", WRONG_PATIENT)
def test_nothing_of_two_patients_is_ordered(source: FhirSource, name: str) -> None:
    answer = source.post(WRONG_PATIENT[name])
    assert answer.status_code == 422
    assert source.orders.placed == {}
    assert "P-8" not in answer.text


def test_a_patient_with_two_identifiers_is_one_patient() -> None:
    with fhir_source(issuers={PATIENTS: "UMR", "urn:second": "SECOND"}) as source:
        both = patient()
        both["identifier"].append({"system": "urn:second", "value": "S-1"})
        message = order_bundle(**{"for": identified("S-1", "urn:second")})
        message["entry"][0]["resource"] = both
        message["entry"].append(posted(observation(subject={"reference": PERSON}), VALUE))
        message["entry"][2]["resource"]["input"] = [value_input({"reference": VALUE})]
        order = ordered(source, message)
        assert order.patient.key == ("S-1", "SECOND")
        assert [one.patient.key for one in order.observations] == [("S-1", "SECOND")]


def test_identifiers_without_a_system_where_the_source_says_so() -> None:
    wish = task(**{"for": {"identifier": {"value": "P-7"}}})
    with fhir_source() as source:
        assert ordered(source, wish).patient.key == ("P-7", "")
    with fhir_source(patient_identifier_system="urn:here") as source:
        assert source.post(wish).status_code == 422
        wish = task(**{"for": identified("P-7", "urn:here")})
        assert ordered(source, wish).patient.key == ("P-7", "")


PRIVATE = "http://169.254.169.254/dicom-web"


@pytest.mark.parametrize(("networks", "status"), [((), 422), (("169.254.169.254",), 201)])
def test_an_endpoint_that_is_not_public_is_refused(networks: tuple[str, ...], status: int) -> None:
    endpoint = {
        "resourceType": "Endpoint",
        "id": "e",
        "status": "active",
        "connectionType": {"code": "dicom-wado-rs"},
        "payloadType": [{"text": "DICOM"}],
        "address": PRIVATE,
    }
    study = imaging_study(id="s", subject=identified(), endpoint=[{"reference": "#e"}])
    wish = task(contained=[study, endpoint], focus={"reference": "#s"})
    with fhir_source(private_networks=networks) as source:
        answer = source.post(wish)
    assert answer.status_code == status, answer.text
    assert PRIVATE not in answer.text


# --- the same again, and taking back ------------------------------------------------------


def test_the_same_order_again_is_the_same_order(source: FhirSource) -> None:
    first, second = source.post(task()), source.post(task())
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.headers["Location"] == second.headers["Location"]
    assert len(source.orders.placed) == 1


def test_orders_without_identifiers_are_told_apart_by_their_urls(source: FhirSource) -> None:
    message = order_bundle()
    del message["entry"][2]["resource"]["identifier"]
    assert source.post(message).is_success
    assert source.post(deepcopy(message)).is_success
    assert len(source.orders.placed) == 1
    message["entry"][2]["fullUrl"] = ASKED
    assert source.post(message).is_success
    assert len(source.orders.placed) == 2


@pytest.mark.parametrize("way", ["PUT", "PATCH", "conditional"])
def test_an_order_is_taken_back(source: FhirSource, way: str) -> None:
    location = source.post(task()).headers["Location"].split("/_history")[0]
    if way == "PATCH":
        patch = [{"op": "replace", "path": "/status", "value": "cancelled"}]
        kind = {"Content-Type": "application/json-patch+json"}
        answer = source.client.patch(location, json=patch, headers=kind)
    else:
        url = location if way == "PUT" else f"{source.url}/Task?identifier=T-1"
        kind = {"Content-Type": "application/fhir+json"}
        answer = source.client.put(url, json=task(status="cancelled"), headers=kind)
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "cancelled"
    (placed,) = source.orders.placed.values()
    assert placed.state is OrderState.CANCELLED
    again = source.client.put(
        location,
        json=task(status="cancelled"),
        headers=kind | {"Content-Type": "application/fhir+json"},
    )
    assert again.status_code == 409
    assert again.json()["issue"][0]["code"] == "conflict"


@pytest.mark.parametrize(
    ("resource", "status"),
    [(task(status="completed"), 422), (task(status="requested", priority="stat"), 422)],
)
def test_nothing_else_of_an_order_can_be_changed(
    source: FhirSource, resource: Json, status: int
) -> None:
    location = source.post(task()).headers["Location"].split("/_history")[0]
    headers = {"Content-Type": "application/fhir+json"}
    assert source.client.put(location, json=resource, headers=headers).status_code == status
    (placed,) = source.orders.placed.values()
    assert (placed.state, placed.order.priority) == (OrderState.PLACED, Priority.ROUTINE)


def test_an_order_that_is_not_there_is_not_taken_back(source: FhirSource) -> None:
    headers = {"Content-Type": "application/fhir+json"}
    url = f"{source.url}/Task/{'0' * 32}"
    answer = source.client.put(url, json=task(status="cancelled"), headers=headers)
    assert answer.status_code == 404
