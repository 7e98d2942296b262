"""A literal reference goes only to the server where the resource stands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from connectors.fhir.config import FhirDestinationConfig
from connectors.fhir.local_references import URI, localized
from hub.domain.delivery import DocumentKind
from hub.formats.fhir.bundle_view import objects_in
from tests.unit.formats.case_reports import CASE_REPORTS

Json = dict[str, Any]

HERE = "https://ehr.example/fhir"
LAB = "https://lab.example/fhir"
NUMBER = {"system": "urn:lab", "value": "7"}


def told(reference: Json, *own: str, relative: bool = False) -> Json:
    bundle: Json = {"entry": [{"resource": {"derivedFrom": [reference]}}]}
    before = str(bundle)
    (found,) = localized(bundle, own or (HERE,), takes_relative=relative)["entry"]
    assert str(bundle) == before
    one: Json = found["resource"]["derivedFrom"][0]
    return one


def test_a_resource_of_the_server_is_named_as_its_own() -> None:
    reference = {"reference": f"{HERE}/Observation/1", "identifier": NUMBER, "display": "AST"}
    assert told(reference) == {**reference, "reference": "Observation/1"}
    assert told({"reference": f"{LAB}/Observation/1"}, HERE, LAB) == {"reference": "Observation/1"}


@pytest.mark.parametrize("reference", ["#outcome", "urn:uuid:1", "urn:oid:1.2.3"])
def test_what_is_in_the_message_stays(reference: str) -> None:
    assert told({"reference": reference}) == {"reference": reference}


def test_a_resource_of_another_server_is_named_by_its_identifier() -> None:
    reference = {"reference": f"{LAB}/Observation/1", "identifier": NUMBER}
    assert told(reference) == {"type": "Observation", "identifier": NUMBER}
    assert told({"reference": f"{LAB}/Observation/1/_history/2", "display": "AST"}) == {
        "type": "Observation",
        "identifier": {"system": URI, "value": f"{LAB}/Observation/1/_history/2"},
        "display": "AST",
    }
    assert told({"reference": "https://ehr.example/fhir2/Observation/1"})["type"] == "Observation"
    assert "reference" not in told({"reference": "https://ehr.example/fhir2/Observation/1"})


def test_a_reference_without_a_server_is_this_ones_only_where_that_is_said() -> None:
    order = {"reference": "ServiceRequest/12"}
    assert told(order) == {"type": "ServiceRequest", "display": "ServiceRequest/12"}
    assert told(order, relative=True) == order
    assert told({**order, "identifier": NUMBER}) == {"type": "ServiceRequest", "identifier": NUMBER}


def literals(bundle: Json) -> Iterator[str]:
    for part in objects_in(bundle):
        text = part.get("reference")
        if isinstance(text, str) and not text.startswith(("#", "urn:")):
            yield text


@pytest.mark.parametrize("kind", [DocumentKind.FHIR, DocumentKind.FHIR_R5])
@pytest.mark.parametrize("name", CASE_REPORTS)
def test_no_case_names_a_resource_that_the_server_does_not_have(
    name: str, kind: DocumentKind
) -> None:
    bundle = CASE_REPORTS[name].bundle(kind)
    assert set(literals(localized(bundle, (HERE,), takes_relative=False))) <= {"Task/9"}
    assert set(literals(localized(bundle, ("https://x.example",), takes_relative=False))) == set()


def test_a_base_url_is_one() -> None:
    config = FhirDestinationConfig(url=HERE, base_urls=("https://ehr.internal/fhir/",))
    assert config.base_urls == ("https://ehr.internal/fhir",)
    with pytest.raises(ValidationError, match="base URLs"):
        FhirDestinationConfig(url=HERE, base_urls=("ehr.internal",))
