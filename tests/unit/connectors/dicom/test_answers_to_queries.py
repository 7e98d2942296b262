"""What an archive answers to a C-FIND: only what was understood wholly says what it has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from pydicom.dataset import Dataset

from connectors.dicom import archive as archive_module
from hub.errors import TransientError
from hub.ports import StudyQuery
from tests.unit.connectors.dicom.test_retrieval import ARCHIVE, response

PENDING, CANCELLED, SUCCESS = 0xFF00, 0xFE00, 0x0000
UID = "1.2.3"


def study(uid: str = UID) -> Dataset:
    found = Dataset()
    found.StudyInstanceUID = uid
    return found


@dataclass
class Archive:
    """As an association of pynetdicom: it yields None for an identifier that it cannot decode."""

    answers: list[tuple[int, Dataset | None]]
    cancelled: bool = False
    aborted: bool = False
    accepted_contexts: list[Any] = field(default_factory=list)

    def send_c_find(self, *_: object, **__: object) -> Iterator[tuple[Dataset, Dataset | None]]:
        return ((response(status), answer) for status, answer in self.answers)

    def send_c_cancel(self, *_: object, **__: object) -> None:
        self.cancelled = True

    def abort(self) -> None:
        self.aborted = True


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Archive:
    answering = Archive([])

    @contextmanager
    def association(*_: object, **__: object) -> Iterator[Archive]:
        yield answering

    monkeypatch.setattr(archive_module, "association", association)
    return answering


def found(limit: int = 5) -> list[str]:
    studies = ARCHIVE.find_studies(StudyQuery(study_instance_uid=UID), limit)
    return [one.study_instance_uid for one in studies]


def test_what_it_has_is_found(peer: Archive) -> None:
    peer.answers = [(PENDING, study()), (SUCCESS, None)]
    assert found() == [UID]
    peer.answers = [(SUCCESS, None)]
    assert found() == []


@pytest.mark.parametrize("others", [[], [(PENDING, study("1.2.4"))]])
def test_an_answer_that_cannot_be_read_is_not_taken_for_none(
    peer: Archive, others: list[tuple[int, Dataset | None]]
) -> None:
    peer.answers = [*others, (PENDING, None), (SUCCESS, None)]
    with pytest.raises(TransientError, match="cannot be read"):
        found()
    assert peer.aborted


def test_whoever_ends_the_search_himself_gets_what_he_wanted(peer: Archive) -> None:
    peer.answers = [(PENDING, study()), (PENDING, study("1.2.4")), (CANCELLED, None)]
    assert found(limit=1) == [UID]
    assert peer.cancelled


def test_a_search_that_the_archive_ended_is_not_taken_for_a_whole_one(peer: Archive) -> None:
    peer.answers = [(CANCELLED, None)]
    with pytest.raises(TransientError, match="before all was told"):
        found()
    peer.answers = [(PENDING, study()), (CANCELLED, None)]
    with pytest.raises(TransientError, match="before all was told"):
        ARCHIVE.find_series(UID)
