"""The Device says which model it was, what it is for and what it may not be used for."""

from __future__ import annotations

from base64 import b64decode
from dataclasses import replace

import pytest

from hub.domain.model_card import Regulation, Vendor
from hub.formats.fhir.device import MODEL_CARD_DESCRIPTION, device, model_card_text
from tests import builders
from tests.unit.formats.fhir_bundles import Json, card

REQUEST = builders.request_for(builders.chest_ct_study())


def test_the_model_card_is_in_the_device() -> None:
    made = device(REQUEST, card())
    (extension,), (page,) = made["extension"], made["contained"]
    assert extension["url"] == MODEL_CARD_DESCRIPTION
    assert extension["valueReference"]["reference"] == f"#{page['id']}"
    attachment = page["content"][0]["attachment"]
    assert attachment["contentType"] == "text/markdown"
    assert b64decode(attachment["data"]).decode() == model_card_text(card())


def test_the_model_card_has_what_a_clinician_asks() -> None:
    text = model_card_text(card())
    for words in (
        "# Lung density",
        "Beispiel Medizintechnik GmbH, Musterweg 1, 18057 Rostock",
        "**Intended purpose**: Quantifies lung volume",
        "children and adolescents",
        "class IIa (MDR)",
        "04012345678901",
        "- mean absolute error: 1.9 % (212 adults)",
    ):
        assert words in text


def test_what_is_not_known_is_left_out() -> None:
    plain = replace(builders.model_card(), claims=())
    text = model_card_text(plain)
    assert "no medical device" in text
    assert "Certificate" not in text
    assert "Performance" not in text


def test_a_udi_of_gs1_has_its_issuer_and_its_printed_form() -> None:
    (carrier,) = device(REQUEST, card())["udiCarrier"]
    assert carrier["carrierHRF"] == "(01)04012345678901"
    assert carrier["issuer"] == "http://hl7.org/fhir/NamingSystem/gs1-di"


def test_another_udi_is_carried_as_it_is() -> None:
    regulation = Regulation(medical_device=True, udi_di="B-XYZ-1")
    assert device(REQUEST, card(regulation=regulation))["udiCarrier"] == [
        {"deviceIdentifier": "B-XYZ-1"}
    ]


@pytest.mark.parametrize(
    ("contact", "kind"),
    [("ai@example.org", "email"), ("https://example.org", "url"), ("+49 381 1", "other")],
)
def test_the_vendor_can_be_reached(contact: str, kind: str) -> None:
    made: Json = device(REQUEST, card(vendor=Vendor(name="V", contact=contact)))
    assert made["contact"] == [{"system": kind, "value": contact}]
    assert "contact" not in device(REQUEST, card(vendor=Vendor(name="V")))
