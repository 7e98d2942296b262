"""What the hub says that it holds, on both databases."""

from __future__ import annotations

import io
from collections.abc import Iterable

import pydicom
import pytest
import sqlalchemy as sa
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from hub.errors import IntegrityError
from hub.formats.dicom.header import split_part10
from hub.ports import ReceivedObject, StudyQuery
from hub.store import schema
from hub.store.database import Database
from hub.store.holdings import StoredHoldings
from tests.fakes import FrozenClock
from tests.stored import StoreBench

CT = "1.2.840.10008.5.1.4.1.1.2"


def received(uid: str, study: str, series: int = 1, **fields: object) -> ReceivedObject:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.StudyInstanceUID = CT, uid, study
    dataset.SeriesInstanceUID, dataset.Modality, dataset.SeriesNumber = f"{study}.{series}", "CT", 1
    dataset.PatientID, dataset.PatientName, dataset.AccessionNumber = (
        f"P{study}",
        "A^B",
        f"A{study}",
    )
    dataset.StudyDate, dataset.StudyID, dataset.PatientSex = "20260314", "7", "F"
    for keyword, value in fields.items():
        setattr(dataset, keyword, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    syntax, data_set = split_part10(buffer.getvalue())
    return ReceivedObject(CT, uid, syntax, data_set)


@pytest.fixture
def holdings(bench: StoreBench, database: Database, clock: FrozenClock) -> StoredHoldings:
    """Three studies, one after another."""
    objects: list[Iterable[ReceivedObject]] = [
        [
            received("1.1.12", "1.1", InstanceNumber=2),
            received("1.1.11", "1.1", InstanceNumber=10),
            received("1.1.21", "1.1", series=2, Modality="SR", SeriesNumber=0),
        ],
        [received("1.2.1", "1.2", StudyDate="20250101")],
        [received("1.3.1", "1.3", StudyDate="", Modality="MR")],
    ]
    for transfer in objects:
        bench.store(transfer)
        clock.advance(1)
    return StoredHoldings(database, bench.objects)


def uids(holdings: StoredHoldings, limit: int = 10, offset: int = 0, **keys: object) -> list[str]:
    query = StudyQuery(**keys)  # type: ignore[arg-type]
    return [study.study_instance_uid for study in holdings.find_studies(query, limit, offset)]


def test_studies_come_the_newest_first_and_in_pages(holdings: StoredHoldings) -> None:
    assert uids(holdings) == ["1.3", "1.2", "1.1"]
    assert uids(holdings, 2) == ["1.3", "1.2"]
    assert uids(holdings, 2, 2) == ["1.1"]
    assert uids(holdings, 2, 3) == []


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"study_instance_uid": "1.2"}, ["1.2"]),
        ({"patient_id": "P1.1"}, ["1.1"]),
        ({"accession_number": "A1.3"}, ["1.3"]),
        ({"study_date": "20260314"}, ["1.1"]),
        ({"study_date": "20250101-20251231"}, ["1.2"]),
        ({"study_date": "-20260314"}, ["1.2", "1.1"]),
        ({"modalities_in_study": ("SR", "MR")}, ["1.3", "1.1"]),
        ({"patient_id": "P%"}, []),
    ],
)
def test_keys_are_matched(
    holdings: StoredHoldings, keys: dict[str, object], expected: list[str]
) -> None:
    assert uids(holdings, **keys) == expected


def test_a_study_is_described_as_far_as_it_is_held(holdings: StoredHoldings) -> None:
    (study,) = holdings.find_studies(StudyQuery(study_instance_uid="1.1"), 10)
    assert (study.number_of_instances, study.number_of_series) == (3, 2)
    assert study.modalities_in_study == ("CT", "SR")
    assert (study.patient_name, study.patient_sex, study.study_id) == ("A^B", "F", "7")


def test_instances_come_in_the_order_of_their_numbers(holdings: StoredHoldings) -> None:
    assert [i.sop_instance_uid for i in holdings.instances("1.1")] == ["1.1.21", "1.1.12", "1.1.11"]
    assert len(holdings.instances("1.1", "1.1.1")) == 2
    assert len(holdings.instances("1.1", "1.1.1", "1.1.21")) == 0
    (one,) = holdings.instances("1.1", "", "1.1.21")
    assert (
        split_part10(holdings.read(one.location))[1]
        == received("1.1.21", "1.1", series=2, Modality="SR", SeriesNumber=0).data_set
    )


@pytest.mark.parametrize("column", ["problems", "purged_at"])
def test_what_is_held_back_or_purged_is_not_there(
    holdings: StoredHoldings, database: Database, clock: FrozenClock, column: str
) -> None:
    value: object = ["another patient"] if column == "problems" else clock.now()
    with database.write() as connection:
        connection.execute(
            sa.update(schema.studies)
            .where(schema.studies.c.study_instance_uid == "1.2")
            .values({column: value})
        )
    assert uids(holdings) == ["1.3", "1.1"]
    assert uids(holdings, study_instance_uid="1.2") == []
    assert holdings.instances("1.2") == []


def test_an_object_in_conflict_is_not_there(holdings: StoredHoldings, bench: StoreBench) -> None:
    bench.store([received("1.1.11", "1.1", InstanceNumber=11)])
    (study,) = holdings.find_studies(StudyQuery(study_instance_uid="1.1"), 10)
    found = holdings.instances("1.1")
    assert study.number_of_instances in {None, 3}
    assert len(found) == 3
    assert next(i for i in found if i.sop_instance_uid == "1.1.11").instance_number == 10


def test_what_is_gone_cannot_be_read(holdings: StoredHoldings) -> None:
    (one,) = holdings.instances("1.2")
    location = type(one.location)(one.location.segment, one.location.offset + 8, 8)
    with pytest.raises(IntegrityError):
        holdings.read(location)
