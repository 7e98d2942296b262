"""What the hub expects of every destination (hub.ports.Destination)."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from connectors.dicom import CONNECTOR as DICOM
from connectors.dicom.config import DicomDestinationConfig, DicomSourceConfig
from connectors.dicomweb import CONNECTOR as DICOMWEB
from connectors.dicomweb.destination_config import DicomWebDestinationConfig
from connectors.fhir import CONNECTOR as FHIR
from connectors.fhir.config import FhirDestinationConfig
from connectors.folder import CONNECTOR as FOLDER
from connectors.folder.config import FolderDestinationConfig
from connectors.hl7v2 import CONNECTOR as HL7V2
from connectors.hl7v2.config import Hl7v2DestinationConfig
from connectors.webhook import CONNECTOR as WEBHOOK
from connectors.webhook.config import WebhookDestinationConfig
from hub.domain.delivery import Document, DocumentKind
from hub.errors import CaidxError, RejectedError, TransientError
from hub.formats.dicom.header import split_part10
from hub.formats.encoding import EncodingContext
from hub.formats.hl7v2 import report as hl7v2_report
from hub.ports import Connector, Destination, DestinationContext
from tests import builders
from tests.contracts.recording import RecordingIntake, WallClock, document
from tests.dicomweb_server import dicomweb_server
from tests.fakes import NoConfirmations
from tests.peers import free_port
from tests.peers.faults import (
    Answer,
    Cut,
    Fault,
    FaultProxy,
    Garbage,
    Hang,
    LoseReply,
    Refuse,
    Slow,
    Stall,
)
from tests.peers.fhir_server import FhirServer
from tests.peers.hl7_listener import listening
from tests.peers.http_script import HttpScript, scripted

__all__ = ["scripted"]
pytestmark = pytest.mark.peers

CONTEXT = DestinationContext("destination", WallClock(), NoConfirmations())
PATIENT = builders.PATIENT.patient_id
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PADDING = 30_000
"""Makes documents longer than whatever is said before one is sent."""


@dataclass
class Harness:
    """A destination, what its receiver has, and ways to disturb the two."""

    destination: Destination
    document: Callable[[int], Document]
    """Documents that it takes."""
    held: Callable[[], list[bytes]]
    """What its receiver has of them, each as often as it has it."""
    expected: Callable[[Document], bytes]
    """What the receiver has of this document."""
    take_away: Callable[[], None]
    proxy: FaultProxy | None = None
    """Between the two; None where there is no network."""
    sent_when_done: int = PADDING
    """Bytes after which the next reply is the one to the document."""


def built(connector: Connector, config: Any) -> Destination:
    assert connector.build_destination is not None
    return connector.build_destination(config, CONTEXT)


def data_set_of(sent: Document) -> bytes:
    return split_part10(sent.content)[1]


def dicom_document(number: int) -> Document:
    return document(f"2.25.{number}", padding=PADDING)


def refusing(proxy: FaultProxy) -> Callable[[], None]:
    def refuse() -> None:
        proxy.fault = Refuse()

    return refuse


# --- one for each destination ------------------------------------------------------------


@pytest.fixture
def folder_harness(tmp_path: Path) -> Harness:
    results = tmp_path / "results"
    config = FolderDestinationConfig(folder=results, documents=(DocumentKind.ENCAPSULATED_PDF,))

    def take_away() -> None:
        shutil.rmtree(results, ignore_errors=True)
        results.write_text("in the way")

    return Harness(
        built(FOLDER, config),
        dicom_document,
        lambda: [split_part10(path.read_bytes())[1] for path in results.rglob("*.dcm")],
        data_set_of,
        take_away,
    )


@pytest.fixture
def dicom_harness() -> Iterator[Harness]:
    intake, port = RecordingIntake(), free_port()
    assert DICOM.build_source is not None
    receiver = DICOM.build_source(DicomSourceConfig(port=port, stop_grace=0.5), intake.context())
    receiver.start()
    with FaultProxy(port) as proxy:
        config = DicomDestinationConfig(
            ae_title="CAIDX",
            host="127.0.0.1",
            port=proxy.port,
            documents=(DocumentKind.ENCAPSULATED_PDF,),
            connect_timeout=1.0,
            response_timeout=1.0,
        )
        # An archive keeps an object once, by its SOP Instance UID.
        yield Harness(
            built(DICOM, config),
            dicom_document,
            lambda: list({one.sop_instance_uid: one.data_set for one in intake.stored}.values()),
            data_set_of,
            refusing(proxy),
            proxy,
        )
    receiver.stop()


@pytest.fixture
def dicomweb_harness() -> Iterator[Harness]:
    with dicomweb_server() as server, FaultProxy(server.port) as proxy:
        config = DicomWebDestinationConfig(
            url=f"http://127.0.0.1:{proxy.port}/dicom-web",
            documents=(DocumentKind.ENCAPSULATED_PDF,),
            timeout=1.0,
        )
        stored = server.intake
        yield Harness(
            built(DICOMWEB, config),
            dicom_document,
            lambda: list({one.sop_instance_uid: one.data_set for one in stored.stored}.values()),
            data_set_of,
            refusing(proxy),
            proxy,
        )


@pytest.fixture
def fhir_harness(fhir_server: FhirServer) -> Iterator[Harness]:
    def name_of(sent: Document) -> bytes:
        return sent.document_id.encode()

    def held() -> list[bytes]:
        reports = fhir_server.search("DiagnosticReport")
        return [report["identifier"][0]["value"].encode() for report in reports]

    with FaultProxy(fhir_server.port) as proxy:
        config = FhirDestinationConfig(url=f"http://127.0.0.1:{proxy.port}/fhir", timeout=2.0)
        yield Harness(
            built(FHIR, config), fhir_document, held, name_of, refusing(proxy), proxy, PADDING
        )


def fhir_document(number: int) -> Document:
    """A report of its own, updated by its identifier."""
    resource = {
        "resourceType": "DiagnosticReport",
        "identifier": [{"system": "urn:caidx:results", "value": f"2.25.{number}"}],
        "status": "preliminary",
        "code": {"text": "Lung density"},
        "subject": {"identifier": {"value": PATIENT}},
        "issued": "2026-03-14T08:30:15.250Z",
        "conclusion": "AI result, not verified." + " " * PADDING,
    }
    request = {
        "method": "PUT",
        "url": f"DiagnosticReport?identifier=urn%3Acaidx%3Aresults%7C2.25.{number}",
    }
    entry = {"fullUrl": f"urn:uuid:{number}", "resource": resource, "request": request}
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": [entry]}
    return replace(
        document(f"2.25.{number}"), kind=DocumentKind.FHIR, content=json.dumps(bundle).encode()
    )


@pytest.fixture
def webhook_harness(scripted: Callable[..., HttpScript]) -> Iterator[Harness]:
    server = scripted((204, b"", {}))
    port = int(server.url.rsplit(":", 1)[1].split("/")[0])

    def held() -> list[bytes]:
        """A receiver of Standard Webhooks knows repetitions by their id."""
        posted = [one for one in server.requests if one[":method"] == "POST"]
        pairs = zip(posted, server.bodies, strict=True)
        return list({one["webhook-id"]: body for one, body in pairs}.values())

    def notice(number: int) -> Document:
        content = json.dumps({"number": number, "who": PATIENT, "padding": " " * PADDING}).encode()
        return replace(document(f"2.25.{number}"), kind=DocumentKind.NOTICE, content=content)

    with FaultProxy(port) as proxy:
        config = WebhookDestinationConfig(
            url=f"http://127.0.0.1:{proxy.port}/hook", secrets=(SecretStr(SECRET),), timeout=1.0
        )
        yield Harness(
            built(WEBHOOK, config),
            notice,
            held,
            lambda sent: sent.content,
            refusing(proxy),
            proxy,
        )


@pytest.fixture
def hl7v2_harness() -> Iterator[Harness]:
    with listening() as listener, FaultProxy(listener.port) as proxy:
        config = Hl7v2DestinationConfig(
            host="127.0.0.1",
            port=proxy.port,
            receiving_application="RIS",
            connect_timeout=1.0,
            response_timeout=1.0,
        )

        def held() -> list[bytes]:
            """A receiver knows repetitions by the control ID (MSH-10)."""
            messages = {str(one["MSH.F10"]): str(one["MSH.F10"]) for one in listener.messages}
            return [control_id.encode() for control_id in messages]

        yield Harness(
            built(HL7V2, config),
            oru,
            held,
            lambda sent: sent.content.split(b"\r")[0].split(b"|")[9],
            refusing(proxy),
            proxy,
            sent_when_done=1,
        )


def oru(number: int) -> Document:
    study = builders.chest_ct_study(study_instance_uid=f"2.25.{number}")
    request = builders.request_for(study)
    context = EncodingContext(
        made_at=builders.MADE_AT, institution_name="Klinikum", software_version="0.1.0"
    )
    card = builders.model_card()
    made = hl7v2_report.encode(request, builders.assessed(request), card, context, {})
    assert made is not None
    return made


NAMES = ["folder", "dicom", "dicomweb", "fhir", "hl7v2", "webhook"]
FAULTS = {
    "refused": Refuse(),
    "hang": Hang(),
    "cut": Cut(9),
    "stall": Stall(9),
    "garbage": Garbage(),
    "empty": Garbage(b""),
}


@pytest.fixture(params=NAMES)
def harness(request: pytest.FixtureRequest) -> Harness:
    made: Harness = request.getfixturevalue(f"{request.param}_harness")
    return made


@pytest.fixture(params=NAMES[1:])
def networked(request: pytest.FixtureRequest) -> Harness:
    """Those on a network."""
    made: Harness = request.getfixturevalue(f"{request.param}_harness")
    return made


def tells_nobody(error: CaidxError) -> bool:
    told = str(error).upper()
    return not any(one.upper() in told for one in ("CANARY", "MÜLLER", PATIENT))


# --- the contract ------------------------------------------------------------------------


def test_a_delivered_document_is_at_the_receiver_unchanged(harness: Harness) -> None:
    sent = harness.document(1)
    receipt = harness.destination.deliver(sent, "key")
    assert receipt.detail
    assert receipt.awaiting == ""
    assert harness.held() == [harness.expected(sent)]


def test_the_same_document_again_is_a_success_and_there_once(harness: Harness) -> None:
    sent = harness.document(1)
    for _ in range(2):
        harness.destination.deliver(sent, "key")
    assert harness.held() == [harness.expected(sent)]


def test_many_threads_may_deliver_at_once(harness: Harness) -> None:
    documents = [harness.document(number) for number in range(1, 9)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda sent: harness.destination.deliver(sent, sent.document_id), documents))
    assert sorted(harness.held()) == sorted(harness.expected(sent) for sent in documents)


def test_a_destination_that_is_away_is_transient(harness: Harness) -> None:
    harness.take_away()
    with pytest.raises(TransientError) as delivery:
        harness.destination.deliver(harness.document(1), "key")
    with pytest.raises(TransientError) as check:
        harness.destination.check()
    assert tells_nobody(delivery.value)
    assert tells_nobody(check.value)


def test_a_destination_that_is_there_says_so(harness: Harness) -> None:
    assert harness.destination.check()
    assert harness.held() == []


def test_a_document_of_another_kind_is_refused(harness: Harness) -> None:
    with pytest.raises(RejectedError) as caught:
        harness.destination.deliver(replace(harness.document(1), kind=DocumentKind.SEG), "key")
    assert tells_nobody(caught.value)
    assert harness.held() == []


def test_a_closed_destination_may_be_closed_again(harness: Harness) -> None:
    harness.destination.deliver(harness.document(1), "key")
    harness.destination.close()
    harness.destination.close()


# --- what networks do --------------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_what_is_no_answer_is_transient_soon_and_ends_well(
    networked: Harness, fault: Fault
) -> None:
    assert networked.proxy is not None
    sent = networked.document(1)
    networked.proxy.fault = fault
    began = time.monotonic()
    with pytest.raises(TransientError) as caught:
        networked.destination.deliver(sent, "key")
    assert time.monotonic() - began < 8
    assert tells_nobody(caught.value)
    networked.proxy.fault = None
    networked.destination.deliver(sent, "key")
    assert networked.held() == [networked.expected(sent)]


def test_a_lost_reply_leaves_the_document_there_once(networked: Harness) -> None:
    assert networked.proxy is not None
    sent = networked.document(1)
    networked.proxy.fault = LoseReply(after_sent=networked.sent_when_done)
    with pytest.raises(TransientError):
        networked.destination.deliver(sent, "key")
    assert networked.held() == [networked.expected(sent)], "the receiver has got it"
    networked.proxy.fault = None
    networked.destination.deliver(sent, "key")
    assert networked.held() == [networked.expected(sent)]


def test_a_slow_receiver_gets_it_once_in_the_end(networked: Harness) -> None:
    assert networked.proxy is not None
    sent = networked.document(1)
    networked.proxy.fault = Slow(200)
    with suppress(TransientError):
        networked.destination.deliver(sent, "key")
    networked.proxy.fault = None
    networked.destination.deliver(sent, "key")
    assert networked.held() == [networked.expected(sent)]


def test_a_connection_that_ended_meanwhile_is_replaced(networked: Harness) -> None:
    assert networked.proxy is not None
    networked.destination.deliver(networked.document(1), "key 1")
    networked.proxy.fault = None  # ends what is open
    networked.destination.deliver(networked.document(2), "key 2")
    assert len(networked.held()) == 2


@pytest.mark.parametrize("name", ["dicomweb", "fhir", "webhook"])
@pytest.mark.parametrize(
    ("answer", "error", "retry_after"),
    [
        (Answer(500, body=b"CANARY"), TransientError, None),
        (Answer(503, retry_after="7"), TransientError, 7.0),
        (Answer(429, retry_after="7"), TransientError, 7.0),
        (Answer(400, body=b"CANARY"), RejectedError, None),
        (Answer(403), RejectedError, None),
    ],
    ids=["500", "503", "429", "400", "403"],
)
def test_http_receivers_that_refuse(
    request: pytest.FixtureRequest,
    name: str,
    answer: Answer,
    error: type[CaidxError],
    retry_after: float | None,
) -> None:
    harness: Harness = request.getfixturevalue(f"{name}_harness")
    assert harness.proxy is not None
    harness.proxy.fault = answer
    with pytest.raises(error, match=f"HTTP {answer.status}") as caught:
        harness.destination.deliver(harness.document(1), "key")
    assert tells_nobody(caught.value)
    assert getattr(caught.value, "retry_after", None) == retry_after
