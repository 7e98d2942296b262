"""What must fit together in the card of a model that an inference server runs. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from hub.domain.model_card import ModelCard
from hub.domain.model_input import ObservationsInput
from hub.domain.model_runtime import OpenInferenceRuntime
from hub.formats.manifest.output import Fault
from hub.formats.manifest.vendor import url_problem

_LONGEST_NAME = 256


def server_faults(card: ModelCard, runtime: OpenInferenceRuntime) -> Iterator[Fault]:
    """Every contradiction: the path of the field and a sentence."""
    if problem := url_problem(runtime.url):
        yield ("runtime", "url"), problem
    if not _is_step(runtime.model_name):
        yield ("runtime", "model_name"), "must be a name that can stand in a URL, without slashes"
    if runtime.model_version and not _is_step(runtime.model_version):
        yield ("runtime", "model_version"), "must be able to stand in a URL, without slashes"
    for name in _may_be_missing(card):
        if runtime.tensors == "json":
            message = f"must be binary: {name} may be missing, and JSON has no NaN"
            yield ("runtime", "tensors"), message


def _is_step(name: str) -> bool:
    """One part of a URL's path, once it is escaped."""
    is_plain = name.isprintable() and not {"/", "\\"} & set(name)
    return is_plain and 0 < len(name) <= _LONGEST_NAME and name not in (".", "..")


def _may_be_missing(card: ModelCard) -> Iterator[str]:
    if isinstance(card.input, ObservationsInput):
        yield from (spec.name for spec in card.input.observations if not spec.required)
