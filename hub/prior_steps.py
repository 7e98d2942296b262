"""Between routing and inference, for models that want priors: look for them, have them sent, wait.

A durable job for each request, which looks again until everything is here or the time is over; no
thread waits in between, and a restart loses nothing. Then the request runs, with what was found or
without, and the result says so. What was found is kept with the request (``requests.priors``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from hub.domain.identity import PatientIdentity, derived_uuid
from hub.domain.inference import ImagingInput, InputRole
from hub.domain.model_card import ModelCard
from hub.domain.model_input import PriorsInput
from hub.domain.priors import (
    Candidate,
    candidate_of,
    eligible,
    is_alike,
    prior_series,
    same_patient,
)
from hub.domain.study import Series, Study
from hub.errors import CaidxError, RejectedError
from hub.fetching import Fetching
from hub.ports import Archive, Job, Jobs, RemoteStudy, StudyQuery
from hub.registry import Registry
from hub.store import fetches, instances, results
from hub.store.database import Database
from hub.store.fetches import Fetch, FetchKind, FetchState
from hub.store.journal import Journal
from hub.store.request_ledger import RequestLedger
from hub.store.results import RequestRow, RequestState
from hub.store.studies import latest_whole_revision

PRIORS_JOB, PRIORS_QUEUE = "priors", "priors"
_MOST_STUDIES = 200
"""Of one patient in one archive."""
_LOOKED_INTO = 10
"""Examinations of which an archive is asked for the series, beside those that are wanted."""
_FIRST_LOOK, _LONGEST_LOOK = 0.5, 5.0
"""Seconds between two looks at what has arrived."""

NONE_FOUND = "No prior examination was found."
TIME_OVER = "Not every prior examination arrived within its time limit; the model ran without."
NOT_TOLD = "Priors could not be looked for: the study names no patient ID or no date."


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorSteps:
    """Finds priors for requests, and gives them to the inference step."""

    database: Database
    jobs: Jobs
    journal: Journal
    requests: RequestLedger
    registry: Registry
    fetching: Fetching
    archives: tuple[str, ...] = ()
    """Names of the archives to look in."""
    within: timedelta = field(default=timedelta(seconds=120))

    # --- the job ---------------------------------------------------------------------------------

    def first_job(self, request: RequestRow) -> Job | None:
        """What has to run before a new request; None where its model wants no priors."""
        card = self._card(request)
        return None if card.input.priors is None else _job(request, 0, 0.0)

    def run_priors(self, request_id: str) -> None:
        """The job: search once, then look until the priors are here or the time is over."""
        with self.database.read() as connection:
            row = results.get_request(connection, request_id)
        if row.state is not RequestState.QUEUED or _is_ready(row):
            return
        if row.priors is None:
            self._search(row)
        else:
            self._look(row, row.priors)

    def priors_failed(self, request_id: str, reason: str) -> None:
        """A fault of the hub itself: the request goes on without."""
        with self.database.read() as connection:
            row = results.get_request(connection, request_id)
        if row.state is RequestState.QUEUED and not _is_ready(row):
            self._go_on(row, {}, [], [f"Priors could not be looked for: {reason}."])

    # --- searching -------------------------------------------------------------------------------

    def _search(self, row: RequestRow) -> None:
        with self.database.read() as connection:
            study = instances.load_study(connection, row.study)
            held = self._held(connection, study)
        wish, series = self._wish(row), study.with_series(row.series_instance_uids)
        notes: list[str] = []
        if not study.patient.patient_id or not study.study_date:
            self._go_on(row, {}, [], [NOT_TOLD])
            return
        remote = [c for name in self.archives for c in self._in_archive(name, study, notes)]
        found = eligible(wish, study, (*held, *remote))
        chosen = list(self._chosen(wish, study, series, found, notes))
        now = self.journal.clock.now()
        state = {
            "deadline_at": (now + self.within).isoformat(),
            "chosen": [[c.study_instance_uid, c.archive] for c in chosen],
            "notes": notes,
            "looks": 0,
        }
        with self.database.write() as connection:
            current = results.get_request(connection, row.request_id)
            if current.priors is not None or current.state is not RequestState.QUEUED:
                return
            for candidate in chosen:
                if candidate.archive:
                    self.fetching.start(connection, self._fetch(row, candidate, now))
            results.set_state(connection, row.request_id, RequestState.QUEUED, priors=state)
            self.jobs.enqueue(connection, _job(row, 1, 0.0))
            self._record(connection, "priors.searched", row, chosen=state["chosen"], notes=notes)

    @staticmethod
    def _held(connection: sa.Connection, study: Study) -> list[Candidate]:
        keys = fetches.held_studies_of(connection, study.patient.patient_id)
        return [
            candidate_of(instances.load_study(connection, key))
            for key in keys
            if key.study_instance_uid != study.study_instance_uid
        ]

    def _in_archive(self, name: str, study: Study, notes: list[str]) -> list[Candidate]:
        query = StudyQuery(
            patient_id=study.patient.patient_id,
            issuer_of_patient_id=study.patient.issuer_of_patient_id,
        )
        try:
            found = self._archive(name).find_studies(query, _MOST_STUDIES)
        except CaidxError as error:
            notes.append(f"Archive {name} could not be asked for priors: {error}.")
            return []
        return [_candidate(remote, name) for remote in found]

    def _chosen(
        self,
        wish: PriorsInput,
        study: Study,
        series: tuple[Series, ...],
        found: Sequence[Candidate],
        notes: list[str],
    ) -> Iterator[Candidate]:
        """The newest that are alike; archives are asked for their series, as far as needed."""
        left, questions = wish.maximum, wish.maximum + _LOOKED_INTO
        for candidate in found:
            if left == 0:
                return
            known = candidate
            if is_alike(wish, study, series, known) and known.archive and questions:
                questions -= 1
                known = self._with_series(known, notes)
            if is_alike(wish, study, series, known):
                left -= 1
                yield known

    def _with_series(self, candidate: Candidate, notes: list[str]) -> Candidate:
        uid, name = candidate.study_instance_uid, candidate.archive
        try:
            found = self._archive(name).find_series(uid)
        except CaidxError as error:
            notes.append(f"Archive {name} could not be asked for priors: {error}.")
            return candidate
        return Candidate(
            study_instance_uid=uid,
            patient=candidate.patient,
            study_date=candidate.study_date,
            study_time=candidate.study_time,
            study_description=candidate.study_description,
            modalities=tuple(sorted({s.modality for s in found} - {""})) or candidate.modalities,
            body_parts=tuple(sorted({s.body_part_examined for s in found} - {""})),
            archive=name,
        )

    def _archive(self, name: str) -> Archive:
        archive = self.fetching.archives.get(name)
        if archive is None:
            raise RejectedError(f"there is no archive {name}")
        return archive

    def _fetch(self, row: RequestRow, candidate: Candidate, now: datetime) -> Fetch:
        uid = candidate.study_instance_uid
        return Fetch(
            fetch_id=str(derived_uuid("fetch", "prior", row.request_id, uid)),
            study_instance_uid=uid,
            request_id=row.request_id,
            kind=FetchKind.PRIOR,
            archive=candidate.archive,
            asked_at=now,
            deadline_at=now + self.within,
        )

    # --- waiting ---------------------------------------------------------------------------------

    def _look(self, row: RequestRow, state: Mapping[str, Any]) -> None:
        """Is everything here that is going to come?"""
        now, notes = self.journal.clock.now(), list(state["notes"])
        is_over = now >= datetime.fromisoformat(state["deadline_at"])
        with self.database.read() as connection:
            study = instances.load_study(connection, row.study)
            asked = fetches.of_request(connection, row.request_id)
            fetched = {fetch.study_instance_uid: fetch for fetch in asked}
            waiting, used = False, list[str]()
            for uid, _ in state["chosen"]:
                fetch = fetched.get(uid)
                is_sent = fetch is None or fetch.state is FetchState.DONE
                here = _prior(connection, uid) if is_sent else None
                if here is None:
                    waiting |= _may_come(connection, fetch, uid)
                elif self._suits(row, study, here, notes):
                    used.append(uid)
        if waiting and not is_over:
            self._look_again(row, state)
            return
        if waiting:
            notes.append(TIME_OVER)
        notes += _what_failed(fetched.values())
        self._go_on(row, state, used, notes)

    def _suits(self, row: RequestRow, study: Study, prior: Study, notes: list[str]) -> bool:
        """By its own headers: what an archive says of a study may be wrong or missing."""
        if prior.problems or not all(
            same_patient(study.patient, instance.patient) for instance in prior.instances
        ):
            notes.append("A prior examination was left out: it is not surely the same patient's.")
            return False
        series = study.with_series(row.series_instance_uids)
        return bool(prior_series(self._wish(row), series, prior))

    def _look_again(self, row: RequestRow, state: Mapping[str, Any]) -> None:
        looks = int(state["looks"]) + 1
        delay = min(_LONGEST_LOOK, _FIRST_LOOK * 1.5 ** min(looks, 10))
        with self.database.write() as connection:
            current = results.get_request(connection, row.request_id)
            if current.state is not RequestState.QUEUED or current.priors != state:
                return  # another worker went on: this one was thought dead
            results.set_state(
                connection, row.request_id, RequestState.QUEUED, priors={**state, "looks": looks}
            )
            self.jobs.enqueue(connection, _job(row, looks + 1, delay))

    def _go_on(
        self, row: RequestRow, state: Mapping[str, Any], used: list[str], notes: list[str]
    ) -> None:
        """That is all: the request runs."""
        if not used:
            notes = [*notes, NONE_FOUND]
        notes = list(dict.fromkeys(notes))
        with self.database.write() as connection:
            current = results.get_request(connection, row.request_id)
            if current.state is not RequestState.QUEUED or _is_ready(current):
                return
            ready = {**state, "used": used, "notes": notes}
            results.set_state(connection, row.request_id, RequestState.QUEUED, priors=ready)
            self.requests.start(connection, row)
            self._record(connection, "priors.ready", row, used=used, notes=notes)

    # --- for the inference step ------------------------------------------------------------------

    def inputs(
        self, connection: sa.Connection, row: RequestRow, study: Study
    ) -> tuple[ImagingInput, ...]:
        """The priors of a request that is about to run, the newest first."""
        if row.priors is None:
            return ()
        return prior_inputs(connection, row, study, self._wish(row))

    def _wish(self, row: RequestRow) -> PriorsInput:
        return self._card(row).input.priors or PriorsInput()

    def _card(self, row: RequestRow) -> ModelCard:
        """Of the version that a request is pinned to."""
        return self.registry.card(row.model) or self.registry.pinned(row.model).package.card

    def _record(
        self, connection: sa.Connection, action: str, row: RequestRow, **detail: object
    ) -> None:
        entity, uid = f"request:{row.request_id}", row.study.study_instance_uid
        self.journal.record(connection, action, entity, uid, **detail)  # type: ignore[arg-type]


def prior_inputs(
    connection: sa.Connection, row: RequestRow, study: Study, wish: PriorsInput
) -> tuple[ImagingInput, ...]:
    """The priors that were found for a request, the newest first."""
    if row.priors is None:
        return ()
    current = study.with_series(row.series_instance_uids)
    found = (_prior(connection, uid) for uid in row.priors.get("used", ()))
    return tuple(
        ImagingInput(InputRole.PRIOR, prior_series(wish, current, prior))
        for prior in found
        if prior is not None
    )


def prior_notes(row: RequestRow) -> tuple[str, ...]:
    """What the result has to say about its priors."""
    return () if row.priors is None else tuple(row.priors.get("notes", ()))


def too_few_priors(card: ModelCard, inputs: Sequence[ImagingInput]) -> tuple[str, ...]:
    """Why the model must not be asked without priors; empty when it may."""
    wish = card.input.priors
    found = sum(given.role is InputRole.PRIOR for given in inputs)
    if wish is None or found >= wish.minimum:
        return ()
    return (f"The model needs {wish.minimum} prior examinations; there are {found}.",)


def _prior(connection: sa.Connection, study_instance_uid: str) -> Study | None:
    """A study that is wholly here."""
    if fetches.is_arriving(connection, study_instance_uid):
        return None
    key = latest_whole_revision(connection, study_instance_uid)
    if key is None:
        return None
    try:
        return instances.load_study(connection, key)
    except RejectedError:  # its images were deleted meanwhile
        return None


def _may_come(connection: sa.Connection, fetch: Fetch | None, uid: str) -> bool:
    """Whether it makes sense to wait for a prior that is not here."""
    if fetch is not None:
        return fetch.state in {FetchState.RUNNING, FetchState.DONE}
    return fetches.is_arriving(connection, uid)


def _what_failed(fetched: Any) -> Iterator[str]:
    for fetch in fetched:
        if fetch.state in {FetchState.NOTHING_FOUND, FetchState.FAILED, FetchState.TIMED_OUT}:
            yield f"A prior examination could not be fetched from {fetch.archive}: {fetch.detail}."


def _candidate(remote: RemoteStudy, archive: str) -> Candidate:
    return Candidate(
        study_instance_uid=remote.study_instance_uid,
        patient=PatientIdentity(
            patient_id=remote.patient_id,
            issuer_of_patient_id=remote.issuer_of_patient_id,
            patient_birth_date=remote.patient_birth_date,
        ),
        study_date=remote.study_date,
        study_time=remote.study_time,
        study_description=remote.study_description,
        modalities=tuple(remote.modalities_in_study),
        archive=archive,
    )


def _is_ready(row: RequestRow) -> bool:
    return row.priors is not None and "used" in row.priors


def _job(row: RequestRow, look: int, delay_seconds: float) -> Job:
    return Job(
        kind=PRIORS_JOB,
        queue=PRIORS_QUEUE,
        job_id=f"priors:{row.request_id}:{look}",
        argument=row.request_id,
        priority=int(row.priority),
        delay_seconds=delay_seconds,
    )
