"""Structured reports of others as input: the measurements of a TID 1500 report (PS3.16).

What is read is what stands there: codes and numbers, each with the group that it belongs to.
Nothing is translated from one coding scheme to another.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from pydicom import Dataset, dcmread

from hub.domain.coding import Code
from hub.errors import RejectedError, UnsuitableError
from hub.formats.images.waveform import READING_FAULTS

MAXIMUM_CONTENT_ITEMS = 100_000
"""Most content items of a report that is believed."""
_MEASUREMENT_GROUP = ("125007", "DCM")
_TRACKING_IDENTIFIER, _TRACKING_UID = ("112039", "DCM"), ("112040", "DCM")
_FINDINGS = (("121071", "DCM"),)
_FINDING_SITES = (("363698007", "SCT"), ("G-C0E3", "SRT"))
_REFERENCES = frozenset({"IMAGE", "WAVEFORM", "COMPOSITE"})


@dataclass(frozen=True, slots=True)
class MeasurementGroup:
    """What the measurements of one group have in common (TID 1410, 1411, 1501)."""

    tracking_identifier: str = ""
    tracking_uid: str = ""
    finding: Code | None = None
    finding_site: Code | None = None


@dataclass(frozen=True, slots=True)
class Measurement:
    """One NUM content item."""

    name: Code
    value: float
    unit: Code
    group: MeasurementGroup
    """Empty for a number outside every group."""


@dataclass(frozen=True, slots=True)
class Report:
    """One structured report."""

    sop_instance_uid: str
    title: Code
    template: str
    """Template identifier of the root, ``1500`` of a measurement report; may be empty."""
    is_complete: bool
    is_verified: bool
    measurements: tuple[Measurement, ...]
    referenced_sop_instance_uids: tuple[str, ...]
    """In the order in which the content names them, each once."""


def read_report(data: bytes) -> Report:
    """Read a Part 10 file.

    Raises:
        UnsuitableError: not a structured report.
        RejectedError: it cannot be read, contradicts itself or is absurdly large.
    """
    try:
        return _report(dcmread(io.BytesIO(data), stop_before_pixels=True))
    except READING_FAULTS as error:
        raise RejectedError(f"the report cannot be read ({type(error).__name__})") from None


def _report(root: Dataset) -> Report:
    if root.get("ValueType") != "CONTAINER" or "ConceptNameCodeSequence" not in root:
        raise UnsuitableError(("not a structured report",))
    templates = root.get("ContentTemplateSequence") or [Dataset()]
    measurements: list[Measurement] = []
    referenced: dict[str, None] = {}
    for item, group in _content(root):
        kind = str(item.get("ValueType") or "")
        if kind == "NUM" and (measured := _measurement(item, group)):
            measurements.append(measured)
        elif kind in _REFERENCES:
            for reference in item.get("ReferencedSOPSequence") or ():
                referenced[str(reference.ReferencedSOPInstanceUID)] = None
    return Report(
        sop_instance_uid=str(root.SOPInstanceUID),
        title=code_of(root.ConceptNameCodeSequence[0]),
        template=str(templates[0].get("TemplateIdentifier") or ""),
        is_complete=root.get("CompletionFlag") == "COMPLETE",
        is_verified=root.get("VerificationFlag") == "VERIFIED",
        measurements=tuple(measurements),
        referenced_sop_instance_uids=tuple(referenced),
    )


def _content(root: Dataset) -> Iterator[tuple[Dataset, MeasurementGroup]]:
    """Every content item below the root, in document order, with its group."""
    waiting = [(root, MeasurementGroup())]
    seen = 0
    while waiting:
        item, group = waiting.pop()
        seen += 1
        if seen > MAXIMUM_CONTENT_ITEMS:
            raise RejectedError(f"a report of more than {MAXIMUM_CONTENT_ITEMS} content items")
        if item is not root:
            yield item, group
        children: list[Dataset] = list(item.get("ContentSequence") or ())
        if _name(item) == _MEASUREMENT_GROUP:
            group = _group(children)
        waiting += [(child, group) for child in reversed(children)]


def _group(children: list[Dataset]) -> MeasurementGroup:
    group = MeasurementGroup()
    for child in children:
        name = _name(child)
        if name == _TRACKING_IDENTIFIER:
            group = replace(group, tracking_identifier=str(child.get("TextValue") or ""))
        elif name == _TRACKING_UID:
            group = replace(group, tracking_uid=str(child.get("UID") or ""))
        elif name in _FINDINGS and child.get("ConceptCodeSequence"):
            group = replace(group, finding=code_of(child.ConceptCodeSequence[0]))
        elif name in _FINDING_SITES and child.get("ConceptCodeSequence"):
            group = replace(group, finding_site=code_of(child.ConceptCodeSequence[0]))
    return group


def _measurement(item: Dataset, group: MeasurementGroup) -> Measurement | None:
    """``None`` where the item says why it has no value (PS3.3 C.18.1)."""
    measured = item.get("MeasuredValueSequence")
    if not measured:
        return None
    exact = measured[0].get("FloatingPointValue")
    value = float(measured[0].NumericValue if exact is None else exact)
    if not math.isfinite(value):
        raise RejectedError("a measured value is not a finite number")
    unit = code_of(measured[0].MeasurementUnitsCodeSequence[0])
    return Measurement(code_of(item.ConceptNameCodeSequence[0]), value, unit, group)


def _name(item: Dataset) -> tuple[str, str]:
    names = item.get("ConceptNameCodeSequence")
    if not names:
        return "", ""
    code = code_of(names[0])
    return code.code_value, code.coding_scheme_designator


def code_of(item: Dataset) -> Code:
    """A code sequence item (PS3.3 Table 8.8-1), with whichever kind of value it has."""
    value = item.get("CodeValue") or item.get("LongCodeValue") or item.get("URNCodeValue") or ""
    designator = str(item.get("CodingSchemeDesignator") or "")
    return Code(str(value), designator, str(item.get("CodeMeaning") or ""))
