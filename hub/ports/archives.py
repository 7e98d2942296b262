"""Studies that lie elsewhere, and those that the hub holds for others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hub.domain.study import Instance, Location


@dataclass(frozen=True, slots=True)
class StudyQuery:
    """Matching keys of a study-level query (PS3.4 C.6.2.1); empty ones match all."""

    study_instance_uid: str = ""
    patient_id: str = ""
    issuer_of_patient_id: str = ""
    accession_number: str = ""
    study_date: str = ""
    """A date or a range (PS3.4 C.2.2.2.5)."""
    modalities_in_study: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RemoteStudy:
    """A study as an archive describes it; texts are empty where it tells none."""

    study_instance_uid: str
    patient_id: str = ""
    issuer_of_patient_id: str = ""
    patient_birth_date: str = ""
    accession_number: str = ""
    study_date: str = ""
    study_time: str = ""
    study_description: str = ""
    modalities_in_study: tuple[str, ...] = ()
    number_of_instances: int | None = None
    number_of_series: int | None = None
    patient_name: str = field(default="", repr=False)
    patient_sex: str = ""
    referring_physician_name: str = field(default="", repr=False)
    study_id: str = ""


@dataclass(frozen=True, slots=True)
class RemoteSeries:
    """A series as an archive describes it."""

    series_instance_uid: str
    modality: str = ""
    series_description: str = ""
    body_part_examined: str = ""
    number_of_instances: int | None = None


class Archive(Protocol):
    """Where studies lie that the hub may ask for; thread-safe, and every call has a time limit."""

    def find_studies(self, query: StudyQuery, limit: int) -> Sequence[RemoteStudy]:
        """Raises:
        TransientError: it cannot be asked now.
        RejectedError: it refuses the question.
        """
        ...

    def find_series(self, study_instance_uid: str) -> Sequence[RemoteSeries]:
        """As ``find_studies``."""
        ...

    def find_instances(self, study_instance_uid: str) -> Mapping[str, str]:
        """SOP Instance UID -> Series Instance UID. As ``find_studies``."""
        ...

    def retrieve(
        self,
        study_instance_uid: str,
        series_instance_uid: str = "",
        sop_instance_uids: Sequence[str] = (),
        *,
        within: float,
    ) -> None:
        """Have a study, or a part of it, sent into the hub's intake; return when the archive says
        that it has sent all of it.

        Raises:
            TransientError: not, or not all, within so many seconds.
            RejectedError: it does not have it, or will not send it.
        """
        ...

    def check(self) -> str:
        """As ``Destination.check``."""
        ...

    def close(self) -> None: ...


class Holdings(Protocol):
    """The studies that the hub itself holds, for whoever serves them on."""

    def find_studies(self, query: StudyQuery, limit: int, offset: int = 0) -> Sequence[RemoteStudy]:
        """The newest first; the counts are of what is held."""
        ...

    def instances(
        self, study_instance_uid: str, series_instance_uid: str = "", sop_instance_uid: str = ""
    ) -> Sequence[Instance]:
        """What is held of a study, a series or an instance, in the order of series and instance
        number; nothing where nothing is held, or the study is held back."""
        ...

    def read(self, location: Location) -> bytes:
        """As ``ObjectStore.read``."""
        ...
