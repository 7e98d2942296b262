"""The measured values that a report on a case rests on, in words and in time."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, tzinfo

from hub.domain.inference import InferenceRequest
from hub.domain.model_card import ModelCard
from hub.domain.model_input import ObservationsInput
from hub.domain.observation import Observation


def values_of(request: InferenceRequest, ids: Collection[str] = ()) -> tuple[Observation, ...]:
    """The values that the model was given, or those of them with these ids."""
    given = request.observations
    return tuple(one for one in given if one.observation_id in ids) if ids else given


def measured_at(request: InferenceRequest, ids: Collection[str] = ()) -> datetime:
    """When the newest of them was measured (UTC); where nobody says, when it was ordered."""
    moments = [one.effective_at for one in values_of(request, ids)]
    known = [moment for moment in moments if moment is not None]
    return max(known, default=request.study.received_at)


def value_lines(request: InferenceRequest, card: ModelCard, zone: tzinfo) -> list[str]:
    """``AST 31 U/L, measured 2026-02-28 07:30 (LOINC 1920-8, from ehr)``, for each in the order of
    the model's input; times are local."""
    return [_line(one, card, zone) for one in values_of(request)]


def _line(one: Observation, card: ModelCard, zone: tzinfo) -> str:
    code = next((c.code_value for c in one.codes if c.coding_scheme_designator == "LN"), "")
    unit = one.unit.code_value if one.unit is not None else ""
    value = "no number" if one.value is None else f"{one.comparator}{one.value:.6g} {unit}".rstrip()
    when = "at an unknown time"
    if one.effective_at is not None:
        when = f"{one.effective_at.astimezone(zone):%Y-%m-%d %H:%M}"
    places = [f"LOINC {code}" if code else "", f"from {one.source}" if one.source else ""]
    known = ", ".join(place for place in places if place)
    return f"{name_of(one, card)} {value}, measured {when}" + (f" ({known})" if known else "")


def name_of(one: Observation, card: ModelCard) -> str:
    """What the model's card calls it; otherwise what its code means."""
    wanted = card.input.observations if isinstance(card.input, ObservationsInput) else ()
    named = (spec.name for spec in wanted if one.has(spec.codes))
    meaning = one.codes[0].code_meaning if one.codes else "value"
    return next(named, meaning)
