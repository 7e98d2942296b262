"""Whom a document belongs to, read from the bytes of every kind that says so."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO

import pytest
from pydicom import Dataset, dcmread

from hub.domain.delivery import DICOM_KINDS, Document, DocumentKind
from hub.domain.identity import PatientIdentity, StudyIdentity
from hub.formats.document_identity import contradictions, document_identity, references
from hub.formats.fhir import report as fhir_report
from hub.formats.hl7v2 import report as hl7v2_report
from tests import builders
from tests.unit.formats.encoded import CONTEXT, all_documents

ODD = PatientIdentity("A&B^1|2~3\\4", "ISS&UER", "Müller^Änne", "19600101", "F")
"""Every delimiter of HL7 v2 in an ID."""


def documents(patient: PatientIdentity = builders.PATIENT) -> dict[DocumentKind, Document]:
    request = builders.request_for(builders.chest_ct_study(2, patient=patient))
    result, card = builders.assessed(request), builders.model_card()
    made = all_documents(request, result)
    for kind, encode in (
        (DocumentKind.FHIR, fhir_report.encode),
        (DocumentKind.ORU, hl7v2_report.encode),
    ):
        document = encode(request, result, card, CONTEXT, made)
        assert document is not None
        made[kind] = document
    made[DocumentKind.NOTICE] = notice(request.study.identity)
    return made


def notice(identity: StudyIdentity) -> Document:
    content = {
        "study_instance_uid": identity.study_instance_uid,
        "patient_id": identity.patient.patient_id,
        "accession_number": identity.accession_number,
        "event": "result",
    }
    return Document("n", DocumentKind.NOTICE, "r", identity, json.dumps(content).encode())


DOCUMENTS = documents()
IDENTITY = DOCUMENTS[DocumentKind.SR].identity
TELLING = tuple(kind for kind in DOCUMENTS if kind is not DocumentKind.PDF)
FIELDS: dict[str, Callable[[StudyIdentity], StudyIdentity]] = {
    "StudyInstanceUID": lambda i: replace(i, study_instance_uid="2.25.9"),
    "PatientID": lambda i: replace(i, patient=replace(i.patient, patient_id="X")),
    "AccessionNumber": lambda i: replace(i, accession_number="X"),
}


@pytest.mark.parametrize("kind", TELLING)
@pytest.mark.parametrize("patient", [builders.PATIENT, ODD], ids=["plain", "odd"])
def test_each_kind_says_whose_it_is(kind: DocumentKind, patient: PatientIdentity) -> None:
    document = (DOCUMENTS if patient is builders.PATIENT else documents(patient))[kind]
    stated = document_identity(document)
    assert stated["PatientID"] == {patient.patient_id}
    assert stated["StudyInstanceUID"] == {"2.25.1001"}
    assert stated["AccessionNumber"] == {"A-2026-0042"}
    assert contradictions(document, document.identity) == ()


@pytest.mark.parametrize("kind", TELLING)
@pytest.mark.parametrize("field", FIELDS)
def test_bytes_that_say_something_else_are_noticed(kind: DocumentKind, field: str) -> None:
    """The hub believes one thing, the bytes say another."""
    believed = FIELDS[field](IDENTITY)
    document = replace(DOCUMENTS[kind], identity=believed)
    assert contradictions(document, believed) == (field,)


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_a_document_that_was_kept_for_somebody_else_is_noticed(kind: DocumentKind) -> None:
    wanted = FIELDS["PatientID"](IDENTITY)
    assert "PatientID of its record" in contradictions(DOCUMENTS[kind], wanted)


@pytest.mark.parametrize("kind", TELLING)
@pytest.mark.parametrize("damage", ["cut", "other", "empty"])
def test_bytes_that_are_no_such_document_are_noticed(kind: DocumentKind, damage: str) -> None:
    content = DOCUMENTS[kind].content
    broken = {
        "cut": content[: min(150, len(content) // 2)],
        "other": b"%PDF-1.4 \xff\xfe",
        "empty": b"",
    }
    document = replace(DOCUMENTS[kind], content=broken[damage])
    assert contradictions(document, IDENTITY) != ()


def test_a_bundle_with_one_resource_of_another_patient_is_noticed() -> None:
    bundle = json.loads(DOCUMENTS[DocumentKind.FHIR].content)
    resources = [entry["resource"] for entry in bundle["entry"]]
    last = [resource for resource in resources if "subject" in resource][-1]
    last["subject"]["identifier"]["value"] = "SOMEBODY"
    document = replace(DOCUMENTS[DocumentKind.FHIR], content=json.dumps(bundle).encode())
    assert contradictions(document, IDENTITY) == ("PatientID",)


def test_a_message_with_a_second_patient_is_noticed() -> None:
    content = DOCUMENTS[DocumentKind.ORU].content.decode()
    pid = next(line for line in content.split("\r") if line.startswith("PID"))
    second = pid.replace(IDENTITY.patient.patient_id, "SOMEBODY")
    content = content.replace(pid, f"{pid}\r{second}")
    document = replace(DOCUMENTS[DocumentKind.ORU], content=content.encode())
    assert contradictions(document, IDENTITY) == ("PatientID",)


def test_a_patient_without_an_id_is_told_so_in_every_kind() -> None:
    nobody = replace(builders.PATIENT, patient_id="", issuer_of_patient_id="")
    for kind, document in documents(nobody).items():
        assert contradictions(document, document.identity) == (), kind


def test_references_are_those_that_an_independent_reader_finds() -> None:
    """pydicom walks the whole tree."""
    for kind in DICOM_KINDS & DOCUMENTS.keys():
        found = {
            (str(item.get("ReferencedSOPClassUID", "")), str(item.ReferencedSOPInstanceUID))
            for item in _items(dcmread(BytesIO(DOCUMENTS[kind].content)))
            if "ReferencedSOPInstanceUID" in item
        }
        assert found
        assert references(DOCUMENTS[kind]).objects == found, kind


def _items(data: Dataset) -> Iterator[Dataset]:
    for element in data:
        if element.VR == "SQ":
            for item in element.value:
                yield item
                yield from _items(item)
