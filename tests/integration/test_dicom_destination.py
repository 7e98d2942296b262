"""Results in a PACS: as they were made, in a syntax that it takes, and confirmed."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
)

from connectors.dicom.config import DicomDestinationConfig, DicomSourceConfig
from connectors.dicom.destination import DicomDestination
from connectors.dicom.source import build_source
from hub.domain.delivery import Document, DocumentKind
from hub.domain.identity import PatientIdentity, StudyIdentity
from hub.errors import CaidxError, RejectedError, TransientError
from hub.formats.dicom.header import scan_header, split_part10
from hub.ports import CommitmentReport, Confirming, DestinationContext, SourceContext
from tests.contracts.recording import (
    ENCAPSULATED_PDF,
    NoKnowledge,
    RecordingIntake,
    WallClock,
    document,
    eventually,
)
from tests.fakes import FrozenClock, NoConfirmations
from tests.peers import free_port
from tests.peers.faults import FaultProxy, Slow
from tests.peers.orthanc import Orthanc

pytestmark = pytest.mark.peers

WELL_KNOWN = "1.2.840.10008.1.20.1.1"
IMPLICIT = str(ImplicitVRLittleEndian)


@dataclass
class Reports(NoKnowledge):
    """hub.ports.Knowledge that passes reports on to hub.ports.Confirmations."""

    confirmations: NoConfirmations = field(default_factory=NoConfirmations)

    def commitment_answered(self, report: CommitmentReport) -> None:
        self.confirmations.reports[report.transaction_uid] = report


@dataclass
class Hub:
    """A DICOM source that takes reports, and destinations beside it."""

    port: int = field(default_factory=free_port)
    reports: Reports = field(default_factory=Reports)
    clock: FrozenClock = field(default_factory=FrozenClock)
    intake: RecordingIntake = field(default_factory=RecordingIntake)

    @contextmanager
    def listening(self, **options: Any) -> Iterator[None]:
        config = DicomSourceConfig(port=self.port, stop_grace=0.3, **options)
        source = build_source(
            config, SourceContext("dicom", self.intake, WallClock(), self.reports)
        )
        source.start()
        try:
            yield
        finally:
            source.stop()

    def destination(self, port: int, ae_title: str = "PACS", **options: Any) -> DicomDestination:
        options.setdefault("connect_timeout", 2.0)
        config = DicomDestinationConfig(
            ae_title=ae_title, host="127.0.0.1", port=port, commitment_wait=0.2, **options
        )
        context = DestinationContext("pacs", self.clock, self.reports.confirmations)
        return DicomDestination(config, context)


@pytest.fixture
def hub() -> Hub:
    return Hub()


def introduce(orthanc: Orthanc, hub: Hub) -> None:
    modality = {"AET": "CAIDX", "Host": "127.0.0.1", "Port": hub.port}
    httpx.put(f"{orthanc.http_url}/modalities/hub", json=modality).raise_for_status()


def forget(orthanc: Orthanc) -> None:
    for instance in orthanc.instances():
        httpx.delete(f"{orthanc.http_url}/instances/{instance}").raise_for_status()


# --- Orthanc -----------------------------------------------------------------------------


def test_orthanc_commits_itself_to_what_it_was_sent(orthanc: Orthanc, hub: Hub) -> None:
    introduce(orthanc, hub)
    pacs = hub.destination(orthanc.dicom_port, orthanc.ae_title, confirm="commitment")
    assert isinstance(pacs, Confirming)
    assert "C-ECHO" in pacs.check()
    with hub.listening():
        receipt = pacs.deliver(document("2.25.7"), "key")
        assert receipt.awaiting
        eventually(lambda: receipt.awaiting in hub.reports.confirmations.reports)
    confirmed = pacs.confirm(document("2.25.7"), receipt.awaiting)
    assert confirmed.awaiting == ""
    assert "commitment" in confirmed.detail


def test_orthanc_says_that_it_lost_what_it_was_sent(orthanc: Orthanc, hub: Hub) -> None:
    """The question comes back after the instance was deleted: the report says "failed"."""
    introduce(orthanc, hub)
    pacs = hub.destination(orthanc.dicom_port, orthanc.ae_title, confirm="commitment")
    with hub.listening():
        first = pacs.deliver(document("2.25.7"), "key")
        eventually(lambda: first.awaiting in hub.reports.confirmations.reports)
        forget(orthanc)
        transaction = ask_orthanc(orthanc, "2.25.7")
        eventually(lambda: transaction in hub.reports.confirmations.reports)
    with pytest.raises(RejectedError, match="storage commitment failed: reason 0x0112"):
        pacs.confirm(document("2.25.7"), transaction)


def ask_orthanc(orthanc: Orthanc, sop_instance_uid: str) -> str:
    """A question about an instance, without sending it."""
    ae = AE("CAIDX")
    ae.add_requested_context(StorageCommitmentPushModel)
    opened = ae.associate("127.0.0.1", orthanc.dicom_port, ae_title=orthanc.ae_title)
    asked, reference = Dataset(), Dataset()
    reference.ReferencedSOPClassUID = ENCAPSULATED_PDF
    reference.ReferencedSOPInstanceUID = sop_instance_uid
    asked.TransactionUID, asked.ReferencedSOPSequence = "2.25.99", [reference]
    opened.send_n_action(asked, 1, StorageCommitmentPushModel, WELL_KNOWN)
    opened.release()
    return "2.25.99"


def test_what_nobody_answered_yet_is_asked_again(orthanc: Orthanc, hub: Hub) -> None:
    introduce(orthanc, hub)  # but nobody listens there
    pacs = hub.destination(orthanc.dicom_port, orthanc.ae_title, confirm="commitment")
    receipt = pacs.deliver(document("2.25.7"), "key")
    with pytest.raises(TransientError, match="not answered the storage commitment"):
        pacs.confirm(document("2.25.7"), receipt.awaiting)


def test_orthanc_is_asked_by_query_for_what_it_keeps(orthanc: Orthanc, hub: Hub) -> None:
    pacs = hub.destination(orthanc.dicom_port, orthanc.ae_title, confirm="query")
    stranger = pacs.deliver(document("2.25.7"), "key")
    with pytest.raises(TransientError, match="may not know us"):
        pacs.confirm(document("2.25.7"), stranger.awaiting)
    introduce(orthanc, hub)
    receipt = pacs.deliver(document("2.25.7"), "key")
    pacs.deliver(document("2.25.8"), "key")
    assert receipt.awaiting
    assert pacs.confirm(document("2.25.7"), receipt.awaiting).awaiting == ""
    forget(orthanc)
    with pytest.raises(TransientError, match="not show the object yet"):
        pacs.confirm(document("2.25.7"), receipt.awaiting)
    hub.clock.moment += timedelta(seconds=301)
    with pytest.raises(RejectedError, match="does not have the object"):
        pacs.confirm(document("2.25.7"), receipt.awaiting)
    orthanc.stop()
    with pytest.raises(TransientError, match="cannot be reached"):
        pacs.confirm(document("2.25.7"), receipt.awaiting)


# --- a receiver that does as it is told --------------------------------------------------


@dataclass
class Pacs:
    """A Storage SCP of pynetdicom: what it gets is kept as bytes."""

    port: int = field(default_factory=free_port)
    syntaxes: Sequence[str] = (IMPLICIT,)
    sop_class: str = ENCAPSULATED_PDF
    other: Sequence[str] = ()
    """Further SOP classes."""
    handlers: Sequence[Any] = ()
    stored: list[tuple[str, bytes]] = field(default_factory=list)

    def keep(self, event: Any) -> int:
        self.stored.append((str(event.context.transfer_syntax), event.request.DataSet.getvalue()))
        return 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        ae = AE("PACS")
        ae.add_supported_context(self.sop_class, list(self.syntaxes))
        for uid in ("1.2.840.10008.1.1", *self.other):
            ae.add_supported_context(uid)
        handlers = [(evt.EVT_C_STORE, self.keep), *self.handlers]
        server = ae.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)
        try:
            yield
        finally:
            server.shutdown()


def test_the_bytes_leave_as_they_were_made(hub: Hub) -> None:
    """pydicom would leave this odd but legal element out: a group length (PS3.5 7.2)."""
    plain = document("2.25.7").content
    odd = b"\x10\x00\x00\x00UL\x04\x00\x22\x00\x00\x00"
    at = plain.index(b"\x10\x00\x10\x00PN")
    sent = replace(document("2.25.7"), content=plain[:at] + odd + plain[at:])
    pacs = Pacs(syntaxes=(IMPLICIT, "1.2.840.10008.1.2.1"))
    with pacs.listening():
        hub.destination(pacs.port).deliver(sent, "key")
    assert pacs.stored == [("1.2.840.10008.1.2.1", split_part10(sent.content)[1])]


def test_a_receiver_of_implicit_vr_alone_gets_the_same_object(hub: Hub) -> None:
    pacs = Pacs()
    with pacs.listening():
        receipt = hub.destination(pacs.port).deliver(document("2.25.7"), "key")
    assert f"transcoded to {IMPLICIT}" in receipt.detail
    ((syntax, data_set),) = pacs.stored
    assert syntax == IMPLICIT
    written = pydicom.dcmread(io.BytesIO(data_set), force=True)
    assert written == pydicom.dcmread(io.BytesIO(document("2.25.7").content))


@pytest.mark.parametrize(
    "name",
    ["RLELossless", "JPEG2000LosslessOnly", "JPEGLSLossless", "DeflatedExplicitVRLittleEndian"],
)
def test_compressed_objects_reach_a_simple_receiver_with_every_pixel(
    hub: Hub, shared_data: Path, name: str
) -> None:
    folder = shared_data / "dicom" / "ct-chest-one-slice-all-syntaxes"
    (path,) = folder.glob(f"*_{name}TransferSyntax*")
    content = path.read_bytes()
    scan = scan_header(*reversed(split_part10(content)))
    source = pydicom.dcmread(path)
    identity = StudyIdentity(scan.study_instance_uid, PatientIdentity(source.PatientID))
    sent = Document(scan.sop_instance_uid, DocumentKind.KEY_IMAGE, "r", identity, content)
    pacs = Pacs(sop_class=scan.sop_class_uid)
    with pacs.listening():
        hub.destination(pacs.port, documents=(DocumentKind.KEY_IMAGE,)).deliver(sent, "key")
    ((_, data_set),) = pacs.stored
    written = pydicom.dcmread(io.BytesIO(data_set), force=True)
    written.file_meta = pydicom.dataset.FileMetaDataset()
    written.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    assert written.SOPInstanceUID == scan.sop_instance_uid
    assert (written.pixel_array == source.pixel_array).all()


def test_a_report_on_the_association_of_the_question_is_the_answer(hub: Hub) -> None:
    for failed, check in ((False, confirmed_at_once), (True, to_be_sent_again)):
        pacs = Pacs(
            other=(StorageCommitmentPushModel,),
            handlers=[(evt.EVT_N_ACTION, answering_at_once(failed=failed))],
        )
        with pacs.listening():
            check(hub.destination(pacs.port, confirm="commitment"))


def confirmed_at_once(pacs: DicomDestination) -> None:
    assert pacs.deliver(document("2.25.7"), "key").awaiting == ""


def to_be_sent_again(pacs: DicomDestination) -> None:
    with pytest.raises(TransientError, match="storage commitment failed: reason 0x0112"):
        pacs.deliver(document("2.25.7"), "key")


def answering_at_once(*, failed: bool) -> Callable[[Any], tuple[int, None]]:
    """Handler of N-ACTION that reports on the same association, right after its response."""

    def handle(event: Any) -> tuple[int, None]:
        asked = event.action_information
        report, item = Dataset(), asked.ReferencedSOPSequence[0]
        report.TransactionUID = asked.TransactionUID
        if failed:
            item.FailureReason = 0x0112
            report.FailedSOPSequence = [item]
        else:
            report.ReferencedSOPSequence = [item]

        def later() -> None:
            event.assoc.send_n_event_report(
                report, 2 if failed else 1, StorageCommitmentPushModel, WELL_KNOWN
            )

        threading.Timer(0.05, later).start()
        return 0x0000, None

    return handle


@pytest.mark.parametrize(
    ("status", "error", "said"),
    [(0x0110, TransientError, "0x0110"), (0x0112, RejectedError, "took the object, but refused")],
)
def test_a_refused_question_tells_that_the_object_is_there(
    hub: Hub, status: int, error: type[CaidxError], said: str
) -> None:
    refuse = (evt.EVT_N_ACTION, lambda event: (status, None))
    pacs = Pacs(other=(StorageCommitmentPushModel,), handlers=[refuse])
    with pacs.listening(), pytest.raises(error, match=said):
        hub.destination(pacs.port, confirm="commitment").deliver(document("2.25.7"), "key")
    assert len(pacs.stored) == 1


def test_a_receiver_that_cannot_confirm_is_found_out_by_check_and_by_delivery(hub: Hub) -> None:
    pacs = Pacs()
    with pacs.listening():
        for confirm in ("query", "commitment"):
            with pytest.raises(TransientError, match=f"offers no {confirm}"):
                hub.destination(pacs.port, confirm=confirm).check()
        with pytest.raises(RejectedError, match="took the object, but offers no storage"):
            hub.destination(pacs.port, confirm="commitment").deliver(document("2.25.7"), "key")
        query = hub.destination(pacs.port, confirm="query")
        receipt = query.deliver(document("2.25.7"), "key")
        with pytest.raises(TransientError, match="no C-FIND to confirm by"):
            query.confirm(document("2.25.7"), receipt.awaiting)
    assert len(pacs.stored) == 2


@pytest.mark.parametrize("status", [0xA700, 0xA900, 0xC001])
def test_a_query_that_fails_says_nothing_about_the_object(hub: Hub, status: int) -> None:
    def answer(event: Any) -> Iterator[tuple[int, None]]:
        yield status, None

    model = StudyRootQueryRetrieveInformationModelFind
    pacs = Pacs(other=(model,), handlers=[(evt.EVT_C_FIND, answer)])
    query = hub.destination(pacs.port, confirm="query")
    with pacs.listening():
        receipt = query.deliver(document("2.25.7"), "key")
        hub.clock.advance(1000)
        with pytest.raises(TransientError, match=f"0x{status:04X}"):
            query.confirm(document("2.25.7"), receipt.awaiting)


def test_an_answer_about_another_object_confirms_nothing(hub: Hub) -> None:
    def answer(event: Any) -> Iterator[tuple[int, Dataset | None]]:
        other = Dataset()
        other.QueryRetrieveLevel, other.SOPInstanceUID = "IMAGE", "2.25.1234"
        yield 0xFF00, other
        yield 0x0000, None

    model = StudyRootQueryRetrieveInformationModelFind
    pacs = Pacs(other=(model,), handlers=[(evt.EVT_C_FIND, answer)])
    query = hub.destination(pacs.port, confirm="query")
    with pacs.listening():
        receipt = query.deliver(document("2.25.7"), "key")
        hub.clock.advance(1000)
        with pytest.raises(RejectedError):
            query.confirm(document("2.25.7"), receipt.awaiting)
    other = CommitmentReport("2.25.5", committed=("2.25.1234",))
    hub.reports.commitment_answered(other)
    with pytest.raises(RejectedError, match="does not name the object"):
        query.confirm(document("2.25.7"), "2.25.5")


# --- reports that reach a source ---------------------------------------------------------


@contextmanager
def reporting(hub: Hub, *, scu: bool = False, scp: bool = True) -> Iterator[Any]:
    """An association of an archive that reports, in the roles that it proposes."""
    ae = AE("PACS")
    ae.add_requested_context(StorageCommitmentPushModel)
    role = build_role(StorageCommitmentPushModel, scu_role=scu, scp_role=scp)
    opened = ae.associate(
        "127.0.0.1", hub.port, ae_title="CAIDX", ext_neg=[role] if scu or scp else []
    )
    yield opened
    if opened.is_established:
        opened.release()


def report(transaction_uid: str = "2.25.5") -> Dataset:
    data_set, kept, lost = Dataset(), Dataset(), Dataset()
    data_set.TransactionUID = transaction_uid
    for item, uid in ((kept, "2.25.7"), (lost, "2.25.8")):
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = ENCAPSULATED_PDF, uid
    lost.FailureReason = 0x0213
    data_set.ReferencedSOPSequence, data_set.FailedSOPSequence = [kept], [lost]
    return data_set


@pytest.mark.parametrize(("count", "status"), [(100, 0x0000), (101, 0x0115)])
def test_a_report_names_no_more_than_a_question_of_ours_can_ask(
    hub: Hub, count: int, status: int
) -> None:
    long = report()
    long.ReferencedSOPSequence = [long.ReferencedSOPSequence[0]] * (count - 1)
    with hub.listening(), reporting(hub) as opened:
        answer, _ = opened.send_n_event_report(long, 2, StorageCommitmentPushModel, WELL_KNOWN)
    assert answer.Status == status
    assert ("2.25.5" in hub.reports.confirmations.reports) is (status == 0)


def test_a_report_is_kept_and_acknowledged(hub: Hub) -> None:
    with hub.listening(), reporting(hub) as opened:
        status, _ = opened.send_n_event_report(report(), 2, StorageCommitmentPushModel, WELL_KNOWN)
    assert status.Status == 0x0000
    told = CommitmentReport("2.25.5", committed=("2.25.7",), failed=(("2.25.8", 0x0213),))
    assert hub.reports.confirmations.reports == {"2.25.5": told}


@pytest.mark.parametrize(
    ("data_set", "event_type", "status"),
    [(report(), 3, 0x0113), (Dataset(), 1, 0x0120), (report("no uid"), 1, 0x0106)],
    ids=["event type", "nothing", "transaction"],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_report_that_is_none_is_refused(
    hub: Hub, data_set: Dataset, event_type: int, status: int
) -> None:
    data_set.setdefault("SpecificCharacterSet", "ISO_IR 100")
    with hub.listening(), reporting(hub) as opened:
        answer, _ = opened.send_n_event_report(
            data_set, event_type, StorageCommitmentPushModel, WELL_KNOWN
        )
    assert answer.Status == status
    assert hub.reports.confirmations.reports == {}


def test_only_who_provides_storage_commitment_may_report(hub: Hub) -> None:
    """With the usual roles a peer asks for commitment, which is off; it may not report, too."""
    with hub.listening(), reporting(hub, scp=False) as opened:
        assert not opened.accepted_contexts
    with hub.listening(services=("storage-commitment",)), reporting(hub, scp=False) as opened:
        opened.accepted_contexts[0]._as_scp = True  # it tries all the same
        status, _ = opened.send_n_event_report(report(), 2, StorageCommitmentPushModel, WELL_KNOWN)
        assert status.Status == 0x0211
    assert hub.reports.confirmations.reports == {}


def test_who_reports_may_not_ask(hub: Hub) -> None:
    with hub.listening(), reporting(hub, scu=True) as opened:
        (context,) = opened.accepted_contexts
        assert (context.as_scu, context.as_scp) == (False, True)
        context._as_scu = True
        status, _ = opened.send_n_action(report(), 1, StorageCommitmentPushModel, WELL_KNOWN)
        assert status.Status == 0x0211
    with (
        hub.listening(services=("storage-commitment", "commitment-reports")),
        reporting(hub, scu=True) as opened,
    ):
        (context,) = opened.accepted_contexts
        assert (context.as_scu, context.as_scp) == (True, True)


@pytest.mark.parametrize("bytes_per_second", [4, 100])
def test_a_pacs_that_answers_drop_by_drop_is_given_up(hub: Hub, bytes_per_second: int) -> None:
    """Each drop comes in time, and the answer does not."""
    pacs = Hub()
    with pacs.listening(), FaultProxy(pacs.port) as proxy:
        proxy.fault = Slow(bytes_per_second)
        began = time.monotonic()
        with pytest.raises(TransientError):
            hub.destination(proxy.port, "CAIDX", connect_timeout=0.5, response_timeout=0.5).deliver(
                document("2.25.7"), "key"
            )
    assert time.monotonic() - began < 3
