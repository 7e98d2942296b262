"""Measurement groups: findings that share a tracking UID (PS3.16 TID 1410, 1411 and 1501).

A finding that is absent, indeterminate or not assessable is never written as the group's
Finding (121071), which displays show on its own: it is only ever an evaluation, that is a
question together with its answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from hub.domain.coding import Code
from hub.domain.delivery import DocumentKind
from hub.domain.finding import Evidence, Finding, ImageLocation, Presence, Region
from hub.domain.identity import derived_uid
from hub.domain.inference import InferenceRequest, InferenceResult
from hub.domain.model_card import ModelCard
from hub.domain.study import Instance
from hub.formats.dicom_objects.related import RelatedObject
from hub.formats.dicom_objects.source_dataset import is_image, is_waveform
from hub.formats.encoding import OUTCOME_CODES, OUTCOME_CONCEPT, PRESENCE_CODES
from hub.formats.seg.labelmap import whole_segments
from hub.formats.sr import codes as sr_codes
from hub.formats.sr import content as sr
from hub.formats.sr.content import Relationship
from hub.formats.sr.locations import Space, is_volume, single_graphics

_NO_PLACE = "Its location is not told: the image has no place in the space of the patient."


@dataclass(frozen=True, slots=True)
class SegmentationReference:
    """The SEG object that holds the result's region."""

    segmentation: RelatedObject
    region: Region

    def is_whole(self, number: int) -> bool:
        """It shows all of a segment: a label map shows of nested ones what is left of the outer."""
        is_label_map = self.segmentation.kind is DocumentKind.SEG_LABELMAP
        return not is_label_map or number in whole_segments(self.region)

    def parts_of(self, number: int) -> tuple[int, ...]:
        """The numbers in it that together are a segment."""
        return (number,) if self.is_whole(number) else self.region.values_of(number)


@dataclass(frozen=True, slots=True)
class _Sources:
    """Where the groups of one report point to."""

    space: Space
    segmentation: SegmentationReference | None

    @property
    def instances(self) -> Mapping[str, Instance]:
        """By SOP Instance UID."""
        return self.space.instances


@dataclass(frozen=True, slots=True)
class _Part:
    """One group of those that share a tracking UID."""

    findings: tuple[Finding, ...]
    """What is answered there; none where it only says where else the same thing lies."""
    graphics: tuple[ImageLocation, ...]


@dataclass(frozen=True, slots=True)
class MeasurementGroup:
    """One group as a content item."""

    item: bytes = field(repr=False)
    is_located: bool
    """It has a graphic on an image, or in space."""


def measurement_groups(
    request: InferenceRequest,
    result: InferenceResult,
    card: ModelCard,
    space: Space,
    segmentation: SegmentationReference | None,
) -> list[MeasurementGroup]:
    """The groups of each tracking UID, in the order of the findings.

    A result without findings gets a group that says how it ended, so that no reader meets
    an empty list and takes it for "nothing found".
    """
    sources = _Sources(space, segmentation)
    algorithm = algorithm_identification(request, card)
    by_tracking_uid: dict[str, list[Finding]] = {}
    for finding in result.findings:
        by_tracking_uid.setdefault(finding.tracking_uid, []).append(finding)
    groups = [
        _group(part, findings, algorithm, sources)
        for findings in by_tracking_uid.values()
        for part in _parts(findings)
    ]
    answer = OUTCOME_CODES[result.outcome]
    return groups or [outcome_group(request, card, answer, result.reasons)]


def _parts(findings: Sequence[Finding]) -> Iterator[_Part]:
    """Findings that lie at the same places go together; those that lie nowhere go with the first.

    Areas on several images are one group, the outline of a volume (TID 1411). Of other graphics
    each has a group of its own (TID 1410), the first with the answers.
    """
    first = next((f.locations for f in findings if f.locations), ())
    by_places: dict[tuple[ImageLocation, ...], list[Finding]] = {}
    for finding in findings:
        by_places.setdefault(finding.locations or first, []).append(finding)
    for locations, members in by_places.items():
        graphics = single_graphics(locations)
        if not graphics or is_volume(graphics):
            yield _Part(tuple(members), tuple(graphics))
            continue
        yield _Part(tuple(members), (graphics[0],))
        yield from (_Part((), (graphic,)) for graphic in graphics[1:])


def algorithm_identification(request: InferenceRequest, card: ModelCard) -> list[bytes]:
    """TID 4019."""
    modifier = Relationship.HAS_CONCEPT_MOD
    parameters = sorted(request.parameters.items())
    return [
        sr.text(modifier, sr_codes.ALGORITHM_NAME, card.name),
        sr.text(modifier, sr_codes.ALGORITHM_VERSION, card.version),
        *(sr.text(modifier, sr_codes.ALGORITHM_PARAMETERS, f"{k}={v}") for k, v in parameters),
        sr.text(modifier, sr_codes.ALGORITHM_MANUFACTURER, card.vendor.name),
    ]


