"""The input gate: is this input within the model's intended use? Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import date
from itertools import pairwise

from hub.domain.model_card import IntendedUse, ModelCard
from hub.domain.model_input import ObservationsInput, VolumeInput
from hub.domain.observed_input import ValueIn, chosen_input, feeds, same_unit
from hub.domain.study import Instance, Series, Study

_AGE = re.compile(r"(\d{3})([DWMY])")
_YEARS_PER_UNIT = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}
_SPACING_SLACK = 1.001
"""Positions are decimal texts: a spacing may exceed its limit by rounding."""


def unsuitable_reasons(
    card: ModelCard, study: Study, series: tuple[Series, ...], value_in: ValueIn = same_unit
) -> tuple[str, ...]:
    """Why the model must not run on these series, or on the values of this case; empty when it may.

    Sentences for people at the modality or the viewer. They name header values and measured
    values, never the patient. What the input does not say counts as unsuitable where the intended
    use needs it.

    Args:
        value_in: how measured values become those of another unit; left out, none do.
    """
    use = card.intended_use
    reasons = [*_age(card, study, series), *_sex(use, study)]
    if isinstance(card.input, ObservationsInput):
        if not study.is_case:
            return ("The model reads measured values, not images.", *reasons)
        return (*chosen_input(card, study, value_in).reasons, *reasons)
    if study.is_case:
        return ("The model reads images, not measured values.", *reasons)
    if len(series) != 1:
        return (f"The model reads one series; {len(series)} were chosen.", *reasons)
    chosen = series[0]
    if not chosen.instances:
        return ("The chosen series is empty.", *reasons)
    return (
        *_kind(use, chosen),
        *_body_part(use, chosen),
        *_contrast(use, chosen),
        *_count(card, chosen),
        *_slices(use, chosen),
        *reasons,
    )


def _kind(use: IntendedUse, series: Series) -> Iterator[str]:
    if series.modality not in use.modalities:
        found = series.modality or "unknown"
        yield f"The modality is {found}; the model is for {_listed(use.modalities)}."
    other = {i.sop_class_uid for i in series.instances} - set(use.sop_classes)
    if other:
        yield f"The objects are of a kind the model is not for (SOP class {_listed(other)})."


def _body_part(use: IntendedUse, series: Series) -> Iterator[str]:
    found = {i.attributes.get("body_part_examined", "").strip().upper() for i in series.instances}
    if use.body_parts and not found <= {part.upper() for part in use.body_parts}:
        named = _listed(part or "not given" for part in found)
        yield f"The body part is {named}; the model is for {_listed(use.body_parts)}."
    excluded = found & {part.upper() for part in use.excluded_body_parts}
    if excluded:
        yield f"The body part is {_listed(excluded)}; the model must not be used for it."


def _contrast(use: IntendedUse, series: Series) -> Iterator[str]:
    """Of a multi-frame object the worker looks itself: it codes its agent in a sequence."""
    yield from _agent(
        use,
        [
            bool(i.attributes.get("contrast_bolus_agent", "").strip())
            for i in series.instances
            if not i.is_multi_frame
        ],
    )


def _agent(use: IntendedUse, given: list[bool]) -> Iterator[str]:
    if use.contrast == "required" and not all(given):
        yield "The series is without contrast agent; the model needs it."
    if use.contrast == "forbidden" and any(given):
        yield "The series is with contrast agent; the model is for images without."


def _count(card: ModelCard, series: Series) -> Iterator[str]:
    count, fewest = len(series.instances), card.intended_use.minimum_instances
    images = sum(instance.frames for instance in series.instances)
    if images < fewest:
        yield f"The series has {images} images; the model needs at least {fewest}."
    if count > 1 and not isinstance(card.input, VolumeInput):
        yield f"The series has {count} objects; the model reads a single one."


# --- the patient -------------------------------------------------------------------------


def _age(card: ModelCard, study: Study, series: tuple[Series, ...]) -> Iterator[str]:
    use, is_fed = card.intended_use, "age_years" in feeds(card)
    if use.minimum_age_years is None and use.maximum_age_years is None and not is_fed:
        return
    age = age_years(study, series)
    if age is None:
        wish = "needs it" if is_fed else "has an age limit"
        yield f"The patient's age is not known; the model {wish}."
        return
    if use.minimum_age_years is not None and age < use.minimum_age_years:
        yield f"The patient is younger than {use.minimum_age_years:g} years."
    if use.maximum_age_years is not None and age >= use.maximum_age_years + 1:
        yield f"The patient is older than {use.maximum_age_years:g} years."


def age_years(study: Study, series: tuple[Series, ...]) -> float | None:
    """From birth date and study date: whole years, below one a fraction; otherwise from PatientAge
    (0010,1010), VR AS. None where nobody says."""
    born, examined = _date(study.patient.patient_birth_date), _date(study.study_date)
    if born and examined and born <= examined:
        before_birthday = (examined.month, examined.day) < (born.month, born.day)
        whole = examined.year - born.year - before_birthday
        return whole or (examined - born).days / 365.25
    for one in series:
        matched = _AGE.fullmatch(one.attribute("patient_age").strip())
        if matched:
            return int(matched[1]) * _YEARS_PER_UNIT[matched[2]]
    return None


def _date(text: str) -> date | None:
    if not re.fullmatch(r"\d{8}", text):
        return None
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:]))
    except ValueError:
        return None


def _sex(use: IntendedUse, study: Study) -> Iterator[str]:
    found = study.patient.patient_sex
    if use.sexes and found not in use.sexes:
        stated = f"is {found}" if found else "is not given"
        yield f"The patient's sex {stated}; the model is for {_listed(use.sexes)}."


# --- geometry ----------------------------------------------------------------------------


def _slices(use: IntendedUse, series: Series) -> Iterator[str]:
    """Of multi-frame objects the worker looks itself, by :func:`frame_reasons`."""
    images = [i for i in series.instances if not i.is_multi_frame]
    if images:
        yield from _distances(
            use, [i.slice_thickness for i in images], [slice_depth(i) for i in images]
        )


def frame_reasons(
    use: IntendedUse,
    *,
    thicknesses: Iterable[float | None],
    depths: Iterable[float | None],
    has_contrast: Iterable[bool],
) -> tuple[str, ...]:
    """What the index cannot tell of multi-frame objects: why the model must not run on these
    frames. Thickness and place along the normal in mm, ``None`` where a frame does not say."""
    return (*_agent(use, list(has_contrast)), *_distances(use, list(thicknesses), list(depths)))


def _distances(
    use: IntendedUse, thicknesses: list[float | None], depths: list[float | None]
) -> Iterator[str]:
    limit = use.maximum_slice_thickness_mm
    if limit is not None:
        known = [value for value in thicknesses if value is not None]
        if len(known) < len(thicknesses):
            yield f"The slice thickness is not given; the model is for at most {limit:g} mm."
        elif max(known) > limit:
            yield f"The slices are {max(known):g} mm thick; the model is for at most {limit:g} mm."
    limit = use.maximum_slice_spacing_mm
    if limit is not None and len(depths) > 1:
        places = sorted(depth for depth in depths if depth is not None)
        if len(places) < len(depths):
            yield "The positions of the slices are not given; their distance is not known."
            return
        widest = max(after - before for before, after in pairwise(places))
        if widest > limit * _SPACING_SLACK:
            yield f"The slices are {widest:.1f} mm apart; the model is for at most {limit:g} mm."


def slice_depth(instance: Instance) -> float | None:
    """Position along the normal of the slice in mm (PS3.3 C.7.6.2.1.1)."""
    position, cosines = instance.image_position_patient, instance.image_orientation_patient
    if position is None or cosines is None:
        return None
    a, b, c, d, e, f = cosines
    normal = (b * f - c * e, c * d - a * f, a * e - b * d)
    return sum(p * n for p, n in zip(position, normal, strict=True))


def _listed(values: Iterable[str]) -> str:
    return ", ".join(sorted(values))
