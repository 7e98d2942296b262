"""An archive asked by DICOM: C-FIND, C-MOVE and C-GET (PS3.4 annex C, Study Root model)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import build_role, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined, unused-ignore]
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from connectors.dicom.archive_answers import identifier, text_of
from connectors.dicom.archive_config import DicomArchiveConfig
from connectors.dicom.dimse import is_uid
from connectors.dicom.requester import Peer, accepted, association, status_in
from connectors.dicom.retrieval import Outcome, Received
from connectors.dicom.status import SUCCESS
from connectors.dicom.storage_proposals import (
    Proposal,
    proposals,
    proposals_for,
    without_first,
)
from hub.errors import CaidxError, RejectedError, TransientError
from hub.formats.archive_answers import (
    SERIES_KEYS,
    STUDY_KEYS,
    answers_query,
    remote_series,
    remote_study,
)
from hub.ports import ArchiveContext, RemoteSeries, RemoteStudy, StudyQuery
from hub.transport.tls import must_be_usable

_SOP_CLASS_UID, _SOP_INSTANCE_UID = 0x00080016, 0x00080018
_AVAILABLE_TRANSFER_SYNTAX_UID = 0x00083002
_FIND = StudyRootQueryRetrieveInformationModelFind
_GET = StudyRootQueryRetrieveInformationModelGet
_MOVE = StudyRootQueryRetrieveInformationModelMove
_UNCOMPRESSED = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")
_PENDING = frozenset({0xFF00, 0xFF01})
_WITH_WARNINGS = 0xB000
"""One or more failures or warnings (PS3.4 tables C.4-2 and C.4-3): the counts tell which."""
_OUT_OF_RESOURCES = 0xA7
"""0xA700, 0xA701, 0xA702: out of resources (PS3.4 tables C.4-1 and C.4-2)."""
_CANCELLED = 0xFE00
_MOST_AGAIN = 6
"""Further associations of a C-GET for what the archive could not send."""
_UIDS_AT_ONCE = 100
"""SOP Instance UIDs in one request: with 65 bytes each far below a PDU."""


@dataclass(frozen=True, slots=True)
class DicomArchive:
    """`hub.ports.Archive` over DIMSE; each call has an association of its own."""

    config: DicomArchiveConfig
    context: ArchiveContext

    @property
    def _peer(self) -> Peer:
        config = self.config
        return Peer(
            host=config.host,
            port=config.port,
            called_ae_title=config.ae_title,
            calling_ae_title=config.calling_ae_title,
            connect_timeout=config.connect_timeout,
            response_timeout=config.query_timeout,
            maximum_pdu_length=config.maximum_pdu_length,
            tls=config.tls,
        )

    # --- questions ---------------------------------------------------------------------------

    def find_studies(self, query: StudyQuery, limit: int) -> Sequence[RemoteStudy]:
        """C-FIND at study level.

        What an archive matches by wildcard (``*`` and ``?`` in a patient ID) or ignores is
        compared again here: an answer about another patient or study is left out. The issuer is
        no matching key, because many archives know none and would find nothing.
        """
        asked = identifier(
            "STUDY",
            STUDY_KEYS,
            StudyInstanceUID=query.study_instance_uid,
            PatientID=query.patient_id,
            AccessionNumber=query.accession_number,
            StudyDate=query.study_date,
            ModalitiesInStudy=list(query.modalities_in_study) or "",
        )
        found = (remote_study(partial(text_of, answer)) for answer in self._find(asked, limit))
        return [study for study in found if answers_query(study, query)]

    def find_series(self, study_instance_uid: str) -> Sequence[RemoteSeries]:
        """C-FIND at series level."""
        asked = identifier("SERIES", SERIES_KEYS, StudyInstanceUID=study_instance_uid)
        found = (remote_series(partial(text_of, answer)) for answer in self._find(asked))
        return [series for series in found if series is not None]

    def find_instances(self, study_instance_uid: str) -> Mapping[str, str]:
        """C-FIND at image level, once for each series (PS3.4 C.4.1.2.1: hierarchical search)."""
        found: dict[str, str] = {}
        for series in self.find_series(study_instance_uid):
            uid = series.series_instance_uid
            asked = identifier(
                "IMAGE",
                (_SOP_INSTANCE_UID,),
                StudyInstanceUID=study_instance_uid,
                SeriesInstanceUID=uid,
            )
            uids = (text_of(answer, _SOP_INSTANCE_UID) for answer in self._find(asked))
            found |= {sop_instance_uid: uid for sop_instance_uid in uids if sop_instance_uid}
        return found

    def _find(self, asked: Dataset, limit: int | None = None) -> list[Dataset]:
        deadline = time.monotonic() + self.config.query_timeout
        found: list[Dataset] = []
        with association(self._peer, [(_FIND, _UNCOMPRESSED)]) as opened:
            for status, answer in opened.send_c_find(asked, _FIND, msg_id=1):
                code = status_in(status)
                if code in _PENDING:
                    self._in_time(opened, deadline)
                    found.append(self._readable(opened, answer))
                    if limit is not None and len(found) == limit:
                        opened.send_c_cancel(1, query_model=_FIND)
                elif code == _CANCELLED and (limit is None or len(found) < limit):
                    raise TransientError(f"{self._peer} ended the C-FIND before all was told")
                elif code not in {SUCCESS, _CANCELLED}:
                    raise self._refused("C-FIND", code)
        return found if limit is None else found[:limit]

    def _readable(self, opened: Any, answer: Dataset | None) -> Dataset:
        """What is left out of an answer would be taken for something that is not there."""
        if answer is None:
            opened.abort()
            raise TransientError(f"{self._peer} answered the C-FIND with what cannot be read")
        return answer

    # --- studies -----------------------------------------------------------------------------

    def retrieve(
        self,
        study_instance_uid: str,
        series_instance_uid: str = "",
        sop_instance_uids: Sequence[str] = (),
        *,
        within: float,
    ) -> None:
        """C-MOVE to one of the hub's sources, or C-GET into its intake."""
        deadline = time.monotonic() + within
        wanted = list(self._identifiers(study_instance_uid, series_instance_uid, sop_instance_uids))
        for asked in wanted:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TransientError(f"{self._peer} did not send everything in time")
            if self.config.retrieve == "c-get":
                self._get(asked, left)
            else:
                self._move(asked, left)

    def _identifiers(
        self, study_instance_uid: str, series_instance_uid: str, sop_instance_uids: Sequence[str]
    ) -> Iterator[Dataset]:
        study = {"StudyInstanceUID": study_instance_uid}
        if not sop_instance_uids:
            level = "SERIES" if series_instance_uid else "STUDY"
            series = {"SeriesInstanceUID": series_instance_uid} if series_instance_uid else {}
            yield identifier(level, (), **study, **series)
            return
        by_series: dict[str, list[str]] = {}
        if series_instance_uid:
            by_series[series_instance_uid] = list(sop_instance_uids)
        else:
            places = self.find_instances(study_instance_uid)
            for uid in sop_instance_uids:
                if uid not in places:
                    raise RejectedError(f"{self._peer} does not have all of the instances")
                by_series.setdefault(places[uid], []).append(uid)
        for series_uid, uids in by_series.items():
            for start in range(0, len(uids), _UIDS_AT_ONCE):
                some = uids[start : start + _UIDS_AT_ONCE]
                yield identifier(
                    "IMAGE", (), **study, SeriesInstanceUID=series_uid, SOPInstanceUID=some
                )

    def _move(self, asked: Dataset, within: float) -> None:
        destination = self.config.move_destination or self.config.calling_ae_title
        with association(self._patient_peer(within), [(_MOVE, _UNCOMPRESSED)]) as opened:
            answers = opened.send_c_move(asked, destination, _MOVE)
            self._judge("C-MOVE", self._followed(opened, answers, within))

    def _get(self, asked: Dataset, within: float) -> None:
        deadline = time.monotonic() + within
        storage = self._storage_contexts(asked)
        with Received(self.context.intake, self.context.name, self.config) as received:
            self._receive(asked, storage, received, deadline)
            received.finished()

    def _receive(
        self,
        asked: Dataset,
        storage: Sequence[Proposal],
        received: Received,
        deadline: float,
        again: int = _MOST_AGAIN,
    ) -> None:
        """One association; then others for what failed, without the transfer syntaxes that the
        archive tried: some (DCMTK) send all objects of a class on its first context only."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise TransientError(f"{self._peer} did not send everything in time")
        with association(
            self._patient_peer(left),
            [(_GET, _UNCOMPRESSED), *storage],
            roles=[build_role(uid, scp_role=True) for uid in dict(storage)],
            handlers=[(evt.EVT_C_STORE, received.store)],
        ) as opened:
            if not accepted(opened, _GET):
                raise RejectedError(f"{self._peer} does not offer C-GET")
            outcome = self._followed(opened, opened.send_c_get(asked, _GET), left)
            rest = without_first(storage, opened.accepted_contexts)
        if not outcome.failed_uids or received.refused or not again or rest == list(storage):
            self._judge("C-GET", outcome, refused=received.refused)
            return
        series = asked.get("SeriesInstanceUID", "")
        for part in self._identifiers(asked.StudyInstanceUID, series, outcome.failed_uids):
            self._receive(part, rest, received, deadline, again - 1)

    def _storage_contexts(self, asked: Dataset) -> list[Proposal]:
        """For what is asked for. Its SOP classes are asked for first, because an association has
        no room for all classes in all transfer syntaxes."""
        try:
            series = self._series_of(asked)
        except RejectedError:
            return proposals_for(())
        try:
            kinds = self._kinds(asked, [one.series_instance_uid for one in series])
        except RejectedError:
            kinds = {}
        return proposals(kinds) if kinds else proposals_for(one.modality for one in series)

    def _series_of(self, asked: Dataset) -> list[RemoteSeries]:
        wanted = asked.get("SeriesInstanceUID")
        found = self.find_series(asked.StudyInstanceUID)
        return [one for one in found if not wanted or one.series_instance_uid == wanted]

    def _kinds(self, asked: Dataset, series: Sequence[str]) -> dict[str, set[str]]:
        """SOP Class UID -> transfer syntaxes, as far as they are told; empty where a class is not
        answered (neither is a required key, PS3.4 table C.6-4)."""
        kinds: dict[str, set[str]] = {}
        for uid in series:
            question = identifier(
                "IMAGE",
                (_SOP_INSTANCE_UID, _SOP_CLASS_UID, _AVAILABLE_TRANSFER_SYNTAX_UID),
                StudyInstanceUID=asked.StudyInstanceUID,
                SeriesInstanceUID=uid,
                SOPInstanceUID=asked.get("SOPInstanceUID", ""),
            )
            for answer in self._find(question):
                sop_class_uid = text_of(answer, _SOP_CLASS_UID)
                if not is_uid(sop_class_uid):
                    return {}
                syntaxes = text_of(answer, _AVAILABLE_TRANSFER_SYNTAX_UID).split("\\")
                kinds.setdefault(sop_class_uid, set()).update(filter(is_uid, syntaxes))
        return kinds

    def _patient_peer(self, within: float) -> Peer:
        return replace(self._peer, response_timeout=within)

    def _followed(self, opened: Any, answers: Iterator[Any], within: float) -> Outcome:
        """The last answer of a retrieval."""
        deadline = time.monotonic() + within
        outcome = Outcome(None)
        for status, identifying in answers:
            outcome = Outcome.of(status, identifying)
            if outcome.status in _PENDING:
                self._in_time(opened, deadline)
        return outcome

    def _judge(self, service: str, outcome: Outcome, *, refused: str = "") -> None:
        """Only "all of it was sent" is success (PS3.4 C.4.2.1.5, C.4.3.1.4)."""
        if outcome.failed:
            why = f": {refused}" if refused else ""
            total = outcome.failed + (outcome.sent or 0)
            raise TransientError(
                f"{self._peer} could not send {outcome.failed} of {total} instances{why}"
            )
        if outcome.status == _WITH_WARNINGS and outcome.sent:
            return
        if outcome.status != SUCCESS:
            raise self._refused(service, outcome.status)
        if outcome.sent == 0:
            raise RejectedError(f"{self._peer} does not have it")

    def _in_time(self, opened: Any, deadline: float) -> None:
        if time.monotonic() > deadline:
            opened.abort()
            raise TransientError(f"{self._peer} did not finish in time")

    def _refused(self, service: str, status: int | None) -> CaidxError:
        if status is None:
            return TransientError(f"{self._peer} did not answer the {service}")
        text = f"{self._peer} answered the {service} with 0x{status:04X}"
        if status >> 8 == _OUT_OF_RESOURCES:
            # 0xA702 also means that the sub-operations could not be begun: the hub was away.
            return TransientError(text)
        return RejectedError(text)

    # --- the rest ----------------------------------------------------------------------------

    def check(self) -> str:
        """C-ECHO, and whether it lets us query and retrieve."""
        retrieval = _GET if self.config.retrieve == "c-get" else _MOVE
        contexts = [(uid, _UNCOMPRESSED) for uid in (Verification, _FIND, retrieval)]
        with association(self._peer, contexts) as opened:
            missing = [
                name
                for name, uid in (("C-FIND", _FIND), (self.config.retrieve.upper(), retrieval))
                if not accepted(opened, uid)
            ]
            status = status_in(opened.send_c_echo()) if accepted(opened, Verification) else SUCCESS
        if missing:
            raise TransientError(f"{self._peer} does not offer us {' and '.join(missing)}")
        if status != SUCCESS:
            raise self._refused("C-ECHO", status)
        return f"{self._peer} offers C-FIND and {self.config.retrieve.upper()}"

    def close(self) -> None:
        """Nothing stays open between calls."""


def build_archive(config: DicomArchiveConfig, context: ArchiveContext) -> DicomArchive:
    """`hub.ports.Connector.build_archive`.

    Raises:
        ConfigError: the certificates cannot be used.
    """
    must_be_usable(config.tls, f"archives.{context.name}.tls")
    return DicomArchive(config, context)
