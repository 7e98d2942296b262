"""What a worker process is told of measured values: numbers in the units of the model."""

from __future__ import annotations

import pytest

from model_adapters.tensors.measured import measured_of
from tests.unit.observed import (
    CREATININE,
    case,
    observation,
    package_of_scores,
    request_of,
    usual_values,
)


def test_the_graph_is_fed_in_its_own_units() -> None:
    """88.42 umol/L of creatinine (113.12 g/mol) are 1.0002 mg/dL; 88 times as much would pass for
    the failure of both kidneys."""
    others = [one for one in usual_values() if CREATININE not in one.codes]
    values = (*others, observation(CREATININE, 88.42, unit="umol/L"))
    package, study = package_of_scores(), case(*values)
    told = measured_of(package.card, request_of(study, study.observations, package.key))
    assert told.values["creatinine"] == pytest.approx(1.0002, abs=0.0001)
    assert {name: told.values[name] for name in ("AST", "ALT", "platelets")} == {
        name: one.value for name, one in zip(("AST", "ALT", "platelets"), others, strict=True)
    }
