"""MPPS, availability notification and storage commitment: each request and its status."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from connectors.dicom import services, storage_commitment
from connectors.dicom.config import DicomPeerConfig, DicomSourceConfig
from connectors.dicom.normalized import CommandField, EventReport, NormalizedRequest
from connectors.dicom.normalized_data import decoded, encoded
from connectors.dicom.requester import Peer
from connectors.dicom.services import (
    AVAILABILITY_NOTIFICATION,
    PROCEDURE_STEP,
    STORAGE_COMMITMENT,
    DicomServices,
)
from hub.errors import IntegrityError, RejectedError, TransientError
from hub.ports import (
    CommitmentRequest,
    Expectation,
    ExpectationSource,
    NamedSeries,
    ProcedureStep,
    ReferencedInstance,
    SourceContext,
)
from tests.fakes import FrozenClock

STUDY, CT = "1.2.3.1", "1.2.840.10008.5.1.4.1.1.2"
STEP, TRANSACTION = "1.2.3.9", "1.2.3.8"
WELL_KNOWN = "1.2.840.10008.1.20.1.1"


@dataclass
class NotedKnowledge:
    """hub.ports.Knowledge in memory."""

    missing: dict[str, int] = field(default_factory=dict)
    down: bool = False
    steps: dict[str, ProcedureStep] = field(default_factory=dict)
    expected: list[Expectation] = field(default_factory=list)
    asked: list[CommitmentRequest] = field(default_factory=list)
    reported: list[tuple[str, int]] = field(default_factory=list)
    not_reported: list[tuple[str, float | None]] = field(default_factory=list)

    def _up(self) -> None:
        if self.down:
            raise TransientError("database: away")

    def expect(self, expectation: Expectation) -> None:
        self._up()
        self.expected.append(expectation)

    def not_stored(
        self, wanted: Sequence[ReferencedInstance], within: float
    ) -> Mapping[ReferencedInstance, int]:
        self._up()
        return {
            one: self.missing[one.sop_instance_uid]
            for one in wanted
            if one.sop_instance_uid in self.missing
        }

    def procedure_step(self, sop_instance_uid: str) -> ProcedureStep | None:
        self._up()
        return self.steps.get(sop_instance_uid)

    def keep_procedure_step(self, step: ProcedureStep) -> None:
        self.steps[step.sop_instance_uid] = step

    def keep_commitment(self, request: CommitmentRequest) -> None:
        self._up()
        self.asked.append(request)

    def due_commitments(self, source: str) -> Sequence[CommitmentRequest]:
        return []

    def commitment_reported(self, request: CommitmentRequest, failed: int) -> None:
        self.reported.append((request.transaction_uid, failed))

    def commitment_not_reported(
        self, request: CommitmentRequest, reason: str, retry_after: float | None
    ) -> None:
        self.not_reported.append((reason, retry_after))


class _NoIntake:
    def open(self, sender: object) -> Any:
        raise AssertionError("services receive no objects")


@pytest.fixture
def knowledge() -> NotedKnowledge:
    return NotedKnowledge()


ALL_SERVICES = ("storage-commitment", "procedure-step", "availability-notification")


@pytest.fixture
def offered(knowledge: NotedKnowledge, monkeypatch: pytest.MonkeyPatch) -> DicomServices:
    monkeypatch.setattr(storage_commitment, "_RELEASE_SECONDS", 0.0)
    return made(knowledge)


def made(knowledge: NotedKnowledge, **options: Any) -> DicomServices:
    context = SourceContext("dicom", _NoIntake(), FrozenClock(), knowledge)
    return DicomServices(DicomSourceConfig(**{"services": ALL_SERVICES, **options}), context)


def request(command: CommandField, sop_class: str, data_set: Dataset, **fields: Any) -> Any:
    values: dict[str, Any] = {
        "sop_instance_uid": STEP,
        "action_type_id": None,
        "transfer_syntax_uid": ExplicitVRLittleEndian,
        "calling_ae_title": "MODALITY",
        "address": "127.0.0.1",
        **fields,
    }
    content = encoded(data_set, values["transfer_syntax_uid"])
    return NormalizedRequest(command, sop_class, data_set=content, **values)


# --- MPPS ------------------------------------------------------------------------------------


def step(status: str | None, *uids: str, study: str | None = STUDY) -> Dataset:
    data_set = Dataset()
    if status is not None:
        data_set.PerformedProcedureStepStatus = status
    if study is not None:
        scheduled = Dataset()
        scheduled.StudyInstanceUID = study
        data_set.ScheduledStepAttributesSequence = [scheduled]
    if uids:
        series = Dataset()
        series.SeriesInstanceUID = f"{STUDY}.1"
        series.ReferencedImageSequence = [reference(uid) for uid in uids[:-1]]
        series.ReferencedNonImageCompositeSOPInstanceSequence = [reference(uids[-1])]
        data_set.PerformedSeriesSequence = [series]
    return data_set


def reference(uid: str, sop_class: str = CT, **elements: Any) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item


def create(data_set: Dataset, **fields: Any) -> Any:
    return request(CommandField.N_CREATE, PROCEDURE_STEP, data_set, **fields)


def change(data_set: Dataset, **fields: Any) -> Any:
    return request(CommandField.N_SET, PROCEDURE_STEP, data_set, **fields)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_a_completed_procedure_step_names_what_it_made(
    offered: DicomServices, knowledge: NotedKnowledge, syntax: str
) -> None:
    answer = offered.handle(create(step("IN PROGRESS"), transfer_syntax_uid=syntax))
    assert (answer.status, answer.sop_instance_uid) == (0x0000, STEP)
    assert knowledge.steps[STEP] == ProcedureStep(STEP, STUDY, "IN PROGRESS")
    done = step("COMPLETED", "1.2.3.1.1", "1.2.3.1.2", study=None)
    assert offered.handle(change(done, transfer_syntax_uid=syntax)).status == 0x0000
    of_series = NamedSeries(f"{STUDY}.1", ("1.2.3.1.1", "1.2.3.1.2"))
    expected = ProcedureStep(STEP, STUDY, "COMPLETED", (of_series,))
    assert knowledge.steps[STEP] == expected


def test_a_procedure_step_without_a_name_is_given_one(offered: DicomServices) -> None:
    answer = offered.handle(create(step("IN PROGRESS"), sop_instance_uid=""))
    assert answer.status == 0x0000
    assert answer.sop_instance_uid.startswith("2.25.")


@pytest.mark.parametrize(
    ("data_set", "status"),
    [
        (step(None), 0x0120),
        (step("COMPLETED"), 0x0106),
        (step("IN PROGRESS", study=None), 0x0120),
        (step("IN PROGRESS", study=""), 0x0120),
    ],
)
def test_what_a_new_procedure_step_lacks_is_answered(
    offered: DicomServices, knowledge: NotedKnowledge, data_set: Dataset, status: int
) -> None:
    assert offered.handle(create(data_set)).status == status
    assert knowledge.steps == {}


@pytest.mark.parametrize("last", ["COMPLETED", "DISCONTINUED"])
def test_an_ended_procedure_step_cannot_be_changed(
    offered: DicomServices, knowledge: NotedKnowledge, last: str
) -> None:
    offered.handle(create(step("IN PROGRESS")))
    offered.handle(change(step(last, "1.2.3.1.1")))
    answer = offered.handle(change(step("IN PROGRESS", "1.2.3.1.5")))
    assert answer.status == 0x0110
    assert "no longer be updated" in answer.error_comment
    assert knowledge.steps[STEP].sop_instance_uids == ("1.2.3.1.1",)


def test_other_faults_of_procedure_steps_have_their_status(offered: DicomServices) -> None:
    assert offered.handle(change(step("COMPLETED"))).status == 0x0112
    offered.handle(create(step("IN PROGRESS")))
    assert offered.handle(create(step("IN PROGRESS"))).status == 0x0111
    assert offered.handle(change(step("PAUSED"))).status == 0x0106
    assert offered.handle(request(CommandField.N_ACTION, PROCEDURE_STEP, Dataset())).status == 0x211
    assert offered.handle(request(CommandField.N_CREATE, "1.2.3", Dataset())).status == 0x0118


def test_a_change_without_series_keeps_those_of_before(
    offered: DicomServices, knowledge: NotedKnowledge
) -> None:
    offered.handle(create(step("IN PROGRESS")))
    offered.handle(change(step("IN PROGRESS", "1.2.3.1.1")))
    offered.handle(change(step("COMPLETED")))
    assert knowledge.steps[STEP].sop_instance_uids == ("1.2.3.1.1",)


def _deep(levels: int) -> bytes:
    """Sequences of undefined length, one in another."""
    return b"\x40\x00\x70\x02SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * levels


@pytest.mark.parametrize(
    "content", [b"\xff" * 40, b"\x40\x00\x52\x02CS\xff\xff", b"\x00", _deep(10_000)]
)
@pytest.mark.parametrize(
    ("command", "sop_class"),
    [
        (CommandField.N_CREATE, PROCEDURE_STEP),
        (CommandField.N_CREATE, AVAILABILITY_NOTIFICATION),
        (CommandField.N_ACTION, STORAGE_COMMITMENT),
    ],
)
def test_a_data_set_that_is_none_is_a_status(
    offered: DicomServices, content: bytes, command: CommandField, sop_class: str
) -> None:
    asked = NormalizedRequest(
        command, sop_class, WELL_KNOWN, 1, ExplicitVRLittleEndian, content, "X", "127.0.0.1"
    )
    assert offered.handle(asked).status in {0x0110, 0x0115, 0x0120, 0x0106}


def test_items_without_end_are_not_read(offered: DicomServices) -> None:
    items = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 50_001
    content = struct.pack("<HHI", 0x0040, 0x0270, len(items)) + items
    asked = NormalizedRequest(
        CommandField.N_CREATE, PROCEDURE_STEP, STEP, 1, ImplicitVRLittleEndian, content, "X", "::1"
    )
    answer = offered.handle(asked)
    assert (answer.status, answer.error_comment) == (0x0115, "the data set has too many items")


def test_while_the_database_is_away_a_request_is_to_be_repeated(
    offered: DicomServices, knowledge: NotedKnowledge
) -> None:
    knowledge.down = True
    assert offered.handle(create(step("IN PROGRESS"))).status == 0x0213
    assert offered.handle(ask("1.2.3.1.1")).status == 0x0213


def test_a_mistake_of_the_hub_is_not_said_of_the_data_set(
    offered: DicomServices, knowledge: NotedKnowledge, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistaken(*_: object) -> None:
        raise TypeError("the hub's own")

    monkeypatch.setattr(knowledge, "keep_procedure_step", mistaken)
    monkeypatch.setattr(knowledge, "keep_commitment", mistaken)
    for asked in (create(step("IN PROGRESS")), ask("1.2.3.1.1")):
        with pytest.raises(TypeError, match="own"):
            offered.handle(asked)


# --- availability notification ---------------------------------------------------------------


def test_a_notification_names_what_is_available(
    offered: DicomServices, knowledge: NotedKnowledge
) -> None:
    data_set, series = Dataset(), Dataset()
    data_set.StudyInstanceUID = STUDY
    series.SeriesInstanceUID = f"{STUDY}.1"
    series.ReferencedSOPSequence = [
        reference("1.2.3.1.1", InstanceAvailability="ONLINE"),
        reference("1.2.3.1.2", InstanceAvailability="NEARLINE"),
        reference("1.2.3.1.3", InstanceAvailability="UNAVAILABLE"),
    ]
    data_set.ReferencedSeriesSequence = [series]
    answer = offered.handle(request(CommandField.N_CREATE, AVAILABILITY_NOTIFICATION, data_set))
    assert answer.status == 0x0000
    source = ExpectationSource.AVAILABILITY_NOTIFICATION
    named = ("1.2.3.1.1", "1.2.3.1.2")
    of_series = (NamedSeries(f"{STUDY}.1", named),)
    assert knowledge.expected == [
        Expectation(STUDY, source, sop_instance_uids=named, series=of_series)
    ]


@pytest.mark.parametrize("study", ["", STUDY])
def test_a_notification_without_study_or_series_is_refused(
    offered: DicomServices, knowledge: NotedKnowledge, study: str
) -> None:
    data_set = Dataset()
    data_set.StudyInstanceUID = study
    asked = request(CommandField.N_CREATE, AVAILABILITY_NOTIFICATION, data_set)
    assert offered.handle(asked).status == 0x0120
    assert knowledge.expected == []


# --- storage commitment ----------------------------------------------------------------------


def ask(*uids: str, **fields: Any) -> Any:
    data_set = Dataset()
    data_set.TransactionUID = TRANSACTION
    data_set.ReferencedSOPSequence = [reference(uid) for uid in uids]
    fields = {"sop_instance_uid": WELL_KNOWN, "action_type_id": 1, **fields}
    return request(CommandField.N_ACTION, STORAGE_COMMITMENT, data_set, **fields)


def read(event: EventReport, syntax: str = ExplicitVRLittleEndian) -> Dataset:
    """The data set of a report of ours."""
    asked = NormalizedRequest(
        CommandField.N_EVENT_REPORT,
        event.sop_class_uid,
        event.sop_instance_uid,
        None,
        syntax,
        event.data_set,
        "X",
        "",
    )
    return decoded(asked)


def test_what_is_stored_is_confirmed_on_the_same_association(
    offered: DicomServices, knowledge: NotedKnowledge
) -> None:
    answer = offered.handle(ask("1.2.3.1.1", "1.2.3.1.2"))
    assert answer.status == 0x0000
    assert [one.transaction_uid for one in knowledge.asked] == [TRANSACTION]  # before the answer
    sent: list[EventReport] = []
    assert answer.after is not None
    answer.after(lambda event: sent.append(event) or 0x0000)
    (event,) = sent
    report = read(event)
    assert (event.event_type_id, event.sop_instance_uid) == (1, WELL_KNOWN)
    assert report.TransactionUID == TRANSACTION
    assert [i.ReferencedSOPInstanceUID for i in report.ReferencedSOPSequence] == [
        "1.2.3.1.1",
        "1.2.3.1.2",
    ]
    assert "FailedSOPSequence" not in report
    assert knowledge.reported == [(TRANSACTION, 0)]


def test_what_is_not_stored_is_told_with_its_reason(
    offered: DicomServices, knowledge: NotedKnowledge
) -> None:
    knowledge.missing = {"1.2.3.1.2": 0x0112, "1.2.3.1.3": 0x0119}
    answer = offered.handle(
        ask("1.2.3.1.1", "1.2.3.1.2", "1.2.3.1.3", transfer_syntax_uid=ImplicitVRLittleEndian)
    )
    sent: list[EventReport] = []
    assert answer.after is not None
    answer.after(lambda event: sent.append(event) or 0x0000)
    report = read(sent[0], ImplicitVRLittleEndian)
    assert sent[0].event_type_id == 2
    failed = [(i.ReferencedSOPInstanceUID, i.FailureReason) for i in report.FailedSOPSequence]
    assert failed == [("1.2.3.1.2", 0x0112), ("1.2.3.1.3", 0x0119)]
    assert [i.ReferencedSOPInstanceUID for i in report.ReferencedSOPSequence] == ["1.2.3.1.1"]
    assert knowledge.reported == [(TRANSACTION, 2)]


def test_an_answer_that_nobody_can_be_given_is_no_silence(
    offered: DicomServices, knowledge: NotedKnowledge
) -> None:
    answer = offered.handle(ask("1.2.3.1.1"))
    assert answer.after is not None
    answer.after(lambda event: None)
    ((reason, later),) = knowledge.not_reported
    assert "no peer of this AE title" in reason
    assert later is None
    assert knowledge.reported == []


def test_an_answer_to_a_peer_that_is_away_is_tried_again(
    knowledge: NotedKnowledge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_commitment, "_RELEASE_SECONDS", 0.0)
    peer = DicomPeerConfig(ae_title="MODALITY", host="127.0.0.1", port=1)
    answer = made(knowledge, peers=(peer,)).handle(ask("1.2.3.1.1"))
    assert answer.after is not None
    answer.after(lambda event: None)
    ((reason, later),) = knowledge.not_reported
    assert "cannot be reached" in reason
    assert later == 30.0


def test_a_database_that_is_away_leaves_the_question_open(
    offered: DicomServices, knowledge: NotedKnowledge
) -> None:
    answer = offered.handle(ask("1.2.3.1.1"))
    knowledge.down = True
    assert answer.after is not None
    answer.after(lambda event: 0x0000)
    assert knowledge.reported == knowledge.not_reported == []


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"action_type_id": 2}, 0x0123),
        ({"sop_instance_uid": "1.2.3"}, 0x0112),
    ],
)
def test_wrong_questions_have_their_status(
    offered: DicomServices, knowledge: NotedKnowledge, fields: dict[str, Any], status: int
) -> None:
    assert offered.handle(ask("1.2.3.1.1", **fields)).status == status
    assert offered.handle(ask()).status == 0x0115
    assert offered.handle(ask("not a uid")).status == 0x0106
    assert knowledge.asked == []


# --- all of them -----------------------------------------------------------------------------


def test_only_what_is_configured_is_offered(knowledge: NotedKnowledge) -> None:
    assert set(made(knowledge).sop_classes) == {
        STORAGE_COMMITMENT,
        PROCEDURE_STEP,
        AVAILABILITY_NOTIFICATION,
    }
    only = made(knowledge, services=("procedure-step",))
    assert set(only.sop_classes) == {PROCEDURE_STEP}
    assert only.handle(ask("1.2.3.1.1")).status == 0x0118


def test_offering_them_loads_no_dicom_library() -> None:
    code = (
        "import sys\n"
        "from connectors.dicom import services\n"
        "from connectors.dicom.config import DicomSourceConfig\n"
        "from hub.ports import SourceContext\n"
        "offered = services.build_services(DicomSourceConfig(), SourceContext('d', 0, 0, 0))\n"
        "assert len(offered.sop_classes) == 2\n"
        "print(*(m for m in ('pydicom', 'pynetdicom', 'sqlalchemy') if m in sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == ""


def test_an_unsent_answer_is_looked_for_where_there_are_peers(
    knowledge: NotedKnowledge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "LOOK_SECONDS", 0.01)
    left = CommitmentRequest(TRANSACTION, "MODALITY", "dicom", (ReferencedInstance(CT, "1.2"),), 3)
    monkeypatch.setattr(
        knowledge, "due_commitments", lambda _: [] if knowledge.not_reported else [left]
    )
    peer = DicomPeerConfig(ae_title="MODALITY", host="127.0.0.1", port=1)
    offered = made(knowledge, peers=(peer,))
    offered.start()
    for _ in range(1000):
        if knowledge.not_reported:
            break
        offered._closing.wait(0.01)
    offered.close()
    assert knowledge.not_reported[0][1] == 240.0


def _look_at(offered: DicomServices, done: Callable[[], bool]) -> None:
    """Let it look until ``done``."""
    offered.start()
    for _ in range(500):
        if done():
            break
        offered._closing.wait(0.01)
    offered.close()
    assert done()


def _asked_by(title: str, transaction: str) -> CommitmentRequest:
    return CommitmentRequest(transaction, title, "dicom", (ReferencedInstance(CT, "1.2"),), 0)


@pytest.mark.parametrize("error", [IntegrityError("a table is gone"), TransientError("away")])
def test_looking_for_unsent_answers_goes_on_after_a_fault(
    knowledge: NotedKnowledge, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(services, "LOOK_SECONDS", 0.01)
    looks: list[str] = []

    def due(_source: str) -> list[CommitmentRequest]:
        looks.append("look")
        if len(looks) == 1:
            raise error
        return [_asked_by("MODALITY", "1.9.1"), _asked_by("OTHER", "1.9.2")]

    def not_stored(wanted: object, within: float) -> Mapping[ReferencedInstance, int]:
        looks.append("question")
        raise error

    monkeypatch.setattr(knowledge, "due_commitments", due)
    monkeypatch.setattr(knowledge, "not_stored", not_stored)
    peer = DicomPeerConfig(ae_title="MODALITY", host="127.0.0.1", port=1)
    _look_at(made(knowledge, peers=(peer,)), lambda: len(looks) >= 7)
    assert looks[:7] == ["look", *["look", "question", "question"] * 2]


def test_a_peer_that_is_away_is_called_once_in_a_look(
    knowledge: NotedKnowledge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "LOOK_SECONDS", 0.01)
    due = [
        *(_asked_by("MODALITY", f"1.9.{n}") for n in range(3)),
        *(_asked_by("OTHER", f"1.8.{n}") for n in range(2)),
    ]
    monkeypatch.setattr(
        knowledge, "due_commitments", lambda _: [] if knowledge.not_reported else due
    )
    called: list[str] = []

    @contextmanager
    def association(peer: Peer, *_: object, **__: object) -> Iterator[Any]:
        called.append(peer.called_ae_title)
        if peer.called_ae_title == "MODALITY":
            raise TransientError(f"{peer} cannot be reached")
        raise RejectedError(f"{peer} accepts none of the proposed presentation contexts")
        yield

    monkeypatch.setattr(storage_commitment, "association", association)
    peers = [DicomPeerConfig(ae_title=t, host="127.0.0.1", port=1) for t in ("MODALITY", "OTHER")]
    _look_at(made(knowledge, peers=tuple(peers)), lambda: len(knowledge.not_reported) == 5)
    assert called == ["MODALITY", "OTHER", "OTHER"]
    assert {later for _, later in knowledge.not_reported} == {30.0}  # all of them, later


def test_storage_commitment_is_offered_only_where_it_is_asked_for(
    knowledge: NotedKnowledge,
) -> None:
    context = SourceContext("dicom", _NoIntake(), FrozenClock(), knowledge)
    offered = DicomServices(DicomSourceConfig(), context)
    assert services.STORAGE_COMMITMENT not in offered.sop_classes
    assert len(offered.sop_classes) == 2
