"""What holds for every result before anything of it is sent: pure checks, each with a name.

A result that breaks one of them cannot be right, whoever made it: a location beside the image, a
code that its scheme cannot have, a reference that leads nowhere. It stops here as an
`IntegrityError`, is quarantined, and a person looks. That it belongs to its request is checked
before (`hub.formats.encoding.check_document_identity`); whether the bytes of the documents say
the same is checked in `hub.formats.document_identity`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain

import numpy as np

from hub.domain.coding import Code
from hub.domain.delivery import DICOM_KINDS, Document
from hub.domain.finding import Evidence, Finding, ImageLocation, ParametricMap, Region, Segment
from hub.domain.inference import InferenceRequest, InferenceResult, InputRole
from hub.domain.model_card import ModelCard
from hub.domain.study import Instance, Series
from hub.errors import IntegrityError
from hub.formats.codes import code_problem
from hub.formats.document_identity import contradictions, references

_UID = re.compile(r"(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*))+")
_LONGEST_UID = 64
_BRIGHTEST = 255
_MOST_SEGMENTS = 255
"""What one byte of a label map can tell apart."""

Images = Mapping[str, Instance]


def check_result(request: InferenceRequest, result: InferenceResult, card: ModelCard) -> None:
    """Is it a result that could be true of these images?

    Raises:
        IntegrityError: names what is wrong, never a value.
    """
    images = {instance.sop_instance_uid: instance for instance in request.study.instances}
    problems = dict.fromkeys(
        chain(
            _card_problems(card),
            chain.from_iterable(_finding_problems(f, result, images) for f in result.findings),
            _unit_problems(result.findings, card),
            _region_problems(result.region, images) if result.region is not None else (),
            chain.from_iterable(_map_problems(one, images) for one in result.maps),
        )
    )
    if problems:
        raise IntegrityError(f"the result cannot be valid: {'; '.join(problems)}")


def check_documents(
    request: InferenceRequest,
    documents: Iterable[Document],
    predecessors: Collection[str] = (),
) -> None:
    """Do these documents, of one set that the same destinations get, say whom they belong to, and
    does all that they refer to exist?

    Args:
        request: whose documents they are, with the patient as he is now.
        documents: what was encoded.
        predecessors: SOP Instance UIDs of what the same destinations got before.

    Raises:
        IntegrityError: names what is wrong, never a value.
    """
    made = tuple(documents)
    known = {document.document_id for document in made} | set(predecessors)
    sources = {
        instance.sop_instance_uid: instance.sop_class_uid
        for series in _all_series(request)
        for instance in series.instances
    }
    problems = dict.fromkeys(
        f"{document.kind}: {problem}"
        for document in made
        for problem in _document_problems(request, document, known, sources)
    )
    if problems:
        raise IntegrityError(f"a document cannot be valid: {'; '.join(problems)}")


# --- documents ---------------------------------------------------------------------------


def _document_problems(
    request: InferenceRequest,
    document: Document,
    known: Collection[str],
    sources: Mapping[str, str],
) -> Iterator[str]:
    if document.request_id != request.request_id:
        yield "made for another request"
    yield from contradictions(document, request.study.identity)
    if any(uid not in known for uid in document.related_uids):
        yield "it is related to a document that is not there"
    if document.kind not in DICOM_KINDS:
        return
    studies = {i.study_instance_uid for s in _all_series(request) for i in s.instances}
    named = references(document)
    if not studies.issuperset(named.studies):
        yield "it refers to another study"
    for sop_class_uid, uid in named.objects:
        if uid not in known and uid not in sources:
            yield "it refers to an object that is not there"
        elif uid in sources and sop_class_uid not in ("", sources[uid]):
            yield "it refers to an image as an object of another class"


def _all_series(request: InferenceRequest) -> Iterator[Series]:
    """The study's own, and the priors that the model saw."""
    yield from request.study.series
    for given in request.images:
        if given.role is InputRole.PRIOR:
            yield from given.series


# --- findings ----------------------------------------------------------------------------


def _card_problems(card: ModelCard) -> Iterator[str]:
    procedure = card.procedure
    yield from _code_problems("procedure", procedure.report_code, procedure.procedure_reported)


def _code_problems(what: str, *codes: Code | None) -> Iterator[str]:
    for code in codes:
        problem = code_problem(code) if code is not None else ""
        if problem:
            yield f"{what}: {problem}"


def _finding_problems(finding: Finding, result: InferenceResult, images: Images) -> Iterator[str]:
    yield from _code_problems(
        "finding", finding.code, finding.coded_value, finding.finding_site, finding.laterality
    )
    if not _is_uid(finding.tracking_uid):
        yield "a tracking identifier that is no UID"
    if finding.value is not None and not math.isfinite(finding.value):
        yield "a value that is not finite"
    if finding.unit is not None:
        if finding.unit.coding_scheme_designator != "UCUM":
            yield "a unit that is not from UCUM"
        yield from _code_problems("unit", finding.unit)
    if finding.probability is not None and not 0.0 <= finding.probability <= 1.0:
        yield "a probability outside 0 to 1"
    there = {s.number for s in result.region.segments} if result.region is not None else set()
    if not there.issuperset(finding.segment_numbers):
        yield "a segment that the region does not have"
    for evidence in finding.evidence:
        yield from _evidence_problems(evidence, images)
    for location in finding.locations:
        yield from _location_problems(location, finding, images)


