"""Every object of the test data through every sender: it arrives byte for byte."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pydicom
import pytest
from pydicom.data import get_testdata_files
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID
from pynetdicom import AE, build_role, evt
from pynetdicom.pdu_primitives import (
    AsynchronousOperationsWindowNegotiation,
    SOPClassExtendedNegotiation,
    UserIdentityNegotiation,
)

from connectors.dicom.config import DicomSourceConfig
from connectors.dicom.normalized import (
    CommandField,
    EventReport,
    NormalizedRequest,
    NormalizedResponse,
    ReportOnAssociation,
)
from connectors.dicom.sender import send_files
from connectors.dicom.source import DicomSource
from connectors.dicom.storage_classes import STORAGE_SOP_CLASSES, TRANSFER_SYNTAXES
from hub.errors import RejectedError
from hub.formats.dicom.header import scan_header, split_part10
from hub.ports import EndOfTransfer, SentAs
from tests.contracts.recording import RecordingIntake, eventually, write_files
from tests.fuzz.upper_layer import fuzz
from tests.peers import dcmtk, free_port
from tests.peers.orthanc import Orthanc
from tests.peers.requestor import CT

pytestmark = pytest.mark.peers

EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"


@contextmanager
def listening(intake: RecordingIntake, services: Any = None, **settings: Any) -> Iterator[int]:
    port = free_port()
    config = DicomSourceConfig(port=port, stop_grace=0.5, services=(), **settings)
    source = DicomSource(config, intake.context(), services)
    source.start()
    try:
        yield port
    finally:
        source.stop()


@pytest.fixture
def intake() -> RecordingIntake:
    return RecordingIntake()


def digest(data_set: bytes) -> str:
    return hashlib.sha256(data_set).hexdigest()


def digests(paths: Iterable[Path]) -> Counter[str]:
    return Counter(digest(split_part10(path.read_bytes())[1]) for path in paths)


def received(intake: RecordingIntake) -> Counter[str]:
    return Counter(digest(bytes(item.data_set)) for item in intake.stored)


def storable(path: Path) -> bool:
    """A Part 10 file of a Storage SOP class, whose meta information names what it holds."""
    try:
        syntax, data_set = split_part10(path.read_bytes())
        scan = scan_header(data_set, syntax)
        meta = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[]).file_meta
    except (RejectedError, InvalidDicomError, OSError):
        return False
    named = (meta.get("MediaStorageSOPClassUID"), meta.get("MediaStorageSOPInstanceUID"))
    return (
        scan.sop_class_uid in STORAGE_SOP_CLASSES
        and syntax in TRANSFER_SYNTAXES
        and named == (scan.sop_class_uid, scan.sop_instance_uid)
    )


@pytest.fixture(scope="module")
def objects(shared_data: Path) -> list[Path]:
    """All test data: the shared sets, pydicom's, and those of pydicom-data."""
    found = [Path(name) for name in get_testdata_files()]
    found += [path for path in (shared_data / "dicom").rglob("*") if path.is_file()]
    chosen = sorted(path for path in found if path.is_file() and storable(path))
    assert len(chosen) > 150
    return chosen


@pytest.fixture(scope="module")
def one_of_each(objects: list[Path]) -> list[Path]:
    """An object of every SOP class in every transfer syntax that the test data have."""
    chosen = {}
    for path in objects:
        if not names_its_uids_strangely(path):
            syntax, data_set = split_part10(path.read_bytes())
            chosen[scan_header(data_set, syntax).sop_class_uid, syntax] = path
    assert len(chosen) > 40
    return list(chosen.values())


def names_its_uids_strangely(path: Path) -> bool:
    """In VR UN, as GDCM 2.6 did: DCMTK 3.6.7 sends "31" for the SOP class of such an object."""
    return b"\x08\x00\x16\x00UN" in path.read_bytes()[:4096]


def test_our_sender_delivers_every_object_of_every_class_and_syntax(
    intake: RecordingIntake, objects: list[Path]
) -> None:
    with listening(intake) as port:
        answers = send_files(
            objects,
            host="127.0.0.1",
            port=port,
            called_ae_title="CAIDX",
            calling_ae_title="SENDER",
        )
    assert {answer.sent_as for answer in answers} == {SentAs.STORED}
    assert received(intake) == digests(objects)
    assert len({item.sop_class_uid for item in intake.stored}) >= 15
    assert len({item.transfer_syntax_uid for item in intake.stored}) >= 15
    assert all(reception.ends == [EndOfTransfer.RELEASED] for reception in intake.receptions)


@pytest.mark.parametrize("maximum_pdu_length", [4096, 16384, 131072, 1 << 20])
def test_dcmsend_delivers_what_it_can_read(
    intake: RecordingIntake, objects: list[Path], maximum_pdu_length: int
) -> None:
    # dcmsend reads and writes the elements anew: some files come out in other bytes.
    chosen = [path for path in objects if "ct-" in str(path)]
    strange = [path for path in chosen if names_its_uids_strangely(path)]
    with listening(intake, maximum_pdu_length=maximum_pdu_length) as port:
        dcmtk.dcmsend(chosen, port, check=False)
        eventually(lambda: bool(intake.ends))
    assert len(intake.stored) == len(chosen) - len(strange)
    assert (received(intake) & digests(chosen)).total() > 0.7 * len(chosen)


