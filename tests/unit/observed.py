"""Cases of measured values for tests: what a laboratory would send, by short names."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from hub.domain.coding import Code
from hub.domain.finding import Finding
from hub.domain.identity import PatientIdentity, derived_uid
from hub.domain.inference import (
    InferenceRequest,
    InferenceResult,
    InputRole,
    ModelKey,
    ObservationInput,
    Outcome,
    Priority,
)
from hub.domain.model_output import ClassFinding, ScalarFinding
from hub.domain.observation import Observation
from hub.domain.study import Completeness, EvidenceKind, Study, StudyKey
from hub.ports import ModelPackage
from hub.store.packages import read_package
from model_adapters.reference_models import LIVER_KIDNEY_SCORES

ORDERED_AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
PATIENT = PatientIdentity("P-7", "HOSP", "Secret^Name", "19710315", "F")
CASE_UID = "2.25.77"

AST = Code("1920-8", "LN", "AST")
ALT = Code("1742-6", "LN", "ALT")
PLATELETS = Code("777-3", "LN", "Platelets")
CREATININE = Code("2160-0", "LN", "Creatinine")
USUAL_UNITS = {AST: "U/L", ALT: "U/L", PLATELETS: "10*9/L", CREATININE: "mg/dL"}


def observation(
    code: Code,
    value: float | None,
    unit: str | None = None,
    *,
    days: float = 1,
    number: int = 0,
    status: str = "final",
    comparator: str = "",
    effective_at: datetime | None = ORDERED_AT,
    patient: PatientIdentity = PATIENT,
    reference: str = "",
) -> Observation:
    """One value, ``days`` before the order; ``unit`` "" is one that is not from UCUM."""
    named = USUAL_UNITS.get(code, "1") if unit is None else unit
    measured = None if effective_at is None else effective_at - timedelta(days=days)
    digits = "".join(c for c in code.code_value if c.isdigit())
    return Observation(
        observation_id=f"{int(digits + str(number)):032x}",
        patient=patient,
        codes=(code,),
        status=status,
        effective_at=measured,
        value=value,
        unit=Code(named, "UCUM", named) if named else None,
        comparator=comparator,
        reference=reference,
        identifier=("urn:lab", f"{code.code_value}-{number}"),
        source="lab",
    )


def usual_values() -> tuple[Observation, ...]:
    """What a laboratory sends of somebody who is well."""
    values = {AST: 31.0, ALT: 28.0, PLATELETS: 240.0, CREATININE: 0.8}
    return tuple(observation(code, value) for code, value in values.items())


def case(
    *observations: Observation,
    patient: PatientIdentity = PATIENT,
    ordered_at: datetime = ORDERED_AT,
    accession_number: str = "",
) -> Study:
    """A case of these values."""
    return Study(
        key=StudyKey(CASE_UID, 1),
        patient=patient,
        accession_number=accession_number,
        issuer_of_accession_number="",
        study_date=f"{ordered_at:%Y%m%d}",
        study_time=f"{ordered_at:%H%M%S}",
        study_description="",
        study_id="",
        referring_physician_name="",
        series=(),
        completeness=Completeness(
            complete=True,
            evidence=EvidenceKind.ORDERED_VALUES,
            received=len(observations),
            expected=None,
        ),
        received_at=ordered_at,
        source="ehr",
        observations=observations,
    )


def request_of(
    study: Study,
    chosen: tuple[Observation, ...],
    model: ModelKey,
    *,
    based_on: tuple[str, ...] = (),
) -> InferenceRequest:
    """The question about a case."""
    return InferenceRequest(
        request_id="0" * 31 + "7",
        model=model,
        route="laboratory",
        priority=Priority.ROUTINE,
        study=study,
        inputs=(ObservationInput(InputRole.CURRENT, chosen),),
        reasons=("ordered",),
        order_id="0" * 31 + "9" if based_on else "",
        based_on=based_on,
    )


def package_of_scores() -> ModelPackage:
    """The reference model liver-kidney-scores."""
    return read_package(LIVER_KIDNEY_SCORES)


def result_of(request: InferenceRequest, outcome: Outcome = Outcome.ASSESSED) -> InferenceResult:
    """What the reference model answers for the usual values; or no answer."""
    reasons = () if outcome is Outcome.ASSESSED else ("creatinine: missing (LOINC 2160-0).",)
    return InferenceResult(
        request_id=request.request_id,
        model=request.model,
        identity=request.study.identity,
        outcome=outcome,
        findings=() if reasons else tuple(_findings(request)),
        reasons=reasons,
    )


def _findings(request: InferenceRequest) -> Iterator[Finding]:
    ids = tuple(one.observation_id for one in request.observations)
    score, its_class, rate = package_of_scores().card.output.findings
    assert isinstance(score, ScalarFinding)
    assert isinstance(its_class, ClassFinding)
    assert isinstance(rate, ScalarFinding)
    for spec, value, given in ((score, 1.32, ids[:3]), (rate, 88.0, ids[3:])):
        yield Finding(
            tracking_uid=derived_uid(spec.tracking_identifier),
            tracking_identifier=spec.tracking_identifier,
            code=spec.code,
            value=value,
            unit=spec.unit,
            statement=spec.statement.replace("{value}", f"{value:g}"),
            derived_from=given,
        )
    yield Finding(
        tracking_uid=derived_uid(its_class.tracking_identifier),
        tracking_identifier=its_class.tracking_identifier,
        code=its_class.code,
        coded_value=its_class.classes[1],
        derived_from=ids[:3],
    )
