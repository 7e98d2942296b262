"""The published JSON Schemas (2020-12) of the contract, generated from what reads and writes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel

from hub.formats.contract.answer import (
    DeferredMessage,
    FailedMessage,
    ResultMessage,
    UnsuitableMessage,
)
from hub.formats.contract.parts import CONTRACT_VERSION
from hub.formats.contract.request import RequestMessage

MESSAGES: Mapping[str, type[BaseModel]] = MappingProxyType(
    {
        "inference-request": RequestMessage,
        "inference-result": ResultMessage,
        "unsuitable": UnsuitableMessage,
        "deferred": DeferredMessage,
        "failed": FailedMessage,
    }
)
"""Name -> message; the schema's file is ``<name>.schema.json``."""

Json = dict[str, Any]


def contract_schema(name: str) -> Json:
    """The JSON Schema of one of ``MESSAGES``."""
    schema = MESSAGES[name].model_json_schema(by_alias=True)
    _without_titles(schema)
    for definition in schema.get("$defs", {}).values():
        _without_titles(definition)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:caidx:contract:{CONTRACT_VERSION}:{name}",
        "title": f"CAIDX contract {CONTRACT_VERSION}: {name}",
        **schema,
    }


def contract_schema_text(name: str) -> str:
    """The same as it stands in the file."""
    return json.dumps(contract_schema(name), indent=2, ensure_ascii=False) + "\n"


def schema_file(name: str) -> str:
    """Its name in docs/contract."""
    return f"{name}.schema.json"


def _without_titles(schema: Json) -> None:
    """The names of fields, repeated in another spelling, say nothing."""
    schema.pop("title", None)
    for field in schema.get("properties", {}).values():
        field.pop("title", None)
