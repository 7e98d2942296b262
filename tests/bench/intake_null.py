"""A receiver that reads and acknowledges and keeps nothing: how fast the sender is by itself.

``python -m tests.bench.intake_null PORT``.
"""

from __future__ import annotations

import socket
import struct
import sys
import threading

from tests.bench.intake_sender import element, group, item, p_data, padded

_RECEIVED = struct.Struct(">BxI")
_PDU_LENGTH = 1 << 20


def _accept(request: bytes) -> bytes:
    """A-ASSOCIATE-AC to the contexts of `tests.bench.intake_sender`."""
    transfer = request[request.index(b"\x40\x00") :]
    first = transfer[: 4 + int.from_bytes(transfer[2:4], "big")]
    answers = item(0x21, b"\x01\0\0\0" + first)
    answers += item(0x21, b"\x03\0\0\0" + item(0x40, b"1.2.840.10008.1.2"))
    user = item(0x51, struct.pack(">I", _PDU_LENGTH)) + item(0x52, b"1.2.826.0.1.3680043.10.3")
    body = request[:68] + item(0x10, b"1.2.840.10008.3.1.1.1") + answers + item(0x50, user)
    return struct.pack(">BxI", 0x02, len(body)) + body


_COMMAND = group(
    element(0x0002, padded(b"1.2.840.10008.5.1.4.1.1.2"))
    + element(0x0100, b"\x01\x80")
    + element(0x0120, b"\x01\x00")
    + element(0x0800, b"\x01\x01")
    + element(0x0900, b"\x00\x00")
)
_STORED = b"".join(p_data(1, 0x03, _COMMAND, _PDU_LENGTH))
"""C-STORE-RSP with success."""


def _serve(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    buffer = memoryview(bytearray(_PDU_LENGTH + 6))
    while _fill(connection, buffer[:6]):
        kind, length = _RECEIVED.unpack(buffer[:6])
        if not _fill(connection, buffer[:length]):
            return
        if kind == 0x01:
            connection.sendall(_accept(bytes(buffer[:length])))
        elif kind == 0x05:
            connection.sendall(b"\x06\0\0\0\0\x04\0\0\0\0")
        elif buffer[5] == 0x02:  # the last fragment of a data set
            connection.sendall(_STORED)


def _fill(connection: socket.socket, into: memoryview) -> bool:
    while into:
        count = connection.recv_into(into)
        if not count:
            return False
        into = into[count:]
    return True


def main(port: int) -> None:
    """Serve until killed."""
    listener = socket.create_server(("127.0.0.1", port), backlog=64)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_serve, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main(int(sys.argv[1]))
