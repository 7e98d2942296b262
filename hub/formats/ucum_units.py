"""What UCUM's codes mean: the grammar and the quantities behind `hub.formats.ucum`.

Loaded late: together they take about a second. One thread at a time works with them: neither the
parser nor the registry of pint says that it could be shared, and quantities of two registries
cannot be compared.
"""

from __future__ import annotations

import math
import re
import threading
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from lark import Lark
from lark.exceptions import LarkError
from pint.errors import PintError
from ucumvert import PintUcumRegistry, get_ucum_parser
from ucumvert.xml_util import get_units_with_full_definition

from hub.errors import RejectedError

_BRACKETED = re.compile(r"\[[^\[\]]*\]")
_ANNOTATION = re.compile(r"\{[^{}]*\}")
_COUNTED = frozenset({"{cell}", "{cells}", "{Cells}", "{count}", "{#}", "{platelets}"})
"""Annotations that say what is counted, and change no number."""
_INTERNATIONAL = re.compile(r"\[[iI]U\]")
_CATALYTIC = "U/L"
_TOLERANCE = 1e-9

_one_at_a_time = threading.Lock()


def is_unit(code: str) -> bool:
    """Whether the grammar has it."""
    with _one_at_a_time:
        try:
            _grammar().parse(code)
        except LarkError:
            return False
    return True


def line(from_code: str, to_code: str, molar_mass: float | None) -> tuple[float, float]:
    """Slope and offset of a conversion.

    Raises:
        RejectedError: one cannot be computed with, or they are not of one kind.
    """
    with _one_at_a_time:
        return _units().line(from_code, to_code, molar_mass)


@cache
def _grammar() -> Lark:
    parser: Lark = get_ucum_parser()
    return parser


@cache
def _units() -> _Units:
    """Takes about three quarters of a second."""
    return _Units()


@dataclass(frozen=True, slots=True)
class _Units:
    registry: Any = field(default_factory=PintUcumRegistry)
    arbitrary: frozenset[str] = field(
        default_factory=lambda: frozenset(
            unit.code_cs for unit in get_units_with_full_definition() if unit.is_arbitrary
        )
    )
    """Atoms that are defined by a procedure, and by nothing else."""

    def line(self, from_code: str, to_code: str, molar_mass: float | None) -> tuple[float, float]:
        given, wanted = self._quantity(from_code), self._quantity(to_code)
        is_activity = wanted.is_compatible_with(self._quantity(_CATALYTIC))
        if is_activity and _INTERNATIONAL.search(from_code):
            from_code = _INTERNATIONAL.sub("U", from_code)
            given = self._quantity(from_code)
        if self._marks(from_code) != self._marks(to_code):
            raise RejectedError(f"{from_code!r} and {to_code!r} are not of one kind")
        try:
            zero, one, two = (self._moved(given, wanted, n, molar_mass) for n in (0.0, 1.0, 2.0))
        except (ArithmeticError, PintError) as error:
            raise RejectedError(f"{from_code!r} and {to_code!r} are not of one kind") from error
        if not math.isclose(two - one, one - zero, rel_tol=_TOLERANCE) or one == zero:
            raise RejectedError(f"{from_code!r} is no unit on a plain scale")
        return one - zero, zero

    def _moved(self, given: Any, wanted: Any, number: float, molar_mass: float | None) -> float:
        quantity = self.registry.Quantity(number * given.magnitude, given.units)
        if molar_mass is not None and not given.is_compatible_with(wanted):
            per_mole = self.registry.Quantity(molar_mass, "gram / mole")
            product = quantity * per_mole
            quantity = product if product.is_compatible_with(wanted) else quantity / per_mole
        return float(quantity.to(wanted.units).magnitude / wanted.magnitude)

    def _quantity(self, code: str) -> Any:
        """What a code stands for, of pint."""
        try:
            return self.registry.from_ucum(code)
        except (LarkError, ArithmeticError, PintError) as error:
            raise RejectedError(f"{code!r} is no unit that can be converted") from error

    def _marks(self, code: str) -> Counter[str]:
        """What a code says beside its dimension."""
        annotations = _ANNOTATION.findall(code)
        atoms = _BRACKETED.findall(_ANNOTATION.sub("", code))
        arbitrary = ("[IU]" if a == "[iU]" else a for a in atoms if a in self.arbitrary)
        return Counter([*(one for one in annotations if one not in _COUNTED), *arbitrary])
