"""One inference server by HTTP: bounded in time and length, over connections that are kept."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import urlsplit

import httpx
import orjson

from hub.errors import RejectedError, TransientError
from hub.formats.http_answers import retry_after_seconds
from hub.ports import Clock
from hub.transport.address_guard import AddressGuard
from hub.transport.http_config import HttpPeerConfig
from hub.transport.http_peer import client
from model_adapters.open_inference.protocol import HEADER_LENGTH

_PIECE_BYTES = 1 << 20
_PLAIN = {"Accept-Encoding": "identity"}
"""What is packed small may unpack to any length; tensors hardly shrink."""
_SHORT_ANSWER_BYTES = 4 << 20
"""Longest answer to anything but an inference."""


@dataclass(frozen=True, slots=True)
class ServerAnswer:
    """What the server answered."""

    status: int
    body: bytearray = field(repr=False)
    header_length: str | None = None
    """Of the JSON text before binary data."""
    retry_after: float | None = None
    """Seconds."""

    @property
    def is_ok(self) -> bool:
        return self.status == HTTPStatus.OK

    @property
    def json(self) -> object:
        """Raises:
        RejectedError: it is none.
        """
        try:
            found: object = orjson.loads(self.body)
        except orjson.JSONDecodeError:
            raise RejectedError("the server's answer is no JSON") from None
        return found


class InferenceServer:
    """Asks one server. Used by one thread.

    Args:
        config: its base URL, and who we are to it.
        guard: looks at every address; None where the operator named the server.
        clock: to understand a date in Retry-After.
        answer_bytes: longest answer to an inference.

    Raises:
        ConfigError: files or secrets of the configuration cannot be used.
        RejectedError: the URL is not one that may be called.
    """

    def __init__(
        self, config: HttpPeerConfig, guard: AddressGuard | None, clock: Clock, answer_bytes: int
    ) -> None:
        if guard is not None:
            guard.check_url(config.url)
        self._base = config.url
        self._clock = clock
        self._answer_bytes = answer_bytes
        self._client = client(config, timeout=None, headers=_PLAIN, guard=guard)

    @property
    def host(self) -> str:
        """For messages: it holds no secrets."""
        return urlsplit(self._base).netloc

    def get(self, path: str, timeout: float) -> ServerAnswer:
        """Raises:
        TransientError: no answer, or one that is too long, or not in ``timeout`` seconds.
        RejectedError: its address is not one that may be called.
        """
        request = self._client.build_request("GET", f"{self._base}/{path}", timeout=timeout)
        return self._exchange(request, _SHORT_ANSWER_BYTES)

    def post(
        self, path: str, content: bytes, headers: Mapping[str, str], timeout: float
    ) -> ServerAnswer:
        """As `get`."""
        request = self._client.build_request(
            "POST", f"{self._base}/{path}", content=content, headers=dict(headers), timeout=timeout
        )
        return self._exchange(request, self._answer_bytes)

    def close(self) -> None:
        """Close the connections that are kept."""
        self._client.close()

    def _exchange(self, request: httpx.Request, most_bytes: int) -> ServerAnswer:
        try:
            with closing(self._client.send(request, stream=True)) as response:
                body = self._read(response, most_bytes)
        except httpx.TimeoutException:
            raise TransientError(f"{self.host} did not answer in time") from None
        except (httpx.RequestError, httpx.InvalidURL) as error:
            # the text of the error may repeat the request
            raise TransientError(f"{self.host}: {type(error).__name__}") from None
        after = retry_after_seconds(response.headers.get("retry-after"), self._clock.now())
        return ServerAnswer(
            response.status_code, body, response.headers.get(HEADER_LENGTH.lower()), after
        )

    def _read(self, response: httpx.Response, most_bytes: int) -> bytearray:
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise RejectedError(f"{self.host} packed its answer, which it was not asked to")
        body = bytearray()
        for piece in response.iter_raw(_PIECE_BYTES):
            body += piece
            if len(body) > most_bytes:
                raise RejectedError(f"the answer of {self.host} is too long")
        return body
