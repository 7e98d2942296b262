"""A DICOM sender that is never the bottleneck: PDUs made beforehand, one process per association.

It keeps one C-STORE outstanding, as storescu does, and reads each response with one ``recv``
where the receiver sends it in one piece. Everything but the UIDs is ready before the clock
starts (PS3.8 9.3, PS3.7 9.3.1).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter

from tests.bench.intake_corpus import TOKEN, Corpus, sop_instance_uid

CALLED, CALLING = "CAIDX", "BENCH"
_APPLICATION_CONTEXT, _VERIFICATION = b"1.2.840.10008.3.1.1.1", b"1.2.840.10008.1.1"
_IMPLICIT = b"1.2.840.10008.1.2"
_LARGEST_PDU = 1 << 20
_STATUS = b"\x00\x00\x00\x09\x02\x00\x00\x00"
"""Tag and length of Status (0000,0900), Implicit VR Little Endian."""
TIMEOUT = 120.0


@dataclass(frozen=True, slots=True)
class Span:
    """When the first byte went out and the last response was in (``perf_counter``, which all
    processes share)."""

    begin: float
    end: float


class Message:
    """One C-STORE-RQ as the P-DATA-TF PDUs that carry it, and where its token stands."""

    __slots__ = ("_places", "content")

    def __init__(self, corpus: Corpus, index: int, pdu_length: int) -> None:
        data_set = corpus.data_sets[index]
        uid = sop_instance_uid(TOKEN, index)
        command = _command(corpus.sop_class_uid, uid)
        self.content = bytearray(_pdus(command, data_set, pdu_length))
        self._places = tuple(_places(self.content))

    def renew(self, token: bytes) -> None:
        """Give it UIDs that nobody has seen."""
        for place in self._places:
            self.content[place : place + len(TOKEN)] = token


def messages(corpus: Corpus, pdu_length: int) -> list[Message]:
    """The whole corpus for a receiver that takes PDUs of that length; 0: of any."""
    length = min(pdu_length or _LARGEST_PDU, _LARGEST_PDU)
    return [Message(corpus, index, length) for index in range(len(corpus.data_sets))]


class Association:
    """One association for one storage SOP class.

    Raises:
        AssertionError: the receiver rejects it, or anything in it.
        OSError: the connection broke, or took longer than `TIMEOUT`.
    """

    def __init__(self, port: int, sop_class_uid: str, transfer_syntax_uid: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(_associate_rq(sop_class_uid, transfer_syntax_uid))
        answer = self._pdu()
        assert answer[0] == 0x02, f"no A-ASSOCIATE-AC, but {answer[:10]!r}"
        self.pdu_length = _maximum_length(answer)
        """What the receiver takes; 0: any."""

    def store(self, message: Message) -> None:
        """Send one object and wait until it is acknowledged."""
        self._socket.sendall(message.content)
        answer = self._pdu()
        at = answer.find(_STATUS)
        status = answer[at + 8 : at + 10]
        assert at > 0, f"no C-STORE-RSP, but {answer[:10]!r}"
        assert status == b"\0\0", f"status 0x{status[1]:02X}{status[0]:02X}"

    def echo(self) -> None:
        """C-ECHO (PS3.7 9.3.5)."""
        elements = element(0x0002, padded(_VERIFICATION)) + element(0x0100, b"\x30\x00")
        elements += element(0x0110, b"\x01\x00") + element(0x0800, b"\x01\x01")
        self._socket.sendall(b"".join(p_data(3, 0x03, group(elements), _LARGEST_PDU)))
        assert _STATUS + b"\0\0" in self._pdu(), "C-ECHO-RSP with success"

    def release(self) -> None:
        """A-RELEASE, and the end of the connection."""
        self._socket.sendall(b"\x05\x00\x00\x00\x00\x04\x00\x00\x00\x00")
        assert self._pdu()[0] == 0x06, "A-RELEASE-RP"
        self._socket.close()

    def close(self) -> None:
        """End the connection without a word."""
        self._socket.close()

    def _pdu(self) -> bytes:
        received = b""
        while len(received) < 6 or len(received) < 6 + int.from_bytes(received[2:6], "big"):
            more = self._socket.recv(65536)
            if not more:
                raise ConnectionError("the receiver closed the connection")
            received = received + more if received else more
        return received


def send(port: int, corpus: Corpus, share: Sequence[Message]) -> Span:
    """One association from its request to its release; the span ends with the last response."""
    begin = perf_counter()
    association = Association(port, corpus.sop_class_uid, corpus.transfer_syntax_uid)
    for message in share:
        association.store(message)
    end = perf_counter()
    association.release()
    return Span(begin, end)


# --- PDUs -----------------------------------------------------------------------------------


def padded(value: bytes) -> bytes:
    """A UID of even length (PS3.5 6.2)."""
    return value + b"\0" * (len(value) % 2)


def element(element: int, value: bytes) -> bytes:
    """Of group 0000, Implicit VR Little Endian (PS3.7 6.3.1)."""
    return struct.pack("<HHI", 0x0000, element, len(value)) + value


def group(elements: bytes) -> bytes:
    """A command set with its group length."""
    return element(0x0000, struct.pack("<I", len(elements))) + elements


def _command(sop_class_uid: str, sop_instance_uid: str) -> bytes:
    """C-STORE-RQ (PS3.7 9.3.1.1)."""
    return group(
        element(0x0002, padded(sop_class_uid.encode()))
        + element(0x0100, b"\x01\x00")
        + element(0x0110, b"\x01\x00")
        + element(0x0700, b"\x00\x00")
        + element(0x0800, b"\x01\x00")
        + element(0x1000, padded(sop_instance_uid.encode()))
    )


def p_data(context: int, last: int, value: bytes, pdu_length: int) -> Iterator[bytes]:
    """P-DATA-TF PDUs of one fragment each; ``last`` is the message control header of the last."""
    room = pdu_length - 6
    for at in range(0, len(value), room):
        fragment = value[at : at + room]
        control = last if at + room >= len(value) else last & ~0x02
        size = len(fragment)
        yield struct.pack(">BxIIBB", 0x04, size + 6, size + 2, context, control)
        yield fragment


def _pdus(command: bytes, data_set: bytes, pdu_length: int) -> bytes:
    parts = [*p_data(1, 0x03, command, pdu_length), *p_data(1, 0x02, data_set, pdu_length)]
    return b"".join(parts)


def _places(content: bytearray) -> Iterator[int]:
    """Where the token stands: all are near the beginning, before any pixel."""
    at = content.find(TOKEN)
    while at >= 0:
        yield at
        at = content.find(TOKEN, at + len(TOKEN), 16384)


def _associate_rq(sop_class_uid: str, transfer_syntax_uid: str) -> bytes:
    """A-ASSOCIATE-RQ (PS3.8 9.3.2): storage is context 1, verification 3."""
    user = item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.826.0.1.3680043.10.2")
    items = (
        item(0x10, _APPLICATION_CONTEXT)
        + _context(1, sop_class_uid.encode(), transfer_syntax_uid.encode())
        + _context(3, _VERIFICATION, _IMPLICIT)
        + item(0x50, user)
    )
    titles = CALLED.encode().ljust(16) + CALLING.encode().ljust(16)
    body = struct.pack(">HH", 1, 0) + titles + bytes(32) + items
    return struct.pack(">BxI", 0x01, len(body)) + body


def item(kind: int, value: bytes) -> bytes:
    """An item of an association's PDU (PS3.8 9.3)."""
    return struct.pack(">BxH", kind, len(value)) + value


def _context(number: int, abstract: bytes, transfer: bytes) -> bytes:
    inner = item(0x30, abstract) + item(0x40, transfer)
    return item(0x20, struct.pack(">Bxxx", number) + inner)


def _maximum_length(answer: bytes) -> int:
    """Of the user information in an A-ASSOCIATE-AC (PS3.8 annex D.1)."""
    at = 74
    while at < len(answer):
        kind, length = answer[at], int.from_bytes(answer[at + 2 : at + 4], "big")
        if kind == 0x51:
            return int.from_bytes(answer[at + 4 : at + 8], "big")
        if kind == 0x21:
            assert answer[at + 6] == 0, f"presentation context {answer[at + 4]} was rejected"
        at += 4 if kind == 0x50 else 4 + length  # user information: on to the items in it
    return 0
