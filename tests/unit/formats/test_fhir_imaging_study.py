"""What an ImagingStudy says about the instances of a study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hub.errors import RejectedError
from hub.formats.fhir.imaging_study import expectations_in, read_imaging_studies
from hub.ports import Expectation, ExpectationSource

STUDY = "1.2.3"


def imaging_study(**fields: Any) -> dict[str, Any]:
    identifier = {"system": "urn:dicom:uid", "value": f"urn:oid:{STUDY}"}
    return {
        "resourceType": "ImagingStudy",
        "status": "available",
        "identifier": [{"system": "urn:other", "value": "A-1"}, identifier],
        **fields,
    }


def series(*uids: str, **fields: Any) -> dict[str, Any]:
    return {"uid": "1.2.3.9", "instance": [{"uid": uid} for uid in uids], **fields}


def said(**fields: Any) -> tuple[int | None, tuple[str, ...]]:
    (one,) = expectations_in(imaging_study(**fields))
    assert (one.study_instance_uid, one.source) == (STUDY, ExpectationSource.ORDER)
    return one.number_of_instances, one.sop_instance_uids


@pytest.mark.parametrize(
    ("name", "study", "number"),
    [
        ("ImagingStudy-example", "2.16.124.113543.6003.1154777499.30246.19789.3503430045", 1),
        ("ImagingStudy-example-xr", "2.16.124.113543.6003.1154777499.30246.19789.3503430046", 2),
    ],
)
def test_the_examples_of_the_standard_name_their_instances(
    shared_data: Path, name: str, study: str, number: int
) -> None:
    document = (shared_data / "fhir" / "r4-examples" / f"{name}.json").read_bytes()
    (found,) = read_imaging_studies(document)
    assert (found.study_instance_uid, found.number_of_instances) == (study, number)
    assert len(found.sop_instance_uids) == number


def test_every_imaging_study_of_a_bundle_is_read(shared_data: Path) -> None:
    read = 0
    for path in sorted((shared_data / "fhir" / "synthea-r4").glob("*.json")):
        document = path.read_bytes()
        wanted = [
            entry["resource"]
            for entry in json.loads(document)["entry"]
            if entry["resource"]["resourceType"] == "ImagingStudy"
        ]
        if not wanted:
            with pytest.raises(RejectedError, match="no ImagingStudy"):
                read_imaging_studies(document)
            continue
        found = read_imaging_studies(document)
        assert [one.number_of_instances for one in found] == [
            resource["numberOfInstances"] for resource in wanted
        ]
        read += len(found)
    assert read > 5


def test_the_number_alone_is_enough() -> None:
    assert said(numberOfInstances=7) == (7, ())


def test_instances_are_waited_for_by_name_only_where_all_are_named() -> None:
    assert said(series=[series("1.1", "1.2"), series("1.3")]) == (3, ("1.1", "1.2", "1.3"))
    assert said(numberOfInstances=2, series=[series("1.1", "urn:oid:1.2")]) == (2, ("1.1", "1.2"))
    assert said(numberOfInstances=3, series=[series("1.1")]) == (3, ())
    assert said(series=[series("1.1", numberOfInstances=2), series("1.3")]) == (3, ())
    assert said(numberOfInstances=1, series=[series("1.1", "1.1")]) == (1, ("1.1",))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, "does not tell"),
        ({"numberOfInstances": 0}, "does not tell"),
        ({"numberOfSeries": 2, "series": [series("1.1")]}, "does not tell"),
        ({"series": [series("1.1"), series()]}, "does not tell"),
        ({"numberOfInstances": 1, "series": [series("1.1", "1.2")]}, "more instances"),
        ({"numberOfInstances": 1, "series": [series(numberOfInstances=2)]}, "more instances"),
        ({"series": [series("1.1", "1.2", numberOfInstances=1)]}, "instance has more"),
        ({"numberOfInstances": -1}, "no number"),
        ({"numberOfInstances": True}, "no number"),
        ({"numberOfInstances": "7"}, "no number"),
        ({"series": [series("CANARY")]}, "instance.uid is no DICOM UID"),
        ({"series": [{"instance": [{}]}]}, "instance.uid is no DICOM UID"),
        ({"series": {}}, "series is no list"),
        ({"series": [1]}, "series is no list"),
        ({"status": "entered-in-error", "numberOfInstances": 7}, "withdrawn"),
        ({"status": "cancelled", "numberOfInstances": 7}, "withdrawn"),
        ({"identifier": [], "numberOfInstances": 7}, "but has 0"),
        (
            {
                "identifier": [
                    {"system": "urn:dicom:uid", "value": value} for value in ("1.2", "1.3")
                ]
            },
            "but has 2",
        ),
        ({"identifier": [{"system": "urn:ietf:rfc:3986", "value": "urn:uuid:1-2"}]}, "but has 0"),
        ({"identifier": [{"system": "urn:dicom:uid", "value": "CANARY"}]}, "is no DICOM UID"),
    ],
)
def test_what_does_not_tell_is_refused_and_says_why(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(RejectedError, match=told) as caught:
        expectations_in(imaging_study(**fields))
    assert "CANARY" not in str(caught.value)


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (b"", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[]", "no FHIR resource"),
        (b'{"resourceType": "Patient"}', "neither"),
        (b'{"resourceType": "Bundle"}', "holds no ImagingStudy"),
        (b'{"resourceType": "Bundle", "entry": [{}, {"resource": 1}]}', "holds no ImagingStudy"),
    ],
)
def test_other_documents_are_refused(document: bytes, told: str) -> None:
    with pytest.raises(RejectedError, match=told):
        read_imaging_studies(document)


def test_a_bad_entry_of_a_bundle_is_named() -> None:
    good, bad = imaging_study(numberOfInstances=1), imaging_study()
    bundle = {"resourceType": "Bundle", "entry": [{"resource": good}, {"resource": bad}]}
    with pytest.raises(RejectedError, match=r"Bundle\.entry\[1\]: ImagingStudy does not tell"):
        expectations_in(bundle)
    bundle["entry"] = [{"resource": good}]
    assert expectations_in(bundle) == [Expectation(STUDY, ExpectationSource.ORDER, 1)]
