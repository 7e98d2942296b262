"""What a report refers to, as one server may be told (R4 references.html).

A report names resources that stand at servers of others: the values that it was computed from, the
order that asked for it. A literal reference means something at its own server only. Any other
one refuses the whole transaction (a resource that it does not have, a reference that leads
outside), or has another patient's resource of the same id. So a literal reference goes only to the
server where the resource stands; every other server gets a logical one, by an identifier.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

Json = dict[str, Any]

URI = "urn:ietf:rfc:3986"
"""System of an identifier that is a URI (R4 identifier-registry.html)."""

_HISTORY = re.compile(r"/_history/[^/]*\Z")
_TYPED = re.compile(r"(?:\A|/)(?P<type>[A-Z][A-Za-z]{1,63})/[A-Za-z0-9.-]{1,64}\Z")
_INSIDE = ("#", "urn:")
"""Leads to what is contained, or to an entry of the same Bundle (R4 bundle.html#references)."""


def localized(bundle: Json, own_urls: Sequence[str], *, takes_relative: bool) -> Json:
    """The transaction as a server may be told it; the one that was given stays as it is.

    Args:
        bundle: as the hub made it.
        own_urls: base URLs by which the server is known, without a slash at the end.
        takes_relative: a reference without a server is to a resource of this one.
    """
    told: Json = _told(bundle, tuple(f"{url}/" for url in own_urls), takes_relative)
    return told


def _told(value: Any, own: tuple[str, ...], takes_relative: bool) -> Any:  # noqa: FBT001 - as above
    """A copy. Our own documents are not deep."""
    if isinstance(value, list):
        return [_told(one, own, takes_relative) for one in value]
    if not isinstance(value, dict):
        return value
    copy = {name: _told(inner, own, takes_relative) for name, inner in value.items()}
    text = copy.get("reference")
    if not isinstance(text, str) or text.startswith(_INSIDE):
        return copy
    base = next((one for one in own if text.startswith(one)), None)
    if base is not None:
        return {**copy, "reference": text.removeprefix(base)}
    if "://" not in text and takes_relative:
        return copy
    return _logical(copy, text)


def _logical(reference: Json, text: str) -> Json:
    """The same without the literal: by its identifier, which for want of another one is its URL. Of
    a relative one nobody knows whose it is: it is told to people alone."""
    kept = {name: inner for name, inner in reference.items() if name != "reference"}
    plain = _HISTORY.sub("", text)
    typed = _TYPED.search(plain)
    if typed and "type" not in kept:
        kept["type"] = typed["type"]
    if "identifier" not in kept and "://" in text:
        kept["identifier"] = {"system": URI, "value": text}
    if "identifier" not in kept:
        kept.setdefault("display", plain)
    return kept
