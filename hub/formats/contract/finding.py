"""Findings in an answer of the contract."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from hub.domain.finding import Evidence, Finding, GraphicType, ImageLocation, Presence
from hub.formats.contract.parts import (
    CodeMessage,
    FilledName,
    FrameNumber,
    GivenUid,
    ResourceId,
    SegmentNumber,
    Statement,
    Strict,
    Uid,
    optional_code,
    optional_domain,
)

_UCUM = "UCUM"
_ONE_ANSWER: JsonDict = {
    "oneOf": [
        {"required": ["presence"]},
        {"required": ["value", "unit"]},
        {"required": ["coded_value"]},
    ],
    "dependentRequired": {"value": ["unit"], "unit": ["value"]},
}
"""In the published schema; the rule itself is the domain's."""


class EvidenceMessage(Strict):
    """An image (or waveform) that a finding rests on."""

    sop_instance_uid: GivenUid
    """Of the examination that was asked about; never of a prior."""
    frame_numbers: Annotated[tuple[FrameNumber, ...], Field(max_length=65536)] = ()
    """1-based; empty: the whole instance."""


class LocationMessage(Strict):
    """Where on one image (or frame) a finding lies."""

    graphic_type: Literal["POINT", "MULTIPOINT", "POLYLINE", "CIRCLE", "ELLIPSE"]
    """(0070,0023), PS3.3 C.18.6.1.1. `CIRCLE`: the centre, and a point of the perimeter.
    `ELLIPSE`: the end points of the major axis, then those of the minor axis."""
    sop_instance_uid: GivenUid
    """An image that the finding's `evidence` names too."""
    points: Annotated[tuple[tuple[float, float], ...], Field(min_length=1, max_length=10000)]
    """Column and row in pixels; 0, 0 is the outer corner of the top left pixel, whose centre is
    0.5, 0.5 (PS3.3 C.18.6.1.2)."""
    frame_number: FrameNumber | None = None
    """1-based; left out for an image of one frame."""

    @model_validator(mode="after")
    def _has_its_points(self) -> Self:
        try:
            self.domain()
        except ValueError as error:
            raise ValueError(f"points: {error}") from None
        return self

    def domain(self) -> ImageLocation:
        """To the domain."""
        return ImageLocation(
            graphic_type=GraphicType(self.graphic_type),
            sop_instance_uid=self.sop_instance_uid,
            points=self.points,
            frame_number=self.frame_number,
        )

    @classmethod
    def of(cls, location: ImageLocation) -> LocationMessage:
        """From the domain."""
        return cls(
            graphic_type=location.graphic_type.value,
            sop_instance_uid=location.sop_instance_uid,
            points=location.points,
            frame_number=location.frame_number,
        )


class FindingMessage(Strict):
    """One statement; exactly one of `presence`, `value` (with `unit`) and `coded_value`.

    Findings of one `tracking_uid` are of one thing, and stand together in reports.
    """

    model_config = ConfigDict(json_schema_extra=_ONE_ANSWER)

    tracking_identifier: FilledName
    """What the thing is called, e.g. `Nodule 1`."""
    tracking_uid: Uid | None = None
    """Of the thing; the same for the same thing in each answer about the examination. Left out:
    the hub derives one from examination, model and `tracking_identifier`."""
    code: CodeMessage
    """What was looked for or measured."""
    presence: Literal["present", "absent", "indeterminate", "not-assessable"] | None = None
    """Is it there? `not-assessable` is never "no"."""
    value: float | None = None
    """A number that was measured."""
    unit: CodeMessage | None = None
    """From UCUM; belongs to `value`."""
    coded_value: CodeMessage | None = None
    """A qualitative answer, e.g. a rhythm."""
    probability: float | None = Field(default=None, ge=0, le=1)
    """The model's own confidence."""
    finding_site: CodeMessage | None = None
    laterality: CodeMessage | None = None
    evidence: Annotated[tuple[EvidenceMessage, ...], Field(max_length=65536)] = ()
    """The images that it rests on."""
    derived_from: Annotated[tuple[ResourceId, ...], Field(max_length=1000)] = ()
    """The measured values that it rests on: the `id` of Observations in the request."""
    segment_numbers: Annotated[tuple[SegmentNumber, ...], Field(max_length=255)] = ()
    """Segments of `label_map` that it describes."""
    statement: Statement = ""
    """A sentence for people."""
    locations: Annotated[tuple[LocationMessage, ...], Field(max_length=1000)] = ()
    """Where it lies."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.unit is not None and self.unit.scheme != _UCUM:
            raise ValueError("unit.scheme must be UCUM")
        self.domain("")
        return self

    def domain(self, derived_tracking_uid: str) -> Finding:
        """To the domain; the identifier is for findings that bring none."""
        return Finding(
            tracking_uid=self.tracking_uid or derived_tracking_uid,
            tracking_identifier=self.tracking_identifier,
            code=self.code.domain(),
            presence=None if self.presence is None else Presence(self.presence),
            value=self.value,
            unit=optional_domain(self.unit),
            coded_value=optional_domain(self.coded_value),
            probability=self.probability,
            finding_site=optional_domain(self.finding_site),
            laterality=optional_domain(self.laterality),
            evidence=tuple(Evidence(e.sop_instance_uid, e.frame_numbers) for e in self.evidence),
            derived_from=self.derived_from,
            segment_numbers=self.segment_numbers,
            statement=self.statement,
            locations=tuple(one.domain() for one in self.locations),
        )

    @classmethod
    def of(cls, finding: Finding) -> FindingMessage:
        """From the domain; whether it is critical is the hub's own business."""
        return cls(
            tracking_identifier=finding.tracking_identifier,
            tracking_uid=finding.tracking_uid,
            code=CodeMessage.of(finding.code),
            presence=None if finding.presence is None else finding.presence.value,
            value=finding.value,
            unit=optional_code(finding.unit),
            coded_value=optional_code(finding.coded_value),
            probability=finding.probability,
            finding_site=optional_code(finding.finding_site),
            laterality=optional_code(finding.laterality),
            evidence=tuple(
                EvidenceMessage(
                    sop_instance_uid=one.sop_instance_uid, frame_numbers=one.frame_numbers
                )
                for one in finding.evidence
            ),
            derived_from=finding.derived_from,
            segment_numbers=finding.segment_numbers,
            statement=finding.statement,
            locations=tuple(LocationMessage.of(one) for one in finding.locations),
        )
