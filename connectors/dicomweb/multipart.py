"""multipart/related (RFC 2387, PS3.18 8.6.1.2), read as it arrives and written as it is sent."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from hub.errors import RejectedError

_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,127}[0-9A-Za-z'()+_,\-./:=?]\Z")
"""RFC 2046 5.1.1: no space at the end, and at most 70 characters; Orthanc sends 73."""
_MOST_HEADERS = 16
_LONGEST_HEADER = 2048


@dataclass(frozen=True, slots=True)
class PartBegins:
    """A part's headers are read; names in lower case."""

    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PartEnds:
    """All of a part is read."""


Event = PartBegins | memoryview | PartEnds


@dataclass(slots=True)
class _Header:
    name: bytearray = field(default_factory=bytearray)
    value: bytearray = field(default_factory=bytearray)


class MultipartReader:
    """Splits a body into parts, chunk by chunk, and keeps none of it."""

    def __init__(self, boundary: str) -> None:
        """Raises:
        RejectedError: the boundary is missing, or not what RFC 2046 allows.
        """
        if not _BOUNDARY.match(boundary):
            raise RejectedError("the boundary is missing, too long or has characters it may not")
        self.finished = False
        """Whether the final boundary was read."""
        self._events: list[Event] = []
        self._headers: dict[str, str] = {}
        self._header = _Header()
        self._parser = MultipartParser(
            boundary.encode("ascii"),
            {
                "on_part_begin": self._on_part_begin,
                "on_header_begin": self._on_header_begin,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_part_data": self._on_part_data,
                "on_part_end": self._on_part_end,
                "on_end": self._on_end,
            },
            max_header_count=_MOST_HEADERS,
            max_header_size=_LONGEST_HEADER,
        )

    def feed(self, chunk: bytes) -> list[Event]:
        """What the next bytes hold; views of data are into ``chunk``.

        Raises:
            RejectedError: it is no multipart body, or its parts' headers are beyond reason.
        """
        self._events = []
        try:
            self._parser.write(chunk)
        except FormParserError as error:  # its text quotes what was sent
            raise RejectedError(
                "the body is not multipart with the boundary of its header"
            ) from error
        return self._events

    def _on_part_begin(self) -> None:
        self._headers = {}

    def _on_header_begin(self) -> None:
        self._header = _Header()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header.name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header.value += data[start:end]

    def _on_header_end(self) -> None:
        name = self._header.name.decode("latin-1").lower()
        self._headers[name] = self._header.value.decode("latin-1").strip()

    def _on_headers_finished(self) -> None:
        self._events.append(PartBegins(self._headers))

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._events.append(memoryview(data)[start:end])

    def _on_part_end(self) -> None:
        self._events.append(PartEnds())

    def _on_end(self) -> None:
        self.finished = True


class MultipartWriter:
    """Puts parts together under a boundary that nobody can foresee."""

    def __init__(self, part_type: str) -> None:
        self.boundary = secrets.token_hex(16)
        self.media_type = f'multipart/related; type="{part_type}"; boundary={self.boundary}'

    def head(self, content_type: str, length: int, location: str = "") -> bytes:
        """What goes before a part; each part ends with ``\\r\\n``."""
        lines = [f"--{self.boundary}", f"Content-Type: {content_type}", f"Content-Length: {length}"]
        if location:
            lines.append(f"Content-Location: {location}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def end(self) -> bytes:
        """What goes after the last part."""
        return f"--{self.boundary}--\r\n".encode("latin-1")
