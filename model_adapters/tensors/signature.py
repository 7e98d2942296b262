"""The inputs and outputs that a model has, against those that its manifest names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hub.domain.model_card import ModelCard
from hub.domain.model_input import VolumeInput
from hub.domain.model_output import (
    DetectionsFinding,
    FindingSpec,
    MapSpec,
    ProbabilitiesSpec,
    RegionSpec,
)
from hub.domain.model_runtime import TensorBinding
from hub.domain.model_steps import EcgIntervals, PostprocessingStep
from hub.errors import ConfigError, ConfigProblem
from model_adapters.tensors.feeding import bindings_of
from model_adapters.tensors.preprocessing import SINGLE

MANIFEST = "model.yaml"
ECG_VALUES = ("rr_ms", "pr_ms", "qrs_ms", "qt_ms", "beats")
"""What the step ``ecg_intervals`` derives."""
_LABELS = frozenset({"uint8", "int8", "int16", "int32", "int64"})
_FLOAT = "float32"

Problem = tuple[str, str]
"""Field of the manifest, what is wrong."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output as the model itself describes it."""

    name: str
    dtype: str
    """As numpy calls it (``float32``); the runtime's own word where numpy has none."""
    shape: tuple[int | None, ...] | None
    """``None`` for a size that varies, and for a shape that is not told."""


def config_error(field: str, message: str) -> ConfigError:
    """One mistake in the manifest."""
    return ConfigError((ConfigProblem(MANIFEST, 0, field, message),))


def check_signature(card: ModelCard, inputs: Iterable[Tensor], outputs: Iterable[Tensor]) -> None:
    """Raises:
    ConfigError: inputs or outputs are not what the manifest says; names each by its field.
    """
    found = _input_problems(card, {tensor.name: tensor for tensor in inputs})
    given = {tensor.name: tensor for tensor in outputs}
    found += _name_problems(card, set(given))
    region = card.output.region
    if region is not None and region.output in given:
        found += _region_problems(region, given[region.output])
    for field, spec in _float_voxels(card):
        if spec.output in given:
            found += _float_problems(field, spec.axes, given[spec.output])
    if found:
        raise ConfigError(tuple(ConfigProblem(MANIFEST, 0, *problem) for problem in found))


def outputs_of(card: ModelCard) -> frozenset[str]:
    """Names of the outputs that a manifest makes anything of."""
    needed: set[str] = set()
    derived: set[str] = set()
    for step in card.output.postprocessing:
        needed |= {step.output} - derived
        derived |= _derived(step)
    named = {name for spec in card.output.findings for _, name in _names_of(spec)}
    named |= {rule.output for rule in card.output.not_assessable}
    needed |= {name.split("[")[0] for name in named} - derived
    needed |= {spec.output for _, spec in _float_voxels(card)}
    needed |= set() if card.output.region is None else {card.output.region.output}
    return frozenset(needed)


# --- inputs ------------------------------------------------------------------------------


def _input_problems(card: ModelCard, inputs: Mapping[str, Tensor]) -> list[Problem]:
    bindings = {binding.name: binding for binding in bindings_of(card)}
    known = _listed(set(inputs))
    found = [
        ("runtime.inputs", f"the model has no input {name}; its inputs are {known}")
        for name in bindings
        if name not in inputs
    ]
    for name, tensor in inputs.items():
        binding = bindings.get(name)
        if binding is None:
            found.append(("runtime.inputs", f"nothing feeds the model's input {name}"))
        else:
            problems = _mismatches(card, binding, tensor)
            found += [(f"runtime.inputs.{name}", problem) for problem in problems]
    return found


def _mismatches(card: ModelCard, binding: TensorBinding, tensor: Tensor) -> list[str]:
    found = []
    if tensor.dtype != binding.dtype:
        found.append(f"the model takes {tensor.dtype}, not {binding.dtype}")
    if tensor.shape is None:
        return found
    if binding.feed != "data":
        return found + _list_problems(card, binding, tensor.shape)
    tokens = binding.axes.split()
    if len(tokens) != len(tensor.shape):
        found.append(f"the model takes {len(tensor.shape)} axes, axes names {len(tokens)}")
        return found
    found += [
        f"axis {index} of the model has {size} elements, not 1"
        for index, (token, size) in enumerate(zip(tokens, tensor.shape, strict=True))
        if token == SINGLE and size is not None and size != 1
    ]
    return found