def test_storescu_delivers_uncompressed_objects_unchanged(
    intake: RecordingIntake, shared_data: Path
) -> None:
    paths = sorted((shared_data / "dicom" / "ct-head-ge-tilt").glob("*.dcm"))
    with listening(intake) as port:
        dcmtk.storescu(paths, port)
        dcmtk.storescu(paths, port, options=["--max-pdu", "4096"])
        dcmtk.storescu(paths, port, options=["--max-send-pdu", "131072"])
        eventually(lambda: len(intake.ends) == 3)
    assert received(intake) == Counter(dict.fromkeys(digests(paths), 3))


@pytest.mark.parametrize("maximum", [0, 16384, 131072])
def test_pynetdicom_delivers_every_object(
    intake: RecordingIntake, one_of_each: list[Path], maximum: int
) -> None:
    with listening(intake) as port:
        for path in one_of_each:
            syntax, data_set = split_part10(path.read_bytes())
            sop_class = scan_header(data_set, syntax).sop_class_uid
            with pynetdicom_association(port, sop_class, syntax, maximum) as association:
                assert association.send_c_store(path).Status == 0
    assert received(intake) == digests(one_of_each)


@contextmanager
def pynetdicom_association(
    port: int, sop_class: str, syntax: str, maximum: int = 16382, **extra: Any
) -> Iterator[Any]:
    ae = AE("SENDER")
    ae.add_requested_context(sop_class, [syntax])
    association = ae.associate("127.0.0.1", port, max_pdu=maximum, **extra)
    assert association.is_established
    try:
        yield association
    finally:
        association.release()


def test_orthanc_delivers_by_its_modalities_what_it_holds(
    intake: RecordingIntake, one_of_each: list[Path], orthanc: Orthanc
) -> None:
    with listening(intake) as port:
        held = {}
        for path in one_of_each:
            url = f"{orthanc.http_url}/instances"
            answer = httpx.post(url, content=path.read_bytes(), timeout=60)
            if answer.is_success:  # of one instance in several syntaxes it keeps the first
                held.setdefault(answer.json()["ID"], path)
        modality = json.dumps({"AET": "CAIDX", "Host": "127.0.0.1", "Port": port})
        url = f"{orthanc.http_url}/modalities/hub"
        assert httpx.put(url, content=modality, timeout=30).is_success
        assert httpx.post(f"{url}/echo", json={}, timeout=30).is_success
        answer = httpx.post(f"{url}/store", json=list(held), timeout=120)
        assert answer.is_success, answer.text
        eventually(lambda: len(intake.stored) == len(held))
    assert len(held) > 20
    # Orthanc's toolkit writes the elements anew; half of the objects keep their bytes all the same.
    assert (received(intake) & digests(held.values())).total() >= 0.5 * len(held)


def test_termscu_is_refused_its_context_and_nothing_breaks(intake: RecordingIntake) -> None:
    with listening(intake) as port:
        assert dcmtk.termscu(port, check=False).returncode != 0
        dcmtk.echoscu(port)
    assert intake.receptions == []


def test_all_kinds_of_negotiation_are_answered_or_passed_over(intake: RecordingIntake) -> None:
    window = AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked = 5
    window.maximum_number_operations_performed = 5
    identity = UserIdentityNegotiation()
    identity.user_identity_type = 2
    identity.positive_response_requested = True
    identity.primary_field = b"user"
    identity.secondary_field = b"passcode"
    extended = SOPClassExtendedNegotiation()
    extended.sop_class_uid = UID(CT)
    extended.service_class_application_information = b"\x02\x00\x03\x00\x01\x00"
    role = build_role(CT, scu_role=True, scp_role=True)
    items = [window, identity, extended, role]
    with (
        listening(intake) as port,
        pynetdicom_association(port, CT, EXPLICIT, ext_neg=items) as association,
    ):
        answered = association.acceptor
        assert answered.asynchronous_operations == (1, 1)
        assert answered.user_identity is None
        (context,) = association.accepted_contexts
        assert (context.as_scu, context.as_scp) == (True, False)
        assert answered.implementation_version_name == "CAIDX_HUB"
        assert answered.maximum_length == 1 << 20


def test_without_being_asked_nothing_is_answered(intake: RecordingIntake) -> None:
    with listening(intake) as port, pynetdicom_association(port, CT, EXPLICIT) as association:
        assert association.acceptor.role_selection == {}
        assert association.acceptor.asynchronous_operations == (1, 1)
        items = [type(item).__name__ for item in association.acceptor.primitive.user_information]
    assert sorted(items) == [
        "ImplementationClassUIDNotification",
        "ImplementationVersionNameNotification",
        "MaximumLengthNotification",
    ]


