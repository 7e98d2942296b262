"""The model as a FHIR R4 Device with its model card.

One Device per version and per package of a model, and nothing of any patient. The card is a
contained DocumentReference in Markdown, which the extension ``modelCardDescription`` points to
(HL7 AI Transparency on FHIR, STU1 ballot, "Model-Card in a Device"); ``note`` repeats its most
important sentences for readers that know no such extension.
"""

from __future__ import annotations

from base64 import b64encode

from hub.domain.inference import InferenceRequest
from hub.domain.model_card import ModelCard
from hub.domain.model_input import ObservationsInput
from hub.formats.encoding import device_uid
from hub.formats.fhir.resources import (
    ARTIFICIAL_INTELLIGENCE,
    MODEL_SYSTEM,
    Json,
    compact,
    uid_identifier,
)

MODEL_CARD_DESCRIPTION = (
    "http://hl7.org/fhir/uv/aitransparency/StructureDefinition/aitransparency.modelCardDescription"
)
AI_INPUTS = "http://hl7.org/fhir/uv/aitransparency/CodeSystem/AIinputsCS"
GS1 = "http://hl7.org/fhir/NamingSystem/gs1-di"

_GTIN_LENGTH = 14
_CARD = "model-card"


def device(request: InferenceRequest, card: ModelCard) -> Json:
    """The Device of the model that a request is pinned to."""
    return compact(
        resourceType="Device",
        contained=[_model_card(card)],
        extension=[{"url": MODEL_CARD_DESCRIPTION, "valueReference": {"reference": f"#{_CARD}"}}],
        identifier=[
            uid_identifier(device_uid(request.model)),
            {"system": MODEL_SYSTEM, "value": str(request.model)},
        ],
        udiCarrier=_udi(card),
        status="active",
        manufacturer=card.vendor.name,
        deviceName=[
            {"name": card.name, "type": "user-friendly-name"},
            {"name": card.id, "type": "model-name"},
        ],
        type={"coding": [ARTIFICIAL_INTELLIGENCE], "text": "Artificial intelligence"},
        version=[{"value": card.version}],
        contact=_contact(card.vendor.contact),
        note=[{"text": text} for text in (card.description, card.intended_use.purpose) if text],
    )


def _udi(card: ModelCard) -> list[Json]:
    udi = card.regulation.udi_di
    if not udi:
        return []
    if udi.isdigit() and len(udi) == _GTIN_LENGTH:
        return [{"deviceIdentifier": udi, "issuer": GS1, "carrierHRF": f"(01){udi}"}]
    return [{"deviceIdentifier": udi}]


def _contact(contact: str) -> list[Json]:
    if not contact:
        return []
    kinds = {"@": "email", "://": "url"}
    kind = next((kind for sign, kind in kinds.items() if sign in contact), "other")
    return [{"system": kind, "value": contact}]


def _model_card(card: ModelCard) -> Json:
    kinds = ("AIModelCard", "AIModelCardMarkdownFormat")
    kind, form = ({"coding": [{"system": AI_INPUTS, "code": code}]} for code in kinds)
    page = b64encode(model_card_text(card).encode()).decode()
    attachment = {"contentType": "text/markdown", "data": page, "title": f"Model card: {card.name}"}
    return {
        "resourceType": "DocumentReference",
        "id": _CARD,
        "status": "current",
        "type": kind,
        "category": [form],
        "content": [{"attachment": attachment}],
    }


def _values(card: ModelCard) -> str:
    wanted = card.input.observations if isinstance(card.input, ObservationsInput) else ()
    return ", ".join(spec.name for spec in wanted)


def model_card_text(card: ModelCard) -> str:
    """What a clinician should know of the model, as Markdown; what is not known is left out."""
    use, law = card.intended_use, card.regulation
    device_class = f"class {law.mdr_class} (MDR)" if law.mdr_class else "medical device"
    facts = {
        "Model": f"{card.name} {card.version}",
        "Made by": ", ".join(part for part in (card.vendor.name, card.vendor.address) if part),
        "Intended purpose": use.purpose,
        "Not for": "; ".join(use.not_for),
        "For": ", ".join(part for part in (use.user, use.environment) if part),
        "Input": ", ".join(use.modalities) or _values(card),
        "Regulation": device_class if law.medical_device else "no medical device",
        "Certificate": law.certificate_number,
        "UDI-DI": law.udi_di,
        "AI Act": " ".join(part for part in (law.ai_act_route, law.ai_act_reason) if part),
    }
    lines = [f"- **{name}**: {text}" for name, text in facts.items() if text]
    claims = [f"- {c.metric}: {c.value} ({c.population})" for c in card.claims]
    performance = ["", "## Performance, as the vendor states it", "", *claims] if claims else []
    return "\n".join([f"# {card.name}", "", card.description, "", *lines, *performance, ""])
