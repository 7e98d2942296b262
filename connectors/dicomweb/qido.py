"""Search (QIDO-RS, PS3.18 10.6) over what the hub holds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from http import HTTPStatus
from itertools import groupby, islice

from pydicom.datadict import keyword_for_tag, tag_for_keyword

from connectors.dicomweb.attributes import (
    INSTANCE_ATTRIBUTES,
    SERIES_ATTRIBUTES,
    SERIES_INSTANCE_UID,
    STUDY_ATTRIBUTES,
    STUDY_INSTANCE_UID,
    Model,
    instance_model,
    series_model,
    study_model,
)
from connectors.dicomweb.dicom_xml import model_body
from connectors.dicomweb.http import Answer, Problem, Request
from connectors.dicomweb.matching import has_wildcard, is_universal, is_valid, matches
from connectors.dicomweb.negotiation import choose_model
from hub.domain.study import Instance
from hub.ports import Holdings, RemoteStudy, StudyQuery

_PAGE = 100
_LONGEST_KEY = 1024
_TAG = re.compile(r"[0-9A-Fa-f]{8}\Z")
_NOT_KEYS = frozenset({"limit", "offset", "includefield", "fuzzymatching", "accept"})
_IGNORED = frozenset({"emptyvaluematching", "multiplevaluematching", "charset"})
_NO_FUZZY = (
    '299 caidx "The fuzzymatching parameter is not supported. '
    'Only literal matching has been performed."'
)
"""PS3.18 8.3.4.2."""
_MORE = '299 caidx "There are more results than are returned; ask with a greater offset."'


class Level(IntEnum):
    STUDY = 0
    SERIES = 1
    INSTANCE = 2


_ATTRIBUTES: Mapping[Level, Mapping[str, str]] = {
    Level.STUDY: STUDY_ATTRIBUTES,
    Level.SERIES: SERIES_ATTRIBUTES,
    Level.INSTANCE: INSTANCE_ATTRIBUTES,
}


@dataclass(frozen=True, slots=True)
class Search:
    """What is looked for."""

    level: Level
    keys: Mapping[Level, Mapping[str, str]]
    """Tag -> pattern, by the level that has the attribute."""
    limit: int
    offset: int
    fuzzy: bool = False
    within_study: str = ""
    within_series: str = ""


@dataclass(frozen=True, slots=True)
class _Found:
    """A study, and what was loaded of it."""

    study: RemoteStudy
    model: Model = field(repr=False)


def search_of(
    request: Request, level: Level, maximum: int, study: str = "", series: str = ""
) -> Search:
    """Read the query.

    Raises:
        Problem: 400, a key or a number in it cannot be used.
    """
    keys: dict[Level, dict[str, str]] = {each: {} for each in Level}
    numbers = {"limit": maximum, "offset": 0}
    fuzzy = False
    for name, value in request.parameters:
        lowered = name.lower()
        if lowered in numbers:
            numbers[lowered] = _number(lowered, value)
        elif lowered == "fuzzymatching":
            fuzzy = value.lower() == "true"
        elif lowered not in _NOT_KEYS | _IGNORED:
            tag = _tag_of(name)
            holder = _level_of(tag, level)
            keys[holder][tag] = _pattern(tag, holder, value)
    if study:
        keys[Level.STUDY][STUDY_INSTANCE_UID] = study
    if series:
        keys[Level.SERIES][SERIES_INSTANCE_UID] = series
    return Search(
        level, keys, min(numbers["limit"], maximum), numbers["offset"], fuzzy, study, series
    )


def search(request: Request, wanted: Search, holdings: Holdings) -> Answer:
    """Look it up and answer; blocks.

    Raises:
        Problem: 406.
        TransientError: it cannot be looked up now.
    """
    media_type = choose_model(request)
    results = _results(wanted, holdings, request.base_url)
    found = list(islice(results, wanted.offset, wanted.offset + wanted.limit + 1))
    warnings = [_NO_FUZZY] if wanted.fuzzy else []
    if len(found) > wanted.limit:
        del found[wanted.limit :]
        warnings.append(_MORE)
    headers = {"Warning": ", ".join(warnings)} if warnings else {}
    if not found:
        return Answer(HTTPStatus.NO_CONTENT, headers=headers)
    content_type, body = model_body(found, media_type)
    return Answer(HTTPStatus.OK, content_type, body, headers)


def _number(name: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:  # noqa: PLR2004 - fits an index
        raise Problem(HTTPStatus.BAD_REQUEST, f"{name} must be a number that is not negative")
    return int(text)


def _tag_of(name: str) -> str:
    """The tag that a keyword or eight hexadecimal digits name."""
    if _TAG.match(name) and keyword_for_tag(name):
        return name.upper()
    tag = tag_for_keyword(name) if name.isascii() and name.isalnum() else None
    if tag is None:
        raise Problem(HTTPStatus.BAD_REQUEST, "the query has a parameter that is no attribute")
    return f"{tag:08X}"


def _level_of(tag: str, level: Level) -> Level:
    for each in Level:
        if each <= level and tag in _ATTRIBUTES[each]:
            return each
    raise Problem(
        HTTPStatus.BAD_REQUEST,
        f"{keyword_for_tag(tag) or tag} cannot be searched for at this level",
    )


def _pattern(tag: str, level: Level, value: str) -> str:
    if len(value) > _LONGEST_KEY or not is_valid(_ATTRIBUTES[level][tag], value):
        raise Problem(
            HTTPStatus.BAD_REQUEST, f"the value for {keyword_for_tag(tag)} has no such form"
        )
    return value


# --- looking ------------------------------------------------------------------------------


def _results(wanted: Search, holdings: Holdings, base_url: str) -> Iterator[Model]:
    for found in _studies(wanted, holdings, base_url):
        if wanted.level is Level.STUDY:
            yield found.model
            continue
        uid = found.study.study_instance_uid
        instances = holdings.instances(uid, wanted.within_series)
        context = {} if wanted.within_study else found.model
        yield from _below(wanted, instances, context, base_url)


def _studies(wanted: Search, holdings: Holdings, base_url: str) -> Iterator[_Found]:
    """The studies that match; the store narrows them down, the rest is matched here."""
    keys, query = wanted.keys[Level.STUDY], _study_query(wanted.keys[Level.STUDY])
    offset = 0
    while page := holdings.find_studies(query, _PAGE, offset):
        for study in page:
            model = study_model(study, base_url)
            if _all_match(model, keys, STUDY_ATTRIBUTES):
                yield _Found(study, model)
        if len(page) < _PAGE:
            return
        offset += len(page)


def _study_query(keys: Mapping[str, str]) -> StudyQuery:
    def exact(tag: str) -> str:
        pattern = keys.get(tag, "")
        unusable = is_universal(pattern) or has_wildcard(pattern) or "," in pattern
        return "" if unusable or "\\" in pattern else pattern

    modality = exact("00080061")
    return StudyQuery(
        study_instance_uid=exact(STUDY_INSTANCE_UID),
        patient_id=exact("00100020"),
        issuer_of_patient_id=exact("00100021"),
        accession_number=exact("00080050"),
        study_date=exact("00080020"),
        modalities_in_study=(modality,) if modality else (),
    )


def _below(
    wanted: Search, instances: Sequence[Instance], context: Model, base_url: str
) -> Iterator[Model]:
    """Series or instances of one study."""
    ordered = sorted(instances, key=lambda i: i.series_instance_uid)  # stable: keeps their order
    for _, members in groupby(ordered, key=lambda i: i.series_instance_uid):
        group = list(members)
        series = series_model(group, base_url)
        if not _all_match(series, wanted.keys[Level.SERIES], SERIES_ATTRIBUTES):
            continue
        if wanted.level is Level.SERIES:
            yield dict(sorted((context | series).items()))
            continue
        around = {} if wanted.within_series else context | series
        for instance in group:
            model = instance_model(instance, base_url)
            if _all_match(model, wanted.keys[Level.INSTANCE], INSTANCE_ATTRIBUTES):
                yield dict(sorted((around | model).items()))


def _all_match(model: Model, keys: Mapping[str, str], attributes: Mapping[str, str]) -> bool:
    return all(matches(model.get(tag), attributes[tag], text) for tag, text in keys.items())
