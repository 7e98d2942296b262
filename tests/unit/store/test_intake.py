from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from hub.domain.study import EvidenceKind, StudyKey
from hub.errors import RejectedError
from hub.formats.ct_phantom import chest_phantom
from hub.formats.part10 import part10, split_part10
from hub.ports import EndOfTransfer, ReceivedObject, Sender, StoredAs
from hub.store import audit, instances, studies
from hub.store.database import Database
from hub.store.intake import OTHER_BYTES, TWO_PATIENTS, StudyIntake, adopt_open_associations
from hub.store.schema import alerts
from tests.fakes import FrozenClock

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
SENDER = Sender(source="dicom", calling_ae_title="SCANNER", address="127.0.0.1")


def _objects(slices: int = 3, **what: Any) -> list[ReceivedObject]:
    received = []
    for file in chest_phantom(slices=slices, rows=64, columns=64, **what).files:
        syntax, data_set = split_part10(file)
        uid = _sop_instance_uid(data_set)
        received.append(ReceivedObject(CT_IMAGE_STORAGE, uid, syntax, data_set))
    return received


def _sop_instance_uid(data_set: bytes) -> str:
    at = data_set.index(b"\x08\x00\x18\x00UI")
    length = int.from_bytes(data_set[at + 6 : at + 8], "little")
    return data_set[at + 8 : at + 8 + length].rstrip(b"\0").decode()


def _study_uid(database: Database) -> str:
    with database.read() as connection:
        return str(connection.execute(sa.text("SELECT study_instance_uid FROM studies")).scalar())


def _due(database: Database, clock: FrozenClock) -> list[StudyKey]:
    with database.read() as connection:
        return studies.due(connection, clock.now(), 10)


def _bytes_on_disk(intake: StudyIntake) -> int:
    return sum(path.stat().st_size for path in intake.objects.root.rglob("*") if path.is_file())


def _alerts(database: Database) -> list[str]:
    with database.read() as connection:
        return list(connection.execute(sa.select(alerts.c.message)).scalars())


def test_what_was_stored_comes_back_as_a_study(intake: StudyIntake, database: Database) -> None:
    reception = intake.open(SENDER)
    received = _objects(3)
    assert [reception.store(r) for r in received] == [StoredAs.NEW] * 3
    with database.read() as connection:
        study = instances.load_study(connection, StudyKey(_study_uid(database), 1))
    assert len(study.instances) == 3
    assert study.calling_ae_title == "SCANNER"
    assert study.modalities_in_study == ("CT",)
    for instance, sent in zip(
        sorted(study.instances, key=lambda i: i.sop_instance_uid),
        sorted(received, key=lambda r: r.sop_instance_uid),
        strict=True,
    ):
        assert split_part10(intake.objects.read(instance.location))[1] == sent.data_set


def test_the_same_object_again_is_stored_once(intake: StudyIntake, database: Database) -> None:
    first, second = intake.open(SENDER), intake.open(SENDER)
    (one,) = _objects(1)
    assert first.store(one) is StoredAs.NEW
    written = _bytes_on_disk(intake)
    assert first.store(one) is StoredAs.DUPLICATE
    assert second.store(one) is StoredAs.DUPLICATE
    assert _bytes_on_disk(intake) == written
    with database.read() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM instances")).scalar() == 1


def test_other_bytes_under_a_known_uid_are_kept_and_flagged_and_not_used(
    intake: StudyIntake, database: Database
) -> None:
    reception = intake.open(SENDER)
    (one,) = _objects(1)
    changed = ReceivedObject(
        one.sop_class_uid,
        one.sop_instance_uid,
        one.transfer_syntax_uid,
        one.data_set[:-2] + b"\1\1",
    )
    reception.store(one)
    assert reception.store(changed) is StoredAs.CONFLICT
    with database.read() as connection:
        study = instances.load_study(connection, StudyKey(_study_uid(database), 1))
    (kept,) = study.instances
    assert split_part10(intake.objects.read(kept.location))[1] == one.data_set
    assert _alerts(database) == [OTHER_BYTES]


def test_a_known_instance_under_another_study_is_a_conflict_and_its_transfer_ends_well(
    intake: StudyIntake, database: Database
) -> None:
    (one,) = _objects(1)
    intake.open(SENDER).store(one)
    uid = _study_uid(database).encode()
    other = one.data_set.replace(uid, uid[:-1] + (b"1" if uid[-1:] != b"1" else b"2"))
    reception = intake.open(SENDER)
    moved = ReceivedObject(one.sop_class_uid, one.sop_instance_uid, one.transfer_syntax_uid, other)
    assert reception.store(moved) is StoredAs.CONFLICT
    reception.close(EndOfTransfer.RELEASED)
    assert _alerts(database) == [OTHER_BYTES]
    assert [e.action for e in audit.events(database)] == ["instance.conflict", "study.received"]


def test_a_transfer_of_known_objects_is_on_record_and_ends_the_wait(
    intake: StudyIntake, database: Database, clock: FrozenClock
) -> None:
    aborted, again = intake.open(SENDER), intake.open(SENDER)
    (one,) = _objects(1)
    aborted.store(one)
    aborted.close(EndOfTransfer.ABORTED)
    again.store(one)
    again.close(EndOfTransfer.RELEASED)
    clock.advance(2)
    assert len(_due(database, clock)) == 1
    events = list(audit.events(database))
    assert [(e.detail["instances"], e.detail["duplicates"]) for e in events] == [(1, 0), (0, 1)]


