"""SR content items (PS3.3 C.17.3) as bytes: one function for each value type.

``relationship`` is empty for the root alone. ``children`` are whole items and become the
item's Content Sequence.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from enum import StrEnum
from functools import lru_cache

from hub.domain.coding import Code
from hub.errors import RejectedError
from hub.formats.dicom import writer as write

_SOURCE = Code("260753009", "SCT", "Source")


class Relationship(StrEnum):
    """(0040,A010) Relationship Type."""

    CONTAINS = "CONTAINS"
    HAS_ACQ_CONTEXT = "HAS ACQ CONTEXT"
    HAS_CONCEPT_MOD = "HAS CONCEPT MOD"
    HAS_OBS_CONTEXT = "HAS OBS CONTEXT"
    HAS_PROPERTIES = "HAS PROPERTIES"
    INFERRED_FROM = "INFERRED FROM"
    SELECTED_FROM = "SELECTED FROM"


def content_sequence(children: Sequence[bytes]) -> bytes:
    """(0040,A730), or nothing where there are no children."""
    return write.sequence(0x0040A730, children) if children else b""


def template(identifier: str) -> bytes:
    """(0040,A504) Content Template Sequence: a template of PS3.16."""
    return write.sequence(
        0x0040A504,
        [write.text(0x00080105, "CS", "DCMR") + write.text(0x0040DB00, "CS", identifier)],
    )


@lru_cache(maxsize=4096)
def _head(relationship: Relationship, value_type: str, name: Code | None) -> bytes:
    kind = write.text(0x0040A010, "CS", relationship) + write.text(0x0040A040, "CS", value_type)
    return kind + (write.code(0x0040A043, name) if name is not None else b"")


def container(name: Code, children: Sequence[bytes], template_identifier: str = "") -> bytes:
    """A CONTAINER that its parent CONTAINS."""
    return (
        _head(Relationship.CONTAINS, "CONTAINER", name)
        + write.text(0x0040A050, "CS", "SEPARATE")
        + (template(template_identifier) if template_identifier else b"")
        + content_sequence(children)
    )


def code(
    relationship: Relationship, name: Code, value: Code, children: Sequence[bytes] = ()
) -> bytes:
    head = _head(relationship, "CODE", name)
    return head + write.code(0x0040A168, value) + content_sequence(children)


def text(relationship: Relationship, name: Code, value: str) -> bytes:
    """Unlimited text; surrounding white space is not significant (PS3.5 section 6.2)."""
    return _head(relationship, "TEXT", name) + write.text(0x0040A160, "UT", value.strip())


def person_name(relationship: Relationship, name: Code, value: str) -> bytes:
    """A PNAME; ``value`` is a DICOM person name (PS3.5 section 6.2.1)."""
    return _head(relationship, "PNAME", name) + write.text(0x0040A123, "PN", value)


def uid_reference(relationship: Relationship, name: Code, value: str) -> bytes:
    return _head(relationship, "UIDREF", name) + write.text(0x0040A124, "UI", value)


def number(
    relationship: Relationship, name: Code, value: float, unit: Code, children: Sequence[bytes] = ()
) -> bytes:
    """A NUM; Floating Point Value is added where the decimal text is not exact.

    Raises:
        RejectedError: not a finite number.
    """
    if not math.isfinite(value):
        raise RejectedError(f"the value of {name.code_meaning!r} is not a finite number")
    decimal = write.decimal_string(value)
    measured = write.code(0x004008EA, unit)
    if float(decimal) != value:
        measured += write.double(0x0040A161, value)
    measured += write.text(0x0040A30A, "DS", decimal)
    head = _head(relationship, "NUM", name)
    return head + write.sequence(0x0040A300, [measured]) + content_sequence(children)


def reference(
    relationship: Relationship,
    name: Code | None,
    value_type: str,
    sop: bytes,
    children: Sequence[bytes] = (),
) -> bytes:
    """IMAGE, WAVEFORM or COMPOSITE, with a purpose where the template has one; ``sop`` is made by
    :func:`referenced_sop`."""
    referenced = write.sequence(0x00081199, [sop])
    return referenced + _head(relationship, value_type, name) + content_sequence(children)


def coordinates(
    name: Code, graphic_type: str, points: Iterable[tuple[float, ...]], source: bytes
) -> bytes:
    """A SCOORD that its parent CONTAINS; (column, row) pairs on the image ``source``, which is
    made by :func:`referenced_sop` (PS3.3 C.18.6)."""
    image = reference(Relationship.SELECTED_FROM, _SOURCE, "IMAGE", source)
    return (
        _head(Relationship.CONTAINS, "SCOORD", name)
        + content_sequence([image])
        + write.floats(0x00700022, *(number for point in points for number in point))
        + write.text(0x00700023, "CS", graphic_type)
    )


def coordinates_in_space(
    name: Code,
    graphic_type: str,
    points: Iterable[tuple[float, ...]],
    frame_of_reference_uid: str,
) -> bytes:
    """A SCOORD3D that its parent CONTAINS; (x, y, z) in mm (PS3.3 C.18.9)."""
    return (
        _head(Relationship.CONTAINS, "SCOORD3D", name)
        + write.floats(0x00700022, *(number for point in points for number in point))
        + write.text(0x00700023, "CS", graphic_type)
        + write.text(0x30060024, "UI", frame_of_reference_uid)
    )


def referenced_sop(
    sop_class_uid: str,
    sop_instance_uid: str,
    *,
    frames: Iterable[int] = (),
    segments: Iterable[int] = (),
) -> bytes:
    """SOP Instance Reference, narrowed to frames or segments where given (PS3.3 C.18.4)."""
    reference = write.text(0x00081150, "UI", sop_class_uid)
    reference += write.text(0x00081155, "UI", sop_instance_uid)
    if numbers := tuple(frames):
        reference += write.element(0x00081160, "IS", "\\".join(map(str, numbers)).encode())
    if numbers := tuple(segments):
        reference += write.unsigned_shorts(0x0062000B, *numbers)
    return reference
