"""What must fit together in a model card, beyond the type of each field. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from datetime import date
from pathlib import PurePosixPath

from hub.domain.coding import Code
from hub.domain.model_card import ModelCard
from hub.domain.model_input import ImageInput, ObservationsInput, VolumeInput, WaveformInput
from hub.domain.model_runtime import (
    Artefact,
    OnnxRuntime,
    OpenInferenceRuntime,
    TensorBinding,
    VendorHttpRuntime,
)
from hub.domain.model_steps import (
    Clip,
    CropOrPad,
    Monochrome2,
    Normalise,
    PreprocessingStep,
    Present,
    RankNormalise,
    Reorient,
    Resample,
    ResampleRate,
    Rescale,
    Resize,
    SelectLead,
    TakeSeconds,
    Window,
)
from hub.formats.codes import code_problem
from hub.formats.manifest.observations import image_faults, observation_faults
from hub.formats.manifest.output import SINGLE, Fault, Path, data_axes, is_rgb, output_faults
from hub.formats.manifest.server import server_faults
from hub.formats.manifest.vendor import vendor_faults

_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
_PYTHON_ARTEFACT = re.compile(r"python:[A-Za-z_]\w*/(?P<path>.+)")
_MOST_PRIORS = 20

_PIXEL_STEPS = (Rescale, Monochrome2, Present, Resample, Resize, CropOrPad)
_IMAGE_STEPS = (Present,)
_GREY_STEPS = (Rescale, Monochrome2, Present)
_VALUE_STEPS = (Window, Clip, Normalise)
_VOLUME_STEPS = (Reorient,)
_WAVE_STEPS = (SelectLead, ResampleRate, TakeSeconds, RankNormalise)


def card_faults(card: ModelCard) -> Iterator[Fault]:
    """Every contradiction in a card: the path of the field and a sentence."""
    if not _ID.fullmatch(card.id):
        yield ("id",), "must be lower-case letters and digits, with single hyphens between"
    if isinstance(card.input, ImageInput) and _is_below_one(card.input.frame):
        yield ("input", "frame"), "frames are counted from 1"
    yield from _texts(card)
    yield from _codes(card)
    yield from _intended_use(card)
    yield from _priors(card)
    if isinstance(card.input, ObservationsInput):
        yield from observation_faults(card, card.input)
    else:
        yield from image_faults(card)
        for index, step in enumerate(card.preprocessing):
            yield from _step(card, step, ("preprocessing", index))
    yield from _runtime(card)
    yield from output_faults(card)


def _is_below_one(frame: str | int) -> bool:
    return isinstance(frame, int) and frame < 1


def _texts(card: ModelCard) -> Iterator[Fault]:
    for name, value in (("name", card.name), ("version", card.version)):
        if not value.strip():
            yield (name,), "must not be empty"
    expires = card.regulation.certificate_expires
    if expires and not _is_date(expires):
        yield ("regulation", "certificate_expires"), "must be a date as YYYY-MM-DD"


def _codes(card: ModelCard) -> Iterator[Fault]:
    """Results with such codes would all be kept back (`hub.formats.invariants`)."""
    for at, code in _codes_in(card, ()):
        if problem := code_problem(code):
            yield at, f"is {problem}"
        elif at[-1] == "unit" and code.coding_scheme_designator != "UCUM":
            yield at, "must be a unit of UCUM"


def _codes_in(value: object, at: Path) -> Iterator[tuple[Path, Code]]:
    if isinstance(value, Code):
        yield at, value
    elif isinstance(value, tuple):
        for index, one in enumerate(value):
            yield from _codes_in(one, (*at, index))
    elif is_dataclass(value):
        for field in fields(value):
            yield from _codes_in(getattr(value, field.name), (*at, field.name))


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _intended_use(card: ModelCard) -> Iterator[Fault]:
    use = card.intended_use
    at: Path = ("intended_use",)
    reads_images = not isinstance(card.input, ObservationsInput)
    if reads_images and not use.modalities:
        yield (*at, "modalities"), "must name at least one modality"
    if reads_images and not use.sop_classes:
        yield (*at, "sop_classes"), "must name at least one SOP class"
    for index, uid in enumerate(use.sop_classes):
        if not _UID.fullmatch(uid):
            yield (*at, "sop_classes", index), "is not a UID"
    for index, sex in enumerate(use.sexes):
        if sex not in ("M", "F", "O"):
            yield (*at, "sexes", index), "must be M, F or O"
    ages = (use.minimum_age_years, use.maximum_age_years)
    if ages[0] is not None and ages[1] is not None and ages[0] > ages[1]:
        yield (*at, "minimum_age_years"), "is above maximum_age_years"
    both = set(use.body_parts) & set(use.excluded_body_parts)
    if both:
        yield (*at, "excluded_body_parts"), f"also allowed: {', '.join(sorted(both))}"
    if use.minimum_instances < 1:
        yield (*at, "minimum_instances"), "must be at least 1"
    for name in ("maximum_slice_thickness_mm", "maximum_slice_spacing_mm"):
        value = getattr(use, name)
        if value is not None and value <= 0:
            yield (*at, name), "must be above 0"


# --- preprocessing -----------------------------------------------------------------------


def _priors(card: ModelCard) -> Iterator[Fault]:
    wish, at = card.input.priors, ("input", "priors")
    if wish is None:
        return
    if not 1 <= wish.maximum <= _MOST_PRIORS:
        yield (*at, "maximum"), f"must be 1 to {_MOST_PRIORS}"
    if not 0 <= wish.minimum <= wish.maximum:
        yield (*at, "minimum"), "must be 0 to maximum"
    if wish.maximum_age_days is not None and wish.maximum_age_days < 1:
        yield (*at, "maximum_age_days"), "must be at least 1"


def _step(card: ModelCard, step: PreprocessingStep, at: Path) -> Iterator[Fault]:
    is_wave = isinstance(card.input, WaveformInput)
    if is_wave and isinstance(step, _PIXEL_STEPS + _VOLUME_STEPS):
        yield at, f"{step.kind} works on pixels, the input is a waveform"
    elif not is_wave and isinstance(step, _WAVE_STEPS):
        yield at, f"{step.kind} works on waveforms, the input is {card.input.kind}"
    elif isinstance(step, _VOLUME_STEPS) and not isinstance(card.input, VolumeInput):
        yield at, f"{step.kind} needs a volume"
    elif isinstance(step, _IMAGE_STEPS) and not isinstance(card.input, ImageInput):
        yield at, f"{step.kind} needs an image"
    elif isinstance(step, _GREY_STEPS) and is_rgb(card):
        yield at, f"{step.kind} works on grey-scale, the input is rgb"
    else:
        yield from _order(card, step, at)
        yield from _numbers(card, step, at)


def _order(card: ModelCard, step: PreprocessingStep, at: Path) -> Iterator[Fault]:
    before = card.preprocessing[: int(at[-1])]
    if isinstance(step, Rescale) and before:
        yield at, "rescale works on stored values: it has to be the first step"
    if isinstance(step, Present) and before:
        yield at, "present works on stored values: it has to be the first step"
    if isinstance(step, Monochrome2) and any(isinstance(s, _VALUE_STEPS) for s in before):
        yield at, "monochrome2 inverts stored or rescaled values: it has to come before this"
    if isinstance(step, Monochrome2) and any(isinstance(s, Present) for s in before):
        yield at, "present inverts MONOCHROME1 already"
    if isinstance(step, SelectLead) and any(isinstance(s, SelectLead) for s in before):
        yield at, "a lead is already selected"


def _numbers(card: ModelCard, step: PreprocessingStep, at: Path) -> Iterator[Fault]:
    axes = 3 if isinstance(card.input, VolumeInput) else 2
    if isinstance(step, Reorient) and not _is_orientation(step.to):
        yield (*at, "to"), "must be one letter of each pair R/L, A/P, H/F, e.g. FPL"
    if isinstance(step, Resample) and (len(step.spacing_mm) != axes or min(step.spacing_mm) <= 0):
        yield (*at, "spacing_mm"), f"must be {axes} numbers above 0"
    if isinstance(step, Resize) and min(step.shape) < 1:
        yield (*at, "shape"), "must be two numbers above 0"
    if isinstance(step, CropOrPad) and (len(step.shape) != axes or min(step.shape) < 1):
        yield (*at, "shape"), f"must be {axes} numbers above 0"
    if isinstance(step, Window) and step.width <= 0:
        yield (*at, "width"), "must be above 0"
    if isinstance(step, Clip) and step.minimum >= step.maximum:
        yield (*at, "minimum"), "must be below maximum"
    if isinstance(step, Normalise) and step.standard_deviation <= 0:
        yield (*at, "standard_deviation"), "must be above 0"
    if isinstance(step, ResampleRate) and step.frequency_hz <= 0:
        yield (*at, "frequency_hz"), "must be above 0"
    if isinstance(step, TakeSeconds) and step.seconds <= 0:
        yield (*at, "seconds"), "must be above 0"


def _is_orientation(text: str) -> bool:
    pairs = ({"R", "L"}, {"A", "P"}, {"H", "F"})
    return len(text) == len(pairs) and all(pair & set(text) for pair in pairs)


# --- runtime -----------------------------------------------------------------------------


def _runtime(card: ModelCard) -> Iterator[Fault]:
    runtime = card.runtime
    at: Path = ("runtime",)
    if isinstance(runtime, OnnxRuntime):
        yield from _artefact(runtime.graph, (*at, "graph"))
        for index, artefact in enumerate(runtime.external_data):
            yield from _artefact(artefact, (*at, "external_data", index))
    if runtime.timeout_seconds <= 0:
        yield (*at, "timeout_seconds"), "must be above 0"
    if runtime.concurrency < 1:
        yield (*at, "concurrency"), "must be at least 1"
    if isinstance(runtime, VendorHttpRuntime):
        yield from vendor_faults(card, runtime)
        return
    if isinstance(runtime, OpenInferenceRuntime):
        yield from server_faults(card, runtime)
    if not any(binding.feed in ("data", "observation") for binding in runtime.inputs):
        yield (*at, "inputs"), "no input is fed with data"
    names = [binding.name for binding in runtime.inputs]
    if len(set(names)) != len(names):
        yield (*at, "inputs"), "an input is fed twice"
    if isinstance(card.input, ObservationsInput):
        return
    for index, binding in enumerate(runtime.inputs):
        yield from _binding(card, binding, (*at, "inputs", index))


def _artefact(artefact: Artefact, at: Path) -> Iterator[Fault]:
    if not _SHA256.fullmatch(artefact.sha256):
        yield (*at, "sha256"), "must be 64 hexadecimal digits"
    text = artefact.path
    if text.startswith("python:"):
        shipped = _PYTHON_ARTEFACT.fullmatch(text)
        if shipped is None:
            yield (*at, "path"), "must be python:<package>/<path>"
            return
        text = shipped["path"]
    if not is_contained(text):
        yield (*at, "path"), "must be a relative path that stays inside the package"


def is_contained(path: str) -> bool:
    """A relative POSIX path without ``..``, empty parts, drive letters or backslashes."""
    parts = PurePosixPath(path).parts
    plain = bool(parts) and "\\" not in path and ":" not in path and "\0" not in path
    return plain and not path.startswith("/") and ".." not in parts


def _binding(card: ModelCard, binding: TensorBinding, at: Path) -> Iterator[Fault]:
    if binding.feed == "data":
        wanted = data_axes(card)
        named = [token for token in binding.axes.split() if token != SINGLE]
        if sorted(named) != sorted(wanted):
            yield (*at, "axes"), f"must name {', '.join(wanted)} once each, and 1 for added axes"
    elif binding.feed in ("frequency_hz", "spacing_mm") and (
        binding.feed == "frequency_hz"
    ) != isinstance(card.input, WaveformInput):
        yield (*at, "feed"), f"{binding.feed} does not exist for the input {card.input.kind}"
