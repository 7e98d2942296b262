"""Codes and units: what the standards' own lists hold passes, what is mistyped does not."""

from __future__ import annotations

from importlib.resources import files

import pytest
from pydicom.sr._concepts_dict import concepts

from hub.domain.coding import Code
from hub.formats.codes import code_problem, is_dicom_code, is_loinc, is_snomed_ct
from hub.formats.ucum import _USUAL, is_unit
from hub.formats.ucum_units import is_unit as parses

_WRONG_AT_THE_SOURCE = {"115347700", "11524-0"}
"""Concepts that pydicom has with a wrong check digit."""


def _listed(scheme: str) -> list[str]:
    return [value for codes in concepts[scheme].values() for value in codes]


def test_every_snomed_ct_code_of_dicom_passes() -> None:
    codes = set(_listed("SCT")) - _WRONG_AT_THE_SOURCE
    assert len(codes) > 8_000
    assert [code for code in codes if not is_snomed_ct(code)] == []


def test_every_loinc_code_of_dicom_passes() -> None:
    codes = {code for code in _listed("LN") if "-" in code} - _WRONG_AT_THE_SOURCE
    assert len(codes) > 700
    assert [code for code in codes if not is_loinc(code)] == []


def test_one_wrong_digit_or_two_exchanged_ones_are_noticed_in_snomed_ct() -> None:
    """All of them: that is what Verhoeff's method is for."""
    for code in ("39607008", "118565006", "52101004"):
        for at in range(len(code)):
            for digit in "0123456789":
                changed = code[:at] + digit + code[at + 1 :]
                assert is_snomed_ct(changed) == (changed == code)
        for at in range(len(code) - 1):
            changed = code[:at] + code[at + 1] + code[at] + code[at + 2 :]
            assert is_snomed_ct(changed) == (changed == code)


def test_one_wrong_digit_is_noticed_in_loinc() -> None:
    code = "24627-2"
    for at in range(5):
        for digit in "0123456789":
            changed = code[:at] + digit + code[at + 1 :]
            assert is_loinc(changed) == (changed == code)


@pytest.mark.parametrize(
    "text", ["", "12", "39607008 ", "039607008", "3960700x", "1234567890123456789", "39607018"]
)
def test_what_no_concept_of_snomed_ct_looks_like(text: str) -> None:
    assert not is_snomed_ct(text)


def test_dicom_codes_are_those_of_the_standard() -> None:
    assert all(map(is_dicom_code, ("112039", "121071", "113014", "126000")))
    assert not is_dicom_code("112999999")
    assert not is_dicom_code("112999")


def test_a_code_of_a_later_edition_of_dicom_may_be() -> None:
    """A vendor may be ahead of the list that the hub has: numbers are given one after another."""
    assert is_dicom_code("131234")
    assert not is_dicom_code("913123")


@pytest.mark.parametrize("code", ["LP29684-5", "LA6576-8", "LL358-3", "LG33055-1"])
def test_parts_and_answers_of_loinc_may_be(code: str) -> None:
    assert is_loinc(code)
    assert not is_loinc("LX" + code[2:])


def test_every_example_of_ucum_is_a_unit() -> None:
    text = files("ucumvert").joinpath("vendor/ucum_examples.tsv").read_text("utf-8")
    units = [line.split("\t")[1] for line in text.splitlines()[1:]]
    assert len(units) > 800
    assert [unit for unit in units if not is_unit(unit)] == ["Torr"]  # not UCUM's: m[Hg] is


def test_usual_units_are_units_of_the_grammar() -> None:
    assert [unit for unit in _USUAL if not parses(unit)] == []


@pytest.mark.parametrize(
    "text",
    ["1", "{score}", "{Agatston}", "mL/min/{1.73_m2}", "g/mL{SUVbw}", "10*-6.mm2/s", "/min"],
)
def test_units_of_vendors_are_units(text: str) -> None:
    assert is_unit(text)


@pytest.mark.parametrize(
    "text", ["", "HU", "ml/min/m²", "mm ", "mm/", "/", "(mm", "{", "k%", "x" * 65]
)
def test_what_is_no_unit(text: str) -> None:
    assert not is_unit(text)


@pytest.mark.parametrize(
    "code",
    [
        Code("39607008", "SCT", "Lung"),
        Code("RID1301", "RADLEX", "lung"),
        Code("RPID5427", "RADLEX", "a procedure"),
        Code("laa-950", "99CAIDX", "Low attenuation areas"),
        Code("2:2", "MDC", "Lead II"),
        Code("C-B0322", "SRT", "a retired one"),
        Code("T-28000", "SNM3", "Lung"),
        Code("1234-01", "99ACME", "of a vendor"),
        Code("RDES44", "RADELEMENT", "an element"),
        Code("J93.0", "I10", "Spontaneous tension pneumothorax"),
        Code("90741000119107", "SCT", "of the extension of the United States"),
        Code("LA6576-8", "LN", "Positive"),
    ],
)
def test_codes_that_may_be(code: Code) -> None:
    assert code_problem(code) == ""
