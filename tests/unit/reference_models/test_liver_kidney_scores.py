"""FIB-4 and eGFR: the graph against the published formulas, and the whole way from FHIR to findings
for the synthetic patients of Synthea."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from hub.domain.finding import Finding
from hub.domain.identity import PatientIdentity
from hub.domain.inference import InferenceResult, Outcome, Unsuitable
from hub.domain.intended_use import unsuitable_reasons
from hub.domain.model_runtime import OnnxRuntime
from hub.domain.observation import Observation
from hub.domain.observed_input import chosen_input
from hub.domain.study import Study
from hub.errors import UnsuitableError
from hub.formats.fhir.observation import observation_of
from hub.formats.invariants import check_result
from hub.formats.manifest.model_manifest import read_manifest
from hub.formats.ucum import value_in
from hub.ports import AdapterContext, ModelPackage
from hub.store.packages import read_package
from model_adapters.onnx_local import ADAPTER
from model_adapters.reference_models import LIVER_KIDNEY_SCORES
from model_adapters.reference_models.liver_kidney_scores_graph import (
    GRAPH_FILE,
    INPUTS,
    graph_bytes,
)
from model_adapters.tensors.measured import measured_of
from tests.unit.adapters.toy_models import Files, WallClock
from tests.unit.observed import (
    AST,
    CREATININE,
    case,
    observation,
    request_of,
    usual_values,
)

CLASSES = ("low", "indeterminate", "high", "none")
Answer = dict[str, Any]


def fib4(age: float, ast: float, alt: float, platelets: float) -> float:
    """Sterling et al. 2006, written down again."""
    return age * ast / (platelets * math.sqrt(alt))


def egfr(creatinine: float, age: float, *, female: bool) -> float:
    """Inker et al. 2021, written down again, as the four cases of their table."""
    if female:
        power = -0.241 if creatinine <= 0.7 else -1.2
        return float(142 * (creatinine / 0.7) ** power * 0.9938**age * 1.012)
    power = -0.302 if creatinine <= 0.9 else -1.2
    return float(142 * (creatinine / 0.9) ** power * 0.9938**age)


@pytest.fixture(scope="module")
def graph() -> Callable[..., Answer]:
    session = onnxruntime.InferenceSession(GRAPH_FILE.read_bytes())
    names = [output.name for output in session.get_outputs()]

    def run(*numbers: float) -> Answer:
        fed = {n: np.array([v], np.float32) for n, v in zip(INPUTS, numbers, strict=True)}
        answer = dict(zip(names, session.run(None, fed), strict=True))
        marks = answer["fib4_class"].tolist()
        assert sorted(marks) == [0, 0, 0, 1]
        return {
            "fib4": float(answer["fib4"][0]),
            "egfr": float(answer["egfr"][0]),
            "class": CLASSES[marks.index(1)],
        }

    return run


def test_the_committed_graph_is_what_the_script_builds() -> None:
    assert (
        hashlib.sha256(graph_bytes()).digest() == hashlib.sha256(GRAPH_FILE.read_bytes()).digest()
    )


def test_the_manifest_is_valid_and_pins_the_graph() -> None:
    card = read_manifest((LIVER_KIDNEY_SCORES / "model.yaml").read_text(), "model.yaml")
    assert isinstance(card.runtime, OnnxRuntime)
    assert card.runtime.graph.path == GRAPH_FILE.name
    assert card.runtime.graph.sha256 == hashlib.sha256(GRAPH_FILE.read_bytes()).hexdigest()
    assert not card.regulation.medical_device


def test_the_graph_is_plain_onnx_without_weights() -> None:
    model = onnx.load(GRAPH_FILE)
    onnx.checker.check_model(model, full_check=True)
    assert list(model.graph.initializer) == []


# AST, ALT, platelets, creatinine, age, female; then FIB-4, its class and eGFR. Worked out with a
# pocket calculator from the formulas, rounded as laboratories round.
PATIENTS = [
    (31, 28, 240, 0.8, 54, 1, 1.32, "indeterminate", 88),
    (40, 40, 200, 1.0, 50, 0, 1.58, "indeterminate", 92),
    (40, 40, 200, 1.0, 50, 1, 1.58, "indeterminate", 69),
    (18, 20, 280, 0.7, 40, 1, 0.57, "low", 112),
    (18, 20, 280, 0.9, 40, 0, 0.57, "low", 111),
    (120, 60, 90, 2.5, 61, 0, 10.5, "high", 29),
    (65, 45, 110, 1.4, 70, 1, 6.17, "high", 40),
    (22, 24, 250, 1.1, 66, 0, 1.19, "low", 74),
    (30, 25, 220, 0.6, 66, 1, 1.8, "low", 99),
    (30, 25, 220, 0.6, 64, 1, 1.75, "indeterminate", 100),
    (30, 25, 220, 0.6, 34, 1, 0.93, "none", 121),
    (200, 30, 60, 0.5, 30, 0, 18.26, "none", 141),
    (26, 16, 130, 5.5, 52, 0, 2.6, "indeterminate", 12),
    (32, 25, 140, 9.8, 88, 1, 4.02, "high", 4),
    (15, 9, 410, 0.3, 18, 0, 0.22, "none", 177),
    (25, 36, 300, 1.02, 78, 0, 1.08, "low", 75),
    # at the cut-offs: 1.30 is not below 1.3, 2.67 is not above 2.67
    (26, 25, 200, 0.9, 50, 0, 1.3, "indeterminate", 104),
    (26.7, 25, 100, 0.9, 50, 0, 2.67, "indeterminate", 104),
]


@pytest.mark.parametrize("patient", PATIENTS)
def test_patients_whose_scores_were_worked_out_apart(
    graph: Callable[..., Answer], patient: tuple[Any, ...]
) -> None:
    ast, alt, platelets, creatinine, age, female, score, its_class, rate = patient
    found = graph(ast, alt, platelets, creatinine, age, female)
    assert found["fib4"] == pytest.approx(score, abs=1e-6)
    assert round(fib4(age, ast, alt, platelets), 2) == score
    assert found["class"] == its_class
    assert round(found["egfr"]) == rate
    assert found["egfr"] == pytest.approx(egfr(creatinine, age, female=bool(female)), rel=1e-6)


def test_examples_that_others_published(graph: Callable[..., Answer]) -> None:
    # droracle.ai, "How to calculate FIB-4": 50 years, AST 40, ALT 36, platelets 200: 1.67
    assert graph(40, 36, 200, 1.0, 50, 0)["fib4"] == pytest.approx(1.67, abs=1e-6)
    # the calculator of kidney.org: 55 years, male, creatinine 1.2 mg/dL: 71
    assert round(graph(40, 36, 200, 1.2, 55, 0)["egfr"]) == 71


def test_the_graph_follows_the_formulas_everywhere(graph: Callable[..., Answer]) -> None:
    rng = np.random.default_rng(7)
    for _ in range(300):
        ast, alt = (float(np.float32(rng.uniform(5, 400))) for _ in range(2))
        platelets, age = float(np.float32(rng.uniform(20, 600))), float(rng.integers(18, 100))
        creatinine, female = float(np.float32(rng.uniform(0.2, 12))), bool(rng.integers(2))
        found = graph(ast, alt, platelets, creatinine, age, float(female))
        assert found["fib4"] == pytest.approx(fib4(age, ast, alt, platelets), abs=0.00501)
        assert found["egfr"] == pytest.approx(egfr(creatinine, age, female=female), rel=1e-6)
        low = 2.0 if age >= 65 else 1.3
        score = round(found["fib4"], 2)
        expected = "low" if score < low else "high" if score > 2.67 else "indeterminate"
        assert found["class"] == ("none" if age < 35 else expected)


# --- through the adapter ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def package() -> ModelPackage:
    return read_package(LIVER_KIDNEY_SCORES)


Infer = Callable[[Study], InferenceResult]


@pytest.fixture(scope="module")
def infer(package: ModelPackage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Infer]:
    """Gate and model, as the pipeline asks them."""
    context = AdapterContext("local", Files(tmp_path_factory.mktemp("none")), WallClock())
    adapter = ADAPTER.build(ADAPTER.config(processes=1), context)
    adapter.load(package)

    def run(study: Study) -> InferenceResult:
        chosen = chosen_input(package.card, study, value_in).observations
        request = request_of(study, chosen, package.key)
        answer = adapter.infer(request)
        if isinstance(answer, Unsuitable):
            raise UnsuitableError(answer.reasons)
        assert isinstance(answer, InferenceResult)
        check_result(request, answer, package.card)
        return answer

    yield run
    adapter.close()


def by_name(result: InferenceResult) -> dict[str, Finding]:
    return {finding.tracking_identifier: finding for finding in result.findings}


def test_findings_name_the_values_that_they_rest_on(infer: Infer) -> None:
    values = usual_values()
    result = infer(case(*values))
    assert result.outcome is Outcome.ASSESSED
    found = by_name(result)
    score, its_class, rate = found["FIB-4"], found["Class of FIB-4"], found["eGFR"]
    assert (score.value, rate.value) == (1.32, 88)
    assert its_class.coded_value is not None
    assert its_class.coded_value.code_meaning == "indeterminate"
    assert its_class.probability is None
    assert "1.32" in score.statement
    ids = [one.observation_id for one in values]
    assert score.derived_from == its_class.derived_from == tuple(ids[:3])
    assert rate.derived_from == (ids[3],)
    assert score.evidence == ()


def test_the_adapter_refuses_what_the_gate_would(infer: Infer, package: ModelPackage) -> None:
    with pytest.raises(UnsuitableError, match="creatinine: missing"):
        infer(case(*usual_values()[:3]))
    with pytest.raises(UnsuitableError, match="sex"):
        infer(case(*usual_values(), patient=PatientIdentity("P", patient_birth_date="19710315")))
    # the request gives fewer values than the case has
    study = case(*usual_values())
    request = request_of(study, study.observations[:3], package.key)
    with pytest.raises(UnsuitableError, match="creatinine"):
        measured_of(package.card, request)


def test_units_are_converted_on_the_way(infer: Infer) -> None:
    values = {
        AST: (31 / 60, "ukat/L"),
        CREATININE: (8.0, "mg/L"),
    }
    sent = [
        replace(one, value=values[one.codes[0]][0], unit=observation(AST, 1, unit).unit)
        if one.codes[0] in values and (unit := values[one.codes[0]][1])
        else one
        for one in usual_values()
    ]
    found = by_name(infer(case(*sent)))
    assert (found["FIB-4"].value, found["eGFR"].value) == (1.32, 88)


def test_a_result_takes_milliseconds(infer: Infer) -> None:
    infer(case(*usual_values()))
    result = infer(case(*usual_values()))
    assert {timing.part for timing in result.timings} == {"inference", "postprocess"}
    assert sum(timing.seconds for timing in result.timings) < 0.5


# --- Synthea -----------------------------------------------------------------------------------

SEXES = {"female": "F", "male": "M"}
SYNTHEA = [
    # (name, ordered on, FIB-4 and eGFR) by hand: the newest values of each before that day.
    # Cathryn: 81 years, AST 38.45, ALT 31.75, platelets 213.56, creatinine 0.5054, female
    ("Cathryn_Windler", datetime(2006, 8, 1, tzinfo=UTC), (2.59, 94)),
    # Martina: 67 years, AST 34.26, ALT 31.04, platelets 319.58, creatinine 0.6231, female
    ("Martina_Murazik", datetime(2020, 12, 20, tzinfo=UTC), (1.29, 97)),
]
SYNTHEA_UNSUITABLE = [
    # her platelets are of 2014, the other values of 2016
    (
        "Michele_Wolf",
        datetime(2016, 5, 1, tzinfo=UTC),
        ("platelets: 657 days old, at most 365 are allowed.",),
    ),
    # he has two panels of one moment, with creatinine 1.06 and 3.42 mg/dL
    (
        "Tom_Goodwin",
        datetime(2020, 6, 1, tzinfo=UTC),
        ("creatinine: different values of the same moment.",),
    ),
    (
        "Chet_Thompson",
        datetime(1967, 5, 1, tzinfo=UTC),
        (
            "AST: missing (LOINC 1920-8 or 30239-8 or 88112-8).",
            "ALT: missing (LOINC 1742-6 or 1743-4 or 1744-2).",
            "creatinine: missing (LOINC 2160-0 or 14682-9 or 38483-4 or 59826-8 or 77140-2).",
        ),
    ),
]


def synthea_case(shared_data: Path, name: str, ordered_at: datetime) -> Study:
    (path,) = (shared_data / "fhir" / "synthea-r4").glob(f"{name}*.json")
    entries = json.loads(path.read_text())["entry"]
    person = next(e["resource"] for e in entries if e["resource"]["resourceType"] == "Patient")
    patient = PatientIdentity(
        person["id"],
        "SYNTHEA",
        patient_birth_date=person["birthDate"].replace("-", ""),
        patient_sex=SEXES[person["gender"]],
    )
    values = tuple(_observations(entries, patient))
    return case(*values, patient=patient, ordered_at=ordered_at)


def _observations(entries: list[dict[str, Any]], patient: PatientIdentity) -> Iterator[Observation]:
    for entry in entries:
        if entry["resource"]["resourceType"] == "Observation":
            reference = f"Observation/{entry['resource']['id']}"
            yield observation_of(
                entry["resource"], patient=patient, reference=reference, source="ehr"
            )


@pytest.mark.parametrize(("name", "ordered_at", "scores"), SYNTHEA)
def test_patients_of_synthea_have_the_expected_scores(
    shared_data: Path, infer: Infer, name: str, ordered_at: datetime, scores: tuple[float, float]
) -> None:
    found = by_name(infer(synthea_case(shared_data, name, ordered_at)))
    assert (found["FIB-4"].value, found["eGFR"].value) == scores


@pytest.mark.parametrize(("name", "ordered_at", "reasons"), SYNTHEA_UNSUITABLE)
def test_patients_of_synthea_whose_values_will_not_do_are_told_why(
    shared_data: Path,
    package: ModelPackage,
    name: str,
    ordered_at: datetime,
    reasons: tuple[str, ...],
) -> None:
    study = synthea_case(shared_data, name, ordered_at)
    assert unsuitable_reasons(package.card, study, (), value_in) == reasons
