"""Which measured values a worker process is given. The adapter's own process asks this: it needs
neither arrays nor what computes on them."""

from __future__ import annotations

import math
from dataclasses import replace

from hub.domain.inference import InferenceRequest
from hub.domain.intended_use import age_years
from hub.domain.model_card import ModelCard
from hub.domain.observed_input import chosen_input
from hub.errors import UnsuitableError
from hub.ports import at_first_call
from model_adapters.tensors.messages import Measured

_value_in = at_first_call("hub.formats.ucum:value_in")
_IS_FEMALE = {"F": 1.0, "M": 0.0}


def measured_of(card: ModelCard, request: InferenceRequest) -> Measured:
    """What the worker is told: of the values that the request gives, in the model's units.

    Raises:
        UnsuitableError: something that the model needs is not there.
    """
    given = replace(request.study, observations=request.observations)
    selection = chosen_input(card, given, _value_in)
    if selection.reasons:
        raise UnsuitableError(selection.reasons)
    age = age_years(given, ())
    return Measured(
        values={one.spec.name: one.value for one in selection.chosen},
        age_years=math.nan if age is None else age,
        is_female=_IS_FEMALE.get(given.patient.patient_sex, math.nan),
        observation_ids={o.spec.name: o.observation.observation_id for o in selection.chosen},
    )
