"""The DICOM JSON model (PS3.18 annex F) as bytes: JSON, or the Native DICOM Model of PS3.19 A.1."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import orjson
from pydicom.datadict import keyword_for_tag

from connectors.dicomweb.multipart import MultipartWriter
from connectors.dicomweb.negotiation import DICOM_XML

Model = Mapping[str, Mapping[str, Any]]

_NAME_PARTS = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""XML 1.0 2.2: characters that cannot stand in a document, not even escaped."""


def model_body(models: Sequence[Model], media_type: str) -> tuple[str, bytes]:
    """(media type, body) of data sets, all at once.

    XML is multipart/related with one document for each data set (PS3.18 8.7.3.1).
    """
    if media_type != DICOM_XML:
        return media_type, orjson.dumps(models)
    writer = MultipartWriter(DICOM_XML)
    body = b"".join(xml_part(model, writer) for model in models)
    return writer.media_type, body + writer.end()


def xml_part(model: Model, writer: MultipartWriter) -> bytes:
    """One document as a part."""
    document = xml_document(model)
    return writer.head(DICOM_XML, len(document)) + document + b"\r\n"


def xml_document(model: Model) -> bytes:
    """One data set as a NativeDicomModel."""
    content = "".join(_attributes(model))
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        f'<NativeDicomModel xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM" '
        f'xml:space="preserve">{content}</NativeDicomModel>'
    ).encode()


def _attributes(model: Model) -> Iterator[str]:
    for tag, element in model.items():
        vr = element["vr"]
        keyword = keyword_for_tag(tag)
        named = f" keyword={quoteattr(keyword)}" if keyword else ""
        inner = "".join(_content(element, vr))
        yield f'<DicomAttribute tag="{tag}" vr="{vr}"{named}>{inner}</DicomAttribute>'


def _content(element: Mapping[str, Any], vr: str) -> Iterator[str]:
    if "BulkDataURI" in element:
        yield f"<BulkData uri={quoteattr(element['BulkDataURI'])}/>"
    if "InlineBinary" in element:
        yield f"<InlineBinary>{element['InlineBinary']}</InlineBinary>"
    for number, value in enumerate(element.get("Value", ()), start=1):
        if vr == "SQ":
            yield f'<Item number="{number}">{"".join(_attributes(value))}</Item>'
        elif vr == "PN":
            yield f'<PersonName number="{number}">{_person_name(value or {})}</PersonName>'
        elif value is not None:
            yield f'<Value number="{number}">{_text(str(value))}</Value>'


def _person_name(value: Mapping[str, str]) -> str:
    groups = []
    for group in ("Alphabetic", "Ideographic", "Phonetic"):
        parts = zip(_NAME_PARTS, value.get(group, "").split("^"), strict=False)
        inner = "".join(f"<{name}>{_text(part)}</{name}>" for name, part in parts if part)
        if inner:
            groups.append(f"<{group}>{inner}</{group}>")
    return "".join(groups)


def _text(text: str) -> str:
    return escape(_NOT_XML.sub("", text))
