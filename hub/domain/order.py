"""Somebody asks for AI: a FHIR Task or ServiceRequest, on a study or on measured values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from hub.domain.identity import PatientIdentity
from hub.domain.inference import Priority
from hub.domain.observation import Observation


class OrderSubject(StrEnum):
    """What the order is about."""

    STUDY = "study"
    OBSERVATIONS = "observations"
    """Values from the record, laboratory results above all."""


class OrderState(StrEnum):
    """What became of an order (FHIR task-status in brackets)."""

    PLACED = "placed"
    """On record, nothing was done yet (accepted)."""
    WAITING = "waiting"
    """For images that are fetched or still arriving, or for values (accepted)."""
    IN_PROGRESS = "in-progress"
    """Models are asked (in-progress)."""
    COMPLETED = "completed"
    """Every request that it led to has its report (completed)."""
    REJECTED = "rejected"
    """No model can be asked, or the input is outside its intended use; reasons say why
    (rejected)."""
    FAILED = "failed"
    """No answer came (failed)."""
    CANCELLED = "cancelled"
    """Whoever placed it took it back (cancelled)."""


OPEN_ORDERS = frozenset({OrderState.PLACED, OrderState.WAITING, OrderState.IN_PROGRESS})


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One question that somebody put, as the sender put it."""

    order_id: str
    """32 hexadecimal digits, from the source and the sender's own identifiers, so that the same
    order sent again is the same order. Also the id of the hub's Task resource."""
    source: str
    """Name of the source that it came by; ``caidx`` for those that the hub makes itself."""
    subject: OrderSubject
    patient: PatientIdentity
    study_instance_uid: str
    """The study; of values the case, a UID that the hub derives (docs/adr/0009)."""
    route: str = ""
    """Name of the route that is asked for; empty: every route that an order may start and whose
    rule matches."""
    priority: Priority = Priority.ROUTINE
    accession_number: str = ""
    issuer_of_accession_number: str = ""
    placer_order_number: tuple[str, str] | None = None
    """System and value (HL7 v2 ORC-2; FHIR identifier of type PLAC)."""
    filler_order_number: tuple[str, str] | None = None
    """System and value (HL7 v2 ORC-3; FHIR identifier of type FILL)."""
    based_on: tuple[str, ...] = ()
    """FHIR references (JSON objects as text) to what asked for it; reports name them."""
    resource: str = ""
    """The Task or ServiceRequest as it came (JSON text), for those who read it again."""
    endpoint: str = ""
    """Base URL of the DICOMweb service that has the study; empty: the sender named none."""
    number_of_instances: int | None = None
    """ImagingStudy.numberOfInstances."""
    observations: tuple[Observation, ...] = ()
    """Values that came with the order; others are looked for in the record."""
    ordered_at: datetime
    deadline: datetime | None = None
    """After this moment nobody waits for the answer (Task.restriction.period.end)."""
