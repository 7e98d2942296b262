"""Blocks on a stream (MLLP, HL7 v2 Transport Specification: MLLP release 1): a message between the
characters VT and FS, then CR."""

from __future__ import annotations

from hub.errors import RejectedError

START, END = b"\x0b", b"\x1c"
_AFTER = b"\r"


class BlockTooLongError(RejectedError):
    """The peer sent more than a message may have."""

    def __init__(self, head: bytes) -> None:
        super().__init__("the message is longer than the hub takes")
        self.head = head
        """How it begins."""


def block(content: bytes) -> bytes:
    """A message as it goes over the stream; it holds neither VT nor FS."""
    return START + content + END + _AFTER


class BlockReader:
    """Finds the blocks in what a stream brings, and keeps no more than one of them.

    What stands between blocks is passed over. FS ends a block, whatever follows: no text of HL7 v2
    holds it, and some senders leave the CR out.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._inside = False
        self._held = bytearray()

    @property
    def is_inside(self) -> bool:
        """A block has begun that has not ended."""
        return self._inside

    def feed(self, received: bytes) -> list[bytes]:
        """The blocks that these bytes complete.

        Raises:
            BlockTooLongError: a block has more bytes than the limit; the stream is of no more use.
        """
        found, at = [], 0
        while at < len(received):
            if not self._inside:
                start = received.find(START, at)
                if start < 0:
                    break
                self._inside, at = True, start + 1
                continue
            end = received.find(END, at)
            self._held += received[at:] if end < 0 else received[at:end]
            if len(self._held) > self._limit:
                raise BlockTooLongError(bytes(self._held[: self._limit]))
            if end < 0:
                break
            found.append(bytes(self._held))
            self._held.clear()
            self._inside, at = False, end + 1
        return found