def _list_problems(
    card: ModelCard, binding: TensorBinding, shape: tuple[int | None, ...]
) -> list[str]:
    """Everything but the data is a list of so many numbers."""
    count = 1
    if binding.feed == "spacing_mm":
        count = 3 if isinstance(card.input, VolumeInput) else 2
    if len(shape) == 1 and shape[0] in (None, count):
        return []
    sizes = ", ".join("any" if size is None else str(size) for size in shape)
    return [f"the model takes the shape ({sizes}), {binding.feed} has ({count})"]


# --- outputs -----------------------------------------------------------------------------


def _name_problems(card: ModelCard, outputs: set[str]) -> list[Problem]:
    found = []
    known = set(outputs)
    for index, step in enumerate(card.output.postprocessing):
        if step.output not in known:
            found.append((f"output.postprocessing.{index}.output", _unknown(step.output, known)))
        known |= _derived(step)
    for index, spec in enumerate(card.output.findings):
        for field, name in _names_of(spec):
            if name.split("[")[0] not in known:
                found.append((f"output.findings.{index}.{field}", _unknown(name, known)))
    for index, rule in enumerate(card.output.not_assessable):
        if rule.output.split("[")[0] not in known:
            found.append((f"output.not_assessable.{index}.output", _unknown(rule.output, known)))
    region = card.output.region
    if region is not None and region.output not in outputs:
        found.append(("output.region.output", _unknown(region.output, outputs)))
    for field, voxels in _float_voxels(card):
        if voxels.output not in outputs:
            found.append((f"{field}.output", _unknown(voxels.output, outputs)))
    return found


def _derived(step: PostprocessingStep) -> frozenset[str]:
    """The names that a step adds."""
    return frozenset(ECG_VALUES if isinstance(step, EcgIntervals) else {step.to})


def _names_of(spec: FindingSpec) -> list[Problem]:
    """The outputs that a finding is made of, each with the field that names it."""
    found = [("output", spec.output)]
    if isinstance(spec, DetectionsFinding):
        found.append(("scores", spec.scores))
        found += [("classes", spec.classes)] if spec.classes else []
        numbers = enumerate(spec.measurements)
        found += [(f"measurements.{index}.output", one.output) for index, one in numbers]
    elif spec.location is not None:
        found.append(("location.output", spec.location.output))
    return found


def _float_voxels(card: ModelCard) -> list[tuple[str, MapSpec | ProbabilitiesSpec]]:
    """Probabilities and maps, each with its field."""
    region = card.output.region
    found: list[tuple[str, MapSpec | ProbabilitiesSpec]] = []
    if region is not None and region.probabilities is not None:
        found.append(("output.region.probabilities", region.probabilities))
    found += [(f"output.maps.{index}", spec) for index, spec in enumerate(card.output.maps)]
    return found


def _float_problems(field: str, axes: str, tensor: Tensor) -> list[Problem]:
    found = []
    if tensor.dtype != _FLOAT:
        found.append((f"{field}.output", f"holds {_FLOAT} numbers, not {tensor.dtype}"))
    return found + _axes_problems(field, axes, tensor)


def _region_problems(region: RegionSpec, tensor: Tensor) -> list[Problem]:
    found = []
    if tensor.dtype not in _LABELS:
        message = f"a label map holds whole numbers, not {tensor.dtype}"
        found.append(("output.region.output", message))
    return found + _axes_problems("output.region", region.axes, tensor)


def _axes_problems(field: str, axes: str, tensor: Tensor) -> list[Problem]:
    if tensor.shape is None or len(tensor.shape) == len(axes.split()):
        return []
    return [(f"{field}.axes", f"the model gives {len(tensor.shape)} axes")]


def _unknown(name: str, known: set[str]) -> str:
    return f"no output {name}; known are {_listed(known)}"


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"
