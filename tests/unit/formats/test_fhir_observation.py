"""FHIR R4 Observations as measured values."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.domain.coding import Code
from hub.domain.identity import PatientIdentity
from hub.domain.observation import Observation
from hub.errors import RejectedError
from hub.formats.fhir.observation import observation_of

PATIENT = PatientIdentity("P-7", "HOSP")
UCUM = "http://unitsofmeasure.org"
LOINC = "http://loinc.org"


def read(reference: str = "Observation/1", **fields: Any) -> Observation:
    resource = {
        "resourceType": "Observation",
        "status": "final",
        "code": {"coding": [{"system": LOINC, "code": "1920-8", "display": "AST"}]},
        "effectiveDateTime": "2026-02-28T07:30:00+01:00",
        "valueQuantity": {"value": 31, "unit": "U/l", "system": UCUM, "code": "U/L"},
        **fields,
    }
    kept = {name: value for name, value in resource.items() if value is not None}
    return observation_of(kept, patient=PATIENT, reference=reference, source="ehr")


def test_a_laboratory_value_is_read_as_it_is_written() -> None:
    found = read(identifier=[{"value": "x"}, {"system": "urn:lab", "value": "L-1"}])
    assert (found.value, found.unit) == (31.0, Code("U/L", "UCUM", "U/l"))
    assert found.codes == (Code("1920-8", "LN", "AST"),)
    assert found.effective_at == datetime(2026, 2, 28, 6, 30, tzinfo=UTC)
    assert found.identifier == ("urn:lab", "L-1")
    assert (found.reference, found.source, found.patient) == ("Observation/1", "ehr", PATIENT)
    assert found.is_usable


@pytest.mark.parametrize(
    ("name", "loinc", "value", "unit"),
    [
        ("CRP1", "1988-5", 7.4, "mg/L"),
        ("GFR1", "98980-6", 100.0, "mL/min/{1.73_m2}"),
        ("Hb1", "718-7", 11.4, "g/dL"),
        ("PCT1", "33959-8", 0.2, "ng/mL"),
        ("Serumkreatinin1", "2160-0", 0.7, "mg/dL"),
        ("TSH1", "3015-5", 3.4, "u[IU]/mL"),
        ("Thrombozyten1", "26515-7", 178.0, "10*3/uL"),
        ("Troponin1", "42757-5", 0.1, "ug/L"),
    ],
)
def test_the_laboratory_examples_of_isik_are_read(
    shared_data: Path, name: str, loinc: str, value: float, unit: str
) -> None:
    folder = shared_data / "fhir/isik-labor/Resources/fsh-generated/resources"
    path = folder / f"Observation-ExampleISiKLaboruntersuchung{name}.json"
    resource = json.loads(path.read_text())
    found = observation_of(resource, patient=PATIENT, reference="", source="ehr")
    # ISiK has SNOMED CT first: the LOINC code leads here
    assert found.codes[0].coding_scheme_designator == "LN"
    assert found.codes[0].code_value == loinc
    assert found.codes[1].coding_scheme_designator == "SCT"
    assert (found.value, found.unit and found.unit.code_value) == (value, unit)
    assert found.effective_at is None  # the examples do not say
    assert found.is_usable


def test_every_observation_of_synthea_and_of_the_standard_is_read(shared_data: Path) -> None:
    values, others = 0, 0
    for path in sorted((shared_data / "fhir" / "synthea-r4").glob("*.json")):
        for entry in json.loads(path.read_text())["entry"]:
            resource = entry["resource"]
            if resource["resourceType"] != "Observation":
                continue
            found = observation_of(resource, patient=PATIENT, reference="", source="s")
            assert found.codes[0].coding_scheme_designator == "LN"
            assert found.effective_at is not None
            has_value = "valueQuantity" in resource
            assert (found.value is not None) == has_value
            # units in curly braces alone are UCUM too; every unit of Synthea is
            assert (found.unit is not None) == has_value
            values += has_value
    for path in sorted((shared_data / "fhir" / "r4-examples").glob("Observation-*.json")):
        resource = json.loads(path.read_text())
        observation_of(resource, patient=PATIENT, reference="", source="s")
        others += 1
    assert values > 400
    assert others > 20


@pytest.mark.parametrize(
    ("stated", "moment"),
    [
        ({"effectiveDateTime": "2026"}, datetime(2026, 1, 1, tzinfo=UTC)),
        ({"effectiveDateTime": "2026-02"}, datetime(2026, 2, 1, tzinfo=UTC)),
        ({"effectiveDateTime": "2026-02-03"}, datetime(2026, 2, 3, tzinfo=UTC)),
        (
            {"effectiveDateTime": "2026-02-03T23:30:00.123456789-05:00"},
            datetime(2026, 2, 4, 4, 30, 0, 123456, tzinfo=UTC),
        ),
        ({"effectiveInstant": "2026-02-03T10:00:00Z"}, datetime(2026, 2, 3, 10, tzinfo=UTC)),
        (
            {"effectivePeriod": {"start": "2026-02-01", "end": "2026-02-03T10:00:00Z"}},
            datetime(2026, 2, 3, 10, tzinfo=UTC),
        ),
        ({"effectivePeriod": {"start": "2026-02-01"}}, datetime(2026, 2, 1, tzinfo=UTC)),
        ({"effectiveTiming": {"event": ["2026-02-01"]}}, None),
        ({}, None),
    ],
)
def test_a_value_never_counts_as_younger_than_it_is(
    stated: dict[str, Any], moment: datetime | None
) -> None:
    assert read(**{"effectiveDateTime": None, **stated}).effective_at == moment


@pytest.mark.parametrize(
    "quantity",
    [
        {"value": 31, "unit": "U/L"},
        {"value": 31, "unit": "U/L", "system": "http://example.org/units", "code": "U/L"},
        {"value": 31, "system": UCUM},
        {"value": 31, "system": UCUM, "code": "U/L" * 40},
        {"value": 31},
    ],
)
def test_a_unit_that_is_not_from_ucum_is_not_guessed(quantity: dict[str, Any]) -> None:
    found = read(valueQuantity=quantity)
    assert (found.value, found.unit) == (31.0, None)


def test_limits_absences_and_other_answers_are_no_numbers() -> None:
    quantity = {"value": 5, "comparator": "<", "system": UCUM, "code": "U/L"}
    assert read(valueQuantity=quantity).comparator == "<"
    assert not read(valueQuantity=quantity).is_usable
    absent = {"coding": [{"code": "unknown", "display": "Unknown"}]}
    found = read(valueQuantity=None, dataAbsentReason=absent)
    assert (found.value, found.absent_reason, found.is_usable) == (None, "Unknown", False)
    told = read(valueQuantity=None, dataAbsentReason=absent | {"text": "Ms Canary refused"})
    assert told.absent_reason == "Unknown"
    words = read(valueQuantity=None, dataAbsentReason={"text": "Ms Canary refused"})
    assert words.absent_reason == "not coded"
    assert read(valueQuantity=None, valueString="31").value is None
    assert not read(status="preliminary").is_usable


def test_codings_keep_their_systems() -> None:
    codings = [
        {"system": "http://lab.example/codes", "code": "GOT"},
        {"code": "no-system"},
        {"system": "urn:oid:2.16.840.1.113883.6.1", "code": "1920-8"},
    ]
    found = read(code={"coding": codings, "text": "ASAT"})
    assert found.codes == (
        Code("1920-8", "LN", "ASAT"),
        Code("GOT", "http://lab.example/codes", "ASAT"),
    )
    assert found.codes[1].system == "http://lab.example/codes"


def test_the_same_content_of_the_same_resource_is_the_same_observation() -> None:
    first = read().observation_id
    assert len(first) == 32
    assert int(first, 16) >= 0
    assert read().observation_id == first
    assert read(meta={"versionId": "2"}).observation_id == first
    others = [
        read("Observation/2"),
        read(status="corrected"),
        read(effectiveDateTime="2026-02-28T07:31:00+01:00"),
        read(valueQuantity={"value": 32, "system": UCUM, "code": "U/L"}),
        read(valueQuantity={"value": 31, "system": UCUM, "code": "ukat/L"}),
        read(valueQuantity={"value": 31, "comparator": ">", "system": UCUM, "code": "U/L"}),
    ]
    assert len({first, *(one.observation_id for one in others)}) == 1 + len(others)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["coding", "system", "code", "value", "start", "end", "text", "comparator"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)
_ELEMENTS = (
    *("status", "code", "effectiveDateTime", "effectivePeriod", "effectiveInstant"),
    *("valueQuantity", "dataAbsentReason", "identifier"),
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(_ELEMENTS), _JSON))
def test_whatever_stands_there_it_is_read_or_refused(fields: dict[str, Any]) -> None:
    try:
        found = read(**fields)
    except RejectedError:
        return
    assert len(found.observation_id) == 32


@pytest.mark.parametrize(
    "broken",
    [
        {"resourceType": "Patient"},
        {"status": None},
        {"status": 7},
        {"code": None},
        {"code": "1920-8"},
        {"code": {"coding": "1920-8"}},
        {"code": {"coding": [17]}},
        {"code": {"coding": [{"system": LOINC, "code": 1920}]}},
        {"valueQuantity": 31},
        {"valueQuantity": {"value": "31"}},
        {"valueQuantity": {"value": True}},
        {"valueQuantity": {"value": float("nan")}},
        {"valueQuantity": {"value": 10**400}},
        {"valueQuantity": {"value": 1, "comparator": ["<"]}},
        {"effectiveDateTime": "yesterday"},
        {"effectiveDateTime": "2026-02-30"},
        {"effectiveDateTime": "2026-02-03T10:00:00"},
        {"effectiveDateTime": "2026-02-03T25:00:00Z"},
        {"effectiveDateTime": "0001-01-01T00:00:00+14:00"},
        {"effectiveDateTime": ["2026"]},
        {"effectivePeriod": "2026"},
        {"identifier": {"value": "x"}},
        {"dataAbsentReason": "unknown"},
    ],
)
def test_what_is_malformed_is_refused_without_its_content(broken: dict[str, Any]) -> None:
    with pytest.raises(RejectedError) as refused:
        read(**broken)
    for secret in ("31", "1920", "2026", "yesterday", "x"):
        assert secret not in str(refused.value).split()
