"""DIMSE-N requests, before a service sees them."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pytest

from connectors.dicom.association import Message
from connectors.dicom.dimse import decode_command
from connectors.dicom.limits import AssociationLimits
from connectors.dicom.negotiation import CallerPolicy
from connectors.dicom.normalized import NormalizedRequest, NormalizedResponse
from connectors.dicom.pdu import AssociateAccept, decode_associate_request
from connectors.dicom.performer import AssociationPerformer, Offer
from hub.ports import EndOfTransfer
from tests.contracts.recording import RecordingIntake
from tests.peers.requestor import EXPLICIT, associate_request, command, element, proposed, short

COMMITMENT, STEP = "1.2.840.10008.1.20.1", "1.2.840.10008.3.1.2.3.3"


@dataclass
class WaitingServices:
    """connectors.dicom.normalized.Services: every answer is followed until ``over``."""

    over: threading.Event = field(default_factory=threading.Event)
    handled: list[str] = field(default_factory=list)

    @property
    def sop_classes(self) -> Mapping[str, tuple[str, ...]]:
        return {COMMITMENT: (EXPLICIT,), STEP: (EXPLICIT,)}

    def handle(self, request: NormalizedRequest) -> NormalizedResponse:
        self.handled.append(request.sop_instance_uid)
        return NormalizedResponse(0, after=lambda report: self.over.wait(10) and None)

    def close(self) -> None:
        self.over.set()


@pytest.fixture
def services() -> Iterator[WaitingServices]:
    waiting = WaitingServices()
    yield waiting
    waiting.close()


@pytest.fixture
def performer(services: WaitingServices) -> Iterator[AssociationPerformer]:
    offer = Offer(
        source="here",
        callers=CallerPolicy("", frozenset(), (), rejects_unknown=False),
        limits=AssociationLimits(1, 1),
        contexts=services.sop_classes,
        storage=frozenset(),
        maximum_length=1 << 20,
        maximum_instance_size=1 << 20,
        intake=RecordingIntake(),
        services=services,
    )
    made = AssociationPerformer(offer, "127.0.0.1", lambda *_: False)
    asked = associate_request([proposed(1, COMMITMENT, [EXPLICIT]), proposed(3, STEP, [EXPLICIT])])
    assert isinstance(made.requested(decode_associate_request(asked[6:])), AssociateAccept)
    yield made
    made.ended(EndOfTransfer.RELEASED)


def ask(performer: AssociationPerformer, context_id: int, sop_class: str, instance: str) -> int:
    """Status of an N-CREATE."""
    raw = command(
        element(0x0002, sop_class.encode()),
        element(0x0100, short(0x0140)),
        element(0x0110, short(1)),
        element(0x0800, short(1)),
        element(0x1000, instance.encode()),
    )
    response = performer.message(Message(context_id, decode_command(raw), memoryview(b"")))
    performer.responded()
    (status,) = struct.unpack_from("<H", response, response.index(b"\0\0\0\x09\2\0\0\0") + 8)
    return int(status)


@pytest.mark.parametrize("instance", ["PETER^PAN", "1.2.a", "1." + "2" * 63])
def test_an_instance_uid_that_is_none_has_its_status(
    performer: AssociationPerformer, services: WaitingServices, instance: str
) -> None:
    assert ask(performer, 3, STEP, instance) == 0x0117
    assert services.handled == []
    assert ask(performer, 3, STEP, "") == 0  # N-CREATE may leave it to us


def test_a_request_of_another_class_than_its_context_has_its_status(
    performer: AssociationPerformer, services: WaitingServices
) -> None:
    assert ask(performer, 3, COMMITMENT, "1.2.3") == 0x0118
    assert services.handled == []


def test_one_association_cannot_make_threads_without_end(
    performer: AssociationPerformer, services: WaitingServices
) -> None:
    before = threading.active_count()
    statuses = [ask(performer, 1, COMMITMENT, "1.2.3") for _ in range(20)]
    assert statuses == [0] * 8 + [0x0213] * 12
    assert threading.active_count() <= before + 8
    services.over.set()
    for thread in threading.enumerate():
        if thread.name == "dicom-report":
            thread.join(5)
    assert ask(performer, 1, COMMITMENT, "1.2.3") == 0
