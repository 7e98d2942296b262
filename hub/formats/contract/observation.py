"""Measured values in the contract: FHIR R4 Observation (hl7.org/fhir/R4/observation.html).

What would lead back to the patient's record is left out: subject, references and business
identifiers.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import orjson
from pydantic import ConfigDict, Field, ValidationError

from hub.domain.coding import CODING_SYSTEMS, Code
from hub.domain.identity import PatientIdentity
from hub.domain.observation import Observation
from hub.errors import RejectedError
from hub.formats.contract.parts import Lenient

_PRIVATE = "urn:caidx:codes:"
_SCHEMES = {system: scheme for scheme, system in CODING_SYSTEMS.items()}

Json = dict[str, Any]


class _Coding(Lenient):
    system: str
    code: str
    display: str = ""


class _Concept(Lenient):
    coding: tuple[_Coding, ...]


class _Quantity(Lenient):
    value: float
    comparator: Literal["", "<", "<=", ">=", ">"] = ""
    unit: str = ""
    system: str = ""
    code: str = ""


class _Absence(Lenient):
    text: str = ""


class _Observation(Lenient):
    model_config = ConfigDict(populate_by_name=True)

    resource_type: Literal["Observation"] = Field(alias="resourceType")
    id: str
    status: str
    code: _Concept
    effective_at: datetime | None = Field(default=None, alias="effectiveDateTime", strict=False)
    quantity: _Quantity | None = Field(default=None, alias="valueQuantity")
    absence: _Absence | None = Field(default=None, alias="dataAbsentReason")


def observation_resource(observation: Observation) -> Json:
    """One value as FHIR, without whom it is of and where it stands."""
    resource: Json = {
        "resourceType": "Observation",
        "id": observation.observation_id,
        "status": observation.status,
        "code": {"coding": [_coding(code) for code in observation.codes]},
    }
    if observation.effective_at is not None:
        at = observation.effective_at.astimezone(UTC).isoformat()
        resource["effectiveDateTime"] = at.replace("+00:00", "Z")
    if observation.value is not None:
        resource["valueQuantity"] = _quantity(observation)
    if observation.absent_reason:
        resource["dataAbsentReason"] = {"text": observation.absent_reason}
    return resource


def _coding(code: Code) -> Json:
    return {"system": code.system, "code": code.code_value, "display": code.code_meaning}


def _quantity(observation: Observation) -> Json:
    quantity: Json = {"value": observation.value}
    if observation.comparator:
        quantity["comparator"] = observation.comparator
    if observation.unit is not None:
        unit = observation.unit
        quantity |= {"unit": unit.code_meaning, "system": unit.system, "code": unit.code_value}
    return quantity


def observation_of(resource: Mapping[str, Any], patient: PatientIdentity) -> Observation:
    """The reverse, for those who are asked: the value is of ``patient``.

    Raises:
        RejectedError: it is no such Observation; no value is repeated.
    """
    try:
        read = _Observation.model_validate_json(_dumped(resource))
    except ValidationError as error:
        fields = sorted({".".join(map(str, one["loc"])) for one in error.errors()})
        raise RejectedError(f"an Observation cannot be read: {', '.join(fields)}") from None
    quantity = read.quantity
    return Observation(
        observation_id=read.id,
        patient=patient,
        codes=tuple(_code(one) for one in read.code.coding),
        status=read.status,
        effective_at=read.effective_at.astimezone(UTC) if read.effective_at else None,
        value=None if quantity is None else quantity.value,
        unit=None if quantity is None or not quantity.code else _unit(quantity),
        comparator="" if quantity is None else quantity.comparator,
        absent_reason="" if read.absence is None else read.absence.text,
    )


def _dumped(resource: Mapping[str, Any]) -> bytes:
    return orjson.dumps(dict(resource))


def _code(coding: _Coding) -> Code:
    scheme = _SCHEMES.get(coding.system, coding.system.removeprefix(_PRIVATE))
    return Code(coding.code, scheme, coding.display)


def _unit(quantity: _Quantity) -> Code:
    scheme = _SCHEMES.get(quantity.system, quantity.system.removeprefix(_PRIVATE))
    return Code(quantity.code, scheme, quantity.unit)
