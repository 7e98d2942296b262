"""Results reach a real FHIR server once, linked, and survive what servers do."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from connectors.fhir import CONNECTOR
from connectors.fhir.config import FhirDestinationConfig
from connectors.fhir.destination import FhirDestination, build_destination
from hub.domain.delivery import Document, DocumentKind
from hub.domain.inference import InferenceRequest, InferenceResult
from hub.domain.report import ReportVersion
from hub.domain.study import Study
from hub.errors import CaidxError, ConfigError, RejectedError, TransientError
from hub.formats.encoding import EncodingContext
from hub.formats.fhir.report import encode
from hub.ports import DestinationContext
from tests import builders
from tests.fakes import NoConfirmations
from tests.peers.fhir_server import FhirServer, FhirValidators
from tests.peers.http_script import HttpScript, Reply
from tests.peers.http_script import scripted as scripted_http

__all__ = ["scripted_http"]

pytestmark = pytest.mark.peers

Json = dict[str, Any]
NOW = datetime(2026, 3, 14, 8, 30, 20, tzinfo=UTC)


class FixedClock:
    def now(self) -> datetime:
        return NOW


def destination(url: str, **changes: Any) -> FhirDestination:
    config = FhirDestinationConfig(url=url, **changes)
    return build_destination(config, DestinationContext("ehr", FixedClock(), NoConfirmations()))


def transaction(study: Study, answer: Callable[[InferenceRequest], InferenceResult]) -> Document:
    request = builders.request_for(study)
    version = ReportVersion()
    if study.key.revision > 1:
        request = replace(request, amends_revision=study.key.revision - 1)
        version = ReportVersion(replaced_findings=answer(request).findings)
    context = EncodingContext(
        made_at=builders.MADE_AT,
        institution_name="Beispielklinikum",
        software_version="0.1.0",
        identifier_systems={"UMR": "https://hospital.example/patients"},
        report=version,
    )
    content = b"%PDF-1.7" + bytes(range(256)) * 200
    page = Document("page", DocumentKind.PDF, request.request_id, study.identity, content)
    related = {DocumentKind.PDF: page}
    document = encode(request, answer(request), builders.model_card(), context, related)
    assert document is not None
    return document


def ct(revision: int = 1, slices: int = 3) -> Document:
    return transaction(builders.chest_ct_study(slices, revision=revision), builders.assessed)


# --- a real server -----------------------------------------------------------------------


def test_a_report_stands_in_the_server_with_all_it_refers_to(fhir_server: FhirServer) -> None:
    receipt = destination(fhir_server.base_url).deliver(ct(), "key-1")
    report = fhir_server.search("DiagnosticReport")[0]
    assert f"DiagnosticReport/{report['id']}" in receipt.detail
    named = [fhir_server.read(item["reference"]) for item in report["result"]]
    group = next(o for o in named if "hasMember" in o)
    members = [fhir_server.read(item["reference"]) for item in group["hasMember"]]
    assert [m["valueQuantity"]["value"] for m in members] == [5312.4, -861.3]
    assert fhir_server.read(members[0]["device"]["reference"])["manufacturer"]
    study = fhir_server.read(report["imagingStudy"][0]["reference"])
    assert study["identifier"][0]["value"] == "urn:oid:2.25.1001"
    provenance = fhir_server.search("Provenance")[0]
    assert provenance["target"][0]["reference"] == f"DiagnosticReport/{report['id']}"


def test_the_report_is_found_by_patient_and_by_study(fhir_server: FhirServer) -> None:
    destination(fhir_server.base_url).deliver(ct(), "key-1")
    assert fhir_server.search("ImagingStudy", identifier="urn:dicom:uid|urn:oid:2.25.1001")
    subject = fhir_server.search("DiagnosticReport")[0]["subject"]["identifier"]
    assert (subject["system"], subject["value"]) == (
        "https://hospital.example/patients",
        "CAIDX-4711",
    )


def test_sending_again_leaves_every_count_unchanged(fhir_server: FhirServer) -> None:
    ehr = destination(fhir_server.base_url)
    ehr.deliver(ct(), "key-1")
    before = fhir_server.counts()
    ids = [r["id"] for r in fhir_server.search("Observation")]
    ehr.deliver(ct(), "key-1")
    assert fhir_server.counts() == before
    assert [r["id"] for r in fhir_server.search("Observation")] == ids
    assert before["DiagnosticReport"] == 1
    assert before["Patient"] == 0, "the hub makes no patients"


def test_a_later_revision_updates_the_report_that_is_there(fhir_server: FhirServer) -> None:
    ehr = destination(fhir_server.base_url)
    ehr.deliver(ct(), "key-1")
    first = fhir_server.search("DiagnosticReport")[0]
    before = fhir_server.counts()
    ehr.deliver(ct(revision=2, slices=4), "key-2")
    (second,) = fhir_server.search("DiagnosticReport")
    assert second["id"] == first["id"]
    assert "AMENDED" in second["conclusion"]
    assert fhir_server.counts() == before | {"Provenance": before["Provenance"] + 1}


def test_two_studies_share_the_device_and_nothing_else(fhir_server: FhirServer) -> None:
    ehr = destination(fhir_server.base_url)
    ehr.deliver(ct(), "key-1")
    other = builders.chest_ct_study(study_instance_uid="2.25.1002")
    ehr.deliver(transaction(other, builders.assessed), "key-2")
    counts = fhir_server.counts("Device", "ImagingStudy", "DiagnosticReport", "Observation")
    assert counts == {"Device": 1, "ImagingStudy": 2, "DiagnosticReport": 2, "Observation": 8}


@pytest.mark.parametrize(
    ("study", "answer"),
    [
        (builders.chest_ct_study(), builders.assessed),
        (builders.chest_ct_study(), builders.presence),
        (builders.chest_ct_study(), builders.not_assessable),
        (builders.chest_ct_study(), builders.unsuitable),
        (builders.ecg_study(), builders.ecg_assessed),
    ],
    ids=["assessed", "presence", "not-assessable", "unsuitable", "ecg"],
)
def test_two_validators_and_the_server_accept_every_outcome(
    fhir_server: FhirServer,
    fhir_validators: FhirValidators,
    study: Study,
    answer: Callable[[InferenceRequest], InferenceResult],
) -> None:
    document = transaction(study, answer)
    assert fhir_validators.errors(json.loads(document.content)) == []
    destination(fhir_server.base_url).deliver(document, "key-1")
    entries = json.loads(document.content)["entry"]
    kinds = {entry["resource"]["resourceType"] for entry in entries}
    stored = [resource for kind in sorted(kinds) for resource in fhir_server.search(kind)]
    assert len(stored) == len(entries)
    # once the server has put its own ids in place, references have types that can be judged
    assert [issue for resource in stored for issue in fhir_validators.objections(resource)] == []


def test_each_validator_sees_what_the_other_misses(fhir_validators: FhirValidators) -> None:
    bundle = json.loads(ct().content)
    report = next(
        e["resource"]
        for e in bundle["entry"]
        if e["resource"]["resourceType"] == "DiagnosticReport"
    )
    wrong_code = {**report, "status": "prelim"}
    wrong_time = {**report, "issued": "yesterday"}
    found = [{i["validator"] for i in fhir_validators.errors(r)} for r in (wrong_code, wrong_time)]
    assert found == [{"fhir.js"}, {"medplum"}]


def test_what_was_taken_survives_stop_and_kill(fhir_server: FhirServer) -> None:
    destination(fhir_server.base_url).deliver(ct(), "key-1")
    before = fhir_server.counts()
    fhir_server.stop()
    fhir_server.start()
    assert fhir_server.counts() == before
    fhir_server.kill()
    fhir_server.start()
    assert fhir_server.counts() == before


def test_a_server_that_is_down_is_asked_again_later(fhir_server: FhirServer) -> None:
    ehr = destination(fhir_server.base_url)
    assert ehr.check().startswith("FHIR 4.0.1")
    fhir_server.stop()
    with pytest.raises(TransientError):
        ehr.deliver(ct(), "key-1")
    with pytest.raises(TransientError):
        ehr.check()
    fhir_server.start()
    ehr.deliver(ct(), "key-1")
    assert fhir_server.counts("DiagnosticReport") == {"DiagnosticReport": 1}


def test_a_refused_transaction_is_rejected_and_leaves_nothing(fhir_server: FhirServer) -> None:
    bundle = json.loads(ct().content)
    bundle["entry"][-2]["resource"]["conclusions"] = "Müller"
    broken = replace(ct(), content=json.dumps(bundle).encode())
    with pytest.raises(RejectedError, match="HTTP 400") as caught:
        destination(fhir_server.base_url).deliver(broken, "key-1")
    assert "Müller" not in str(caught.value)
    assert set(fhir_server.counts().values()) == {0}


def test_duplicates_in_the_server_are_for_a_person_to_merge(fhir_server: FhirServer) -> None:
    ehr = destination(fhir_server.base_url)
    ehr.deliver(ct(), "key-1")
    (device,) = fhir_server.search("Device")
    twin = {key: value for key, value in device.items() if key not in ("id", "meta")}
    entry = {"resource": twin, "request": {"method": "POST", "url": "Device"}}
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": [entry]}
    ehr.deliver(replace(ct(), content=json.dumps(bundle).encode()), "key-2")
    with pytest.raises(RejectedError, match="HTTP 412"):
        ehr.deliver(ct(), "key-3")


def test_only_fhir_documents_are_taken(fhir_server: FhirServer) -> None:
    page = replace(ct(), kind=DocumentKind.PDF)
    with pytest.raises(RejectedError):
        destination(fhir_server.base_url).deliver(page, "key-1")
    assert CONNECTOR.accepts == (DocumentKind.FHIR, DocumentKind.FHIR_R5)
    assert CONNECTOR.sends == (DocumentKind.FHIR,)


# --- servers that answer otherwise -------------------------------------------------------


EMPTY: Reply = (200, b'{"resourceType": "Bundle", "type": "searchset"}', {})


@pytest.fixture
def scripted(scripted_http: Callable[..., HttpScript]) -> Callable[..., HttpScript]:
    """A server of our own that has no report yet."""

    def start(*answers: Reply, search: Reply = EMPTY) -> HttpScript:
        script = scripted_http(*answers)
        script.search = search
        return script

    return start


def response(*statuses: str, kind: str = "transaction-response") -> bytes:
    entries = [{"response": {"status": status}} for status in statuses]
    return json.dumps({"resourceType": "Bundle", "type": kind, "entry": entries}).encode()


def outcome(code: str, text: str, expression: str = "Bundle.entry[3]") -> bytes:
    issue = {"severity": "error", "code": code, "diagnostics": text, "expression": [expression]}
    return json.dumps({"resourceType": "OperationOutcome", "issue": [issue]}).encode()


ENTRIES = len(json.loads(ct().content)["entry"])


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (301, RejectedError),
        (400, RejectedError),
        (401, RejectedError),
        (403, RejectedError),
        (404, RejectedError),
        (408, TransientError),
        (413, RejectedError),
        (422, RejectedError),
        (425, TransientError),
        (429, TransientError),
        (500, TransientError),
        (502, TransientError),
        (503, TransientError),
    ],
)
def test_each_status_means_what_happens_next(
    scripted: Callable[..., HttpScript], status: int, error: type[CaidxError]
) -> None:
    with pytest.raises(error, match=f"HTTP {status}"):
        destination(scripted((status, b"", {})).url).deliver(ct(), "key-1")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>please log in</html>",
        b"[]",
        b'{"resourceType": "Patient"}',
        b"[" * 100_000,
        response(*["201"] * (ENTRIES - 1)),
        response(*["201"] * ENTRIES, kind="batch-response"),
        response(*["fine"] * ENTRIES),
    ],
    ids=["empty", "html", "list", "patient", "deep", "too-few", "batch", "no-status"],
)
def test_an_answer_that_confirms_nothing_is_no_delivery(
    scripted: Callable[..., HttpScript], body: bytes
) -> None:
    with pytest.raises(TransientError):
        destination(scripted((200, body, {})).url).deliver(ct(), "key-1")


def test_an_endless_answer_is_cut_off(scripted: Callable[..., HttpScript]) -> None:
    with pytest.raises(TransientError, match="too long"):
        destination(scripted((200, b" " * 2**25, {})).url).deliver(ct(), "key-1")


def test_one_entry_that_was_not_taken_is_no_delivery(scripted: Callable[..., HttpScript]) -> None:
    almost = ["201 Created"] * (ENTRIES - 1)
    refused = scripted((200, response(*almost, "422"), {}))
    with pytest.raises(RejectedError, match="HTTP 422"):
        destination(refused.url).deliver(ct(), "key-1")
    busy = scripted((200, response(*almost, "503"), {}))
    with pytest.raises(TransientError, match="HTTP 503"):
        destination(busy.url).deliver(ct(), "key-1")


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120.0),
        (format_datetime(NOW.replace(minute=31), usegmt=True), 60.0),
        (format_datetime(NOW.replace(minute=1), usegmt=True), 0.0),
        ("soon", None),
    ],
)
def test_the_server_says_when_to_come_back(
    scripted: Callable[..., HttpScript], header: str, seconds: float | None
) -> None:
    busy = scripted((503, b"", {"Retry-After": header}))
    with pytest.raises(TransientError) as caught:
        destination(busy.url).deliver(ct(), "key-1")
    assert caught.value.retry_after == seconds


@pytest.mark.parametrize("status", [409, 412])
def test_a_conflict_is_tried_once_more_at_once(
    scripted: Callable[..., HttpScript], status: int
) -> None:
    conflict: Reply = (status, outcome("conflict", "version changed"), {})
    taken: Reply = (200, response(*["200"] * ENTRIES), {})
    script = scripted(conflict, taken)
    assert "HTTP 200" in destination(script.url).deliver(ct(), "key-1").detail
    lasting = scripted(conflict)
    with pytest.raises(TransientError, match=f"HTTP {status} \\(conflict"):
        destination(lasting.url).deliver(ct(), "key-1")
    assert len(lasting.requests) == 2


def test_the_reason_is_told_without_what_was_sent(scripted: Callable[..., HttpScript]) -> None:
    body = outcome("invalid", "Patient Müller, CAIDX-4711, is unknown", "Bundle.entry[3]")
    with pytest.raises(RejectedError) as caught:
        destination(scripted((422, body, {})).url).deliver(ct(), "key-1")
    assert str(caught.value) == "HTTP 422 (invalid Bundle.entry[3])"
    sly = outcome("Müller", "", "where(name = 'Müller')")
    with pytest.raises(RejectedError) as caught:
        destination(scripted((422, sly, {})).url).deliver(ct(), "key-1")
    assert str(caught.value) == "HTTP 422 (unknown)"


def test_credentials_and_key_travel_with_the_request(scripted: Callable[..., HttpScript]) -> None:
    script = scripted((200, response(*["200"] * ENTRIES), {}))
    secrets = {"bearer_token": SecretStr("s3cret"), "headers": {"X-Api-Key": SecretStr("k3y")}}
    destination(script.url + "/", **secrets).deliver(ct(), "key-1")
    (sent,) = script.requests
    assert sent["authorization"] == "Bearer s3cret"
    assert sent["x-api-key"] == "k3y"
    assert sent["x-request-id"] == "key-1"
    assert sent["content-type"] == "application/fhir+json"


def test_a_web_server_is_no_fhir_server(scripted: Callable[..., HttpScript]) -> None:
    with pytest.raises(TransientError, match="CapabilityStatement"):
        destination(scripted((200, b"<html>", {})).url).check()


# --- configuration -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "ftp://ehr/fhir",
        "ehr.example.org/fhir",
        "https://user:pass@ehr/fhir",
        "https://ehr/fhir?x=1",
    ],
)
def test_a_url_that_is_no_base_url_is_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        FhirDestinationConfig(url=url)


def test_unknown_fields_and_foreign_documents_are_refused() -> None:
    with pytest.raises(ValidationError):
        FhirDestinationConfig.model_validate({"url": "https://ehr/fhir", "tiemout": 1})
    with pytest.raises(ValidationError):
        FhirDestinationConfig.model_validate({"url": "https://ehr/fhir", "documents": ["seg"]})


def test_a_file_without_certificates_is_a_configuration_error(tmp_path: Any) -> None:
    empty = tmp_path / "ca.pem"
    empty.write_text("nothing")
    with pytest.raises(ConfigError, match="ca_file"):
        destination("https://ehr.example.org/fhir", ca_file=empty)
    destination("https://ehr.example.org/fhir", verify_tls=False).close()
