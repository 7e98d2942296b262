"""The values of a case, for people: by code and age, without whose they are."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from hub.store import observations
from hub.store.schema_orders import case_observations

_DAY_SECONDS = 86400


@dataclass(frozen=True, slots=True)
class ValueRow:
    """A measured value that a model was to be asked about."""

    revision: int
    observation_id: str
    code: str
    """The first that the sender gave, LOINC before others."""
    meaning: str
    value: float | None
    unit: str
    status: str
    age_days: float | None
    """Before the order; None where nobody says when it was measured."""
    source: str
    """Source or health record."""


def values_of_case(connection: sa.Connection, study_instance_uid: str) -> tuple[ValueRow, ...]:
    """All revisions; none where the study is one of images, or the values were deleted."""
    query = (
        sa.select(case_observations)
        .where(case_observations.c.study_instance_uid == study_instance_uid)
        .order_by(case_observations.c.revision)
    )
    return tuple(row for case in connection.execute(query) for row in _rows(case))


def _rows(case: sa.Row[tuple[object, ...]]) -> list[ValueRow]:
    rows = []
    for value in observations.values_of(case):
        code = value.codes[0] if value.codes else None
        at, age = value.effective_at, None
        if at is not None:
            age = round((case.ordered_at - at).total_seconds() / _DAY_SECONDS, 1)
        rows.append(
            ValueRow(
                revision=case.revision,
                observation_id=value.observation_id,
                code="" if code is None else code.code_value,
                meaning="" if code is None else code.code_meaning,
                value=value.value,
                unit="" if value.unit is None else value.unit.code_value,
                status=value.status,
                age_days=age,
                source=value.source,
            )
        )
    return rows
