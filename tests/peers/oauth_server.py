"""A SMART authorization server, and the FHIR server behind it: checks what a real one checks.

Assertions by ``private_key_jwt`` (RFC 7523): signature by the registered key, ``iss`` and
``sub``, ``aud``, lifetime, and that no ``jti`` comes twice.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

Key = RSAKey | ECKey
Handle = Callable[[], tuple[int, dict[str, Any]]]


@dataclass
class SmartServer:
    """One client is registered, with its public key."""

    public_key: Key
    client_id: str = "caidx"
    scope: str = "system/*.cruds"
    lifetime: int = 300
    """``expires_in`` of its tokens."""
    url: str = ""
    endpoint: str = ""
    """Where it says that its token endpoint is."""
    failure: tuple[int, dict[str, Any]] | None = None
    """What the token endpoint answers instead."""
    issued: list[str] = field(default_factory=list)
    revoked: set[str] = field(default_factory=set)
    refusals: list[str] = field(default_factory=list)
    jtis: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    """Tokens that FHIR requests carried."""

    def token(self, form: dict[str, list[str]]) -> tuple[int, dict[str, Any]]:
        if self.failure is not None:
            return self.failure
        reason = self._objection({name: values[0] for name, values in form.items()})
        if reason:
            self.refusals.append(reason)
            return 400, {"error": "invalid_client", "error_description": "CANARY " + reason}
        self.issued.append(f"token-{len(self.issued) + 1}")
        return 200, {
            "access_token": self.issued[-1],
            "token_type": "bearer",
            "expires_in": self.lifetime,
            "scope": self.scope,
        }

    def _objection(self, form: dict[str, str]) -> str:
        kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        if form.get("grant_type") != "client_credentials":
            return "grant type"
        if form.get("client_assertion_type") != kind or form.get("scope") != self.scope:
            return "assertion type or scope"
        try:
            token = jwt.decode(form["client_assertion"], self.public_key, ["RS384", "ES384"])
        except (JoseError, ValueError, KeyError):
            return "signature"
        claims, now = token.claims, time.time()
        wrong = {
            "client": {claims.get("iss"), claims.get("sub")} != {self.client_id},
            "audience": claims.get("aud") != self.endpoint,
            "lifetime": not now - 5 < claims.get("exp", 0) <= now + 300,
            "replay": claims["jti"] in self.jtis,
        }
        self.jtis.add(claims["jti"])
        return next((name for name, holds in wrong.items() if holds), "")

    def fhir(self, authorization: str) -> tuple[int, dict[str, Any]]:
        token = authorization.removeprefix("Bearer ")
        self.requests.append(token)
        if token not in self.issued or token in self.revoked:
            return 401, {"resourceType": "OperationOutcome", "issue": []}
        return 200, {"resourceType": "CapabilityStatement", "fhirVersion": "4.0.1"}


@contextmanager
def smart_server(public_key: Key, **options: Any) -> Iterator[SmartServer]:
    """On a free loopback port."""
    smart = SmartServer(public_key, **options)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(smart))
    root = f"http://127.0.0.1:{server.server_address[1]}"
    smart.url, smart.endpoint = f"{root}/fhir", smart.endpoint or f"{root}/token"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield smart
    finally:
        server.shutdown()
        server.server_close()


def _handler(smart: SmartServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            self._answer(*smart.token(parse_qs(body)))

        def do_GET(self) -> None:
            if urlsplit(self.path).path == "/fhir/.well-known/smart-configuration":
                self._answer(200, {"token_endpoint": smart.endpoint})
            else:
                self._answer(*smart.fhir(self.headers.get("authorization", "")))

        def _answer(self, status: int, content: dict[str, Any]) -> None:
            raw = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
