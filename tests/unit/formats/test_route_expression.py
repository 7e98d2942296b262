from __future__ import annotations

import time

import pytest

from hub.domain.routing import RuleFailedError
from hub.formats.route_expression import compile_expression

STUDY = {"study": {"modalities_in_study": ["CT", "SR"], "number_of_series": 2, "text": "Thorax"}}


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("'CT' in study.modalities_in_study", True),
        ("'MR' in study.modalities_in_study", False),
        ("study.number_of_series > 1 && study.text.matches('(?i)thorax')", True),
        ("study.text == 'Thorax' ? false : true", False),
    ],
)
def test_an_expression_is_evaluated(text: str, answer: bool) -> None:
    assert compile_expression(text, names=("study",))(STUDY) is answer


@pytest.mark.parametrize("text", ["study.", "patient.name == 'x'", "1 +", ""])
def test_what_does_not_compile_is_refused_at_once(text: str) -> None:
    with pytest.raises(ValueError, match=r"(?i)error|undeclared|syntax"):
        compile_expression(text, names=("study",))


@pytest.mark.parametrize(
    "text",
    [
        "study.no_such_field == 1",
        "study.number_of_series + 'a' == 'b'",
        "study.number_of_series",
        "1 / (study.number_of_series - 2) == 1",
    ],
)
def test_what_cannot_be_answered_is_an_error_and_never_no(text: str) -> None:
    with pytest.raises(RuleFailedError):
        compile_expression(text, names=("study",))(STUDY)


def test_an_endless_expression_ends_soon() -> None:
    numbers = "[0,1,2,3,4,5,6,7,8,9]"
    bomb = "true"
    for letter in "abcdefgh":
        bomb = f"{numbers}.all({letter}, {bomb})"
    began = time.monotonic()
    with pytest.raises(RuleFailedError):
        compile_expression(bomb, names=("study",))(STUDY)
    assert time.monotonic() - began < 10
