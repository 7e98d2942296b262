"""A pipeline that takes orders, for tests: images of phantoms, and values of one patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from hub.domain.coding import Code
from hub.domain.identity import PatientIdentity
from hub.domain.inference import ModelKey
from hub.domain.model_card import ModelCard
from hub.domain.model_input import ObservationsInput, ObservationSpec
from hub.domain.observation import Observation
from hub.domain.order import Order, OrderSubject
from hub.domain.routing import Route
from hub.domain.study import Study, StudyKey
from hub.fetching import FETCH_JOB, Fetching
from hub.formats.fhir.observation import observation_of
from hub.formats.route_expression import compile_expression
from hub.order_steps import OrderSteps
from hub.order_values import OrderValues
from hub.ports import ModelPackage, PlacedOrder
from hub.registry import RunningModel
from hub.store import instances
from hub.store.database import Database
from hub.store.order_rows import ORDER_JOB
from hub.store.orders import StoredOrders
from tests.builders import model_card
from tests.unit.test_pipeline import Bench, _route, make_bench

AST, ALT = Code("1920-8", "LN", "AST"), Code("1742-6", "LN", "ALT")
PATIENT = PatientIdentity("P-1", "", "", "19600101", "F")
LAB_KEY = ModelKey("lab-score", "1.0.0", "1" * 64)


@dataclass
class FakeRecord:
    """hub.ports.HealthRecord that holds values, or fails as told."""

    values: list[Observation] = field(default_factory=list)
    known: PatientIdentity = PATIENT
    error: Exception | None = None
    refusal: Exception | None = None
    """Of the values, of a patient whom it knows."""
    asked: list[tuple[PatientIdentity, tuple[Code, ...]]] = field(default_factory=list)

    def observations(
        self, patient: PatientIdentity, codes: Sequence[Code], not_before: datetime | None
    ) -> Sequence[Observation]:
        if self.error is not None or self.refusal is not None:
            raise self.error or self.refusal
        self.asked.append((patient, tuple(codes)))
        return self.values

    def patient(self, patient: PatientIdentity) -> PatientIdentity:
        if self.error is not None:
            raise self.error
        return self.known

    def check(self) -> str:
        return "fake"

    def close(self) -> None: ...


@dataclass
class OrderBench:
    """A bench whose orders are worked on when the test says so."""

    bench: Bench
    record: FakeRecord

    @property
    def orders(self) -> StoredOrders:
        pipeline = self.bench.pipeline
        return StoredOrders(
            database=pipeline.database,
            jobs=lambda: self.bench.jobs,
            journal=pipeline.journal,
            routes={route.name: route.mode for route in pipeline.routes},
        )

    @property
    def steps(self) -> OrderSteps:
        pipeline = self.bench.pipeline
        values = OrderValues(pipeline.database, {"ehr": self.record})
        return OrderSteps(steps=pipeline.study_steps, values=values)

    def look(self, *, delayed: bool = False) -> int:
        """Run the looks at orders that are due, or all; everything else stays. Returns how
        many."""
        jobs = self.bench.jobs.enqueued
        mine = [j for j in jobs if j.kind == ORDER_JOB and (delayed or j.delay_seconds <= 0)]
        jobs[:] = [j for j in jobs if j not in mine]
        for job in mine:
            self.steps.run_order(job.argument)
        return len(mine)

    def finish(self) -> None:
        """Run everything that is due until there is nothing; later looks are dropped."""
        while True:
            self.bench.pipeline.complete_due_studies()
            looks = self.look()
            jobs = self.bench.jobs.enqueued
            jobs[:] = [j for j in jobs if j.kind != ORDER_JOB or j.delay_seconds <= 0]
            fetches = [j for j in jobs if j.kind == FETCH_JOB]
            jobs[:] = [j for j in jobs if j.kind != FETCH_JOB]
            for job in fetches:
                fetching = self.bench.pipeline.fetching
                assert fetching is not None
                fetching.run_fetch(job.argument)
            others = [j for j in jobs if j.kind != ORDER_JOB]
            kept = [j for j in jobs if j.kind == ORDER_JOB]
            jobs[:] = others
            self.bench.run()
            jobs += kept
            if not (looks or fetches or others):
                return

    def placed(self, order_id: str = "a" * 32) -> PlacedOrder:
        found = self.orders.find(order_id)
        assert found is not None
        return found

    def study(self, uid: str, revision: int = 1) -> Study:
        with self.bench.pipeline.database.read() as connection:
            return instances.load_study(connection, StudyKey(uid, revision))

    def use(self, *routes: Route) -> None:
        self.bench.pipeline = replace(self.bench.pipeline, routes=routes)

    def fetch_from(self, **fields: object) -> None:
        """Archives, and what else fetching needs."""
        pipeline = self.bench.pipeline
        fetching = Fetching(
            database=pipeline.database,
            jobs=self.bench.jobs,
            journal=pipeline.journal,
            **fields,  # type: ignore[arg-type]
        )
        self.bench.pipeline = replace(pipeline, fetching=fetching)


def make_order_bench(folder: Path, database: Database | None = None) -> OrderBench:
    """A bench with two models: of CT series, and of AST and ALT."""
    bench = make_bench(folder, database)
    registry = bench.pipeline.registry
    lab = RunningModel(ModelPackage(LAB_KEY, lab_card(), folder), bench.adapter)
    registry = replace(registry, models={**registry.models, "lab-score": lab})
    bench.pipeline = replace(bench.pipeline, registry=registry)
    return OrderBench(bench, FakeRecord())


def lab_card() -> ModelCard:
    unit = Code("U/L", "UCUM", "U/L")
    specs = tuple(
        ObservationSpec(name=code.code_meaning, codes=(code,), unit=unit) for code in (AST, ALT)
    )
    card = model_card()
    intended_use = replace(card.intended_use, modalities=(), sop_classes=())
    wanted = ObservationsInput(kind="observations", observations=specs)
    return replace(card, id="lab-score", intended_use=intended_use, input=wanted)


def lab_route(**fields: object) -> Route:
    when = compile_expression("study.is_case", names=("study",))
    return _route(**{"name": "lab", "when": when, "model": "lab-score"} | fields)


def order(uid: str = "", **fields: object) -> Order:
    """An order of a study, or of values where it names none."""
    values: dict[str, object] = {
        "order_id": "a" * 32,
        "source": "ris",
        "subject": OrderSubject.STUDY if uid else OrderSubject.OBSERVATIONS,
        "patient": PATIENT,
        "study_instance_uid": uid,
        "ordered_at": datetime.fromisoformat("2026-01-02T03:00:00+00:00"),
    }
    return Order(**values | fields)  # type: ignore[arg-type]


def value(code: Code, number: float, reference: str = "", **fields: object) -> Observation:
    """A laboratory value as a source sends it."""
    resource = {
        "resourceType": "Observation",
        "status": fields.pop("status", "final"),
        "code": {"coding": [{"system": "http://loinc.org", "code": code.code_value}]},
        "effectiveDateTime": fields.pop("at", "2026-01-01T08:00:00Z"),
        "valueQuantity": {
            "value": number,
            "unit": "U/L",
            "system": "http://unitsofmeasure.org",
            "code": "U/L",
        },
    }
    patient = fields.pop("patient", PATIENT)
    source = str(fields.pop("source", "lis"))
    assert isinstance(patient, PatientIdentity)
    reference = reference or f"Observation/{code.code_value}"
    return observation_of(resource, patient=patient, reference=reference, source=source)