def _evidence_problems(evidence: Evidence, images: Images) -> Iterator[str]:
    image = images.get(evidence.sop_instance_uid)
    if image is None:
        yield "evidence that is not in the study"
    elif any(not _has_frame(image, number) for number in evidence.frame_numbers):
        yield "evidence on a frame that its image does not have"


def _location_problems(location: ImageLocation, finding: Finding, images: Images) -> Iterator[str]:
    image = images.get(location.sop_instance_uid)
    if image is None:
        yield "a location on an image that is not in the study"
        return
    if all(e.sop_instance_uid != location.sop_instance_uid for e in finding.evidence):
        yield "a location on an image that is not among the finding's evidence"
    if location.frame_number is None:
        if image.frames > 1:
            yield "a location that does not say on which frame"
    elif not _has_frame(image, location.frame_number):
        yield "a location on a frame that its image does not have"
    if image.rows is None or image.columns is None:
        yield "a location on what has no pixels"
        return
    # written so that NaN is outside, too
    if not all(0 <= x <= image.columns and 0 <= y <= image.rows for x, y in location.points):
        yield "a location outside its image"


def _unit_problems(findings: Iterable[Finding], card: ModelCard) -> Iterator[str]:
    """A measurement that the manifest names has the manifest's unit."""
    declared: dict[tuple[str, Code], set[str]] = {}
    for spec in card.output.findings:
        if spec.kind == "measurement":
            key = (spec.tracking_identifier, spec.code)
            declared.setdefault(key, set()).add(spec.unit.code_value)
    for finding in findings:
        units = declared.get((finding.tracking_identifier, finding.code))
        if units and finding.unit is not None and finding.unit.code_value not in units:
            yield "a unit other than the model's manifest says"


def _has_frame(image: Instance, number: int) -> bool:
    return 1 <= number <= image.frames


def _is_uid(text: str) -> bool:
    """PS3.5 section 9.1."""
    return len(text) <= _LONGEST_UID and _UID.fullmatch(text) is not None


# --- regions and maps --------------------------------------------------------------------


def _region_problems(region: Region, images: Images) -> Iterator[str]:
    yield from _grid_problems("region", region, images)
    numbers = [segment.number for segment in region.segments]
    if not numbers:
        yield "a region without segments"
    if len(set(numbers)) != len(numbers):
        yield "two segments with one number"
    if any(not 1 <= number <= _MOST_SEGMENTS for number in numbers):
        yield "a segment with a number outside 1 to 255"
    if any(number not in numbers for number, _ in region.includes):
        yield "a nested segment that the region does not have"
    for segment in region.segments:
        yield from _segment_problems(segment)
    if region.is_drawn:
        known = {value for number in numbers for value in region.values_of(number)}
        highest = int(np.frombuffer(region.labels, np.uint8).max(initial=0))
        if highest > max(known, default=0):
            yield "voxels of a segment that the region does not have"


def _segment_problems(segment: Segment) -> Iterator[str]:
    yield from _code_problems("segment", segment.category, segment.property_type)
    if not _is_uid(segment.tracking_uid):
        yield "a segment's tracking identifier that is no UID"
    if not segment.label.strip():
        yield "a segment without a label"
    if any(not 0 <= part <= _BRIGHTEST for part in segment.recommended_display_rgb):
        yield "a colour outside 0 to 255"


def _map_problems(one: ParametricMap, images: Images) -> Iterator[str]:
    yield from _grid_problems("map", one, images)
    yield from _code_problems("map", one.quantity, one.finding_site)
    if one.unit.coding_scheme_designator != "UCUM":
        yield "map: a unit that is not from UCUM"
    yield from _code_problems("map", one.unit)


def _grid_problems(what: str, grid: Region | ParametricMap, images: Images) -> Iterator[str]:
    """Each plane lies on an image (or a frame) of its own, which has as many pixels."""
    if not grid.sop_instance_uids:
        yield f"{what}: no planes"
    places = list(grid.sop_instance_uids)
    if grid.frames:
        numbers = [place.number for place in grid.frames]
        pairs = list(zip(places, numbers, strict=True))
        if len(set(pairs)) != len(pairs):
            yield f"{what}: two planes on one frame"
        if any(uid in images and not _has_frame(images[uid], n) for uid, n in pairs):
            yield f"{what}: a plane on a frame that its image does not have"
    elif len(set(places)) != len(places):
        yield f"{what}: two planes on one image"
    for uid in dict.fromkeys(places):
        image = images.get(uid)
        if image is None:
            yield f"{what}: a plane on an image that is not in the study"
        elif (image.rows, image.columns) != (grid.rows, grid.columns):
            yield f"{what}: other rows and columns than its image"
