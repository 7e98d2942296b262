"""A FHIR R4 server as a destination: one document, one transaction."""

from __future__ import annotations

import re
import ssl
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import httpx
import orjson

from connectors.fhir.config import FhirDestinationConfig
from connectors.fhir.status import (
    CONFLICTS,
    error_of,
    is_taken,
    matches_several,
    retry_after_seconds,
)
from hub.domain.delivery import Document, DocumentKind, Receipt
from hub.errors import ConfigError, ConfigProblem, RejectedError, TransientError
from hub.ports import Clock, DestinationContext

FHIR_JSON = "application/fhir+json"
MAX_ANSWER_BYTES = 16 * 2**20
"""An answer that is longer is not one to a transaction of ours."""

_REPORT = re.compile(r"DiagnosticReport/[A-Za-z0-9.-]{1,64}")


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: Any
    """Parsed JSON, or None where it is none."""
    retry_after: float | None


class FhirDestination:
    """Posts transactions to the base URL (R4 http, "Transaction"). Thread-safe."""

    def __init__(self, config: FhirDestinationConfig, context: DestinationContext) -> None:
        self._config = config
        self._name = context.name
        self._clock: Clock = context.clock
        self._client = httpx.Client(
            timeout=config.timeout, headers=_headers(config), verify=_tls(config)
        )

    def deliver(self, document: Document, idempotency_key: str) -> Receipt:
        """Post the transaction; return when the server says that every entry was taken.

        A conflict with another change (409, 412) is tried once more at once: both sides
        update by identifier, so the second attempt finds what the other one made.

        Raises:
            TransientError: no answer, a garbled answer, or one that says "later".
            RejectedError: not a FHIR document, or the server will never take it.
        """
        if document.kind is not DocumentKind.FHIR:
            raise RejectedError(f"a FHIR server takes no document of kind {document.kind}")
        sent = len(orjson.loads(document.content)["entry"])
        answer = self._post(document.content, idempotency_key)
        if answer.status in CONFLICTS and not matches_several(answer.body):
            answer = self._post(document.content, idempotency_key)
        if not is_taken(answer.status):
            raise error_of(answer.status, answer.body, answer.retry_after)
        return Receipt(_confirmation(answer, sent))

    def check(self) -> str:
        """Read the CapabilityStatement.

        Raises:
            TransientError: no server, or something that is no FHIR server.
        """
        answer = self._exchange("GET", f"{self._config.url}/metadata", b"", {})
        body = answer.body
        if not is_taken(answer.status):
            raise TransientError(f"{self._name}: HTTP {answer.status} for metadata")
        if not isinstance(body, dict) or body.get("resourceType") != "CapabilityStatement":
            raise TransientError(f"{self._name}: the answer is no CapabilityStatement")
        software = body.get("software")
        name = software.get("name", "") if isinstance(software, dict) else ""
        return f"FHIR {body.get('fhirVersion', 'of unknown version')} {name}".strip()

    def close(self) -> None:
        self._client.close()

    def _post(self, content: bytes, idempotency_key: str) -> _Answer:
        headers = {
            "Content-Type": FHIR_JSON,
            "Prefer": "return=minimal",
            "X-Request-Id": idempotency_key,
        }
        return self._exchange("POST", self._config.url, content, headers)

    def _exchange(self, method: str, url: str, content: bytes, headers: dict[str, str]) -> _Answer:
        try:
            with self._client.stream(method, url, content=content, headers=headers) as response:
                body = self._read(response)
                after = retry_after_seconds(response.headers.get("retry-after"), self._clock.now())
                return _Answer(response.status_code, body, after)
        except httpx.RequestError as error:
            # the text of the error may repeat the request
            raise TransientError(f"{self._name}: {type(error).__name__}") from None

    def _read(self, response: httpx.Response) -> Any:
        """The JSON of an answer; None where it is none.

        httpx limits the wait for each piece; the deadline here limits the whole.
        """
        deadline = time.monotonic() + self._config.timeout
        pieces = bytearray()
        for piece in response.iter_bytes():
            pieces += piece
            if len(pieces) > MAX_ANSWER_BYTES or time.monotonic() > deadline:
                raise TransientError(f"{self._name}: the answer is too long or too slow")
        try:
            return orjson.loads(pieces)
        except orjson.JSONDecodeError:
            return None


def build_destination(
    config: FhirDestinationConfig, context: DestinationContext
) -> FhirDestination:
    """Raises:
    ConfigError: the file of certification authorities cannot be used.
    """
    return FhirDestination(config, context)


def _headers(config: FhirDestinationConfig) -> dict[str, str]:
    headers = {"Accept": FHIR_JSON}
    if config.bearer_token is not None:
        headers["Authorization"] = f"Bearer {config.bearer_token.get_secret_value()}"
    return headers | {name: value.get_secret_value() for name, value in config.headers.items()}


def _tls(config: FhirDestinationConfig) -> ssl.SSLContext | bool:
    if not config.verify_tls:
        return False
    if config.ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=str(config.ca_file))
    except (OSError, ssl.SSLError):
        problem = ConfigProblem(str(config.ca_file), 0, "ca_file", "holds no usable certificates")
        raise ConfigError((problem,)) from None


def _confirmation(answer: _Answer, sent: int) -> str:
    """What the server did with each entry.

    Raises:
        TransientError: it is no answer to our transaction.
        RejectedError, TransientError: an entry was not taken.
    """
    responses = _entry_responses(answer.body, sent)
    done: Counter[str] = Counter()
    report = ""
    for response in responses:
        status = _status_of(response)
        if not is_taken(status):
            raise error_of(status, response.get("outcome"), answer.retry_after)
        done["created" if status == httpx.codes.CREATED else "updated or present"] += 1
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
