"""An HTTP server that a connector calls: bounded in time and in the length of its answers."""

from __future__ import annotations

import re
import ssl
import zlib
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson
from pydantic import SecretStr

from hub.errors import ConfigError, ConfigProblem, TransientError
from hub.formats.http_answers import retry_after_seconds
from hub.ports import Clock
from hub.transport.address_guard import AddressGuard
from hub.transport.http_config import HttpPeerConfig
from hub.transport.http_transport import BoundedTransport

MAX_ANSWER_BYTES = 16 << 20
"""An answer that is longer is none to a request of ours."""

_CHUNK_BYTES = 1 << 16
_PACKED = ("gzip", "x-gzip", "deflate")
"""RFC 9110 section 8.4.1; one of them, once."""
_EITHER_HEAD = 32
"""To zlib: with the head of gzip (RFC 1952) or its own (RFC 1950)."""
_FIELD_VALUE = re.compile(r"[!-~](?:[ -~\t]*[!-~])?")


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What a server answered."""

    status: int
    body: bytes = field(repr=False)
    retry_after: float | None
    """Seconds."""
    etag: str = ""
    location: str = ""

    @property
    def json(self) -> Any:
        """The body as JSON; None where it is none."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return None


class HttpPeer:
    """Sends requests, follows no redirects. Thread-safe.

    Args:
        name: of the destination, for messages.
        config: see there.
        clock: to understand a date in Retry-After.
        timeout: seconds for a whole exchange.
        headers: of every request.
        guard: looks at every address; None where the operator gave the URL.

    Raises:
        ConfigError: the file of certification authorities, or what we are known by, cannot be
            used.
    """

    def __init__(
        self,
        name: str,
        config: HttpPeerConfig,
        clock: Clock,
        *,
        timeout: float,
        headers: Mapping[str, str] | None = None,
        guard: AddressGuard | None = None,
    ) -> None:
        self._name = name
        self._clock = clock
        self._client = client(config, timeout=timeout, headers=headers, guard=guard)

    def exchange(
        self,
        method: str,
        url: str,
        *,
        content: bytes = b"",
        headers: Mapping[str, str] | None = None,
        parameters: Mapping[str, str] | None = None,
    ) -> HttpAnswer:
        """Send a request and read all of the answer.

        Raises:
            TransientError: no answer, or one that is too long or too slow.
        """
        try:
            with self._client.stream(
                method,
                url,
                content=content or None,
                headers=dict(headers or {}),
                params=dict(parameters) if parameters else None,
            ) as response:
                body = self._read(response)
                after = response.headers.get("retry-after")
                return HttpAnswer(
                    response.status_code,
                    body,
                    retry_after_seconds(after, self._clock.now()),
                    response.headers.get("etag", ""),
                    response.headers.get("location", ""),
                )
        except (httpx.RequestError, httpx.InvalidURL) as error:
            # the text of the error may repeat the request
            raise TransientError(f"{self._name}: {type(error).__name__}") from None

    def close(self) -> None:
        """Close the connections that are kept open."""
        self._client.close()

    def _read(self, response: httpx.Response) -> bytes:
        pieces = bytearray()
        for piece in plain_body(response, _CHUNK_BYTES, self._name):
            pieces += piece
            if len(pieces) > MAX_ANSWER_BYTES:
                raise TransientError(f"{self._name}: the answer is too long")
        return bytes(pieces)


def plain_body(response: httpx.Response, chunk_bytes: int, name: str) -> Iterator[bytes]:
    """The body in pieces of at most so many bytes, unpacked: what is packed small, once or several
    times over, may unpack to any length at once.

    Raises:
        TransientError: it is packed in a way that nobody asked for, or is not whole; ``name``: the
            server's, for the message.
    """
    packed = response.headers.get("content-encoding", "identity").strip().lower()
    if packed == "identity":
        yield from response.iter_raw(chunk_bytes)
        return
    if packed not in _PACKED:
        raise TransientError(f"{name}: the answer is packed in a way that nobody asked for")
    unpacking = zlib.decompressobj(zlib.MAX_WBITS | _EITHER_HEAD)
    try:
        for piece in response.iter_raw(chunk_bytes):
            rest = piece
            while rest:
                yield unpacking.decompress(rest, chunk_bytes)
                rest = unpacking.unconsumed_tail
        yield unpacking.flush()
    except zlib.error:
        raise TransientError(f"{name}: the answer cannot be unpacked") from None
    if not unpacking.eof or unpacking.unused_data:
        raise TransientError(f"{name}: the answer cannot be unpacked")


def client(
    config: HttpPeerConfig,
    *,
    timeout: float | None,
    headers: Mapping[str, str] | None = None,
    guard: AddressGuard | None = None,
) -> httpx.Client:
    """A client that says who we are, follows no redirects, and keeps to its time.

    Args:
        config: see there.
        timeout: seconds for a whole exchange, where a request names none of its own.
        headers: of every request.
        guard: as of `HttpPeer`.

    Raises:
        ConfigError: as of `HttpPeer`.
    """
    return httpx.Client(
        transport=BoundedTransport(tls_context(config), guard),
        timeout=timeout,
        headers={**(headers or {}), **identity_headers(config)},
        follow_redirects=False,
    )


def identity_headers(config: HttpPeerConfig) -> dict[str, str]:
    """Who we are: what stands in ``headers`` goes first.

    Raises:
        ConfigError: a value cannot be sent; it may come from the environment or a file, and is
            not repeated.
    """
    headers = {}
    if config.bearer_token is not None:
        token = _sendable(config.bearer_token, "bearer_token")
        headers["Authorization"] = f"Bearer {token}"
    if config.password is not None:
        pair = f"{config.username}:{config.password.get_secret_value()}".encode()
        headers["Authorization"] = f"Basic {b64encode(pair).decode()}"
    given = {n: _sendable(value, f"headers.{n}") for n, value in config.headers.items()}
    return headers | given


def _sendable(secret: SecretStr, field_name: str) -> str:
    """RFC 9110 section 5.5, and ASCII only: no line break begins another header."""
    text = secret.get_secret_value()
    if not _FIELD_VALUE.fullmatch(text):
        message = "must be ASCII, without line breaks and outer spaces"
        raise ConfigError((ConfigProblem("configuration", 0, field_name, message),))
    return text


def tls_context(config: HttpPeerConfig) -> ssl.SSLContext:
    """What the server is believed by, and what we are, where it asks.

    Raises:
        ConfigError: the file of certification authorities, or our certificate, cannot be used.
    """
    context = _trust(config)
    if config.client_certificate is not None:
        _load_identity(context, config.client_certificate, config)
    return context


def _trust(config: HttpPeerConfig) -> ssl.SSLContext:
    if not config.verify_tls:
        return httpx.create_ssl_context(verify=False)
    if config.ca_file is None:
        return ssl.create_default_context()
    try:
        return ssl.create_default_context(cafile=str(config.ca_file))
    except (OSError, ssl.SSLError):
        problem = ConfigProblem(str(config.ca_file), 0, "ca_file", "holds no usable certificates")
        raise ConfigError((problem,)) from None


def _load_identity(context: ssl.SSLContext, certificate: Path, config: HttpPeerConfig) -> None:
    # Without a password OpenSSL would ask the terminal for it.
    given = config.client_key_password
    password = "" if given is None else given.get_secret_value()
    try:
        context.load_cert_chain(certificate, config.client_key or certificate, password)
    except (OSError, ValueError):  # ssl.SSLError is an OSError
        message = "cannot be used with its key"
        problem = ConfigProblem(str(certificate), 0, "client_certificate", message)
        raise ConfigError((problem,)) from None
