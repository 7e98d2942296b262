"""JSON Patch of a Task (RFC 6902): what takes an order back."""

from __future__ import annotations

from typing import Any

import orjson

from hub.formats.fhir.outcome import malformed, unprocessable

Json = dict[str, Any]

_PATHS = {"/status": "status", "/statusReason": "statusReason"}
_MOST = 10


def cancelling_task(body: bytes) -> Json:
    """The elements that a patch sets: the status, and the reason.

    Raises:
        Refused: 400, it is no patch; 422, it changes something else.
    """
    try:
        patch = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise malformed(f"the body is no JSON ({place})") from None
    if not isinstance(patch, list) or not 0 < len(patch) <= _MOST:
        raise malformed("a JSON Patch is a list of operations")
    found: Json = {}
    for step in patch:
        name = _PATHS.get(str(step.get("path"))) if isinstance(step, dict) else None
        if name is None or step.get("op") not in ("replace", "add") or "value" not in step:
            text = "of a Task only status and statusReason can be replaced"
            raise unprocessable(text, "Task", "not-supported")
        found[name] = step["value"]
    return found
