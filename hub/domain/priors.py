"""Which earlier examinations a model is given beside the current one. Pure.

Nothing reaches the wrong patient: an examination counts as the same patient's only where nothing
contradicts it and something confirms it (`same_patient`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

from hub.domain.identity import PatientIdentity
from hub.domain.inference import InferenceRequest, InputRole
from hub.domain.model_input import PriorsInput
from hub.domain.study import Series, Study


@dataclass(frozen=True, slots=True)
class Candidate:
    """An examination that may be a prior, as the hub or an archive describes it."""

    study_instance_uid: str
    patient: PatientIdentity
    study_date: str
    study_time: str = ""
    study_description: str = ""
    modalities: tuple[str, ...] = ()
    """Empty where nobody says."""
    body_parts: tuple[str, ...] = ()
    """Empty where nobody says."""
    archive: str = ""
    """Where it lies; empty: the hub holds it."""


def candidate_of(study: Study) -> Candidate:
    """An examination that the hub holds."""
    return Candidate(
        study_instance_uid=study.study_instance_uid,
        patient=study.patient,
        study_date=study.study_date,
        study_time=study.study_time,
        study_description=study.study_description,
        modalities=study.modalities_in_study,
        body_parts=tuple(sorted(_body_parts(study.series))),
    )


def same_patient(one: PatientIdentity, other: PatientIdentity) -> bool:
    """Whether two records are surely of one patient: the same patient ID, from the same issuer.

    Where one of them names no issuer, the same birth date has to confirm it: a patient ID alone may
    be a placeholder, or another hospital's. Different birth dates are different patients, whatever
    else agrees.
    """
    if not may_be_same_patient(one, other):
        return False
    confirmed_by_issuer = bool(one.issuer_of_patient_id and other.issuer_of_patient_id)
    return confirmed_by_issuer or bool(one.patient_birth_date and other.patient_birth_date)


def may_be_same_patient(one: PatientIdentity, other: PatientIdentity) -> bool:
    """Whether nothing speaks against it: enough to look at an examination, not to use it."""
    if not one.patient_id or one.patient_id != other.patient_id:
        return False
    pairs = (
        (one.patient_birth_date, other.patient_birth_date),
        (one.issuer_of_patient_id, other.issuer_of_patient_id),
    )
    return not any(all(pair) and pair[0] != pair[1] for pair in pairs)


def eligible(
    wish: PriorsInput, study: Study, candidates: Iterable[Candidate]
) -> tuple[Candidate, ...]:
    """Examinations of the same patient before this one and not too old, the newest first; one
    that the hub holds goes before the same one in an archive."""
    current = _date(study.study_date)
    if current is None:
        return ()
    found: dict[str, Candidate] = {}
    for candidate in candidates:
        uid = candidate.study_instance_uid
        # An archive may tell too little; when its images are here, their headers decide.
        is_one = may_be_same_patient if candidate.archive else same_patient
        if not _is_before(candidate, study) or not is_one(study.patient, candidate.patient):
            continue
        age = (current - (_date(candidate.study_date) or current)).days
        if wish.maximum_age_days is not None and age > wish.maximum_age_days:
            continue
        if uid not in found or (found[uid].archive and not candidate.archive):
            found[uid] = candidate
    return tuple(
        sorted(
            found.values(),
            key=lambda c: (c.study_date, c.study_time, c.study_instance_uid),
            reverse=True,
        )
    )


def is_alike(
    wish: PriorsInput, study: Study, series: tuple[Series, ...], candidate: Candidate
) -> bool:
    """Whether it is the kind of examination that the model wants beside these series. What nobody
    says of it does not rule it out: its own headers decide when it is here (`prior_series`)."""
    modalities, parts = {one.modality for one in series}, _body_parts(series)
    known = {_plain(part) for part in candidate.body_parts}
    others = set(candidate.modalities)
    if "modality" in wish.same and others and modalities.isdisjoint(others):
        return False
    if "body-part" in wish.same and (not parts or (known and parts.isdisjoint(known))):
        return False
    if "procedure" in wish.same:
        return _plain(candidate.study_description) == _plain(study.study_description) != ""
    return True


def prior_series(wish: PriorsInput, series: tuple[Series, ...], prior: Study) -> tuple[Series, ...]:
    """Those series of a prior that the model wants beside these; unknown is not the same."""
    modalities, parts = {one.modality for one in series}, _body_parts(series)
    return tuple(
        one
        for one in prior.series
        if ("modality" not in wish.same or one.modality in modalities)
        and ("body-part" not in wish.same or not parts.isdisjoint(_body_parts((one,))))
    )


def _body_parts(series: tuple[Series, ...]) -> set[str]:
    return {_plain(one.attribute("body_part_examined")) for one in series} - {""}


def foreign_priors(request: InferenceRequest) -> tuple[str, ...]:
    """Why the priors of a request must not reach the model; empty when they may."""
    study = request.study
    instances = [
        instance
        for given in request.images
        if given.role is InputRole.PRIOR
        for series in given.series
        for instance in series.instances
    ]
    problems = []
    if any(not same_patient(study.patient, instance.patient) for instance in instances):
        problems.append("a prior of another patient")
    if any(instance.study_instance_uid == study.study_instance_uid for instance in instances):
        problems.append("the study itself as its prior")
    return tuple(problems)


def _is_before(candidate: Candidate, study: Study) -> bool:
    """On an earlier day, or on the same day at an earlier time that both name."""
    if candidate.study_instance_uid == study.study_instance_uid:
        return False
    then, now = _date(candidate.study_date), _date(study.study_date)
    if then is None or now is None or then > now:
        return False
    times = (candidate.study_time, study.study_time)
    return then < now or (all(times) and times[0] < times[1])


def _date(text: str) -> date | None:
    if len(text) != len("YYYYMMDD") or not text.isdecimal():
        return None
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:]))
    except ValueError:
        return None


def _plain(text: str) -> str:
    return " ".join(text.split()).upper()
