"""Can a coded concept be what it claims to be? What the code itself gives away, without a server.

A code that is mistyped is worse than none: the receiver's system shows another concept. SNOMED CT
and LOINC have check digits, UCUM a grammar, DCM a published list, RadLex a form. Of all other
schemes only the form that DICOM asks for is known (PS3.3 section 8.8).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from importlib import import_module

from hub.domain.coding import Code
from hub.formats.ucum import is_unit
from hub.ports import importing

_LONGEST_DESIGNATOR = 16
_LONGEST_SCT, _SHORTEST_SCT = 18, 6
_LOINC = re.compile(r"[1-9][0-9]{0,6}-[0-9]")
_LOINC_PART = re.compile(r"L[AGLP][1-9][0-9]{0,6}-[0-9]")
_NUMBER = re.compile(r"1[0-3][0-9]{4}")
"""A code of DICOM that is no word: about a hundred are added in a year, from 109001 on."""
_RADLEX = re.compile(r"RP?ID[1-9][0-9]{0,6}")
_DESIGNATOR = re.compile(r"[A-Za-z0-9_.\-]+")

_PRODUCTS = (
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
    (1, 2, 3, 4, 0, 6, 7, 8, 9, 5),
    (2, 3, 4, 0, 1, 7, 8, 9, 5, 6),
    (3, 4, 0, 1, 2, 8, 9, 5, 6, 7),
    (4, 0, 1, 2, 3, 9, 5, 6, 7, 8),
    (5, 9, 8, 7, 6, 0, 4, 3, 2, 1),
    (6, 5, 9, 8, 7, 1, 0, 4, 3, 2),
    (7, 6, 5, 9, 8, 2, 1, 0, 4, 3),
    (8, 7, 6, 5, 9, 3, 2, 1, 0, 4),
    (9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
)
"""Multiplication in the dihedral group D5 (Verhoeff 1969)."""
_FIRST_PERMUTATION = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)


@lru_cache(maxsize=4096)
def code_problem(code: Code) -> str:
    """What is wrong with a code, without its value or meaning; empty when nothing is."""
    scheme = code.coding_scheme_designator
    if len(scheme) > _LONGEST_DESIGNATOR or not _DESIGNATOR.fullmatch(scheme):
        return "a code without a coding scheme designator"
    if not code.code_value or code.code_value.strip() != code.code_value:
        return f"a code of {scheme} without a value"
    if not code.code_meaning.strip():
        return f"a code of {scheme} without a meaning"
    check = _CHECKS.get(scheme)
    return "" if check is None or check(code.code_value) else f"a code that {scheme} cannot have"


def is_snomed_ct(text: str) -> bool:
    """A concept identifier of SNOMED CT: 6 to 18 digits, of the partition of concepts, with
    Verhoeff's check digit (SNOMED CT technical implementation guide, 5.3)."""
    if not (text.isascii() and text.isdigit() and _SHORTEST_SCT <= len(text) <= _LONGEST_SCT):
        return False
    if text[0] == "0" or text[-3:-1] not in ("00", "10"):
        return False
    remainder = 0
    for position, digit in enumerate(reversed(text)):
        remainder = _PRODUCTS[remainder][_permuted(position % 8, int(digit))]
    return remainder == 0


def _permuted(times: int, digit: int) -> int:
    for _ in range(times):
        digit = _FIRST_PERMUTATION[digit]
    return digit


def is_loinc(text: str) -> bool:
    """A LOINC number: its last digit is a check digit, mod 10 (LOINC users' guide, appendix). Of
    parts (LP), answers (LA), their lists (LL) and groups (LG) only the form is known."""
    if _LOINC_PART.fullmatch(text):
        return True
    if not _LOINC.fullmatch(text):
        return False
    number, _, check = text.partition("-")
    total = sum(
        sum(divmod(2 * int(digit), 10)) if position % 2 == 0 else int(digit)
        for position, digit in enumerate(reversed(number))
    )
    return (total + int(check)) % 10 == 0


def is_dicom_code(text: str) -> bool:
    """A code of PS3.16 annex D, as pydicom lists them; or one of a later edition: the numbers are
    given one after another."""
    return text in _dicom_codes() or (_NUMBER.fullmatch(text) is not None and text > _newest())


@cache
def _newest() -> str:
    return max(code for code in _dicom_codes() if _NUMBER.fullmatch(code))


@cache
def _dicom_codes() -> frozenset[str]:
    # loaded when the first such code is checked: it takes a tenth of a second
    with importing():
        known = import_module("pydicom.sr._concepts_dict").concepts["DCM"]
    return frozenset(value for codes in known.values() for value in codes)


def _is_radlex(text: str) -> bool:
    return _RADLEX.fullmatch(text) is not None


_CHECKS: Mapping[str, Callable[[str], bool]] = {
    "SCT": is_snomed_ct,
    "LN": is_loinc,
    "DCM": is_dicom_code,
    "RADLEX": _is_radlex,
    "UCUM": is_unit,
}
"""By coding scheme designator (PS3.16 table 8-1)."""
