"""A FHIR server as a destination: one document, one transaction."""

from __future__ import annotations

import re
from collections import Counter
from datetime import datetime
from typing import Any

import orjson

from connectors.fhir.config import FhirDestinationConfig
from connectors.fhir.local_references import localized
from connectors.fhir.report_guard import (
    HeldReport,
    Json,
    guarded,
    held_report,
    is_kept,
    report_entry,
)
from connectors.fhir.server import FhirServer
from connectors.fhir.status import CONFLICTS, error_of, matches_several
from hub.domain.delivery import Document, Receipt
from hub.errors import RejectedError, TransientError
from hub.formats.fhir.json_text import FHIR_JSON
from hub.formats.http_answers import is_taken
from hub.ports import DestinationContext
from hub.transport.http_peer import HttpAnswer

_CREATED = 201
_REPORT = re.compile(r"DiagnosticReport/[A-Za-z0-9.-]{1,64}")
_READ = "read "
"""Begins what a read-back is awaited by; the time of the delivery follows."""


class FhirDestination:
    """`hub.ports.Destination` and `hub.ports.Confirming`: posts transactions to the base URL (R4
    http, "Transaction"). Thread-safe."""

    def __init__(self, config: FhirDestinationConfig, context: DestinationContext) -> None:
        self._config = config
        self._name = context.name
        self._clock = context.clock
        self._server = FhirServer(context.name, config, context.clock)

    # --- delivery ----------------------------------------------------------------------------

    def deliver(self, document: Document, idempotency_key: str) -> Receipt:
        """Post the transaction; return when the server says that every entry was taken.

        The report that is there is read first, and not overwritten by an older word than that of
        the person who made it final (``report_guard``). A conflict with another change (409, 412)
        is tried once more at once, on what is there by then.

        Raises:
            TransientError: no answer, a garbled answer, or one that says "later".
            RejectedError: not a FHIR document, the server will never take it, or somebody made
                the report final there.
        """
        if document.kind not in self._config.documents:
            raise RejectedError(f"{self._name} is not configured for {document.kind} documents")
        bundle = localized(
            orjson.loads(document.content),
            (self._config.url, *self._config.base_urls),
            takes_relative=self._config.relative_references,
        )
        answer = self._post(bundle, idempotency_key)
        if answer.status in CONFLICTS and not matches_several(answer.json):
            answer = self._post(bundle, idempotency_key)
        if not is_taken(answer.status):
            raise error_of(answer.status, answer.json, answer.retry_after)
        detail = _confirmation(answer, len(bundle["entry"]))
        if self._config.confirm == "none" or report_entry(bundle) is None:
            return Receipt(detail)
        return Receipt(detail, f"{_READ}{self._clock.now().isoformat()}")

    def _post(self, bundle: Json, idempotency_key: str) -> HttpAnswer:
        if self._config.guard:
            bundle = guarded(bundle, self._held(bundle))
        headers = {
            "Content-Type": FHIR_JSON,
            "Prefer": "return=minimal",
            "X-Request-Id": idempotency_key,
        }
        return self._server.exchange(
            "POST", self._config.url, content=orjson.dumps(bundle), headers=headers
        )

    def _held(self, bundle: Json) -> HeldReport | None:
        """The report that the transaction is about to replace."""
        entry = report_entry(bundle)
        if entry is None:
            return None
        answer = self._server.exchange("GET", f"{self._config.url}/{entry['request']['url']}")
        if not is_taken(answer.status):
            raise error_of(answer.status, answer.json, answer.retry_after)
        return held_report(answer.json)

    # --- confirmation ------------------------------------------------------------------------

    def confirm(self, document: Document, awaiting: str) -> Receipt:
        """Read the report back (see hub.ports.Confirming)."""
        bundle = orjson.loads(document.content)
        entry = report_entry(bundle)
        if entry is None:
            return Receipt("there is no report to read back")
        try:
            held = self._held(bundle)
        except RejectedError as error:
            raise TransientError(
                f"{self._name}: the report cannot be read back: {error}"
            ) from error
        if held is not None and is_kept(held, entry["resource"]):
            return Receipt(f"read back: DiagnosticReport/{held.report_id}, {held.status}")
        sent_at = datetime.fromisoformat(awaiting.removeprefix(_READ))
        if (self._clock.now() - sent_at).total_seconds() <= self._config.confirm_within:
            raise TransientError(f"{self._name} does not show the report yet")
        raise RejectedError(f"{self._name} does not have the report")

    # --- the rest ----------------------------------------------------------------------------

    def check(self) -> str:
        """As `FhirServer.check`."""
        return self._server.check()

    def close(self) -> None:
        """Close the connections that are kept open."""
        self._server.close()


def build_destination(
    config: FhirDestinationConfig, context: DestinationContext
) -> FhirDestination:
    """Raises:
    ConfigError: the file of certification authorities, or the key for SMART, cannot be used.
    """
    return FhirDestination(config, context)


def _confirmation(answer: HttpAnswer, sent: int) -> str:
    """What the server did with each entry.

    Raises:
        TransientError: it is no answer to our transaction.
        RejectedError, TransientError: an entry was not taken.
    """
    responses = _entry_responses(answer.json, sent)
    done: Counter[str] = Counter()
    report = ""
    for response in responses:
        status = _status_of(response)
        if not is_taken(status):
            raise error_of(status, response.get("outcome"), answer.retry_after)
        done["created" if status == _CREATED else "updated or present"] += 1
        found = _REPORT.search(str(response.get("location", "")))
        report = f", {found.group()}" if found else report
    counts = ", ".join(f"{number} {what}" for what, number in sorted(done.items()))
    return f"HTTP {answer.status}: {counts}{report}"


def _entry_responses(body: Any, sent: int) -> list[dict[str, Any]]:
    bundle = body if isinstance(body, dict) else {}
    if (bundle.get("resourceType"), bundle.get("type")) != ("Bundle", "transaction-response"):
        raise TransientError("the answer is no transaction-response Bundle")
    entries = bundle.get("entry")
    if not isinstance(entries, list) or len(entries) != sent:
        raise TransientError("the answer does not confirm every entry")
    responses = [e.get("response") if isinstance(e, dict) else None for e in entries]
    if not all(isinstance(response, dict) for response in responses):
        raise TransientError("the answer does not confirm every entry")
    return [response for response in responses if isinstance(response, dict)]


def _status_of(response: dict[str, Any]) -> int:
    text = str(response.get("status", ""))[:3]
    if not text.isdecimal():
        raise TransientError("the answer does not confirm every entry")
    return int(text)
