"""What the outputs of a graph are asked for while findings are made of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.domain.finding import Evidence, Presence
from hub.domain.identity import derived_uid
from hub.domain.model_output import Statements
from hub.errors import RejectedError
from model_adapters.tensors.source_grid import SourceGrid

Array = NDArray[Any]
PROBABILITY_TOLERANCE = 1e-3
"""How far outside 0 to 1 rounding may bring a probability."""
_REFERENCE = re.compile(r"^(?P<name>[^\[\]]+)(?:\[(?P<index>\d+)\])?$")


@dataclass(frozen=True, slots=True)
class Subject:
    """What the findings are about."""

    model_id: str
    study_instance_uid: str
    evidence: tuple[Evidence, ...]
    grid: SourceGrid | None = None
    """The images, where findings can lie somewhere."""

    def tracking_uid(self, tracking_identifier: str) -> str:
        """The same thing keeps its UID over revisions of the study and of the model."""
        return derived_uid(self.study_instance_uid, self.model_id, tracking_identifier)


@dataclass(frozen=True, slots=True)
class Values:
    """Outputs of the graph and what was derived from them, by name."""

    graph: Mapping[str, Array]
    derived: Mapping[str, Array] = field(default_factory=dict)
    """Derived numbers may be NaN: the step could not determine them."""

    def array(self, name: str) -> Array:
        found = self.derived.get(name)
        return self.graph[name] if found is None else found

    def number(self, reference: str) -> float | None:
        """The number ``name`` or ``name[index]``; ``None`` where it was not determined.

        Raises:
            RejectedError: the output is not a single number there.
        """
        matched = _REFERENCE.match(reference)
        values = self.array(matched["name"]).reshape(-1) if matched else np.empty(0)
        index = int(matched["index"]) if matched and matched["index"] else None
        if (index is None and values.size != 1) or (index is not None and index >= values.size):
            raise RejectedError(f"output {reference} is not one number ({values.size} values)")
        value = float(values[index or 0])
        return None if np.isnan(value) else value


def probability(value: float, output: str) -> float:
    """A number that has to be a probability.

    Raises:
        RejectedError: it is not, by more than rounding.
    """
    if not -PROBABILITY_TOLERANCE <= value <= 1 + PROBABILITY_TOLERANCE:
        raise RejectedError(f"the model's output {output} is not a probability: {value:g}")
    return min(1.0, max(0.0, value))


def presence_at(certainty: float, threshold: float, indeterminate_below: float | None) -> Presence:
    """The answer that a probability means."""
    if certainty >= threshold:
        return Presence.PRESENT
    if indeterminate_below is not None and certainty >= indeterminate_below:
        return Presence.INDETERMINATE
    return Presence.ABSENT


def sentence(statements: Statements, presence: Presence) -> str:
    """What the manifest says to people in this case."""
    return {
        Presence.PRESENT: statements.positive,
        Presence.ABSENT: statements.negative,
        Presence.INDETERMINATE: statements.indeterminate,
        Presence.NOT_ASSESSABLE: statements.not_assessable,
    }[presence]
