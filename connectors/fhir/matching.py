"""Does a resource fit a search? (R4 search.html, token and reference parameters)"""

from __future__ import annotations

from typing import Any

from connectors.fhir.parameters import Wanted

Json = dict[str, Any]

_PATIENTS = ("subject", "for")
"""A Provenance has none: it belongs to whom its report is about."""


def fits(resource: Json, wanted: Wanted, issuer: str | None = None) -> bool:
    """Whether every parameter fits that can be seen in the resource itself; ``patient`` and
    ``based_on`` were asked of the store. ``issuer`` is that of the patient (`names`)."""
    if wanted.resource_id and resource["id"] != wanted.resource_id:
        return False
    if wanted.identifier and not _has_identifier(resource, wanted.identifier):
        return False
    if wanted.target and not _refers(resource.get("target", []), wanted.target):
        return False
    subjects = [resource[name] for name in _PATIENTS if name in resource]
    if wanted.patient and not all(names(one, wanted.patient, issuer) for one in subjects):
        return False
    return all(_has_token(resource.get(name), codes) for name, codes in wanted.tokens)


def _has_identifier(resource: Json, wanted: tuple[str, str]) -> bool:
    return any(_is(one, wanted) for one in resource.get("identifier", []))


def names(reference: Any, wanted: tuple[str, str], issuer: str | None = None) -> bool:
    """Whether a logical reference has this identifier.

    Args:
        reference: the element.
        wanted: system (empty: any) and value.
        issuer: of the system, as in the images: a reference without a system has to be of it.
            None: it may be of any.
    """
    identifier = reference.get("identifier") if isinstance(reference, dict) else None
    if not isinstance(identifier, dict) or identifier.get("value") != wanted[1]:
        return False
    if not wanted[0] or "system" in identifier:
        return wanted[0] in ("", identifier.get("system"))
    # a patient of no known system is shown without one, by the name of the issuer
    return issuer is None or identifier.get("assigner", {}).get("display", "") == issuer


def _is(identifier: Json, wanted: tuple[str, str]) -> bool:
    system, value = wanted
    return identifier.get("value") == value and system in ("", identifier.get("system"))


def _refers(references: list[Json], target: str) -> bool:
    return any(one.get("reference") == target for one in references)


def _has_token(element: Any, codes: tuple[str, ...]) -> bool:
    if isinstance(element, str):
        return element in {code.rpartition("|")[2] for code in codes}
    codings = element.get("coding", []) if isinstance(element, dict) else []
    return any(_is_code(coding, code) for coding in codings for code in codes)


def _is_code(coding: Json, wanted: str) -> bool:
    system, bar, code = wanted.rpartition("|")
    return coding.get("code") == code and (not bar or coding.get("system", "") == system)
