"""Validation errors in plain words, for people who edit a file and do not know Python."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_core import ErrorDetails

_TEXT = "must be text"
_QUOTES = "must be text: put it in quotes"
_WHOLE = "must be a whole number"
_NUMBER = "must be a number"

_FIXED = {
    "missing": "is required",
    "missing_argument": "is required",
    "missing_keyword_only_argument": "is required",
    "extra_forbidden": "is not a known field",
    "unexpected_keyword_argument": "is not a known field",
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_from_float": _WHOLE,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "set_type": "must be a list",
    "frozen_set_type": "must be a list",
    "dict_type": "must be a mapping (name: value)",
    "mapping_type": "must be a mapping (name: value)",
    "model_type": "must be a mapping (name: value)",
    "model_attributes_type": "must be a mapping (name: value)",
    "dataclass_type": "must be a mapping (name: value)",
    "path_type": "must be a path",
    "union_tag_not_found": "needs a field kind",
}

_WITH_CONTEXT = {
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must have at least {min_length} entries, not {actual_length}",
    "too_long": "must have at most {max_length} entries, not {actual_length}",
    "string_pattern_mismatch": "must look like {pattern}",
    "url_parsing": "must be a URL: {error}",
    "url_scheme": "must be a URL that begins with {expected_schemes}",
    "union_tag_invalid": "must be one of {expected_tags}",
}


def plain_message(error: ErrorDetails) -> str:
    """What a person has to change, without the words of the validation library."""
    kind = error["type"]
    context: Mapping[str, Any] = error.get("ctx", {})
    if kind == "string_type":
        return _QUOTES if isinstance(error["input"], int | float) else _TEXT
    if kind in _FIXED:
        return _FIXED[kind]
    if kind in _WITH_CONTEXT:
        return _WITH_CONTEXT[kind].format_map(context).replace("'", "")
    message = error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return message[:1].lower() + message[1:]