def outcome_group(
    request: InferenceRequest, card: ModelCard, answer: Code, reasons: Sequence[str]
) -> MeasurementGroup:
    """A group that says why there is nothing else."""
    tracking_uid = derived_uid("outcome", request.request_id)
    item = sr.container(
        sr_codes.MEASUREMENT_GROUP,
        [
            *_tracking("AI analysis", tracking_uid),
            *algorithm_identification(request, card),
            sr.code(Relationship.CONTAINS, OUTCOME_CONCEPT, answer),
            *(sr.text(Relationship.CONTAINS, sr_codes.REASON, text) for text in reasons),
        ],
        "1501",
    )
    return MeasurementGroup(item, is_located=False)


def _tracking(identifier: str, uid: str) -> list[bytes]:
    """TID 4108."""
    context = Relationship.HAS_OBS_CONTEXT
    return [
        sr.text(context, sr_codes.TRACKING_IDENTIFIER, identifier),
        sr.uid_reference(context, sr_codes.TRACKING_UNIQUE_IDENTIFIER, uid),
    ]


def _group(
    part: _Part, together: Sequence[Finding], algorithm: list[bytes], sources: _Sources
) -> MeasurementGroup:
    """One group; ``together`` are all findings of its tracking UID."""
    regions = _regions(part.graphics, sources)
    segment = None if regions else _only_segment(part.findings, sources)
    site = _common_site(together)
    items = _tracking(together[0].tracking_identifier, together[0].tracking_uid)
    if (found := _found(together, segment, sources)) is not None:
        items.append(sr.code(Relationship.CONTAINS, sr_codes.FINDING, found))
    if site is not None:
        items.append(_site(*site))
    items += algorithm
    items += regions
    if segment is not None:
        items += _segment_reference(segment, sources)
    items += _answers(part.findings, sources, segment, with_site=site is None)
    items += [
        sr.text(Relationship.CONTAINS, sr_codes.COMMENT, text)
        for text in _comments(part, told=bool(regions))
    ]
    template = ("1411" if len(part.graphics) > 1 else "1410") if regions else "1501"
    template = template if segment is None else "1411"
    item = sr.container(sr_codes.MEASUREMENT_GROUP, items, template)
    return MeasurementGroup(item, is_located=bool(regions))


def _only_segment(findings: Sequence[Finding], sources: _Sources) -> int | None:
    """The one segment that is measured, as TID 1411 holds exactly one; None where there is none
    that the segmentation shows whole."""
    numbers = {number for finding in findings for number in finding.segment_numbers}
    if sources.segmentation is None or len(numbers) != 1:
        return None
    number = numbers.pop()
    return number if sources.segmentation.is_whole(number) else None


def _answers(
    findings: Sequence[Finding], sources: _Sources, segment: int | None, *, with_site: bool
) -> list[bytes]:
    """Measurements, then evaluations; and that somebody has to know at once."""
    measured = [f for f in findings if f.value is not None]
    evaluated = [f for f in findings if f.value is None]
    items = [
        _answer(finding, _modifiers(finding, sources, with_site=with_site, segment=segment))
        for finding in (*measured, *evaluated)
    ]
    if any(finding.critical for finding in findings):
        contains = Relationship.CONTAINS
        items.append(sr.code(contains, sr_codes.CRITICAL_FINDING, sr_codes.YES))
    return items


def _comments(part: _Part, *, told: bool) -> list[str]:
    statements = dict.fromkeys(f.statement for f in part.findings if f.statement)
    return [*statements, *([_NO_PLACE] if part.graphics and not told else [])]


def _regions(graphics: Sequence[ImageLocation], sources: _Sources) -> list[bytes]:
    """One graphic is an Image Region; several outline a volume: Image Regions on their images, or
    a Volume Surface in space, with the images that it was drawn on. Nothing where one of them has
    no place in space."""
    is_surface = sources.space.in_space and len(graphics) > 1
    name = sr_codes.VOLUME_SURFACE if is_surface else sr_codes.IMAGE_REGION
    regions = [sources.space.region(graphic, name) for graphic in graphics]
    if any(region is None for region in regions):
        return []
    items = [region for region in regions if region is not None]
    uids = [graphic.sop_instance_uid for graphic in graphics]
    return items + (_drawn_on(uids, sources) if is_surface else [])


def _common_site(findings: Sequence[Finding]) -> tuple[Code, Code | None] | None:
    sites = {(f.finding_site, f.laterality) for f in findings}
    if len(sites) != 1:
        return None
    site, laterality = sites.pop()
    return None if site is None else (site, laterality)


def _site(site: Code, laterality: Code | None) -> bytes:
    modifier = Relationship.HAS_CONCEPT_MOD
    side = [sr.code(modifier, sr_codes.LATERALITY, laterality)] if laterality is not None else []
    return sr.code(modifier, sr_codes.FINDING_SITE, site, side)


