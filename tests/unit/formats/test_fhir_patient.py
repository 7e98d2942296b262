from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.domain.identity import PatientIdentity
from hub.domain.patient import PatientChange, PatientChangeKind
from hub.errors import RejectedError
from hub.formats.fhir.patient import read_patient_changes

NOW = datetime(2026, 3, 14, 8, 30, tzinfo=UTC)
KH, UMR = "urn:oid:1.2.3", "https://umr.example/patients"
ISSUERS = {KH: "", UMR: "UMR"}


def identifier(value: str, system: str = UMR, **fields: Any) -> dict[str, Any]:
    return {"system": system, "value": value, **fields}


def patient(identity: str, *identifiers: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "resourceType": "Patient",
        "id": identity,
        "identifier": list(identifiers or [identifier(identity.upper())]),
        "name": [{"use": "official", "family": "Müller", "given": ["Jörg", "M", "K"]}],
        "gender": "male",
        "birthDate": "1958-02-17",
    } | fields


def bundle(*resources: dict[str, Any]) -> dict[str, Any]:
    entries = [{"fullUrl": f"https://x/Patient/{r.get('id')}", "resource": r} for r in resources]
    return {"resourceType": "Bundle", "type": "collection", "entry": entries}


def replaced_by(**other: Any) -> dict[str, Any]:
    return {"active": False, "link": [{"type": "replaced-by", "other": other}]}


def read(resource: Any) -> tuple[PatientChange, ...]:
    return read_patient_changes(json.dumps(resource).encode(), ISSUERS, "fhir", NOW)


def test_an_update_says_how_the_patient_is() -> None:
    (change,) = read(patient("a"))
    assert change.kind is PatientChangeKind.UPDATED
    assert change.current == PatientIdentity("A", "UMR", "Müller^Jörg^M K", "19580217", "M")
    assert (change.patient_id, change.source, change.received_at) == ("A", "fhir", NOW)


def test_each_id_that_images_may_have_is_updated() -> None:
    several = (identifier("1", KH), identifier("2"), identifier("3", "urn:other"))
    found = read(patient("a", identifier("0", use="old"), *several))
    assert [(c.patient_id, c.issuer_of_patient_id) for c in found] == [("1", ""), ("2", "UMR")]


@pytest.mark.parametrize("reference", ["Patient/b", "https://x/Patient/b"])
def test_a_patient_that_was_replaced_is_merged(reference: str) -> None:
    old = patient("a", **replaced_by(reference=reference))
    merged, updated = read(bundle(old, patient("b", birthDate="1958")))
    assert merged.kind is PatientChangeKind.MERGED
    assert merged.patient_id == "A"
    assert merged.current == PatientIdentity("B", "UMR", "Müller^Jörg^M K", "", "M")
    assert (updated.kind, updated.patient_id) == (PatientChangeKind.UPDATED, "B")


def test_the_other_one_may_be_named_by_an_identifier() -> None:
    (merged,) = read(patient("a", **replaced_by(identifier=identifier("B"))))
    assert merged.current == PatientIdentity("B", "UMR")


def test_the_one_that_replaces_may_say_so_alone_and_both_together_say_it_once() -> None:
    link = [{"type": "replaces", "other": {"identifier": identifier("A")}}]
    merged, updated = read(patient("b", link=link))
    assert (merged.patient_id, merged.current.patient_id) == ("A", "B")
    assert updated.kind is PatientChangeKind.UPDATED
    both = bundle(
        patient("a", **replaced_by(reference="Patient/b")),
        patient("b", link=[{"type": "replaces", "other": {"reference": "Patient/a"}}]),
    )
    assert [c.kind.value for c in read(both)] == ["merged", "updated"]


def test_the_same_version_is_the_same_change() -> None:
    first, again = read(patient("a")), read(patient("a"))
    later = read(patient("a", meta={"versionId": "2"}))
    assert first[0].change_id == again[0].change_id != later[0].change_id


@pytest.mark.parametrize(
    "resource",
    [
        [],
        {"resourceType": "Observation"},
        bundle(),
        patient("a", {"value": "CANARY"}),
        patient("a", identifier("CANARY", "urn:other")),
        patient("a", identifier("CANARY\\1")),
        patient("a", identifier("CANARY" * 20)),
        patient("a", birthDate="1958-02-31"),
        patient("a", **replaced_by(reference="Patient/CANARY")),
        patient("a", **replaced_by(identifier=identifier("A"))),
        patient("a", link=[{"type": "replaced-by", "other": "CANARY"}]),
        patient("a", name="CANARY"),
        patient("a", name=[{"given": "CANARY", "use": "official"}]),
    ],
)
def test_what_does_not_say_who_is_refused_without_patient_data(resource: Any) -> None:
    with pytest.raises(RejectedError) as raised:
        read(resource)
    assert "CANARY" not in str(raised.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["identifier", "system", "value", "name", "link", "other", "given", "type"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(
    st.dictionaries(st.sampled_from(["identifier", "name", "link", "birthDate", "gender"]), JSON)
)
def test_any_json_is_read_or_refused(fields: dict[str, Any]) -> None:
    for resource in (patient("a", **fields), bundle({"resourceType": "Patient", **fields})):
        try:
            assert read(resource)
        except RejectedError:
            continue


def test_what_is_no_json_is_refused() -> None:
    for document in (b"", b"{", b"\xff", b"[" * 100_000):
        with pytest.raises(RejectedError):
            read_patient_changes(document, ISSUERS, "fhir", NOW)
