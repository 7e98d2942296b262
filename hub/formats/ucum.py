"""The Unified Code for Units of Measure (UCUM 2.2, case-sensitive codes): is a text a unit, and
what is a value in another unit of the same kind?"""

from __future__ import annotations

import math
import re
from collections import Counter
from functools import lru_cache
from typing import Any

from lark import Lark
from lark.exceptions import LarkError

from hub.errors import RejectedError
from hub.ports import at_first_call

_LONGEST = 64
"""Characters: a unit code has to fit into a DICOM code value's long form and HL7's CE.1."""
_USUAL = frozenset(
    {"1", "%", "mm", "cm", "mm2", "cm2", "mm3", "cm3", "mL", "ms", "s", "/min", "mV", "uV"}
    | {"[hnsf'U]", "deg", "a", "d", "kg", "kg/m2", "g/cm3", "mm2/s", "mm[Hg]", "mL/min"}
)
"""Most models have no others: no grammar is needed for them."""
_parser = at_first_call("ucumvert:get_ucum_parser")
_pint_registry = at_first_call("ucumvert:PintUcumRegistry")
_definitions = at_first_call("ucumvert.xml_util:get_units_with_full_definition")

_BRACKETED = re.compile(r"\[[^\[\]]*\]")
_ANNOTATION = re.compile(r"\{[^{}]*\}")
_LARGE_NUMBER = re.compile(r"[0-9]{10}|10[*^][+-]?[0-9]{3}")
"""No laboratory writes one; computing it takes as long as its writer wants."""
_COUNTED = frozenset({"{cell}", "{cells}", "{Cells}", "{count}", "{#}", "{platelets}"})
"""Annotations that say what is counted, and change no number."""
_INTERNATIONAL = re.compile(r"\[[iI]U\]")
_CATALYTIC = "U/L"
_TOLERANCE = 1e-9


@lru_cache(1)
def _grammar() -> Lark:
    """Loading it takes about a third of a second: at the first unit that is not usual."""
    parser: Lark = _parser()
    return parser


@lru_cache(1024)
def is_unit(text: str) -> bool:
    """Whether UCUM has this unit: atoms, prefixes, exponents, products, annotations."""
    if text in _USUAL:
        return True
    if not text or len(text) > _LONGEST:
        return False
    try:
        _grammar().parse(text)
    except LarkError:
        return False
    return True


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


@lru_cache(1)
def _registry() -> Any:
    """Loading it takes about three quarters of a second: at the first value in another unit."""
    return _pint_registry()


@lru_cache(1)
def _arbitrary() -> frozenset[str]:
    """Atoms that are defined by a procedure, and by nothing else."""
    return frozenset(unit.code_cs for unit in _definitions() if unit.is_arbitrary)


@lru_cache(1024)
def _line(from_code: str, to_code: str, molar_mass: float | None) -> tuple[float, float]:
    """Slope and offset of a conversion."""
    given, wanted = _quantity(from_code), _quantity(to_code)
    if wanted.is_compatible_with(_quantity(_CATALYTIC)) and _INTERNATIONAL.search(from_code):
        from_code = _INTERNATIONAL.sub("U", from_code)
        given = _quantity(from_code)
    if _marks(from_code) != _marks(to_code):
        raise RejectedError(f"{_short(from_code)} and {_short(to_code)} are not of one kind")
    try:
        zero, one, two = (_moved(given, wanted, n, molar_mass) for n in (0.0, 1.0, 2.0))
    except (ArithmeticError, ValueError, TypeError) as error:
        text = f"{_short(from_code)} and {_short(to_code)} are not of one kind"
        raise RejectedError(text) from error
    if not math.isclose(two - one, one - zero, rel_tol=_TOLERANCE) or one == zero:
        raise RejectedError(f"{_short(from_code)} is no unit on a plain scale")
    return one - zero, zero


def _moved(given: Any, wanted: Any, number: float, molar_mass: float | None) -> float:
    quantity = _registry().Quantity(number * given.magnitude, given.units)
    if molar_mass is not None and not given.is_compatible_with(wanted):
        per_mole = _registry().Quantity(molar_mass, "gram / mole")
        product = quantity * per_mole
        quantity = product if product.is_compatible_with(wanted) else quantity / per_mole
    return float(quantity.to(wanted.units).magnitude / wanted.magnitude)


def _quantity(code: str) -> Any:
    """What a code stands for, of pint.

    Raises:
        RejectedError: it is no unit.
    """
    if not is_unit(code) or _LARGE_NUMBER.search(code):
        raise RejectedError(f"{_short(code)} is no unit of UCUM")
    try:
        return _registry().from_ucum(code)
    except (LarkError, ArithmeticError, ValueError, AttributeError, TypeError) as error:
        raise RejectedError(f"{_short(code)} is no unit that can be converted") from error


def _short(code: str) -> str:
    """A sender's text, as it may stand in a message."""
    return repr(code[:_LONGEST])


def _marks(code: str) -> Counter[str]:
    """What a code says beside its dimension."""
    annotations = _ANNOTATION.findall(code)
    atoms = _BRACKETED.findall(_ANNOTATION.sub("", code))
    arbitrary = ("[IU]" if a == "[iU]" else a for a in atoms if a in _arbitrary())
    return Counter([*(one for one in annotations if one not in _COUNTED), *arbitrary])
