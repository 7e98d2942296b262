from __future__ import annotations

from dataclasses import replace

import pytest

from hub.domain.coding import Code
from hub.domain.finding import Finding, Presence, Region
from hub.domain.identity import (
    PatientIdentity,
    StudyIdentity,
    derived_uid,
    identity_mismatches,
    request_id_for,
)

IDENTITY = StudyIdentity("1.2.3", PatientIdentity("P1", "HOSPITAL"), "A1", "RIS")


def test_the_same_identity_has_no_mismatch() -> None:
    renamed = replace(IDENTITY.patient, patient_name="DOE^JANE")  # a name identifies nobody
    assert identity_mismatches(IDENTITY, replace(IDENTITY, patient=renamed)) == ()


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (replace(IDENTITY, study_instance_uid="1.2.4"), "StudyInstanceUID"),
        (replace(IDENTITY, accession_number=""), "AccessionNumber"),
        (replace(IDENTITY, patient=PatientIdentity("P2", "HOSPITAL")), "PatientID"),
        (replace(IDENTITY, patient=PatientIdentity("P1", "OTHER")), "IssuerOfPatientID"),
    ],
)
def test_a_mismatch_is_named_and_its_values_are_not(other: StudyIdentity, named: str) -> None:
    assert identity_mismatches(IDENTITY, other) == (named,)


def test_derived_uids_are_valid_and_stable() -> None:
    uid = derived_uid("a", "b")
    assert uid == derived_uid("a", "b") != derived_uid("ab")
    assert uid.startswith("2.25.")
    assert len(uid) <= 64


def test_the_order_of_series_does_not_make_another_request() -> None:
    def key(*series: str, revision: int = 1) -> str:
        return request_id_for(
            study_instance_uid="1.2",
            revision=revision,
            route="r",
            model="m",
            series_instance_uids=series,
        )

    assert key("1", "2") == key("2", "1")
    assert key("1") != key("1", revision=2) != key("2")


def test_a_finding_says_exactly_one_thing() -> None:
    code, unit = Code("x", "99CAIDX", "x"), Code("mm", "UCUM", "mm")
    Finding("2.25.1", "t", code, value=1.0, unit=unit)
    with pytest.raises(ValueError, match="exactly one"):
        Finding("2.25.1", "t", code)
    with pytest.raises(ValueError, match="exactly one"):
        Finding("2.25.1", "t", code, value=1.0, unit=unit, presence=Presence.ABSENT)
    with pytest.raises(ValueError, match="belong together"):
        Finding("2.25.1", "t", code, value=1.0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        Finding("2.25.1", "t", code, presence=Presence.ABSENT, probability=1.5)


def test_a_region_fills_its_planes() -> None:
    with pytest.raises(ValueError, match="do not fill"):
        Region(("1.2",), 2, 2, b"\0" * 3, ())
