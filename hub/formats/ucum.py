"""The Unified Code for Units of Measure (UCUM 2.2, case-sensitive codes): is a text a unit, and
what is a value in another unit of the same kind? Thread-safe."""

from __future__ import annotations

import math
import re
from functools import lru_cache

from hub.errors import RejectedError
from hub.ports import at_first_call

_LONGEST = 64
"""Characters: a unit code has to fit into a DICOM code value's long form and HL7's CE.1."""
_USUAL = frozenset(
    {"1", "%", "mm", "cm", "mm2", "cm2", "mm3", "cm3", "mL", "ms", "s", "/min", "mV", "uV"}
    | {"[hnsf'U]", "deg", "a", "d", "kg", "kg/m2", "g/cm3", "mm2/s", "mm[Hg]", "mL/min"}
)
"""Most models have no others: no grammar is needed for them."""
_LARGE_NUMBER = re.compile(r"[0-9]{10}|10[*^][+-]?[0-9]{3}")
"""No laboratory writes one; computing it takes as long as its writer wants."""

_parses = at_first_call("hub.formats.ucum_units:is_unit")
_line_of = at_first_call("hub.formats.ucum_units:line")


@lru_cache(1024)
def is_unit(text: str) -> bool:
    """Whether UCUM has this unit: atoms, prefixes, exponents, products, annotations."""
    if text in _USUAL:
        return True
    return bool(text) and len(text) <= _LONGEST and bool(_parses(text))


def converted(value: float, from_code: str, to_code: str, molar_mass: float | None = None) -> float:
    """A value in another unit.

    Amount of substance becomes mass, and the reverse, where ``molar_mass`` (g/mol) is given. Some
    things that UCUM would let pass are refused, because the numbers are not the same: arbitrary
    units become no other ones (UCUM 2.2 section 3.2, table 2), and an annotation has to be the
    same on both sides (``{FEU}`` is not ``{DDU}``, ``/{1.73_m2}`` is not nothing), unless it says
    what is counted. One thing is allowed that UCUM does not know: where a catalytic activity is
    wanted, ``[IU]`` is the International Unit of enzymes, 1 umol/min (IUB 1964), which is ``U``.

    Raises:
        RejectedError: one is no unit of UCUM, or they are not of one kind.
    """
    if from_code == to_code:
        return value
    slope, offset = _line(from_code, to_code, molar_mass)
    found = value * slope + offset
    if not math.isfinite(found):
        raise RejectedError(f"a value in {to_code} is too large")
    return float(f"{found:.12g}")  # what pint adds beyond is noise of the binary numbers


def value_in(
    value: float, from_code: str, to_code: str, molar_mass: float | None = None
) -> float | None:
    """As `converted`; None where that is not possible (`hub.domain.observed_input.ValueIn`)."""
    try:
        return converted(value, from_code, to_code, molar_mass)
    except RejectedError:
        return None


@lru_cache(1024)
def _line(from_code: str, to_code: str, molar_mass: float | None) -> tuple[float, float]:
    """Slope and offset of a conversion."""
    for code in (from_code, to_code):
        if not is_unit(code) or _LARGE_NUMBER.search(code):
            raise RejectedError(f"{code[:_LONGEST]!r} is no unit of UCUM")
    slope, offset = _line_of(from_code, to_code, molar_mass)
    return float(slope), float(offset)
