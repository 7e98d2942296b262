"""What must fit together in the card of a model that reads measured values. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from hub.domain.model_card import ModelCard
from hub.domain.model_input import ObservationsInput, ObservationSpec
from hub.domain.model_output import DetectionsFinding
from hub.domain.model_runtime import TensorBinding, TensorRuntime
from hub.formats.manifest.output import Fault, Path

_FEEDS = ("observation", "age_years", "is_female")
_MOST = 200
"""More values than any model reads."""


def observation_faults(card: ModelCard, wanted: ObservationsInput) -> Iterator[Fault]:
    """Every contradiction between the values that a model needs and the rest of its card."""
    at: Path = ("input", "observations")
    if not 1 <= len(wanted.observations) <= _MOST:
        yield at, f"must be 1 to {_MOST}"
    names = Counter(spec.name for spec in wanted.observations)
    for index, spec in enumerate(wanted.observations):
        if names[spec.name] > 1:
            yield (*at, index, "name"), "another value has this name"
        yield from _spec(spec, (*at, index))
    if wanted.within_days is not None and wanted.within_days <= 0:
        yield ("input", "within_days"), "must be above 0"
    for index, step in enumerate(card.preprocessing):
        yield ("preprocessing", index), f"{step.kind} does not work on measured values"
    yield from _use(card)
    yield from _findings(card, names)
    if isinstance(card.runtime, TensorRuntime):
        yield from _bindings(card.runtime, names)


def _spec(spec: ObservationSpec, at: Path) -> Iterator[Fault]:
    if not spec.name.strip():
        yield (*at, "name"), "must not be empty"
    if not spec.codes:
        yield (*at, "codes"), "must name at least one code"
    for index, code in enumerate(spec.codes):
        if code.coding_scheme_designator != "LN":
            yield (*at, "codes", index), "must be a code of LOINC (LN)"
    for name in ("molar_mass", "maximum_age_days"):
        value = getattr(spec, name)
        if value is not None and value <= 0:
            yield (*at, name), "must be above 0"
    if spec.valid_range is not None and spec.valid_range[0] >= spec.valid_range[1]:
        yield (*at, "valid_range"), "must be a lower and a higher number"


def _use(card: ModelCard) -> Iterator[Fault]:
    use, at = card.intended_use, ("intended_use",)
    for name in ("modalities", "sop_classes", "body_parts", "excluded_body_parts"):
        if getattr(use, name):
            yield (*at, name), "is for models that read images"
    for name in ("maximum_slice_thickness_mm", "maximum_slice_spacing_mm"):
        if getattr(use, name) is not None:
            yield (*at, name), "is for models that read images"


def _findings(card: ModelCard, names: Counter[str]) -> Iterator[Fault]:
    for index, spec in enumerate(card.output.findings):
        if isinstance(spec, DetectionsFinding):
            continue
        for position, name in enumerate(spec.observations):
            if name not in names:
                where = ("output", "findings", index, "observations", position)
                yield where, f"no value is called {name!r}"


def _bindings(runtime: TensorRuntime, names: Counter[str]) -> Iterator[Fault]:
    at: Path = ("runtime", "inputs")
    fed = {binding.name for binding in runtime.inputs if binding.feed == "observation"}
    missing = sorted(set(names) - fed)
    if missing:
        yield at, f"nothing is fed with {', '.join(missing)}"
    for index, binding in enumerate(runtime.inputs):
        yield from _binding(binding, names, (*at, index))


def _binding(binding: TensorBinding, names: Counter[str], at: Path) -> Iterator[Fault]:
    if binding.feed not in _FEEDS:
        yield (*at, "feed"), f"{binding.feed} does not exist for the input observations"
    elif binding.feed == "observation" and binding.name not in names:
        yield (*at, "name"), f"no value is called {binding.name!r}"
    elif binding.axes:
        yield (*at, "axes"), "a number has no axes"
    elif binding.dtype != "float32":
        yield (*at, "dtype"), "must be float32: a number that is missing is NaN"


def image_faults(card: ModelCard) -> Iterator[Fault]:
    """What the card of a model that reads images must not have."""
    for index, spec in enumerate(card.output.findings):
        if not isinstance(spec, DetectionsFinding) and spec.observations:
            where = ("output", "findings", index, "observations")
            yield where, f"there are no measured values in the input {card.input.kind}"
    if not isinstance(card.runtime, TensorRuntime):
        return
    for index, binding in enumerate(card.runtime.inputs):
        if binding.feed in _FEEDS:
            where = ("runtime", "inputs", index, "feed")
            yield where, f"{binding.feed} does not exist for the input {card.input.kind}"
