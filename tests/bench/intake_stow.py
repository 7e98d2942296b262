"""A STOW-RS sender that is never the bottleneck: HTTP/1.1 on raw sockets, bodies made beforehand.

Ten instances in a request (PS3.18 10.5), one request outstanding on each connection, which is
kept open.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from time import perf_counter

from hub.formats.dicom.part10 import part10
from hub.ports import ReceivedObject
from tests.bench.intake_corpus import TOKEN, Corpus, sop_instance_uid
from tests.bench.intake_sender import TIMEOUT, Span

INSTANCES_PER_REQUEST = 10
_BOUNDARY = b"caidx-bench-5f1d7c2e"
_PART = b"\r\n--" + _BOUNDARY + b"\r\nContent-Type: application/dicom\r\n\r\n"
_NO_KEY = b"-" * 66
"""Stands where the hub's key will, for receivers that ask for none."""
_END = b"\r\n--" + _BOUNDARY + b"--\r\n"


class StowRequest:
    """One POST with its body, and where its token stands."""

    __slots__ = ("_key_place", "_places", "content")

    def __init__(self, path: str, files: Sequence[bytes]) -> None:
        body = b"".join(_PART + file for file in files)[2:] + _END
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/dicom+json\r\n"
            f"Authorization: Bearer {_NO_KEY.decode()}\r\n"
            'Content-Type: multipart/related; type="application/dicom"; '
            f"boundary={_BOUNDARY.decode()}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self.content = bytearray(head.encode() + body)
        self._places = tuple(_places(self.content))
        self._key_place = self.content.index(_NO_KEY)

    def renew(self, token: bytes, key: str) -> None:
        """Give its instances UIDs that nobody has seen; ``key`` opens the receiver, if it asks."""
        if key:
            self.content[self._key_place : self._key_place + len(_NO_KEY)] = key.encode()
        for place in self._places:
            self.content[place : place + len(TOKEN)] = token


def requests(corpus: Corpus, path: str) -> list[StowRequest]:
    """The whole corpus."""
    files = [
        part10(
            ReceivedObject(
                sop_class_uid=corpus.sop_class_uid,
                sop_instance_uid=sop_instance_uid(TOKEN, index),
                transfer_syntax_uid=corpus.transfer_syntax_uid,
                data_set=data_set,
            )
        )
        for index, data_set in enumerate(corpus.data_sets)
    ]
    step = INSTANCES_PER_REQUEST
    return [StowRequest(path, files[at : at + step]) for at in range(0, len(files), step)]


def send(port: int, share: Sequence[StowRequest]) -> Span:
    """All requests over one connection (or more, where the server closes it)."""
    begin, connection = perf_counter(), None
    for request in share:
        connection = connection or _connect(port)
        connection.sendall(request.content)
        head = _answer(connection)
        status = head.split(b" ", 2)[1]
        assert status == b"200", f"STOW-RS was answered {head[:200]!r}"
        if b"connection: close" in head.lower():
            connection.close()
            connection = None
    end = perf_counter()
    if connection is not None:
        connection.close()
    return Span(begin, end)


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), TIMEOUT)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _answer(connection: socket.socket) -> bytes:
    """The head of one response, whose body has been read."""
    received = b""
    while True:
        more = connection.recv(65536)
        if not more:
            raise ConnectionError("the server closed the connection")
        received += more
        head, found, body = received.partition(b"\r\n\r\n")
        if found and _is_whole(head.lower(), body):
            return head


def _is_whole(head: bytes, body: bytes) -> bool:
    _, length, rest = head.partition(b"\r\ncontent-length:")
    if length:
        return len(body) >= int(rest.partition(b"\r\n")[0])
    return body.endswith(b"0\r\n\r\n")  # chunked


def _places(content: bytearray) -> Iterator[int]:
    at = content.find(TOKEN)
    while at >= 0:
        yield at
        at = content.find(TOKEN, at + len(TOKEN))
