"""SMART Backend Services: access tokens for a program (SMART App Launch 2.2, "Backend Services").

We sign a short-lived JWT with our private key (RFC 7523, ``private_key_jwt``); the authorization
server knows the public one, and gives a token that is used until shortly before it expires.
"""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import ip_address
from urllib.parse import urlencode, urlsplit
from uuid import uuid4

import orjson
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, RSAKey

from connectors.fhir.config import SmartConfig
from hub.errors import ConfigError, ConfigProblem, RejectedError, TransientError
from hub.formats.http_answers import is_passing, is_taken
from hub.ports import Clock
from hub.transport.http_peer import HttpAnswer, HttpPeer

_ASSERTION_LIFETIME = timedelta(minutes=4)
"""At most five minutes; servers whose clock is behind get the rest."""
_EARLIER = 30.0
"""Seconds before its end at which a token is no longer used."""
_USUAL_LIFETIME = 60.0
"""Seconds, of a token whose server does not say."""
_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_ERROR = re.compile(r"[a-z_]{1,40}")
_ACCESS_TOKEN = re.compile(r"[!-~]+")
"""RFC 6749 appendix A.12, without the space: it becomes a header."""
_SMALLEST_RSA = 2048
_CURVE = "P-384"


@dataclass(frozen=True, slots=True)
class _Token:
    value: str = field(repr=False)
    good_until: float
    """On the monotonic clock."""


class BackendServices:
    """Gets tokens and keeps the one that is valid. Thread-safe.

    Args:
        config: see there.
        fhir_url: base URL of the FHIR server, where its token endpoint is found.
        peer: to call both servers, without an identity of its own.
        clock: for the assertions.

    Raises:
        ConfigError: the key cannot be used.
    """

    def __init__(self, config: SmartConfig, fhir_url: str, peer: HttpPeer, clock: Clock) -> None:
        self._config = config
        self._fhir_url = fhir_url
        self._peer = peer
        self._clock = clock
        self._key = _private_key(config)
        self._token: _Token | None = None
        self._lock = threading.Lock()

    def token(self) -> str:
        """A token that is valid now.

        Raises:
            TransientError: the authorization server cannot be asked now.
            RejectedError: it refuses us.
        """
        with self._lock:
            if self._token is None or time.monotonic() >= self._token.good_until:
                self._token = self._fetched()
            return self._token.value

    def forget(self, token: str) -> None:
        """The server does not accept this token any more."""
        with self._lock:
            if self._token is not None and self._token.value == token:
                self._token = None

    def _fetched(self) -> _Token:
        endpoint = self._config.token_url or self._discovered()
        if not is_private(endpoint):
            raise RejectedError("the token endpoint is neither https nor on this machine")
        form = {
            "grant_type": "client_credentials",
            "scope": self._config.scope,
            "client_assertion_type": _ASSERTION_TYPE,
            "client_assertion": self._assertion(endpoint),
        }
        asked = time.monotonic()
        answer = self._peer.exchange(
            "POST",
            endpoint,
            content=urlencode(form).encode(),
            headers={
                "Content-Type": "application/x-www-form-urlencoded",
                "Accept": "application/json",
            },
        )
        return _token_in(answer, asked)

    def _discovered(self) -> str:
        """The token endpoint of ``.well-known/smart-configuration``."""
        url = f"{self._fhir_url}/.well-known/smart-configuration"
        answer = self._peer.exchange("GET", url, headers={"Accept": "application/json"})
        found = answer.json
        endpoint = found.get("token_endpoint") if isinstance(found, dict) else None
        if not is_taken(answer.status) or not isinstance(endpoint, str):
            raise TransientError(
                f"HTTP {answer.status}: the server names no token endpoint",
                retry_after=answer.retry_after,
            )
        return endpoint

    def _assertion(self, endpoint: str) -> str:
        now = self._clock.now()
        header = {"alg": _algorithm(self._key), "typ": "JWT"}
        if self._config.key_id or self._key.kid:
            header["kid"] = self._config.key_id or str(self._key.kid)
        claims = {
            "iss": self._config.client_id,
            "sub": self._config.client_id,
            "aud": endpoint,
            "iat": int(now.timestamp()),
            "exp": int((now + _ASSERTION_LIFETIME).timestamp()),
            "jti": uuid4().hex,
        }
        return jwt.encode(header, claims, self._key, algorithms=[header["alg"]])


def is_private(url: str) -> bool:
    """Whether nobody can listen in: https, or a server on this machine."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    if parts.scheme == "https":
        return True
    host = parts.hostname or ""
    try:
        return parts.scheme == "http" and ip_address(host).is_loopback
    except ValueError:
        return parts.scheme == "http" and host == "localhost"


def _token_in(answer: HttpAnswer, asked: float) -> _Token:
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
    return _Token(value, asked + max(0.0, seconds - _EARLIER))


def _algorithm(key: RSAKey | ECKey) -> str:
    """The two that every SMART server has to know (SMART App Launch 2.2, "Client Authentication:
    Asymmetric")."""
    return "RS384" if isinstance(key, RSAKey) else "ES384"


def _private_key(config: SmartConfig) -> RSAKey | ECKey:
    text = config.private_key.get_secret_value().strip()
    try:
        key = _imported(text)
    except (JoseError, ValueError, TypeError, KeyError) as error:
        raise _problem(f"cannot be read: {type(error).__name__}") from None
    if not key.is_private:
        raise _problem("is a public key")
    if isinstance(key, ECKey) and key.curve_name != _CURVE:
        raise _problem(f"must be of the curve {_CURVE} (ES384)")
    if isinstance(key, RSAKey) and key.raw_value.key_size < _SMALLEST_RSA:
        raise _problem(f"must have at least {_SMALLEST_RSA} bits (RS384)")
    return key


def _imported(text: str) -> RSAKey | ECKey:
    if text.startswith("{"):
        found = JWKRegistry.import_key(orjson.loads(text))
        if not isinstance(found, RSAKey | ECKey):
            raise ValueError("neither RSA nor EC")
        return found
    try:
        return RSAKey.import_key(text)
    except (JoseError, ValueError, TypeError):
        return ECKey.import_key(text)


def _problem(message: str) -> ConfigError:
    return ConfigError((ConfigProblem("configuration", 0, "smart.private_key", message),))
