"""Values in other units, against numbers that were computed by hand."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from hub.errors import RejectedError
from hub.formats.ucum import converted, value_in

CREATININE = 113.12
"""C4H7N3O, g/mol."""
GLUCOSE = 180.156


@pytest.mark.parametrize(
    ("value", "given", "wanted", "expected"),
    [
        (240, "10*3/uL", "10*9/L", 240),
        (240, "10^3/uL", "10*9/L", 240),
        (240, "10*3/mm3", "10*9/L", 240),
        (240, "/nL", "10*9/L", 240),
        (240_000, "/uL", "10*9/L", 240),
        (240_000, "{cells}/uL", "10*9/L", 240),
        (0.24, "10*12/L", "10*9/L", 240),
        (31, "U/L", "U/L", 31),
        (31, "[IU]/L", "U/L", 31),
        (31, "[iU]/L", "U/L", 31),
        (0.031, "U/mL", "U/L", 31),
        # 1 U = 1 umol/min = 1/60 ukat
        (0.5, "ukat/L", "U/L", 30),
        (500, "nkat/L", "U/L", 30),
        (60, "U/L", "ukat/L", 1),
        (1, "mg/dL", "mg/L", 10),
        (1, "mg/dL", "g/L", 0.01),
        (11.4, "g/dL", "g/L", 114),
        (7.1, "mmol/L", "umol/L", 7100),
        (3.4, "m[IU]/L", "u[IU]/mL", 3.4),
        (3.4, "u[IU]/mL", "[IU]/L", 0.0034),
        (0.45, "ug/mL{FEU}", "mg/L{FEU}", 0.45),
        (41, "%", "1", 0.41),
        (120, "mm[Hg]", "kPa", 15.9986864898),
        (37, "Cel", "[degF]", 98.6),
        (98.6, "[degF]", "Cel", 37),
    ],
)
def test_units_of_the_laboratory(value: float, given: str, wanted: str, expected: float) -> None:
    assert converted(value, given, wanted) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("value", "given", "wanted", "mass", "expected"),
    [
        # 88.4 umol/L x 113.12 g/mol = 9.9998 mg/L = 0.99998 mg/dL
        (88.4, "umol/L", "mg/dL", CREATININE, 0.9999808),
        (0.0884, "mmol/L", "mg/dL", CREATININE, 0.9999808),
        (1.0, "mg/dL", "umol/L", CREATININE, 88.4016973126),
        (10.0, "mg/L", "umol/L", CREATININE, 88.4016973126),
        # 5.55 mmol/L x 180.156 g/mol = 999.8658 mg/L
        (5.55, "mmol/L", "mg/dL", GLUCOSE, 99.98658),
        (1.0, "mg/dL", "mg/dL", CREATININE, 1.0),
        (10.0, "mg/L", "mg/dL", CREATININE, 1.0),
    ],
)
def test_amount_of_substance_and_mass(
    value: float, given: str, wanted: str, mass: float, expected: float
) -> None:
    assert converted(value, given, wanted, mass) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("umol/L", "mg/dL"),  # without a molar mass
        ("U/L", "[IU]/L"),  # an arbitrary unit may be of anything
        ("U/L", "10*9/L"),
        ("[IU]/L", "10*9/L"),
        ("[IU]/L", "/L"),
        ("[arb'U]/mL", "[IU]/mL"),
        ("G/L", "10*9/L"),  # a gauss, though German laboratories mean 10*9
        ("mL/min", "mL/min/{1.73_m2}"),
        ("mg/L{FEU}", "mg/L{DDU}"),
        ("mg/L{FEU}", "mg/L"),
        ("mg/dL", "mg"),
        ("g/L", "L/g"),
        ("[pH]", "1"),
        ("dB", "1"),
        ("Thousand/uL", "10*9/L"),
        ("K/uL", "10*9/L"),  # kelvin
        ("mg/dl/", "mg/dL"),
        ("", "mg/dL"),
        ("mg/dL", "nothing"),
        ("x" * 65, "mg/dL"),
    ],
)
def test_what_is_not_of_one_kind_is_refused(given: str, wanted: str) -> None:
    with pytest.raises(RejectedError):
        converted(1.0, given, wanted)
    assert value_in(1.0, given, wanted) is None


@pytest.mark.parametrize(
    "hostile", ["10*999999999/L", "99999999999999/L", "m999999999", "{\x00}/L", "((((((m))))))" * 4]
)
def test_a_hostile_unit_costs_nothing(hostile: str) -> None:
    with pytest.raises(RejectedError):
        converted(1.0, hostile, "10*9/L")


def test_a_value_that_becomes_too_large_is_refused() -> None:
    with pytest.raises(RejectedError):
        converted(1e308, "g/L", "ng/L")


def test_binary_noise_is_rounded_away() -> None:
    assert converted(200, "/nL", "10*9/L") == 200.0
    assert value_in(0.1, "g/L", "mg/L") == 100.0


_MANY_AT_ONCE = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

sys.setswitchinterval(1e-5)
from hub.formats.ucum import value_in

together = Barrier(8)
def value(number):
    together.wait()
    return value_in(240.0, "10*3/uL", "10*9/L") if number % 2 else value_in(0.5, "ukat/L", "U/L")

with ThreadPoolExecutor(8) as pool:
    print(json.dumps(list(pool.map(value, range(8)))))
"""


def test_the_first_values_of_a_process_may_come_together() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _MANY_AT_ONCE], capture_output=True, check=True, timeout=120
    )
    assert json.loads(done.stdout) == [30.0, 240.0] * 4
