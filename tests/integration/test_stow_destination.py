"""Results in a PACS by STOW-RS, confirmed by QIDO-RS or WADO-RS."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr, ValidationError

from connectors.dicomweb.destination import DicomWebDestination
from connectors.dicomweb.destination_config import DicomWebDestinationConfig
from hub.domain.delivery import DocumentKind
from hub.domain.identity import PatientIdentity, StudyIdentity
from hub.errors import CaidxError, ConfigError, RejectedError, TransientError
from hub.ports import Confirming, DestinationContext
from tests.contracts.recording import STUDY, document
from tests.dicomweb_server import dicomweb_server
from tests.fakes import FrozenClock, NoConfirmations
from tests.peers.http_script import HttpScript, Reply, scripted
from tests.peers.orthanc import Orthanc

__all__ = ["scripted"]
pytestmark = pytest.mark.peers

Start = Callable[..., HttpScript]


@dataclass
class Pacs:
    """Destinations with one clock."""

    clock: FrozenClock = field(default_factory=FrozenClock)

    def at(self, url: str, **options: Any) -> DicomWebDestination:
        context = DestinationContext("pacs", self.clock, NoConfirmations())
        return DicomWebDestination(DicomWebDestinationConfig(url=url, **options), context)


@pytest.fixture
def pacs() -> Pacs:
    return Pacs()


# --- Orthanc, and our own server ---------------------------------------------------------


@pytest.mark.parametrize("confirm", ["query", "read"])
def test_orthanc_holds_a_document_once_and_shows_it(
    orthanc: Orthanc, pacs: Pacs, confirm: str
) -> None:
    destination = pacs.at(orthanc.dicomweb_url, confirm=confirm)
    assert isinstance(destination, Confirming)
    assert destination.check()
    for _ in range(2):
        receipt = destination.deliver(document("2.25.7"), "key")
    assert receipt.awaiting
    destination.deliver(document("2.25.8"), "key")
    assert destination.confirm(document("2.25.7"), receipt.awaiting).awaiting == ""
    held = [
        one for one in orthanc.instances(STUDY) if orthanc.tags(one)["SOPInstanceUID"] == "2.25.7"
    ]
    assert len(held) == 1
    httpx.delete(f"{orthanc.http_url}/instances/{held[0]}").raise_for_status()
    with pytest.raises(TransientError, match="not show the object yet"):
        destination.confirm(document("2.25.7"), receipt.awaiting)
    pacs.clock.moment += timedelta(seconds=301)
    with pytest.raises(RejectedError, match="does not have the object"):
        destination.confirm(document("2.25.7"), receipt.awaiting)
    orthanc.stop()
    with pytest.raises(TransientError):
        destination.confirm(document("2.25.7"), receipt.awaiting)
    with pytest.raises(TransientError):
        destination.check()


def test_the_file_arrives_as_it_is(pacs: Pacs) -> None:
    with dicomweb_server() as server:
        sent = document("2.25.7", padding=3_000_000)
        receipt = pacs.at(server.url).deliver(sent, "key")
        (stored,) = server.intake.stored
    assert receipt.detail == "STOW-RS HTTP 200"
    assert receipt.awaiting == ""
    assert sent.content.endswith(stored.data_set)


def test_a_document_of_another_patient_never_leaves(scripted: Start, pacs: Pacs) -> None:
    server = scripted((200, b"", {}))
    wrong = replace(document(), identity=StudyIdentity(STUDY, PatientIdentity("OTHER")))
    with pytest.raises(RejectedError, match="PatientID"):
        pacs.at(server.url).deliver(wrong, "key")
    with pytest.raises(RejectedError, match="not configured"):
        pacs.at(server.url).deliver(replace(document(), kind=DocumentKind.KEY_IMAGE), "key")
    assert server.requests == []


# --- servers that answer otherwise -------------------------------------------------------


def answer(
    status: int, *, failed: int | str | None = None, warning: int | None = None, uid: str = "2.25.1"
) -> Reply:
    item: dict[str, Any] = {"00081155": {"vr": "UI", "Value": [uid]}}
    if failed is not None:
        item["00081197"] = {"vr": "US", "Value": [failed]}
        body = {"00081198": {"vr": "SQ", "Value": [item]}}
    else:
        if warning is not None:
            item["00081196"] = {"vr": "US", "Value": [warning]}
        body = {"00081199": {"vr": "SQ", "Value": [item]}}
    return status, json.dumps(body).encode(), {"Content-Type": "application/dicom+json"}


@pytest.mark.parametrize(
    ("reply", "detail"),
    [
        (answer(200), "STOW-RS HTTP 200"),
        (answer(202, warning=0xB000), "STOW-RS HTTP 202 (warning 0xB000)"),
        (answer(409, failed=0x0111), "STOW-RS HTTP 409 (was there already)"),
        (answer(409, failed=45070), "STOW-RS HTTP 409 (was there already)"),
    ],
    ids=["stored", "coerced", "duplicate", "duplicate in Azure"],
)
def test_what_is_stored_is_a_receipt(
    scripted: Start, pacs: Pacs, reply: Reply, detail: str
) -> None:
    assert pacs.at(scripted(reply).url).deliver(document(), "key").detail == detail


@pytest.mark.parametrize("status", [200, 202, 409])
@pytest.mark.parametrize(
    ("reason", "error"),
    [
        (0xA700, TransientError),
        (0x0110, TransientError),
        (0xA900, RejectedError),
        (0xC000, RejectedError),
        (0x0122, RejectedError),
        (0x0124, RejectedError),
    ],
)
def test_a_failure_of_the_instance_counts_whatever_the_request_got(
    scripted: Start, pacs: Pacs, status: int, reason: int, error: type[CaidxError]
) -> None:
    with pytest.raises(error, match=f"0x{reason:04X}"):
        pacs.at(scripted(answer(status, failed=reason)).url).deliver(document(), "key")


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        ((301, b"", {"Location": "http://127.0.0.1:1/"}), RejectedError),
        ((400, b"", {}), RejectedError),
        ((401, b"", {}), RejectedError),
        ((403, b"", {}), RejectedError),
        ((409, b"", {}), RejectedError),
        ((413, b"", {}), RejectedError),
        ((415, b"", {}), RejectedError),
        ((408, b"", {}), TransientError),
        ((429, b"", {}), TransientError),
        ((500, b"", {}), TransientError),
        ((200, b"", {}), TransientError),
        ((200, b"<html>please log in</html>", {}), TransientError),
        ((200, b"[[1], null, 3]", {}), TransientError),
        ((200, b'{"00081199": {"Value": [1, {"00081155": 5}]}}', {}), TransientError),
        (answer(409, failed="9" * 5000), TransientError),
        (answer(200, uid="2.25.4711"), TransientError),
    ],
)
def test_an_answer_that_does_not_confirm_is_no_delivery(
    scripted: Start, pacs: Pacs, reply: Reply, error: type[CaidxError]
) -> None:
    with pytest.raises(error) as caught:
        pacs.at(scripted(reply).url).deliver(document(), "key")
    assert "CANARY" not in str(caught.value).upper()


def test_a_busy_server_says_when_to_come_back(scripted: Start, pacs: Pacs) -> None:
    with pytest.raises(TransientError) as caught:
        pacs.at(scripted((503, b"", {"Retry-After": "120"})).url).deliver(document(), "key")
    assert caught.value.retry_after == 120.0


@pytest.mark.parametrize("reply", [(200, b"no JSON", {}), (500, b"", {}), (403, b"[]", {})])
def test_a_question_that_fails_says_nothing_about_the_object(
    scripted: Start, pacs: Pacs, reply: Reply
) -> None:
    destination = pacs.at(scripted(answer(200), reply).url, confirm="query")
    receipt = destination.deliver(document(), "key")
    pacs.clock.advance(1000)
    with pytest.raises(TransientError):
        destination.confirm(document(), receipt.awaiting)


def test_an_answer_about_another_object_confirms_nothing(scripted: Start, pacs: Pacs) -> None:
    other = (200, b'[{"00080018": {"vr": "UI", "Value": ["2.25.4711"]}}]', {})
    destination = pacs.at(scripted(answer(200), other).url, confirm="query")
    receipt = destination.deliver(document(), "key")
    pacs.clock.advance(1000)
    with pytest.raises(RejectedError):
        destination.confirm(document(), receipt.awaiting)


# --- configuration -----------------------------------------------------------------------


def test_who_we_are_travels_with_the_request(scripted: Start, pacs: Pacs) -> None:
    server = scripted(answer(200))
    key = {"X-Api-Key": SecretStr("k3y")}
    pacs.at(server.url, bearer_token=SecretStr("s3cret"), headers=key).deliver(document(), "key")
    pacs.at(server.url, username="hub", password=SecretStr("p:w")).deliver(document(), "key")
    first, second = server.requests
    assert (first["authorization"], first["x-api-key"]) == ("Bearer s3cret", "k3y")
    assert second["authorization"] == "Basic aHViOnA6dw=="
    assert first["accept"] == "application/dicom+json"
    assert first["content-type"].startswith('multipart/related; type="application/dicom"')


@pytest.mark.parametrize(
    "options",
    [
        {"url": "ftp://pacs"},
        {"url": "https://a:b@pacs"},
        {"url": "https://pacs?x=1"},
        {"url": "https://pacs", "username": "hub"},
        {"url": "https://pacs", "username": "a", "password": "b", "bearer_token": "c"},
        {"url": "https://pacs", "confirm": "maybe"},
        {"url": "https://pacs", "unknown": 1},
    ],
)
def test_mistakes_of_the_configuration_are_found(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        DicomWebDestinationConfig(**options)


def test_a_file_without_certificates_is_found_at_once(pacs: Pacs, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(ConfigError, match="ca_file"):
        pacs.at("https://127.0.0.1:1", ca_file=tmp_path / "ca.pem")
