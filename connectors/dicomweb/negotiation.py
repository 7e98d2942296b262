"""Which representation a client gets (PS3.18 chapter 8.7, RFC 9110 section 12.5)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

from connectors.dicomweb.http import Problem, Request

DICOM = "application/dicom"
DICOM_JSON = "application/dicom+json"
DICOM_XML = "application/dicom+xml"
JSON = "application/json"
OCTETS = "application/octet-stream"
MULTIPART = "multipart/related"

_LONGEST_HEADER = 4096
_MOST_RANGES = 64
_PARAMETER = re.compile(r';\s*([A-Za-z0-9!#$&^_.+-]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;,"\s]*)\s*')
_TYPE = re.compile(r"\s*([A-Za-z0-9!#$&^_.+*-]+/[A-Za-z0-9!#$&^_.+*-]+)\s*")


@dataclass(frozen=True, slots=True)
class MediaType:
    """A media type, or a range of them, with its parameters (names in lower case)."""

    name: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    quality: float = 1.0

    @property
    def part_type(self) -> str:
        """The type within a multipart/related, or this type itself."""
        return self.parameters.get("type", "*/*").lower() if self.is_multipart else self.name

    @property
    def is_multipart(self) -> bool:
        return self.name == MULTIPART

    @property
    def transfer_syntax_uid(self) -> str:
        """``transfer-syntax``: a UID, ``*`` or nothing."""
        return self.parameters.get("transfer-syntax", "")

    def admits(self, media_type: str) -> bool:
        """Whether a single-part answer, or a part, may have this type."""
        kind, _, _ = media_type.partition("/")
        return self.part_type in {media_type, "*/*", f"{kind}/*"}


def media_type_of(text: str) -> MediaType:
    """Read a ``Content-Type``.

    Raises:
        Problem: 415, it is none.
    """
    found = parse_media_types(text)
    if len(found) != 1 or "*" in found[0].name:
        raise Problem(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the Content-Type is missing or cannot be read"
        )
    return found[0]


def accepted(request: Request) -> Sequence[MediaType]:
    """What the client takes, the best first; the ``accept`` parameter goes before the header
    (PS3.18 8.3.3.1). Without either it takes anything.

    Raises:
        Problem: 400, it cannot be read.
    """
    texts = [value for name, value in request.parameters if name == "accept" and value.strip()]
    text = ", ".join(texts) or request.headers.get("accept", "") or "*/*"
    found = parse_media_types(text)
    if not found:
        raise Problem(HTTPStatus.BAD_REQUEST, "what the client accepts cannot be read")
    usable = [item for item in found if item.quality > 0]
    return sorted(usable, key=lambda item: (-item.quality, item.name == "*/*"))


def parse_media_types(text: str) -> list[MediaType]:
    """A comma-separated list of media types; empty where it is none."""
    found: list[MediaType] = []
    position = 0
    if len(text) > _LONGEST_HEADER:
        return []
    while position < len(text):
        match = _TYPE.match(text, position)
        if match is None or len(found) == _MOST_RANGES:
            return []
        position, parameters = match.end(), {}
        while parameter := _PARAMETER.match(text, position):
            name, value = parameter.groups()
            parameters[name.lower()] = (
                re.sub(r"\\(.)", r"\1", value[1:-1]) if value[:1] == '"' else value
            )
            position = parameter.end()
        if text[position : position + 1] not in {"", ","}:
            return []
        position += 1
        found.append(MediaType(match[1].lower(), parameters, _quality(parameters.pop("q", "1"))))
    return found


def _quality(text: str) -> float:
    try:
        return min(max(float(text), 0.0), 1.0)
    except ValueError:
        return 0.0


def choose_model(request: Request) -> str:
    """``application/dicom+json`` (the default) or ``application/dicom+xml`` for data sets.

    Raises:
        Problem: 406, the client takes neither.
    """
    return choose_single_model(request)[0]


def choose_single_model(request: Request) -> tuple[str, bool]:
    """As `choose_model`, for an answer that is one data set; and whether the client wants it as
    the one part of a multipart/related all the same.

    Raises:
        Problem: 406, the client takes neither.
    """
    for item in accepted(request):
        for offered in (DICOM_JSON, JSON):
            if not item.is_multipart and item.admits(offered):
                return (DICOM_JSON if item.name != JSON else JSON), False
        if item.admits(DICOM_XML):
            return DICOM_XML, item.is_multipart
    raise not_acceptable(DICOM_JSON, f'{MULTIPART}; type="{DICOM_XML}"')


def not_acceptable(*offered: str) -> Problem:
    """406, with what could be had."""
    return Problem(
        HTTPStatus.NOT_ACCEPTABLE,
        "none of the accepted media types can be given",
        offered=list(offered),
    )