def test_two_patients_in_one_study_hold_it_back(intake: StudyIntake, database: Database) -> None:
    reception = intake.open(SENDER)
    one, other = _objects(2)
    patient_id = one.data_set.index(b"\x10\x00\x20\x00LO") + 8
    stranger = bytearray(other.data_set)
    stranger[patient_id : patient_id + 2] = b"ZZ"
    reception.store(one)
    reception.store(
        ReceivedObject(
            other.sop_class_uid, other.sop_instance_uid, other.transfer_syntax_uid, bytes(stranger)
        )
    )
    with database.read() as connection:
        study = instances.load_study(connection, StudyKey(_study_uid(database), 1))
    assert study.problems == (TWO_PATIENTS,)
    assert _alerts(database) == [TWO_PATIENTS]


def test_a_rejected_object_is_recorded_and_the_next_one_is_stored(
    intake: StudyIntake, database: Database
) -> None:
    reception = intake.open(SENDER)
    (one,) = _objects(1)
    with pytest.raises(RejectedError):
        reception.store(ReceivedObject(CT_IMAGE_STORAGE, "1.2.3", one.transfer_syntax_uid, b""))
    with pytest.raises(RejectedError, match="differ"):
        reception.store(
            ReceivedObject(CT_IMAGE_STORAGE, "1.2.3", one.transfer_syntax_uid, one.data_set)
        )
    assert reception.store(one) is StoredAs.NEW
    assert [e.action for e in audit.events(database)] == ["object.rejected"] * 2


def test_a_released_transfer_is_complete_after_the_quiet_time(
    intake: StudyIntake, database: Database, clock: FrozenClock
) -> None:
    reception = intake.open(SENDER)
    for received in _objects(2):
        reception.store(received)
    clock.advance(29)
    assert _due(database, clock) == []
    reception.close(EndOfTransfer.RELEASED)
    clock.advance(1.9)
    assert _due(database, clock) == [StudyKey(_study_uid(database), 1)]  # 30 s after the last image


def test_release_shortens_the_wait(
    intake: StudyIntake, database: Database, clock: FrozenClock
) -> None:
    reception = intake.open(SENDER)
    reception.store(_objects(1)[0])
    reception.close(EndOfTransfer.RELEASED)
    clock.advance(1.9)
    assert _due(database, clock) == []
    clock.advance(0.1)
    (key,) = _due(database, clock)
    with database.write() as connection:
        assert studies.complete(connection, key, clock.now())
        assert studies.evidence_of(connection, key)["evidence"] == EvidenceKind.ASSOCIATION_RELEASED


def test_an_aborted_transfer_waits_for_stragglers(
    intake: StudyIntake, database: Database, clock: FrozenClock
) -> None:
    reception = intake.open(SENDER)
    reception.store(_objects(1)[0])
    reception.close(EndOfTransfer.ABORTED)
    clock.advance(29)
    assert _due(database, clock) == []
    clock.advance(1)
    assert len(_due(database, clock)) == 1


def test_a_second_open_transfer_keeps_the_study_open(
    intake: StudyIntake, database: Database, clock: FrozenClock
) -> None:
    first, second = intake.open(SENDER), intake.open(SENDER)
    one, two = _objects(2)
    first.store(one)
    second.store(two)
    first.close(EndOfTransfer.RELEASED)
    clock.advance(5)
    assert _due(database, clock) == []
    second.close(EndOfTransfer.RELEASED)
    clock.advance(2)
    assert len(_due(database, clock)) == 1


def test_the_expected_count_needs_no_quiet_time(
    intake: StudyIntake, database: Database, clock: FrozenClock
) -> None:
    reception = intake.open(SENDER)
    one, two = _objects(2)
    reception.store(one)
    key = StudyKey(_study_uid(database), 1)
    with database.write() as connection:
        studies.expect_instances(connection, key, 2, at=clock.now())
    assert _due(database, clock) == []
    reception.store(two)
    assert _due(database, clock) == [key]


def test_a_late_image_opens_a_new_revision_and_a_duplicate_does_not(
    intake: StudyIntake, database: Database, clock: FrozenClock
) -> None:
    reception = intake.open(SENDER)
    one, two = _objects(2)
    reception.store(one)
    clock.advance(31)
    (key,) = _due(database, clock)
    with database.write() as connection:
        studies.complete(connection, key, clock.now())
    reception.store(one)
    clock.advance(31)
    assert _due(database, clock) == []
    reception.store(two)
    clock.advance(31)
    assert _due(database, clock) == [StudyKey(key.study_instance_uid, 2)]


def test_what_a_dead_receiver_had_made_durable_is_adopted(
    intake: StudyIntake, database: Database, clock: FrozenClock
) -> None:
    reception = intake.open(SENDER)
    one, two = _objects(2)
    reception.store(one)
    (writer,) = reception._segments.values()
    writer.append([part10(two)])  # and it died before this one was indexed
    assert adopt_open_associations(intake, "receiver-1") == 1
    assert adopt_open_associations(intake, "receiver-1") == 0
    with database.read() as connection:
        study = instances.load_study(connection, StudyKey(_study_uid(database), 1))
    assert len(study.instances) == 2
    events = [e.action for e in audit.events(database)]
    assert events == ["study.received"]