def _found(findings: Sequence[Finding], segment: int | None, sources: _Sources) -> Code | None:
    """What the group is about: the one thing that is present, or the segment that is measured."""
    asked = [f for f in findings if f.presence is not None]
    if asked:
        return asked[0].code if [f.presence for f in asked] == [Presence.PRESENT] else None
    if segment is None or sources.segmentation is None:
        return None
    segments = sources.segmentation.region.segments
    return next(s.property_type for s in segments if s.number == segment)


def _answer(finding: Finding, modifiers: list[bytes]) -> bytes:
    contains = Relationship.CONTAINS
    if finding.value is not None and finding.unit is not None:
        return sr.number(contains, finding.code, finding.value, finding.unit, modifiers)
    if finding.coded_value is not None:
        return sr.code(contains, finding.code, finding.coded_value, modifiers)
    presence = finding.presence or Presence.NOT_ASSESSABLE
    return sr.code(contains, finding.code, PRESENCE_CODES[presence], modifiers)


def _modifiers(
    finding: Finding, sources: _Sources, *, with_site: bool, segment: int | None
) -> list[bytes]:
    """What stands below an answer: its site, the model's confidence, its evidence."""
    items = []
    if with_site and finding.finding_site is not None:
        items.append(_site(finding.finding_site, finding.laterality))
    if finding.probability is not None:
        properties = Relationship.HAS_PROPERTIES
        unit = sr_codes.NO_UNITS
        items.append(sr.number(properties, sr_codes.PROBABILITY, finding.probability, unit))
    if segment is None and sources.segmentation is not None and finding.segment_numbers:
        items.append(_source_segments(finding.segment_numbers, sources.segmentation))
    on_segment = _images_of(segment, sources)
    items += [
        _evidence(evidence, sources.instances[evidence.sop_instance_uid])
        for evidence in finding.evidence
        if evidence.sop_instance_uid not in on_segment or evidence.frame_numbers
    ]
    return items


def _images_of(segment: int | None, sources: _Sources) -> frozenset[str]:
    """Images that the group already names as the sources of its segment."""
    if segment is None or sources.segmentation is None:
        return frozenset()
    return frozenset(sources.segmentation.region.sop_instance_uids)


def _source_segments(numbers: Sequence[int], reference: SegmentationReference) -> bytes:
    """TID 320: a value that comes from several segments, or from one that it does not outline."""
    inferred = Relationship.INFERRED_FROM
    parts = {part for number in numbers for part in reference.parts_of(number)}
    sop = _segments(sorted(parts), reference)
    return sr.reference(inferred, sr_codes.SOURCE_OF_MEASUREMENT, "IMAGE", sop)


def _segments(numbers: Sequence[int], reference: SegmentationReference) -> bytes:
    seg = reference.segmentation
    return sr.referenced_sop(seg.sop_class_uid, seg.sop_instance_uid, segments=numbers)


def _evidence(evidence: Evidence, instance: Instance) -> bytes:
    """TID 320 for images, TID 321 for waveforms."""
    frames = evidence.frame_numbers if is_image(instance) else ()
    sop = sr.referenced_sop(instance.sop_class_uid, instance.sop_instance_uid, frames=frames)
    inferred = Relationship.INFERRED_FROM
    return sr.reference(inferred, sr_codes.SOURCE_OF_MEASUREMENT, _value_type(instance), sop)


def _value_type(instance: Instance) -> str:
    if is_waveform(instance):
        return "WAVEFORM"
    return "IMAGE" if is_image(instance) else "COMPOSITE"


def _segment_reference(segment: int, sources: _Sources) -> list[bytes]:
    """TID 1411 rows 7 to 12: the segment, and the series (or images) it was drawn on."""
    if sources.segmentation is None:
        return []
    sop = _segments((segment,), sources.segmentation)
    item = sr.reference(Relationship.CONTAINS, sr_codes.REFERENCED_SEGMENT, "IMAGE", sop)
    return [item, *_drawn_on(sources.segmentation.region.sop_instance_uids, sources)]


def _drawn_on(sop_instance_uids: Sequence[str], sources: _Sources) -> list[bytes]:
    """The series that a segment or surface was drawn on, or where it is not one, the images."""
    contains = Relationship.CONTAINS
    images = [sources.instances[uid] for uid in dict.fromkeys(sop_instance_uids)]
    series = {image.series_instance_uid for image in images}
    if len(series) == 1:
        name = sr_codes.SOURCE_SERIES_FOR_SEGMENTATION
        return [sr.uid_reference(contains, name, series.pop())]
    name = sr_codes.SOURCE_IMAGE_FOR_SEGMENTATION
    return [
        sr.reference(
            contains, name, "IMAGE", sr.referenced_sop(image.sop_class_uid, image.sop_instance_uid)
        )
        for image in images
    ]
