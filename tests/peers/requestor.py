"""A requestor that says exactly the bytes it is told to say: for what no real peer would send."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
RELEASE_RQ = struct.pack(">BxI4x", 5, 4)
ABORT = struct.pack(">BxI4x", 7, 4)


def item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def proposed(context_id: int, abstract_syntax: str, transfer_syntaxes: Sequence[str]) -> bytes:
    """A presentation context item (PS3.8 9.3.2.2)."""
    syntaxes = b"".join(item(0x40, syntax.encode()) for syntax in transfer_syntaxes)
    head = struct.pack(">Bxxx", context_id)
    return item(0x20, head + item(0x30, abstract_syntax.encode()) + syntaxes)


def associate_request(
    contexts: Sequence[bytes] = (),
    *,
    user: Sequence[bytes] = (),
    calling: str = "RAW",
    called: str = "CAIDX",
    version: int = 1,
    application_context: str = APPLICATION_CONTEXT,
    maximum_length: int = 0,
) -> bytes:
    """A-ASSOCIATE-RQ; by default for CT images in Explicit VR Little Endian."""
    chosen = contexts or [proposed(1, CT, [EXPLICIT])]
    information = [item(0x51, struct.pack(">I", maximum_length)), item(0x52, b"1.2.3"), *user]
    titles = (called.encode("latin-1").ljust(16), calling.encode("latin-1").ljust(16))
    body = (
        struct.pack(">H2x16s16s32x", version, *titles)
        + item(0x10, application_context.encode())
        + b"".join(chosen)
        + item(0x50, b"".join(information))
    )
    return struct.pack(">BxI", 1, len(body)) + body


def element(number: int, value: bytes, group: int = 0) -> bytes:
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HHI", group, number, len(value)) + value


def command(*elements: bytes) -> bytes:
    body = b"".join(elements)
    return element(0, struct.pack("<I", len(body))) + body


def short(value: int) -> bytes:
    return struct.pack("<H", value)


def store_command(uid: str, sop_class: str = CT, message_id: int = 1, has_data: int = 0) -> bytes:
    """C-STORE-RQ."""
    return command(
        element(0x0002, sop_class.encode("latin-1")),
        element(0x0100, short(1)),
        element(0x0110, short(message_id)),
        element(0x0700, short(0)),
        element(0x0800, short(has_data)),
        element(0x1000, uid.encode("latin-1")),
    )


def echo_command(message_id: int = 1) -> bytes:
    return command(
        element(0x0002, b"1.2.840.10008.1.1"),
        element(0x0100, short(0x30)),
        element(0x0110, short(message_id)),
        element(0x0800, short(0x0101)),
    )


def pdv(value: bytes, *, is_command: bool, last: bool = True, context_id: int = 1) -> bytes:
    return struct.pack(">IBB", len(value) + 2, context_id, is_command | last << 1) + value


def p_data(*pdvs: bytes) -> bytes:
    body = b"".join(pdvs)
    return struct.pack(">BxI", 4, len(body)) + body


def store(
    uid: str, data_set: bytes, *, fragment: int = 1 << 16, sop_class: str = CT, context_id: int = 1
) -> bytes:
    """All PDUs of one C-STORE request."""
    named = store_command(uid, sop_class)
    parts = [p_data(pdv(named, is_command=True, context_id=context_id))]
    for start in range(0, max(len(data_set), 1), fragment):
        last = start + fragment >= len(data_set)
        piece = data_set[start : start + fragment]
        parts.append(p_data(pdv(piece, is_command=False, last=last, context_id=context_id)))
    return b"".join(parts)


@dataclass(frozen=True)
class Pdu:
    kind: int
    body: bytes

    @property
    def status(self) -> int:
        """Of a response message: Status (0000,0900)."""
        place = self.body.index(b"\x00\x00\x00\x09\x02\x00\x00\x00") + 8
        return int.from_bytes(self.body[place : place + 2], "little")

    @property
    def abort(self) -> tuple[int, int]:
        assert self.kind == 7, self
        return self.body[2], self.body[3]

    @property
    def rejection(self) -> tuple[int, int, int]:
        assert self.kind == 3, self
        return self.body[1], self.body[2], self.body[3]


class Requestor:
    """One connection; ``receive`` gives the next PDU, None when the peer has closed."""

    def __init__(self, port: int, *, connection: socket.socket | None = None) -> None:
        self.socket = connection or socket.create_connection(("127.0.0.1", port), timeout=20)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self) -> Pdu | None:
        head = self._exactly(6)
        if len(head) < 6:
            return None
        return Pdu(head[0], self._exactly(int.from_bytes(head[2:], "big")))

    def ask(self, data: bytes) -> Pdu:
        """Send, and the PDU that comes back."""
        self.send(data)
        answer = self.receive()
        assert answer is not None, "closed without an answer"
        return answer

    def establish(self, *contexts: bytes, **fields: object) -> Pdu:
        answer = self.ask(associate_request(contexts, **fields))  # type: ignore[arg-type]
        assert answer.kind == 2, answer
        return answer

    def release(self) -> None:
        assert self.ask(RELEASE_RQ).kind == 6

    def _exactly(self, count: int) -> bytes:
        got = b""
        while len(got) < count:
            try:
                part = self.socket.recv(count - len(got))
            except ConnectionError:
                break
            if not part:
                break
            got += part
        return got


def closed_within(requestor: Requestor, seconds: float) -> bool:
    """Whether the peer closes in time; what it says before is thrown away."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        requestor.socket.settimeout(max(deadline - time.monotonic(), 0.01))
        try:
            if not requestor.socket.recv(65536):
                return True
        except TimeoutError:
            return False
        except OSError:
            return True
    return False
