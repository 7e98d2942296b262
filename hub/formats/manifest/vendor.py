"""What must fit together in the card of a model that a vendor's service runs. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

from hub.domain.model_card import ModelCard
from hub.domain.model_runtime import VendorHttpRuntime
from hub.formats.manifest.output import Fault

_SOONEST_SECONDS, _LONGEST_SECONDS = 0.1, 30 * 86400.0


def vendor_faults(card: ModelCard, runtime: VendorHttpRuntime) -> Iterator[Fault]:
    """Every contradiction: the path of the field and a sentence."""
    if problem := url_problem(runtime.url):
        yield ("runtime", "url"), problem
    if not _SOONEST_SECONDS <= runtime.poll_seconds <= _LONGEST_SECONDS:
        yield ("runtime", "poll_seconds"), f"must be at least {_SOONEST_SECONDS}"
    if not 0 < runtime.answer_within_seconds <= _LONGEST_SECONDS:
        yield ("runtime", "answer_within_seconds"), "must be above 0, and at most 30 days"
    the_vendor = "must be empty: the vendor's service does that"
    if card.preprocessing:
        yield ("preprocessing",), the_vendor
    if card.output.postprocessing:
        yield ("output", "postprocessing"), the_vendor
    if card.output.not_assessable:
        yield ("output", "not_assessable"), the_vendor
    if card.output.maps:
        yield ("output", "maps"), "must be empty: the contract carries no parametric maps"


def url_problem(url: str) -> str:
    """What is wrong with a URL of a manifest; empty: nothing. What has a path of its own below a
    service must not lead out of it again."""
    try:
        parts = urlsplit(url)
        is_absolute = parts.scheme in ("http", "https") and bool(parts.hostname)
        is_absolute = is_absolute and parts.port != 0
    except ValueError:
        return "is not a URL"
    steps = unquote(parts.path).replace("\\", "/").split("/")
    problems = {
        "must be an https:// URL": not is_absolute,
        "must not hold credentials: they stand in the configuration of the hub": "@"
        in parts.netloc,
        "must have neither query nor fragment": "?" in url or "#" in url,
        "holds characters that no URL has": any(not c.isprintable() or c in " \\" for c in url),
        "must not hold . or .. or empty parts": {".", ".."} & set(steps) or "//" in parts.path,
    }
    return next((message for message, holds in problems.items() if holds), "")
