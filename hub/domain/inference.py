"""The vendor-neutral contract: what a model is asked, and what it may answer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum, StrEnum

from hub.domain.finding import Finding, ParametricMap, Region
from hub.domain.identity import StudyIdentity
from hub.domain.observation import Observation
from hub.domain.study import Series, Study


class Priority(IntEnum):
    """Lower runs first (HL7 OBR-5 / FHIR request-priority: stat, asap/urgent, routine)."""

    STAT = 1
    URGENT = 5
    ROUTINE = 10


class InputRole(StrEnum):
    CURRENT = "current"
    PRIOR = "prior"


@dataclass(frozen=True, slots=True)
class ModelKey:
    """The exact model a request is pinned to."""

    model_id: str
    version: str
    sha256: str
    """Digest of the whole package: manifest and artefacts."""

    def __str__(self) -> str:
        return f"{self.model_id}|{self.version}"


@dataclass(frozen=True, slots=True)
class ImagingInput:
    """The series a model gets, in one role."""

    role: InputRole
    series: tuple[Series, ...]


@dataclass(frozen=True, slots=True)
class ObservationInput:
    """The measured values a model gets, in one role."""

    role: InputRole
    observations: tuple[Observation, ...]


Input = ImagingInput | ObservationInput


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """One question to one model about one study, pinned to what it started with."""

    request_id: str
    model: ModelKey
    route: str
    priority: Priority
    study: Study
    inputs: tuple[Input, ...]
    reasons: tuple[str, ...]
    """Why this request exists: the rule that matched and the series it selected."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    deadline: datetime | None = None
    amends_revision: int | None = None
    """Revision of the study whose result, of the same route and model, this one replaces."""
    order_id: str = ""
    """Of the order that asked for it; empty: a rule did."""
    based_on: tuple[str, ...] = ()
    """`hub.domain.order.Order.based_on`"""

    @property
    def series(self) -> tuple[Series, ...]:
        """The current series (role ``current``). Priors are inputs of their own, one for each
        examination, the newest first (role ``prior``)."""
        current = (i for i in self.inputs if i.role is InputRole.CURRENT)
        return tuple(s for i in current if isinstance(i, ImagingInput) for s in i.series)

    @property
    def images(self) -> tuple[ImagingInput, ...]:
        """The inputs that are images, in every role."""
        return tuple(given for given in self.inputs if isinstance(given, ImagingInput))

    @property
    def observations(self) -> tuple[Observation, ...]:
        """The measured values (role ``current``)."""
        current = (i for i in self.inputs if i.role is InputRole.CURRENT)
        return tuple(o for i in current if isinstance(i, ObservationInput) for o in i.observations)


def input_digest(
    model: ModelKey, series: Iterable[Series], observations: Iterable[Observation] = ()
) -> str:
    """SHA-256 over what a model would be asked about: its own key and, of each instance, UID and
    digest; of each value its identifier, which says where it stands and what it states. Equal
    digests are the same question."""
    instances = sorted((i.sop_instance_uid, i.sha256) for one in series for i in one.instances)
    question = [model.model_id, model.version, model.sha256, *(" ".join(i) for i in instances)]
    question += sorted(f"observation {one.observation_id}" for one in observations)
    return hashlib.sha256("\n".join(question).encode()).hexdigest()


class Outcome(StrEnum):
    """How an inference request ended, when it ended with an answer."""

    ASSESSED = "assessed"
    NOT_ASSESSABLE = "not-assessable"
    """The model ran and found that it cannot answer; reasons say why."""
    UNSUITABLE = "unsuitable"
    """The input is outside the intended use; the model was not run."""
    FAILED = "failed"
    """No answer came: the model, its input or the hub broke. Never "nothing found"."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds spent in one part of the work."""

    part: str
    """``read``, ``decode``, ``preprocess``, ``inference``, ``postprocess``, ``encode`` ..."""
    seconds: float


@dataclass(frozen=True, slots=True)
class InferenceResult:
    """A model's answer. ``identity`` is what the *model's side* says it belongs to."""

    request_id: str
    model: ModelKey
    identity: StudyIdentity
    outcome: Outcome
    findings: tuple[Finding, ...] = ()
    region: Region | None = None
    reasons: tuple[str, ...] = ()
    """Why the outcome is not ``assessed``, in plain words."""
    warnings: tuple[str, ...] = ()
    timings: tuple[Timing, ...] = ()
    maps: tuple[ParametricMap, ...] = ()
    ran_on: str = ""
    """Where the model ran, for the audit log: the kind of adapter, and the server or vendor that
    was asked; no secrets, no patient data."""

    def __post_init__(self) -> None:
        if self.outcome is not Outcome.ASSESSED and not self.reasons:
            raise ValueError(f"{self.outcome} needs a reason")
        if self.outcome is Outcome.ASSESSED and not self.findings:
            raise ValueError("an assessed result has at least one finding")


@dataclass(frozen=True, slots=True)
class Unsuitable:
    """The input is outside the model's intended use."""

    request_id: str
    reasons: tuple[str, ...]
    ran_on: str = ""
    """Who says so, as in ``InferenceResult``; empty: nobody was asked, the model's card told."""


@dataclass(frozen=True, slots=True)
class Deferred:
    """The answer comes later (a vendor works on it); ask again at ``not_before``."""

    request_id: str
    job_reference: str
    """What the vendor calls the job; empty where it will call back, and gave no name."""
    not_before: datetime
    """UTC. Of a vendor that calls back: when to ask, or to give up, if it does not."""
