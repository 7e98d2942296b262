"""SMART Backend Services: access tokens for a program (SMART App Launch 2.2, "Backend Services").

We sign a short-lived JWT with our private key (RFC 7523, ``private_key_jwt``); the authorization
server knows the public one, and gives a token that is kept (`hub.transport.oauth2`).
"""

from __future__ import annotations

import time
from datetime import timedelta
from urllib.parse import urlencode
from uuid import uuid4

import orjson
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, RSAKey

from connectors.fhir.config import SmartConfig
from hub.errors import ConfigError, ConfigProblem, RejectedError, TransientError
from hub.formats.http_answers import is_taken
from hub.ports import Clock
from hub.transport.http_peer import HttpPeer
from hub.transport.oauth2 import FORM_HEADERS, AccessToken, AccessTokens, token_in
from hub.transport.oauth2_config import is_private

_ASSERTION_LIFETIME = timedelta(minutes=4)
"""At most five minutes; servers whose clock is behind get the rest."""
_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_SMALLEST_RSA = 2048
_CURVE = "P-384"


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
        self._tokens = AccessTokens(self._fetched)

    def token(self) -> str:
        """As `AccessTokens.token`."""
        return self._tokens.token()

    def forget(self, token: str) -> None:
        """As `AccessTokens.forget`."""
        self._tokens.forget(token)

    def _fetched(self) -> AccessToken:
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
        content = urlencode(form).encode()
        answer = self._peer.exchange("POST", endpoint, content=content, headers=FORM_HEADERS)
        return token_in(answer, asked)

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
