"""Nobody's change of a report in the FHIR server is overwritten unseen; nothing is there twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import httpx
import pytest

from connectors.fhir.config import FhirDestinationConfig
from connectors.fhir.destination import FhirDestination
from connectors.fhir.report_guard import STATUS_SYSTEM
from hub.domain.delivery import Document, DocumentKind
from hub.domain.identity import PatientIdentity, StudyIdentity
from hub.errors import RejectedError, TransientError
from hub.ports import Confirming, DestinationContext
from tests.fakes import FrozenClock, NoConfirmations
from tests.peers.faults import Cut, FaultProxy, LoseReply
from tests.peers.fhir_server import FhirServer
from tests.peers.http_script import HttpScript, scripted

__all__ = ["scripted"]
pytestmark = pytest.mark.peers

Json = dict[str, Any]
RESULTS = "urn:caidx:results"


def report(status: str = "preliminary", text: str = "AI result", **more: Any) -> Json:
    return {
        "resourceType": "DiagnosticReport",
        "identifier": [{"system": RESULTS, "value": "r-1"}],
        "status": status,
        "code": {"text": "Lung density"},
        "issued": "2026-03-14T08:30:15.250Z",
        "conclusion": text,
        **more,
    }


def transaction(resource: Json, kind: DocumentKind = DocumentKind.FHIR) -> Document:
    """A report, updated by its identifier, and a Provenance that refers to it."""
    uuid = "urn:uuid:6f2f4f5a-54b5-5c0a-8f6e-0d6a1b1c2d3e"
    provenance = {
        "resourceType": "Provenance",
        "id": "6f2f4f5a-54b5-5c0a-8f6e-0d6a1b1c2d3f",
        "target": [{"reference": uuid}],
        "recorded": resource["issued"],
        "agent": [{"who": {"display": "CAIDX hub"}}],
    }
    put = {"method": "PUT", "url": f"DiagnosticReport?identifier={RESULTS}%7Cr-1"}
    there = {"method": "PUT", "url": f"Provenance/{provenance['id']}"}
    entries = [
        {"fullUrl": uuid, "resource": resource, "request": put},
        {"fullUrl": f"urn:uuid:{provenance['id']}", "resource": provenance, "request": there},
    ]
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
    identity = StudyIdentity("1.2.3", PatientIdentity("CANARY-7"))
    return Document("d-1", kind, "request", identity, json.dumps(bundle).encode())


@dataclass
class Ehr:
    """The server, as people and other programs change it."""

    server: FhirServer
    clock: FrozenClock

    def destination(self, url: str = "", **options: Any) -> FhirDestination:
        config = FhirDestinationConfig(url=url or self.server.base_url, **options)
        return FhirDestination(config, DestinationContext("ehr", self.clock, NoConfirmations()))

    @property
    def report(self) -> Json:
        (found,) = self.server.search("DiagnosticReport")
        return found

    def changed_by_a_person(self, **fields: Any) -> None:
        changed = {**self.report, **fields}
        url = f"{self.server.base_url}/DiagnosticReport/{changed['id']}"
        httpx.put(url, json=changed, timeout=30).raise_for_status()


@pytest.fixture
def ehr(fhir_server: FhirServer) -> Ehr:
    return Ehr(fhir_server, FrozenClock())


@pytest.mark.parametrize(
    "status", ["final", "amended", "corrected", "appended", "entered-in-error", "cancelled"]
)
def test_what_a_person_made_final_is_not_replaced_by_an_unverified_report(
    ehr: Ehr, status: str
) -> None:
    ehr.destination().deliver(transaction(report()), "k1")
    ehr.changed_by_a_person(status=status, conclusion="Seen by a radiologist.")
    for unverified in {"preliminary", "amended", "cancelled"} - {status}:
        with pytest.raises(RejectedError, match=f"was made '{status}' on the server") as caught:
            ehr.destination().deliver(transaction(report(unverified)), "k2")
        assert "radiologist" not in str(caught.value)
    assert ehr.report["conclusion"] == "Seen by a radiologist."


def test_what_a_person_of_ours_verified_or_withdrew_replaces_it(ehr: Ehr) -> None:
    ehr.destination().deliver(transaction(report()), "k1")
    ehr.changed_by_a_person(status="final")
    verified = report("final", "Verified.", resultsInterpreter=[{"display": "Dr. Weiss"}])
    ehr.destination().deliver(transaction(verified), "k2")
    assert ehr.report["conclusion"] == "Verified."
    ehr.changed_by_a_person(status="corrected")
    ehr.destination().deliver(transaction(report("entered-in-error", "Withdrawn.")), "k3")
    assert ehr.report["status"] == "entered-in-error"


def test_our_own_final_report_is_amended_by_late_images(ehr: Ehr) -> None:
    verified = report("final", "Verified.", resultsInterpreter=[{"display": "Dr. Weiss"}])
    ehr.destination().deliver(transaction(verified), "k1")
    ehr.destination().deliver(transaction(report("amended", "With late images.")), "k2")
    assert (ehr.report["status"], ehr.report["conclusion"]) == ("amended", "With late images.")


def test_a_change_that_leaves_it_preliminary_is_seen_and_followed(ehr: Ehr) -> None:
    ehr.destination().deliver(transaction(report()), "k1")
    ehr.changed_by_a_person(conclusion="A note.")
    ehr.destination().deliver(transaction(report(text="Again.")), "k2")
    assert ehr.report["conclusion"] == "Again."


def test_a_change_between_reading_and_writing_is_noticed(ehr: Ehr) -> None:
    """The server itself refuses the old version, and what is there by then is read again."""
    ehr.destination().deliver(transaction(report()), "k1")
    late = ehr.destination()
    post, seen = late._server.exchange, []

    def meanwhile(method: str, url: str, **options: Any) -> Any:
        if method == "POST" and not seen:
            seen.append(json.loads(options["content"])["entry"][0]["request"])
            ehr.changed_by_a_person(status="final", conclusion="Seen.")
        return post(method, url, **options)

    late._server.exchange = meanwhile  # type: ignore[method-assign]
    with pytest.raises(RejectedError, match="was made 'final' on the server"):
        late.deliver(transaction(report(text="Too late.")), "k2")
    assert seen[0]["ifMatch"].startswith('W/"')
    assert ehr.report["conclusion"] == "Seen."


def test_without_the_guard_the_last_one_wins(ehr: Ehr) -> None:
    ehr.destination().deliver(transaction(report()), "k1")
    ehr.changed_by_a_person(status="final")
    ehr.destination(guard=False).deliver(transaction(report(text="Again.")), "k2")
    assert ehr.report["conclusion"] == "Again."


def test_several_reports_of_one_identifier_are_for_a_person(
    scripted: Callable[..., HttpScript], ehr: Ehr
) -> None:
    entries = [{"resource": {**report(), "id": str(number)}} for number in (1, 2)]
    found = {"resourceType": "Bundle", "type": "searchset", "entry": entries}
    server = scripted((200, b"{}", {}))
    server.search = (200, json.dumps(found).encode(), {})
    with pytest.raises(RejectedError, match="duplicates"):
        ehr.destination(server.url).deliver(transaction(report()), "k1")
    assert server.requests == []


def test_a_server_that_keeps_old_tags_does_not_take_our_report_for_somebody_elses(
    scripted: Callable[..., HttpScript], ehr: Ehr
) -> None:
    """An update may add to the tags that are there (R4 Resource, "Updates to Meta")."""
    tags = [{"system": STATUS_SYSTEM, "code": code} for code in ("amended", "preliminary")]
    held = {**report("amended"), "id": "1", "meta": {"versionId": "2", "tag": tags}}
    server = scripted((500, b"", {}))
    server.search = (
        200,
        json.dumps({"type": "searchset", "entry": [{"resource": held}]}).encode(),
        {},
    )
    with pytest.raises(TransientError, match="HTTP 500"):  # it was posted
        ehr.destination(server.url).deliver(transaction(report("amended", "Later.")), "k1")


@pytest.mark.parametrize(
    "held",
    [
        {"id": "../Patient/1", "meta": {"versionId": "1"}},
        {"id": "1", "meta": {"versionId": '1", "2'}},
        {"id": 7, "meta": {"tag": 5, "versionId": None}},
        {"id": "1", "meta": 5},
    ],
)
def test_an_update_is_bound_to_nothing_but_an_id_and_a_version(
    scripted: Callable[..., HttpScript], ehr: Ehr, held: Json
) -> None:
    server = scripted((500, b"", {}))
    found = {"type": "searchset", "entry": [{"resource": {**report(), **held}}]}
    server.search = (200, json.dumps(found).encode(), {})
    with pytest.raises(TransientError, match="HTTP 500"):
        ehr.destination(server.url).deliver(transaction(report()), "k1")
    sent = json.loads(server.bodies[0])["entry"][0]["request"]
    assert sent == {"method": "PUT", "url": f"DiagnosticReport?identifier={RESULTS}%7Cr-1"}


@pytest.mark.parametrize(
    "reply",
    [
        (200, b"", {}),
        (200, b'{"type": "history"}', {}),
        (200, b'{"type": "searchset", "entry": 5}', {}),
        (503, b"", {}),
    ],
)
def test_a_garbled_answer_to_the_search_sends_nothing(
    scripted: Callable[..., HttpScript], ehr: Ehr, reply: Any
) -> None:
    server = scripted((200, b"{}", {}))
    server.search = reply
    with pytest.raises(TransientError):
        ehr.destination(server.url).deliver(transaction(report()), "k1")
    assert server.requests == []


# --- lost replies ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault", [LoseReply(after_sent=1500), Cut(40, times=2)], ids=["lost", "cut"]
)
def test_sending_again_after_a_lost_reply_creates_nothing_twice(ehr: Ehr, fault: Any) -> None:
    padded = transaction(report(text="AI result" + " " * 2000))
    with FaultProxy(ehr.server.port) as proxy:
        destination = ehr.destination(f"http://127.0.0.1:{proxy.port}/fhir")
        proxy.fault = fault
        with pytest.raises(TransientError):
            destination.deliver(padded, "k1")
        proxy.fault = None
        destination.deliver(padded, "k1")
        destination.close()
    assert ehr.server.counts("DiagnosticReport", "Provenance") == {
        "DiagnosticReport": 1,
        "Provenance": 1,
    }


def test_the_lost_reply_was_to_a_transaction_that_the_server_had_done(ehr: Ehr) -> None:
    """Otherwise the test above would show nothing."""
    padded = transaction(report(text="AI result" + " " * 2000))
    with FaultProxy(ehr.server.port) as proxy:
        proxy.fault = LoseReply(after_sent=1500)
        with pytest.raises(TransientError):
            ehr.destination(f"http://127.0.0.1:{proxy.port}/fhir").deliver(padded, "k1")
    assert ehr.server.counts("DiagnosticReport") == {"DiagnosticReport": 1}


# --- read-back ---------------------------------------------------------------------------


def test_a_report_is_read_back(ehr: Ehr) -> None:
    destination = ehr.destination(confirm="read")
    assert isinstance(destination, Confirming)
    sent = transaction(report())
    receipt = destination.deliver(sent, "k1")
    assert receipt.awaiting
    confirmed = destination.confirm(sent, receipt.awaiting)
    assert (confirmed.awaiting, confirmed.detail[:10]) == ("", "read back:")
    newer = transaction({**report("amended"), "issued": "2026-03-14T09:30:15.250Z"})
    with pytest.raises(TransientError, match="not show the report yet"):
        destination.confirm(newer, receipt.awaiting)
    ehr.server.reset()
    ehr.clock.moment += timedelta(seconds=301)
    with pytest.raises(RejectedError, match="does not have the report"):
        destination.confirm(sent, receipt.awaiting)
    ehr.server.stop()
    with pytest.raises(TransientError):
        destination.confirm(sent, receipt.awaiting)


def test_a_server_of_r5_gets_r5(scripted: Callable[..., HttpScript], ehr: Ehr) -> None:
    answer = {
        "resourceType": "Bundle",
        "type": "transaction-response",
        "entry": [{"response": {"status": "201"}}] * 2,
    }
    server = scripted((200, json.dumps(answer).encode(), {}))
    server.search = (200, b'{"type": "searchset"}', {})
    r5 = ehr.destination(server.url, documents=(DocumentKind.FHIR_R5,))
    r5.deliver(transaction(report(), DocumentKind.FHIR_R5), "k1")
    with pytest.raises(RejectedError, match="not configured for fhir"):
        r5.deliver(replace(transaction(report())), "k1")
    sent = json.loads(server.bodies[0])
    assert sent["entry"][0]["resource"]["meta"]["tag"][0]["code"] == "preliminary"
