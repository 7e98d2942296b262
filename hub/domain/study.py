"""Studies, series and instances, as received (PS3.3 A.1.2: the composite information model)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from hub.domain.identity import PatientIdentity, StudyIdentity
from hub.domain.observation import Observation

FUNCTIONAL_GROUP_CLASSES = frozenset(
    f"1.2.840.10008.5.1.4.1.1.{suffix}"
    for suffix in ("2.1", "2.2", "4.1", "4.3", "4.4", "6.2", "12.1.1", "12.2.1", "128.1", "130")
)
"""Enhanced and legacy converted enhanced CT, MR and PET, enhanced US volume, XA, XRF: what holds
for a frame stands in functional groups (PS3.3 C.7.6.16), also where there is but one frame."""


@dataclass(frozen=True, slots=True)
class StudyKey:
    """A study at one moment: late images make a new revision."""

    study_instance_uid: str
    revision: int

    def __str__(self) -> str:
        return f"{self.study_instance_uid}#{self.revision}"


@dataclass(frozen=True, slots=True)
class Location:
    """Where the bytes of one Part 10 file lie."""

    segment: str
    """Name of the segment, relative to the object store."""
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Instance:
    """One received SOP instance: what routing, gating and encoding need of its header.

    Numbers are ``None`` and texts empty where the header has none: absence is
    never replaced by a default.
    """

    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    study_instance_uid: str
    transfer_syntax_uid: str
    patient: PatientIdentity
    sha256: str
    """SHA-256 of the data set (without preamble and file meta information), hexadecimal."""
    location: Location
    accession_number: str = ""
    issuer_of_accession_number: str = ""
    modality: str = ""
    instance_number: int | None = None
    rows: int | None = None
    columns: int | None = None
    number_of_frames: int | None = None
    image_position_patient: tuple[float, float, float] | None = None
    image_orientation_patient: tuple[float, float, float, float, float, float] | None = None
    pixel_spacing: tuple[float, float] | None = None
    slice_thickness: float | None = None
    frame_of_reference_uid: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """Other routing attributes by DICOM keyword in snake_case, as decoded text, multiple
    values joined by a backslash (``series_description``, ``body_part_examined`` ...)."""
    warnings: tuple[str, ...] = ()
    """What was tolerated in the header, by tag; no patient data."""

    @property
    def is_multi_frame(self) -> bool:
        """Several frames, or functional groups: the header does not say where a frame lies."""
        several = self.number_of_frames is not None and self.number_of_frames > 1
        return several or self.sop_class_uid in FUNCTIONAL_GROUP_CLASSES

    @property
    def frames(self) -> int:
        """Images in the object as its header claims: 1 where it names no number."""
        return max(1, self.number_of_frames or 1)


@dataclass(frozen=True, slots=True)
class Series:
    """The instances of one series, sorted by instance number, then SOP Instance UID."""

    series_instance_uid: str
    modality: str
    instances: tuple[Instance, ...]

    def attribute(self, keyword: str) -> str:
        """The first instance's text for a keyword, or an empty text."""
        return self.instances[0].attributes.get(keyword, "") if self.instances else ""


class EvidenceKind(StrEnum):
    """Why a study counts as complete, in order of trust (DESIGN 6)."""

    EXPECTED_COUNT = "expected-count"
    ASSOCIATION_RELEASED = "association-released"
    QUIET_TIME = "quiet-time"
    ORDERED_VALUES = "ordered-values"
    """A case of measured values: an order said which, and they were gathered."""
    SERIES_COMPLETE = "series-complete"
    """A series is; the study is still arriving (routes that start with a series)."""


@dataclass(frozen=True, slots=True)
class Completeness:
    """Is the study complete, and what says so."""

    complete: bool
    evidence: EvidenceKind | None
    received: int
    expected: int | None
    """None where nobody knows."""

    @property
    def missing(self) -> int:
        """How many images are known to be missing."""
        return 0 if self.expected is None else max(0, self.expected - self.received)


@dataclass(frozen=True, slots=True)
class Study:
    """One revision of a study, as the pipeline sees it."""

    key: StudyKey
    patient: PatientIdentity
    accession_number: str
    issuer_of_accession_number: str
    study_date: str
    """DICOM DA or empty."""
    study_time: str
    """DICOM TM or empty."""
    study_description: str
    study_id: str
    referring_physician_name: str
    series: tuple[Series, ...]
    completeness: Completeness
    received_at: datetime
    """Arrival of the last instance (UTC)."""
    calling_ae_title: str = ""
    source: str = ""
    problems: tuple[str, ...] = ()
    """Identity conflicts that hold the study back; empty when it may be processed."""
    observations: tuple[Observation, ...] = ()
    """Of a *case*: measured values that were gathered for an order. A case has a Study Instance
    UID that the hub derives, and no series (docs/adr/0009)."""

    @property
    def study_instance_uid(self) -> str:
        return self.key.study_instance_uid

    @property
    def is_case(self) -> bool:
        """Measured values, not images."""
        return self.completeness.evidence is EvidenceKind.ORDERED_VALUES

    @property
    def identity(self) -> StudyIdentity:
        return StudyIdentity(
            study_instance_uid=self.study_instance_uid,
            patient=self.patient,
            accession_number=self.accession_number,
            issuer_of_accession_number=self.issuer_of_accession_number,
        )

    @property
    def instances(self) -> tuple[Instance, ...]:
        return tuple(instance for series in self.series for instance in series.instances)

    @property
    def modalities_in_study(self) -> tuple[str, ...]:
        return tuple(sorted({series.modality for series in self.series if series.modality}))

    def with_series(self, series_instance_uids: tuple[str, ...]) -> tuple[Series, ...]:
        """The named series, in the study's own order."""
        wanted = set(series_instance_uids)
        return tuple(s for s in self.series if s.series_instance_uid in wanted)
