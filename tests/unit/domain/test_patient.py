from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from hub.domain.identity import PatientIdentity
from hub.domain.patient import PatientChange, PatientChangeKind, follow

NOW = datetime(2026, 3, 14, tzinfo=UTC)


def merged(old: str, new: str, issuer: str = "", **fields: str) -> PatientChange:
    current = PatientIdentity(new, fields.pop("new_issuer", issuer), **fields)
    return PatientChange(f"{old}-{new}", PatientChangeKind.MERGED, old, issuer, current, "adt", NOW)


def test_nobody_else_is_concerned() -> None:
    patient = PatientIdentity("A", "UMR", "Name", "19580217", "F")
    assert follow(patient, []) == patient
    assert follow(patient, [merged("B", "C"), merged("A", "C", "KH"), merged("a", "C", "UMR")]) == (
        patient
    )


def test_what_a_change_does_not_say_stays() -> None:
    patient = PatientIdentity("A", "", "Old^Name", "19580217", "F")
    assert follow(patient, [merged("A", "B")]) == PatientIdentity(
        "B", "", "Old^Name", "19580217", "F"
    )
    renamed = merged("A", "A", patient_name="New^Name", patient_sex="M")
    assert follow(patient, [renamed]) == PatientIdentity("A", "", "New^Name", "19580217", "M")


def test_a_chain_of_merges_is_followed_to_its_end() -> None:
    changes = [merged("A", "B"), merged("B", "C"), merged("C", "D", patient_name="Last")]
    for first in "ABC":
        assert follow(PatientIdentity(first), changes) == PatientIdentity("D", "", "Last")


def test_a_merge_into_an_id_that_was_gone_before_does_not_follow_it() -> None:
    """B went to C before A came to B: whoever is B by then is another one."""
    changes = [merged("B", "C"), merged("A", "B")]
    assert follow(PatientIdentity("A"), changes).patient_id == "B"
    assert follow(PatientIdentity("B"), changes).patient_id == "C"


def test_a_circle_ends_at_its_last_change() -> None:
    changes = [merged("A", "B"), merged("B", "A")]
    assert follow(PatientIdentity("A"), changes).patient_id == "A"
    assert follow(PatientIdentity("B"), changes).patient_id == "A"
    assert follow(PatientIdentity("A"), [*changes, merged("A", "B")]).patient_id == "B"


def test_an_id_may_move_to_another_issuer() -> None:
    changes = [merged("A", "A", "UMR", new_issuer="KH"), merged("A", "B", "KH")]
    now = follow(PatientIdentity("A", "UMR"), changes)
    assert now.key == ("B", "KH")


NAMES = st.sampled_from("ABCD")


@given(st.lists(st.tuples(NAMES, NAMES)), NAMES)
def test_following_always_ends_and_is_the_same_step_by_step(
    pairs: list[tuple[str, str]], first: str
) -> None:
    changes = [merged(old, new) for old, new in pairs]
    stepwise = PatientIdentity(first)
    for change in changes:
        stepwise = follow(stepwise, [change])
    assert follow(PatientIdentity(first), changes) == stepwise