def test_of_several_transfer_syntaxes_ours_is_chosen(intake: RecordingIntake) -> None:
    ae = AE("SENDER")
    ae.add_requested_context(CT, ["1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.90"])
    ae.add_requested_context("1.2.840.10008.5.1.4.1.2.2.1", [IMPLICIT])
    ae.add_requested_context("1.2.840.10008.5.1.4.1.1.4", ["1.2.3.4"])
    with listening(intake) as port:
        association = ae.associate("127.0.0.1", port)
        (accepted,) = association.accepted_contexts
        assert accepted.transfer_syntax == ["1.2.840.10008.1.2.4.90"]
        refused = {str(c.abstract_syntax): c.result for c in association.rejected_contexts}
        association.release()
    assert refused == {"1.2.840.10008.5.1.4.1.2.2.1": 3, "1.2.840.10008.5.1.4.1.1.4": 4}


# --- DIMSE-N --------------------------------------------------------------------------------

COMMITMENT = "1.2.840.10008.1.20.1"


class Committer:
    """connectors.dicom.normalized.Services: answers on the same association."""

    def __init__(self) -> None:
        self.requests: list[NormalizedRequest] = []
        self.statuses: list[int | None] = []
        self.reported = threading.Event()
        self.closed = False

    @property
    def sop_classes(self) -> dict[str, tuple[str, ...]]:
        return {COMMITMENT: (EXPLICIT, IMPLICIT)}

    @property
    def used_sop_classes(self) -> dict[str, tuple[str, ...]]:
        return {}

    def handle(self, request: NormalizedRequest) -> NormalizedResponse:
        self.requests.append(request)

        def after(report: ReportOnAssociation) -> None:
            event = EventReport(
                request.sop_class_uid, request.sop_instance_uid, 1, request.data_set
            )
            self.statuses.append(report(event))
            self.reported.set()

        return NormalizedResponse(0, after=after)

    def close(self) -> None:
        self.closed = True


def commitment_request() -> pydicom.Dataset:
    dataset = pydicom.Dataset()
    dataset.TransactionUID = "1.2.3.4"
    item = pydicom.Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CT, "1.2.5"
    dataset.ReferencedSOPSequence = [item]
    return dataset


@pytest.mark.parametrize("stays", [True, False])
def test_a_normalized_request_is_answered_and_reported_on_the_same_association(
    intake: RecordingIntake, stays: bool
) -> None:
    committer, reports = Committer(), []

    def on_report(event: Any) -> tuple[int, None]:
        reports.append((event.event_type, event.event_information))
        return 0x0000, None

    ae = AE("SENDER")
    ae.add_requested_context(COMMITMENT, [EXPLICIT])
    with listening(intake, lambda: committer) as port:
        association = ae.associate(
            "127.0.0.1", port, evt_handlers=[(evt.EVT_N_EVENT_REPORT, on_report)]
        )
        status, _ = association.send_n_action(
            commitment_request(), 1, COMMITMENT, "1.2.840.10008.1.20.1.1"
        )
        assert status.Status == 0
        if not stays:
            association.abort()
        assert committer.reported.wait(10)
        association.release()
    assert committer.closed
    (request,) = committer.requests
    assert (request.command, request.action_type_id) == (CommandField.N_ACTION, 1)
    assert request.sop_instance_uid == "1.2.840.10008.1.20.1.1"
    if stays:
        assert committer.statuses == [0]
        assert [kind for kind, _ in reports] == [1]
        assert reports[0][1] == commitment_request()


# --- captured associations ------------------------------------------------------------------


@contextmanager
def recorded(target: int) -> Iterator[tuple[int, bytearray]]:
    """A port that passes one connection on, and what the requestor said on it."""
    said = bytearray()
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def pump(source: socket.socket, sink: socket.socket, note: bytearray | None) -> None:
            while data := source.recv(65536):
                if note is not None:
                    note += data
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

        def serve() -> None:
            inner, _ = listener.accept()
            with inner, socket.create_connection(("127.0.0.1", target)) as outer:
                back = threading.Thread(target=pump, args=(outer, inner, None))
                back.start()
                pump(inner, outer, said)
                back.join()

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1], said
        thread.join(20)


def test_mutated_associations_of_real_senders_break_no_promise(
    intake: RecordingIntake, tmp_path: Path
) -> None:
    paths = write_files(tmp_path, ["1.2.1", "1.2.2"])
    captures = []
    with listening(intake) as port:
        for tool in (dcmtk.storescu, dcmtk.dcmsend):
            with recorded(port) as (proxy, said):
                tool(paths, proxy)
            captures.append(bytes(said))
        with recorded(port) as (proxy, said):
            dcmtk.echoscu(proxy)
        captures.append(bytes(said))
    assert len(intake.stored) == 4
    assert all(capture[:1] == b"\x01" for capture in captures)
    done = fuzz(seconds=8, runs=1500, seed=4711, captures=captures)
    assert done.runs >= 200
    assert done.messages > done.runs // 20
