"""What an HTTP endpoint reads of a request's ASGI scope (ASGI 3.0, "HTTP Connection Scope")."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

Scope = Mapping[str, Any]

_HOST = re.compile(r"[A-Za-z0-9._\-\[\]:]{1,255}\Z")


def header_fields(scope: Scope) -> dict[str, str]:
    """Lower-case name -> value; several of one name are one list (RFC 9110 section 5.3)."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def path_below(scope: Scope, root: str) -> tuple[str, ...]:
    """The pieces of the path below where the endpoint is served."""
    path: str = scope["path"]
    return tuple(piece for piece in path.removeprefix(root).split("/") if piece)


def base_url(scope: Scope, root: str) -> str:
    """Of the endpoint, as the client calls it; what is no host is not repeated."""
    host, server = header_fields(scope).get("host", ""), scope.get("server") or ("localhost", None)
    if not _HOST.match(host) or host == server[0]:  # dicomweb-client leaves the port out
        host = str(server[0]) if server[1] is None else f"{server[0]}:{server[1]}"
    return f"{scope.get('scheme', 'http')}://{host}{root}"
