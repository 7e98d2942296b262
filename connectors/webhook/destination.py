"""A program of somebody else as a destination: one document, one signed POST.

=============================  ==========================================================
answer                         meaning
=============================  ==========================================================
2xx                            taken
408, 425, 429, 5xx             `TransientError`, after ``Retry-After`` where given
410                            `RejectedError`: nobody wants it there any more
3xx                            `RejectedError`: a document goes to the configured address only
any other                      `RejectedError`: the same request cannot succeed
=============================  ==========================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from connectors.webhook.config import WebhookDestinationConfig
from hub.domain.delivery import Document, Receipt
from hub.errors import ConfigError, ConfigProblem, RejectedError, TransientError
from hub.formats.http_answers import is_passing, is_taken
from hub.ports import DestinationContext
from hub.transport.http_peer import HttpPeer
from hub.transport.webhook_signature import key_of, signed_headers


class WebhookDestination:
    """`hub.ports.Destination` by HTTP POST. Thread-safe.

    Raises:
        ConfigError: a secret is none, or the file of certification authorities cannot be used.
    """

    def __init__(self, config: WebhookDestinationConfig, context: DestinationContext) -> None:
        self._config = config
        self._name = context.name
        self._clock = context.clock
        self._keys = tuple(
            _key(secret.get_secret_value(), f"destinations.{context.name}.secrets.{number}")
            for number, secret in enumerate(config.secrets)
        )
        self._peer = HttpPeer(context.name, config, context.clock, timeout=config.timeout)

    def deliver(self, document: Document, idempotency_key: str) -> Receipt:
        """Post one document; its id and that of the request travel in the body alone.

        Raises:
            TransientError: no answer, or one that says "later".
            RejectedError: not for this receiver, or it will never take it.
        """
        if document.kind not in self._config.documents:
            raise RejectedError(f"{self._name} is not configured for {document.kind} documents")
        answer = self._peer.exchange(
            "POST",
            self._config.url,
            content=document.content,
            headers={
                "Content-Type": document.media_type,
                **signed_headers(idempotency_key, self._clock.now(), document.content, self._keys),
            },
        )
        status = answer.status
        if is_taken(status):
            return Receipt(f"HTTP {status}")
        if is_passing(status):
            raise TransientError(f"{self._name}: HTTP {status}", retry_after=answer.retry_after)
        raise RejectedError(f"{self._name}: HTTP {status}{_REASONS.get(status, '')}")

    def check(self) -> str:
        """Whether anybody answers at the address; nothing is posted.

        Raises:
            TransientError: nobody does.
        """
        status = self._peer.exchange("OPTIONS", self._config.url).status
        knows_only_post = status in {HTTPStatus.NOT_IMPLEMENTED, HTTPStatus.METHOD_NOT_ALLOWED}
        is_absent = status in {HTTPStatus.NOT_FOUND, HTTPStatus.GONE}
        if not knows_only_post and (is_passing(status) or is_absent):
            raise TransientError(f"{self._name}: HTTP {status}")
        return f"answers (HTTP {status})"

    def close(self) -> None:
        """Close the connections that are kept open."""
        self._peer.close()


_REDIRECT = ": redirects are not followed"
_REASONS: Mapping[int, str] = {
    HTTPStatus.GONE: ": the receiver wants no more",
    HTTPStatus.MOVED_PERMANENTLY: _REDIRECT,
    HTTPStatus.FOUND: _REDIRECT,
    HTTPStatus.SEE_OTHER: _REDIRECT,
    HTTPStatus.TEMPORARY_REDIRECT: _REDIRECT,
    HTTPStatus.PERMANENT_REDIRECT: _REDIRECT,
}


def _key(secret: str, field: str) -> bytes:
    try:
        return key_of(secret)
    except ValueError as error:
        problem = ConfigProblem("configuration", 0, field, str(error))
        raise ConfigError((problem,)) from None


def build_destination(
    config: WebhookDestinationConfig, context: DestinationContext
) -> WebhookDestination:
    """`hub.ports.Connector.build_destination`; errors as of `WebhookDestination`."""
    return WebhookDestination(config, context)
