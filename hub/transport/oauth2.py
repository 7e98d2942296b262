"""Access tokens for a program: OAuth 2.0 client credentials (RFC 6749 section 4.4).

A token is kept and used until shortly before its end. How it is asked for is not always by a
client secret: whoever signs an assertion instead shares the rest (`AccessTokens`).
"""

from __future__ import annotations

import re
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Protocol
from urllib.parse import quote_plus, urlencode

from hub.errors import RejectedError, TransientError
from hub.formats.http_answers import is_passing, is_taken
from hub.transport.http_peer import HttpAnswer, HttpPeer
from hub.transport.oauth2_config import OAuth2Config

FORM_HEADERS = {
    "Content-Type": "application/x-www-form-urlencoded",
    "Accept": "application/json",
}
_EARLIER = 30.0
"""Seconds before its end at which a token is no longer used."""
_USUAL_LIFETIME = 60.0
"""Seconds, of a token whose server does not say."""
_ERROR = re.compile(r"[a-z_]{1,40}")
_ACCESS_TOKEN = re.compile(r"[!-~]+")
"""RFC 6749 appendix A.12, without the space: it becomes a header."""


@dataclass(frozen=True, slots=True)
class AccessToken:
    """What an authorization server gave."""

    value: str = field(repr=False)
    good_until: float
    """On the monotonic clock."""


class AccessTokens:
    """Keeps the token that is valid. Thread-safe: however many ask, one of them fetches.

    Args:
        fetch: asks the authorization server; may raise what ``token`` raises.
    """

    def __init__(self, fetch: Callable[[], AccessToken]) -> None:
        self._fetch = fetch
        self._token: AccessToken | None = None
        self._lock = threading.Lock()

    def token(self) -> str:
        """A token that is valid now.

        Raises:
            TransientError: the authorization server cannot be asked now.
            RejectedError: it refuses us.
        """
        with self._lock:
            if self._token is None or time.monotonic() >= self._token.good_until:
                self._token = self._fetch()
            return self._token.value

    def forget(self, token: str) -> None:
        """The server does not accept this token any more."""
        with self._lock:
            if self._token is not None and self._token.value == token:
                self._token = None


class Tokens(Protocol):
    """As `AccessTokens`."""

    def token(self) -> str: ...

    def forget(self, token: str) -> None: ...


class AuthorizedPeer:
    """An HTTP server to which every request shows an access token. One that the server refuses may
    have been withdrawn, and is replaced once. Thread-safe.

    Args:
        peer: to call it, and who closes it.
        tokens: None: it is called without.
        refused: statuses by which it says that it does not take a token.
    """

    def __init__(
        self,
        peer: HttpPeer,
        tokens: Tokens | None,
        refused: Collection[int] = (HTTPStatus.UNAUTHORIZED,),
    ) -> None:
        self._peer = peer
        self._tokens = tokens
        self._refused = refused

    def exchange(
        self,
        method: str,
        url: str,
        *,
        content: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> HttpAnswer:
        """As `HttpPeer.exchange`, and it may raise what ``tokens`` raise."""
        if self._tokens is None:
            return self._peer.exchange(method, url, content=content, headers=headers)
        for _ in range(2):
            token = self._tokens.token()
            shown = {**(headers or {}), "Authorization": f"Bearer {token}"}
            answer = self._peer.exchange(method, url, content=content, headers=shown)
            if answer.status not in self._refused:
                break
            self._tokens.forget(token)
        return answer

    def close(self) -> None:
        """Close the connections that are kept open."""
        self._peer.close()


def client_credentials(config: OAuth2Config, peer: HttpPeer) -> AccessTokens:
    """Tokens for a client secret.

    Args:
        config: see there.
        peer: to call the authorization server, without an identity of its own.
    """

    def fetch() -> AccessToken:
        form = {"grant_type": "client_credentials"}
        form |= {"scope": config.scope} if config.scope else {}
        form |= {"audience": config.audience} if config.audience else {}
        headers = dict(FORM_HEADERS)
        secret = config.client_secret.get_secret_value()
        if config.authentication == "client_secret_post":
            form |= {"client_id": config.client_id, "client_secret": secret}
        else:
            pair = f"{quote_plus(config.client_id)}:{quote_plus(secret)}"
            headers["Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
        asked = time.monotonic()
        content = urlencode(form).encode()
        return token_in(
            peer.exchange("POST", config.token_url, content=content, headers=headers), asked
        )

    return AccessTokens(fetch)


def token_in(answer: HttpAnswer, asked: float) -> AccessToken:
    """The token in what a token endpoint answered (RFC 6749 section 5).

    Args:
        answer: see there.
        asked: when the question was sent, on the monotonic clock.

    Raises:
        TransientError: there is none, and there may be one later.
        RejectedError: the server refuses us; the message names its error code and no more.
    """
    found = answer.json
    found = found if isinstance(found, dict) else {}
    if not is_taken(answer.status):
        code = str(found.get("error", ""))
        said = f" ({code})" if _ERROR.fullmatch(code) else ""
        message = f"the authorization server answered HTTP {answer.status}{said}"
        if is_passing(answer.status):
            raise TransientError(message, retry_after=answer.retry_after)
        raise RejectedError(message)
    value, seconds = found.get("access_token"), found.get("expires_in", _USUAL_LIFETIME)
    is_time = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not isinstance(value, str) or not _ACCESS_TOKEN.fullmatch(value) or not is_time:
        raise TransientError("the authorization server gave no token")
    return AccessToken(value, asked + max(0.0, seconds - _EARLIER))
