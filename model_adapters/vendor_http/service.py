"""One vendor's service, asked for one model: who we are to it, and what its statuses mean."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from hub.domain.model_runtime import VendorHttpRuntime
from hub.errors import RejectedError, TransientError
from hub.formats.contract.messages import MEDIA_TYPE
from hub.formats.http_answers import is_passing, is_taken
from hub.ports import Clock
from hub.transport.address_guard import AddressGuard
from hub.transport.http_peer import HttpAnswer, HttpPeer
from hub.transport.oauth2 import AccessTokens, AuthorizedPeer, client_credentials
from model_adapters.vendor_http.config import ServiceConfig

_TOKEN_SECONDS = 30.0
_REFUSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
_GONE = (HTTPStatus.NOT_FOUND, HTTPStatus.GONE)
_HEADERS = {"Accept": MEDIA_TYPE, "Content-Type": MEDIA_TYPE}


class Service:
    """Thread-safe.

    Args:
        config: what the operator said of it.
        runtime: of the model; its URL is below the service's.
        clock: see `HttpPeer`.
        guard: looks at every address that is connected to.

    Raises:
        ConfigError: certificates or credentials cannot be used.
    """

    def __init__(
        self,
        config: ServiceConfig,
        runtime: VendorHttpRuntime,
        clock: Clock,
        guard: AddressGuard,
    ) -> None:
        self.url = runtime.url.rstrip("/")
        name = "the vendor's service"
        peer = HttpPeer(name, config, clock, timeout=runtime.timeout_seconds, guard=guard)
        tokens: _MendedTokens | None = None
        self._token_peer: HttpPeer | None = None
        if config.oauth2 is not None:
            bare = config.model_copy(update={"headers": {}, "url": config.oauth2.token_url})
            name = "the authorization server"
            self._token_peer = HttpPeer(name, bare, clock, timeout=_TOKEN_SECONDS)
            tokens = _MendedTokens(client_credentials(config.oauth2, self._token_peer))
        self._peer = AuthorizedPeer(peer, tokens, _REFUSED)

    def ask(self, request_id: str, content: bytes) -> HttpAnswer:
        """Post a request; the same one again is answered once (Idempotency-Key).

        Raises:
            TransientError: no answer, or one that says "later"; also where it does not let us in:
                operators mend credentials.
            RejectedError: it will never take it.
        """
        headers = {"Idempotency-Key": request_id}
        return _must_be_taken(self._exchange("POST", self.url, content, headers))

    def ask_after(self, job_reference: str) -> HttpAnswer | None:
        """What became of a job; None: the service does not know it any more. Errors as of
        ``ask``."""
        answer = self._exchange("GET", self._job_url(job_reference))
        return None if answer.status in _GONE else _must_be_taken(answer)

    def cancel(self, job_reference: str) -> None:
        """Nobody waits for the job any more; any answer will do.

        Raises:
            TransientError: no answer.
            RejectedError: its address may not be asked any more.
        """
        self._exchange("DELETE", self._job_url(job_reference))

    def close(self) -> None:
        self._peer.close()
        if self._token_peer is not None:
            self._token_peer.close()

    def _job_url(self, job_reference: str) -> str:
        """The contract lets a reference hold nothing that leads elsewhere."""
        return f"{self.url}/{job_reference}"

    def _exchange(
        self, method: str, url: str, content: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> HttpAnswer:
        given = {**_HEADERS, **(headers or {})}
        return self._peer.exchange(method, url, content=content, headers=given)


class _MendedTokens:
    """Where the authorization server does not let us in, operators mend it: no answer of the
    vendor's."""

    def __init__(self, tokens: AccessTokens) -> None:
        self._tokens = tokens
        self.forget = tokens.forget

    def token(self) -> str:
        """Raises:
        TransientError: there is none now.
        """
        try:
            return self._tokens.token()
        except RejectedError as error:
            raise TransientError(f"no access to the vendor's service: {error}") from error


def _must_be_taken(answer: HttpAnswer) -> HttpAnswer:
    status = answer.status
    if is_taken(status):
        return answer
    said = f"the vendor's service answered HTTP {status}"
    if status in _REFUSED:
        raise TransientError(
            f"{said}: it does not let the hub in; look at `adapters.vendor_http.services`",
            retry_after=answer.retry_after,
        )
    if is_passing(status):
        raise TransientError(said, retry_after=answer.retry_after)
    if status < HTTPStatus.BAD_REQUEST:
        raise RejectedError(f"{said}: redirects are not followed")
    raise RejectedError(said)
