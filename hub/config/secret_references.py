"""Secrets by reference: ``env:NAME`` and ``file:/path``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr

from hub.errors import ConfigProblem
from hub.formats.yaml_document import FieldPath, YamlDocument


def resolved(
    value: Any, path: FieldPath, document: YamlDocument, problems: list[ConfigProblem]
) -> Any:
    """The value with every secret that is a reference replaced by what it refers to."""
    if isinstance(value, SecretStr):
        return _secret(value, path, document, problems)
    if isinstance(value, BaseModel):
        parts = {name: resolved(part, (*path, name), document, problems) for name, part in value}
        changed = {name: part for name, part in parts.items() if part is not getattr(value, name)}
        return value.model_copy(update=changed) if changed else value
    if isinstance(value, tuple | list):
        new = [resolved(part, (*path, i), document, problems) for i, part in enumerate(value)]
        same = all(a is b for a, b in zip(new, value, strict=True))
        return value if same else type(value)(new)
    if isinstance(value, dict):
        items = {k: resolved(part, (*path, k), document, problems) for k, part in value.items()}
        return value if all(items[k] is value[k] for k in items) else items
    return value


def _secret(
    secret: SecretStr, path: FieldPath, document: YamlDocument, problems: list[ConfigProblem]
) -> SecretStr:
    scheme, _, reference = secret.get_secret_value().partition(":")
    if scheme == "env":
        found = os.environ.get(reference)
        if not found:
            problems.append(document.problem(path, f"the variable {reference} is not set"))
        return SecretStr(found or "")
    if scheme == "file":
        try:
            return SecretStr(Path(reference).read_text(encoding="utf-8").strip())
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "is not UTF-8 text"
            problems.append(document.problem(path, f"cannot read {reference}: {reason}"))
    return secret
