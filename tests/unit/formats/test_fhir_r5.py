"""The R5 transaction says what the R4 one says, in R5's words."""

from __future__ import annotations

from copy import deepcopy

import pytest
from fhir.resources.bundle import Bundle

from hub.domain.delivery import DocumentKind
from hub.domain.model_card import Regulation
from hub.errors import IntegrityError
from hub.formats.fhir import r5 as fhir_r5
from hub.formats.fhir.checks import check_shape
from tests import builders
from tests.unit.formats.fhir_bundles import (
    CASES,
    Case,
    Json,
    card,
    context,
    provenance,
    related_to,
    report,
    resources,
    strings,
)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture
def critical() -> Json:
    return CASES["critical"].bundle(DocumentKind.FHIR_R5)


def test_every_case_is_valid_r5_and_not_r4(case: Case) -> None:
    bundle = case.bundle(DocumentKind.FHIR_R5)
    Bundle.model_validate(bundle)
    with pytest.raises(IntegrityError, match="not valid FHIR R4"):
        check_shape(bundle)


def test_both_have_the_same_resources_statuses_and_words(case: Case) -> None:
    r4, r5 = case.bundle(), case.bundle(DocumentKind.FHIR_R5)
    assert [e["request"] for e in r4["entry"]] == [e["request"] for e in r5["entry"]]
    assert [e["fullUrl"] for e in r4["entry"]] == [e["fullUrl"] for e in r5["entry"]]
    for kind in ("Observation", "Flag"):
        assert resources(r4, kind) == resources(r5, kind)
    assert report(r4)["conclusion"] == report(r5)["conclusion"]
    assert report(r4)["status"] == report(r5)["status"]


def test_the_document_is_another_one() -> None:
    r4, r5 = (CASES["assessed"].encoded(kind) for kind in (DocumentKind.FHIR, DocumentKind.FHIR_R5))
    assert r5.kind is DocumentKind.FHIR_R5
    assert r4.document_id != r5.document_id
    assert r5 == CASES["assessed"].encoded(DocumentKind.FHIR_R5)
    assert r4.related_uids == r5.related_uids


def test_the_report_names_its_study_as_r5_does(critical: Json) -> None:
    made = report(critical)
    assert "imagingStudy" not in made
    assert made["study"][0]["reference"] in [e["fullUrl"] for e in critical["entry"]]
    assert made["presentedForm"][0]["size"] == "15", "integer64 is text in JSON"


def test_the_device_has_its_names(critical: Json) -> None:
    (device,) = resources(critical, "Device")
    assert device["displayName"] == "Lung density"
    assert device["name"] == [{"value": "Lung density", "type": "user-friendly-name"}]
    assert device["modelNumber"] == "lung-density"
    assert isinstance(device["type"], list)
    assert "deviceName" not in device


def test_a_udi_without_a_known_issuer_is_an_identifier() -> None:
    request = builders.request_for(builders.chest_ct_study())
    model = card(regulation=Regulation(medical_device=True, udi_di="B-XYZ-1"))
    document = fhir_r5.encode(
        request, builders.presence(request), model, context(), related_to(request)
    )
    assert document is not None
    assert b'"text":"UDI-DI"},"value":"B-XYZ-1"' in document.content
    assert b"udiCarrier" not in document.content


def test_modalities_are_concepts(critical: Json) -> None:
    (study,) = resources(critical, "ImagingStudy")
    assert study["modality"][0]["coding"][0]["code"] == "CT"
    assert study["series"][0]["modality"]["coding"][0]["code"] == "CT"


def test_reasons_are_where_r5_has_them() -> None:
    failed = CASES["failed"].bundle(DocumentKind.FHIR_R5)
    assert "AIAST" in strings(provenance(failed)["authorization"][0]["concept"])
    (task,) = resources(failed, "Task")
    assert task["statusReason"]["concept"]["text"] == CASES["failed"].result.reasons[0]


def test_an_alert_is_an_order_with_a_coded_payload(critical: Json) -> None:
    (request,) = resources(critical, "CommunicationRequest")
    assert request["intent"] == "order"
    assert "Critical finding" in request["payload"][0]["contentCodeableConcept"]["text"]


def test_the_r4_bundle_stays_as_it_is() -> None:
    bundle = CASES["critical"].bundle()
    before = deepcopy(bundle)
    fhir_r5.in_r5(bundle)
    assert bundle == before
