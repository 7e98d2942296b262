"""What a person changes of findings, as JSON of the command line and of the HTTP API."""

from __future__ import annotations

from functools import cache

from pydantic import TypeAdapter, ValidationError

from hub.domain.assessment import FindingChange
from hub.errors import RejectedError


@cache
def _adapter() -> TypeAdapter[tuple[FindingChange, ...]]:
    return TypeAdapter(tuple[FindingChange, ...])


def read_changes(content: bytes) -> tuple[FindingChange, ...]:
    """A JSON list of changes, each with the fields of `FindingChange`.

    Raises:
        RejectedError: it is something else; names fields and rules, never values.
    """
    try:
        return _adapter().validate_json(content)
    except ValidationError as error:
        # without input and context: both hold what was written
        found = error.errors(include_url=False, include_context=False, include_input=False)
        places = {".".join(str(part) for part in e["loc"]) + f" ({e['type']})" for e in found}
        raise RejectedError(f"not a list of changes: {', '.join(sorted(places))}") from None
