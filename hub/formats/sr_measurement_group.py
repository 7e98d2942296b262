"""Measurement groups: findings that share a tracking UID (PS3.16 TID 1411 and TID 1501).

A finding that is absent, indeterminate or not assessable is never written as the group's
Finding (121071), which displays show on its own: it is only ever an evaluation, that is a
question together with its answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hub.domain.coding import Code
from hub.domain.finding import Evidence, Finding, Presence, Region
from hub.domain.identity import derived_uid
from hub.domain.inference import InferenceRequest, InferenceResult
from hub.domain.model_card import ModelCard
from hub.domain.study import Instance
from hub.formats import sr_codes
from hub.formats import sr_content as sr
from hub.formats.dicom_object import SEGMENTATION_STORAGE
from hub.formats.encoding import OUTCOME_CODES, OUTCOME_CONCEPT, PRESENCE_CODES
from hub.formats.source_dataset import is_image, is_waveform
from hub.formats.sr_content import Relationship


@dataclass(frozen=True, slots=True)
class SegmentationReference:
    """The SEG object that holds the result's region."""

    sop_instance_uid: str
    region: Region


@dataclass(frozen=True, slots=True)
class _Sources:
    """Where the groups of one report point to."""

    instances: dict[str, Instance]
    """By SOP Instance UID."""
    segmentation: SegmentationReference | None


def measurement_groups(
    request: InferenceRequest,
    result: InferenceResult,
    card: ModelCard,
    segmentation: SegmentationReference | None,
) -> list[bytes]:
    """One group for each tracking UID, in the order of the findings.

    A result without findings gets a group that says how it ended, so that no reader meets
    an empty list and takes it for "nothing found".
    """
    sources = _Sources({i.sop_instance_uid: i for i in request.study.instances}, segmentation)
    algorithm = algorithm_identification(request, card)
    by_tracking_uid: dict[str, list[Finding]] = {}
    for finding in result.findings:
        by_tracking_uid.setdefault(finding.tracking_uid, []).append(finding)
    groups = [_group(findings, algorithm, sources) for findings in by_tracking_uid.values()]
    return groups or [_outcome_group(request, result, algorithm)]


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


def _outcome_group(
    request: InferenceRequest, result: InferenceResult, algorithm: list[bytes]
) -> bytes:
    tracking_uid = derived_uid("outcome", request.request_id)
    answer = OUTCOME_CODES[result.outcome]
    return sr.container(
        sr_codes.MEASUREMENT_GROUP,
        [
            *_tracking("AI analysis", tracking_uid),
            *algorithm,
            sr.code(Relationship.CONTAINS, OUTCOME_CONCEPT, answer),
            *(sr.text(Relationship.CONTAINS, sr_codes.REASON, text) for text in result.reasons),
        ],
        "1501",
    )


def _tracking(identifier: str, uid: str) -> list[bytes]:
    """TID 4108."""
    context = Relationship.HAS_OBS_CONTEXT
    return [
        sr.text(context, sr_codes.TRACKING_IDENTIFIER, identifier),
        sr.uid_reference(context, sr_codes.TRACKING_UNIQUE_IDENTIFIER, uid),
    ]


def _group(findings: Sequence[Finding], algorithm: list[bytes], sources: _Sources) -> bytes:
    numbers = sorted({number for finding in findings for number in finding.segment_numbers})
    segment = numbers[0] if sources.segmentation is not None and len(numbers) == 1 else None
    site = _common_site(findings)
    first = findings[0]
    items = _tracking(first.tracking_identifier, first.tracking_uid)
    if (found := _found(findings, segment, sources)) is not None:
        items.append(sr.code(Relationship.CONTAINS, sr_codes.FINDING, found))
    if site is not None:
        items.append(_site(*site))
    items += algorithm
    if segment is not None:
        items += _segment_reference(segment, sources)
    own_site = site is None
    measured = [f for f in findings if f.value is not None]
    evaluated = [f for f in findings if f.value is None]
    for finding in (*measured, *evaluated):
        modifiers = _modifiers(finding, sources, with_site=own_site, segment=segment)
        items.append(_answer(finding, modifiers))
    statements = dict.fromkeys(f.statement for f in findings if f.statement)
    items += [sr.text(Relationship.CONTAINS, sr_codes.COMMENT, text) for text in statements]
    template = "1501" if segment is None else "1411"
    return sr.container(sr_codes.MEASUREMENT_GROUP, items, template)


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


def _source_segments(numbers: Sequence[int], segmentation: SegmentationReference) -> bytes:
    """TID 320: a value that comes from several segments, as TID 1411 holds exactly one."""
    sop = sr.referenced_sop(SEGMENTATION_STORAGE, segmentation.sop_instance_uid, segments=numbers)
    inferred = Relationship.INFERRED_FROM
    return sr.reference(inferred, sr_codes.SOURCE_OF_MEASUREMENT, "IMAGE", sop)


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
    contains = Relationship.CONTAINS
    uid, region = sources.segmentation.sop_instance_uid, sources.segmentation.region
    sop = sr.referenced_sop(SEGMENTATION_STORAGE, uid, segments=(segment,))
    items = [sr.reference(contains, sr_codes.REFERENCED_SEGMENT, "IMAGE", sop)]
    images = [sources.instances[sop_uid] for sop_uid in dict.fromkeys(region.sop_instance_uids)]
    series = {image.series_instance_uid for image in images}
    if len(series) == 1:
        name = sr_codes.SOURCE_SERIES_FOR_SEGMENTATION
        return [*items, sr.uid_reference(contains, name, series.pop())]
    name = sr_codes.SOURCE_IMAGE_FOR_SEGMENTATION
    for image in images:
        sop = sr.referenced_sop(image.sop_class_uid, image.sop_instance_uid)
        items.append(sr.reference(contains, name, "IMAGE", sop))
    return items
