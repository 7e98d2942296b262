"""Which measured values a model gets, and why others are not good enough. Pure.

Of each value that a model needs, the newest released one counts. An older one never takes the
place of a newer one that cannot be used: the newer one may be the reason why somebody asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from hub.domain.coding import Code
from hub.domain.model_card import ModelCard
from hub.domain.model_input import ObservationsInput, ObservationSpec
from hub.domain.model_runtime import TensorRuntime
from hub.domain.observation import Observation
from hub.domain.study import Study

_RELEASED = ("final", "amended", "corrected")
_PENDING = ("registered", "preliminary")
_AGREE = 0.01
"""Two values of one moment that differ by less, relative to the larger, are one value."""
_LONGEST_WAIT = timedelta(days=31)
"""What is dated later than that after the order has a wrong date."""


class ValueIn(Protocol):
    """A value in another unit (UCUM codes), or None where the two are not of one kind."""

    def __call__(
        self, value: float, from_code: str, to_code: str, molar_mass: float | None = None
    ) -> float | None: ...


def same_unit(
    value: float,
    from_code: str,
    to_code: str,
    molar_mass: float | None = None,  # noqa: ARG001 - a ValueIn
) -> float | None:
    """A `ValueIn` that converts nothing."""
    return value if from_code == to_code else None


@dataclass(frozen=True, slots=True)
class Chosen:
    """A value that the model gets."""

    spec: ObservationSpec
    observation: Observation
    value: float
    """In ``spec.unit``."""


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A value that the model does not get although it is of a kind that it reads."""

    name: str
    """Of the spec."""
    observation: Observation
    why: str
    """``older``, ``not released``, ``the same``, or as in the reasons."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What the model gets of a case."""

    chosen: tuple[Chosen, ...]
    """In the order of the model's input."""
    passed_over: tuple[PassedOver, ...]
    reasons: tuple[str, ...]
    """Why it must not run on them; empty when it may."""

    @property
    def observations(self) -> tuple[Observation, ...]:
        """The values, as they were reported."""
        return tuple(one.observation for one in self.chosen)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the result has to know of values that were passed over."""
        pending = dict.fromkeys(p.name for p in self.passed_over if p.why == _NOT_RELEASED)
        used = {one.spec.name for one in self.chosen}
        return tuple(
            f"{name}: a value that is not released yet was not used"
            for name in pending
            if name in used
        )


_OLDER, _SAME, _NOT_RELEASED = "older", "the same", "not released"


def chosen_input(card: ModelCard, study: Study, value_in: ValueIn) -> Selection:
    """What a model of measured values gets of a case.

    Ages count back from the moment of the order, which for a case is ``study.received_at``.
    """
    wanted = card.input
    if not isinstance(wanted, ObservationsInput):
        return Selection((), (), ("The model reads images, not measured values.",))
    chosen: list[Chosen] = []
    passed: list[PassedOver] = []
    reasons: list[str] = []
    for spec in wanted.observations:
        candidates = [o for o in study.observations if o.has(spec.codes)]
        one, others, problem = _Search(spec, study.received_at, value_in).among(candidates)
        chosen += [one] if one is not None else []
        passed += others
        reasons += [problem] if problem and spec.required else []
    reasons += _spread(wanted, chosen)
    reasons += _sex(card, study)
    return Selection(tuple(chosen), tuple(passed), tuple(reasons))


@dataclass(frozen=True, slots=True)
class _Search:
    """For the value of one spec."""

    spec: ObservationSpec
    ordered_at: datetime
    value_in: ValueIn

    def among(self, candidates: list[Observation]) -> tuple[Chosen | None, list[PassedOver], str]:
        """The value, what was passed over, and why there is none."""
        name = self.spec.name
        released = [o for o in candidates if o.status in _RELEASED]
        pending = [o for o in candidates if o.status in _PENDING]
        passed = [PassedOver(name, o, _NOT_RELEASED) for o in pending]
        if not released:
            problem = (
                f"{name}: not released yet ({pending[0].status})."
                if pending
                else f"{name}: missing ({_listed(self.spec.codes)})."
            )
            return None, passed, problem
        newest = _newest(released)
        passed += [PassedOver(name, o, _OLDER) for o in released if o not in newest]
        judged = [(o, self._value(o)) for o in newest]
        good = [(o, value) for o, value in judged if isinstance(value, float)]
        bad = [(o, value) for o, value in judged if isinstance(value, str)]
        passed += [PassedOver(name, o, problem) for o, problem in bad]
        if not good:
            return None, passed, bad[0][1]
        values = [value for _, value in good]
        if max(values) - min(values) > _AGREE * max(abs(value) for value in values):
            problem = f"{name}: different values of the same moment."
            return None, [*passed, *(PassedOver(name, o, problem) for o, _ in good)], problem
        passed += [PassedOver(name, o, _SAME) for o, _ in good[1:]]
        return Chosen(self.spec, *good[0]), passed, ""

    def _value(self, observation: Observation) -> float | str:
        """In the unit of the spec; or the reason why it cannot be used."""
        name, wanted = self.spec.name, self.spec.unit.code_value
        number, unit = observation.value, observation.unit
        if problem := self._age(observation):
            return problem
        if number is None:
            return f"{name}: without a number."
        if unit is None:
            return f"{name}: the unit is not from UCUM."
        if observation.comparator:
            limit = f"{observation.comparator}{number:g} {unit.code_value}"
            return f"{name}: only a limit is known ({limit})."
        value = self.value_in(number, unit.code_value, wanted, self.spec.molar_mass)
        if value is None:
            return f"{name}: the unit {unit.code_value} cannot be converted to {wanted}."
        return self._plausible(value)

    def _plausible(self, value: float) -> float | str:
        spec = self.spec
        low, high = spec.valid_range or (value, value)
        if low <= value <= high:
            return float(value)
        return f"{spec.name}: {value:.6g} {spec.unit.code_value} is outside {low:g} to {high:g}."

    def _age(self, observation: Observation) -> str:
        name, limit = self.spec.name, self.spec.maximum_age_days
        if observation.effective_at is None:
            return f"{name}: nobody says when it was measured." if limit is not None else ""
        age = self.ordered_at - observation.effective_at
        if age < -_LONGEST_WAIT:
            return f"{name}: its date lies far after the order."
        if limit is not None and age > timedelta(days=limit):
            return f"{name}: {age.days} days old, at most {limit:g} are allowed."
        return ""


def _newest(observations: list[Observation]) -> list[Observation]:
    """Those of the latest moment, in an order that does not depend on how they came; one whose
    time nobody knows counts only where none is known."""
    known = [o.effective_at for o in observations if o.effective_at is not None]
    latest = max(known, default=None)
    found = [o for o in observations if o.effective_at == latest]
    return sorted(found, key=lambda o: o.observation_id)


def _spread(wanted: ObservationsInput, chosen: Iterable[Chosen]) -> Iterator[str]:
    moments = [c.observation.effective_at for c in chosen]
    known = [moment for moment in moments if moment is not None]
    limit = wanted.within_days
    if limit is None or not known:
        return
    if len(known) < len(moments):
        yield "It is not known how far apart the values were measured."
    elif max(known) - min(known) > timedelta(days=limit):
        days = (max(known) - min(known)).days
        yield f"The values were measured {days} days apart; at most {limit:g} are allowed."


# --- what else the graph is fed with -----------------------------------------------------


def feeds(card: ModelCard) -> frozenset[str]:
    """What the model's tensors are fed with."""
    runtime = card.runtime
    if not isinstance(runtime, TensorRuntime):
        return frozenset()
    return frozenset(binding.feed for binding in runtime.inputs)


def _sex(card: ModelCard, study: Study) -> Iterator[str]:
    found = study.patient.patient_sex
    if "is_female" in feeds(card) and found not in ("M", "F"):
        stated = f"is {found}" if found else "is not given"
        yield f"The patient's sex {stated}; the model needs M or F."


def _listed(codes: Iterable[Code]) -> str:
    """``LOINC 2160-0 or 38483-4``."""
    return "LOINC " + " or ".join(code.code_value for code in codes)
