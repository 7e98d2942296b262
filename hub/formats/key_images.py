"""Which images a result rests on most: those that a person looks at first.

Key objects, presentation states and key images with graphics all show these, in this order, so
that a reader meets the same images everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hub.domain.finding import Evidence, Finding, Presence, Region
from hub.domain.inference import InferenceRequest, InferenceResult
from hub.domain.study import Instance
from hub.formats.dicom_objects.source_dataset import is_image

MOST_KEY_IMAGES = 8
FEW_IMAGES = 4
"""Evidence that names more images than these says what was looked at, not where something is."""

_FEW_VALUES = 16

_NOTHING_TO_SHOW = (Presence.ABSENT, Presence.NOT_ASSESSABLE)


@dataclass(frozen=True, slots=True)
class KeyImage:
    """An image (or frame) and what of the result is to be seen on it."""

    sop_instance_uid: str
    frame_number: int | None
    """1-based; None for an image of one frame."""
    findings: tuple[Finding, ...]
    """Those that lie on it, or describe a segment on it; of those that lie nowhere, those that rest
    on it and few others."""
    segments: tuple[int, ...]
    """Numbers of the segments that have voxels on it; empty where the voxels are gone."""


_Place = tuple[str, int | None]
"""SOP Instance UID and frame number of an image."""


def key_images(request: InferenceRequest, result: InferenceResult) -> tuple[KeyImage, ...]:
    """At most :data:`MOST_KEY_IMAGES` images, the most important one first.

    In this order: images of critical findings; images with a location; for each segment the
    image with most of its voxels; and for findings that lie nowhere, the images that they rest on,
    where these are few. What is absent or cannot be assessed makes no image a key image.
    Deterministic.
    """
    voxels = _segments_by_place(request, result.region)
    places = _Places(
        images={i.sop_instance_uid: i for i in request.study.instances if is_image(i)},
        voxels=voxels,
        numbers=tuple(sorted({number for counts in voxels.values() for number in counts})),
    )
    shown = tuple(f for f in result.findings if f.presence not in _NOTHING_TO_SHOW)
    hidden = {number for f in result.findings for number in f.segment_numbers}
    hidden -= {number for f in shown for number in f.segment_numbers}
    ordered = dict.fromkeys(_in_order(shown, places, hidden))
    return tuple(_key_image(place, shown, places) for place in list(ordered)[:MOST_KEY_IMAGES])


def _in_order(shown: tuple[Finding, ...], places: _Places, hidden: set[int]) -> Iterator[_Place]:
    """Every place that deserves to be shown, the most important first, some repeatedly."""
    for finding in (f for f in shown if f.critical):
        yield from places.located(finding)
        yield from places.densest(finding.segment_numbers)
        yield from places.few(finding)
    for finding in shown:
        yield from places.located(finding)
    named = dict.fromkeys(number for f in shown for number in f.segment_numbers)
    yield from places.densest(named)
    yield from places.densest(n for n in places.numbers if n not in named and n not in hidden)
    for finding in shown:
        yield from places.few(finding)


def _key_image(place: _Place, shown: tuple[Finding, ...], places: _Places) -> KeyImage:
    segments = tuple(sorted(places.voxels.get(place, {})))
    findings = tuple(
        finding
        for finding in shown
        if place in places.located(finding)
        or place in places.few(finding)
        or not set(segments).isdisjoint(finding.segment_numbers)
    )
    return KeyImage(place[0], place[1], findings, segments)


@dataclass(frozen=True, slots=True)
class _Places:
    """The images of a study, and where the segments of a result lie on them."""

    images: dict[str, Instance]
    """By SOP Instance UID."""
    voxels: dict[_Place, dict[int, int]] = field(repr=False)
    """Voxels of each segment that has any there."""
    numbers: tuple[int, ...]
    """Segments that have voxels anywhere."""

    def located(self, finding: Finding) -> list[_Place]:
        """Where its graphics lie."""
        return [
            _place(self.images[location.sop_instance_uid], location.frame_number)
            for location in finding.locations
            if location.sop_instance_uid in self.images
        ]

    def densest(self, numbers: Iterable[int]) -> Iterator[_Place]:
        """For each segment the image with most of its voxels."""
        for number in numbers:
            counted = [(counts.get(number, 0), place) for place, counts in self.voxels.items()]
            most = max((count for count, _ in counted), default=0)
            if most:
                yield next(place for count, place in counted if count == most)

    def few(self, finding: Finding) -> list[_Place]:
        """What it rests on, where that is at most :data:`FEW_IMAGES` images and nothing says more
        exactly where it lies."""
        if finding.locations or not set(self.numbers).isdisjoint(finding.segment_numbers):
            return []
        named: dict[_Place, None] = {}
        for evidence in finding.evidence:
            image = self.images.get(evidence.sop_instance_uid)
            if image is None:
                continue
            named.update(dict.fromkeys(_frames(image, evidence)))
            if len(named) > FEW_IMAGES:
                return []
        return list(named)


def _frames(image: Instance, evidence: Evidence) -> list[_Place]:
    last = min(image.frames, FEW_IMAGES + 1)
    return [_place(image, n) for n in evidence.frame_numbers or range(1, last + 1)]


def _place(image: Instance, frame_number: int | None) -> _Place:
    """Only frames of images with several of them are told apart."""
    return image.sop_instance_uid, (frame_number or 1) if image.frames > 1 else None


def _segments_by_place(
    request: InferenceRequest, region: Region | None
) -> dict[_Place, dict[int, int]]:
    """Voxels of each segment on each image, in the order of the region's planes."""
    if region is None or not region.is_drawn:
        return {}
    images = {i.sop_instance_uid: i for i in request.study.instances}
    planes = np.frombuffer(region.labels, np.uint8).reshape(-1, region.rows, region.columns)
    by_place: dict[_Place, dict[int, int]] = {}
    for index, uid in enumerate(region.sop_instance_uids):
        counts = _voxels(planes[index], region)
        if uid in images and counts:
            number = region.frames[index].number if region.frames else None
            by_place[_place(images[uid], number)] = counts
    return by_place


def _voxels(plane: NDArray[np.uint8], region: Region) -> dict[int, int]:
    """The voxels of each segment that has any on one plane."""
    largest = int(plane.max(initial=0))
    if largest == 0:
        return {}
    by_value = _histogram(plane, largest)
    counts: dict[int, int] = {}
    for segment in region.segments:
        values = {v for v in region.values_of(segment.number) if v <= largest}
        if count := sum(by_value[value] for value in values):
            counts[segment.number] = count
    return counts


def _histogram(plane: NDArray[np.uint8], largest: int) -> list[int]:
    """How often each value occurs; for few values, comparing is ten times as fast."""
    if largest > _FEW_VALUES:
        return [int(count) for count in np.bincount(plane.ravel(), minlength=largest + 1)]
    return [int(np.count_nonzero(plane == value)) for value in range(largest + 1)]
