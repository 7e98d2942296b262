"""Is a text a unit of the Unified Code for Units of Measure (UCUM 2.2, case-sensitive codes)?"""

from __future__ import annotations

from functools import lru_cache

from lark import Lark
from lark.exceptions import LarkError

from hub.ports import at_first_call

_LONGEST = 64
"""Characters: a unit code has to fit into a DICOM code value's long form and HL7's CE.1."""
_USUAL = frozenset(
    {"1", "%", "mm", "cm", "mm2", "cm2", "mm3", "cm3", "mL", "ms", "s", "/min", "mV", "uV"}
    | {"[hnsf'U]", "deg", "a", "d", "kg", "kg/m2", "g/cm3", "mm2/s", "mm[Hg]", "mL/min"}
)
"""Most models have no others: no grammar is needed for them."""
_parser = at_first_call("ucumvert:get_ucum_parser")


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
