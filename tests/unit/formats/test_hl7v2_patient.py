from __future__ import annotations

from datetime import UTC, datetime

import pytest

from hub.domain.identity import PatientIdentity
from hub.domain.patient import PatientChange, PatientChangeKind, follow
from hub.formats.hl7v2.message import MessageError, read_message
from hub.formats.hl7v2.patient import IdentifierRules, patient_changes

RULES = IdentifierRules()
NOW = datetime(2026, 3, 14, 8, 30, tzinfo=UTC)
HEADER = r"MSH|^~\&|RIS|HOSP|||20260314083000||ADT^{event}|{id}|P|2.5.1"


def changes(
    event: str, *segments: str, control_id: str = "1", rules: IdentifierRules = RULES
) -> tuple[PatientChange, ...]:
    content = "\r".join([HEADER.format(event=event, id=control_id), *segments]).encode()
    return patient_changes(read_message(content), rules, "adt", NOW)


def name_of(xpn: str) -> str:
    return changes("A08", f"PID|1||1||{xpn}")[0].current.patient_name


@pytest.mark.parametrize("event", ["A08", "A31"])
def test_an_update_says_how_the_patient_is(event: str) -> None:
    (change,) = changes(event, "PID|1||1^^^UMR^MR||Müller^Jörg^M^Jr^Dr.||19580217083000+0100|m")
    assert change.kind is PatientChangeKind.UPDATED
    assert (change.patient_id, change.issuer_of_patient_id) == ("1", "UMR")
    assert change.current == PatientIdentity("1", "UMR", "Müller^Jörg^M^Dr.^Jr", "19580217", "")
    assert (change.source, change.received_at) == ("adt", NOW)


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        ("A40", PatientChangeKind.MERGED),
        ("A34", PatientChangeKind.MERGED),
        ("A18", PatientChangeKind.MERGED),
        ("A47", PatientChangeKind.IDENTIFIER_CHANGED),
    ],
)
def test_a_merged_id_becomes_the_one_that_survives(event: str, kind: PatientChangeKind) -> None:
    (change,) = changes(event, "PID|1||NEW^^^UMR||A^B||19580217|F", "MRG|OLD^^^UMR")
    assert change.kind is kind
    assert (change.patient_id, change.issuer_of_patient_id) == ("OLD", "UMR")
    assert change.current == PatientIdentity("NEW", "UMR", "A^B", "19580217", "F")
    assert follow(PatientIdentity("OLD", "UMR"), [change]).patient_id == "NEW"


def test_a_message_may_merge_several_in_their_order() -> None:
    found = changes("A40", "PID|1||B", "MRG|A", "PID|2||C", "MRG|B")
    assert [(c.patient_id, c.current.patient_id) for c in found] == [("A", "B"), ("B", "C")]
    assert found[0].received_at < found[1].received_at
    in_order = sorted(found, key=lambda change: change.received_at)
    assert follow(PatientIdentity("A"), in_order).patient_id == "C"


def test_each_id_of_a_patient_is_updated() -> None:
    found = changes("A08", "PID|1||1^^^UMR^PI~2^^^KH^MR~3^^^SSN^SS~4^^^UMR&1.2&ISO^AN||A^B")
    assert [(c.patient_id, c.issuer_of_patient_id) for c in found] == [("2", "KH"), ("1", "UMR")]


def test_a_merged_id_becomes_that_of_its_own_assigner() -> None:
    found = changes("A40", "PID|1||9^^^KH^MR~1^^^UMR^MR", "MRG|2^^^UMR^MR~8^^^KH^MR~7^^^OLD^MR")
    assert [
        (c.patient_id, c.current.patient_id, c.current.issuer_of_patient_id) for c in found
    ] == [
        ("2", "1", "UMR"),
        ("8", "9", "KH"),
        ("7", "9", "KH"),
    ]


def test_the_same_message_is_the_same_change_and_another_is_not() -> None:
    pid, mrg = "PID|1||NEW", "MRG|OLD"
    (first,), (again,) = changes("A40", pid, mrg), changes("A40", pid, mrg)
    assert first.change_id == again.change_id
    others = [
        changes("A40", pid, mrg, control_id="2"),
        changes("A47", pid, mrg),
        changes("A40", "PID|1||NEW2", mrg),
        changes("A40", pid, "MRG|OLD2"),
    ]
    assert len({first.change_id, *(one.change_id for (one,) in others)}) == 5
    assert len(first.change_id) <= 64


@pytest.mark.parametrize(
    ("xpn", "name"),
    [
        ("Müller", "Müller"),
        ("Müller&von&Müller^Jörg", "Müller^Jörg"),
        ("Alias^X^^^^^A~Legal^Y^^^^^L", "Legal^Y"),
        (
            "Yamada^Tarou^^^^^L^A~山田^太郎^^^^^L^I~やまだ^たろう^^^^^L^P",
            "Yamada^Tarou=山田^太郎=やまだ^たろう",
        ),
        ('""', ""),
        ("", ""),
        ("a\\S\\b=c\\E\\^d\\.br\\e", "a b c^d e"),
        ("x" * 80, "x" * 64),
    ],
)
def test_names_are_those_of_dicom(xpn: str, name: str) -> None:
    assert name_of(xpn) == name


@pytest.mark.parametrize(
    ("birth", "day"),
    [
        ("19580217", "19580217"),
        ("1958", ""),
        ("195802", ""),
        ("19581332", ""),
        ("", ""),
        ('""', ""),
    ],
)
def test_only_whole_days_are_birth_dates(birth: str, day: str) -> None:
    assert changes("A08", f"PID|1||1||A||{birth}")[0].current.patient_birth_date == day


def test_issuers_are_mapped_to_those_of_images() -> None:
    rules = IdentifierRules(issuers={"KH": "", "1.2.3": "UMR"})
    found = changes("A08", "PID|1||1^^^KH~2^^^X&1.2.3&ISO~3^^^NOBODY", rules=rules)
    assert [(c.patient_id, c.issuer_of_patient_id) for c in found] == [("1", ""), ("2", "UMR")]
    with pytest.raises(MessageError):
        changes("A08", "PID|1||3^^^NOBODY", rules=rules)


def test_refusals_hold_no_patient_data() -> None:
    for segments in (
        ("PID|1||^^^CANARY||CANARY",),
        (f"PID|1||{'CANARY' * 20}",),
        ("PID|1||CANARY\\E\\",),
        ('PID|1||""||CANARY',),
        ("NTE|CANARY",),
    ):
        with pytest.raises(MessageError) as raised:
            changes("A08", *segments)
        assert "CANARY" not in f"{raised.value}{raised.value.location}"
    with pytest.raises(MessageError, match="the same"):
        changes("A40", "PID|1||CANARY", "MRG|CANARY")


def test_an_id_that_stays_does_not_hide_that_another_is_merged() -> None:
    """MRG-1 lists all identifiers that the record had: the enterprise's is often the same."""
    found = changes("A40", "PID|1||E^^^MPI^PI~NEW^^^UMR^MR", "MRG|E^^^MPI^PI~OLD^^^UMR^MR")
    assert [(c.patient_id, c.current.patient_id) for c in found] == [("OLD", "NEW")]


def test_a_survivor_that_keeps_the_old_id_beside_the_new_one_is_followed() -> None:
    (change,) = changes("A40", "PID|1||OLD^^^UMR^MR~NEW^^^UMR^MR", "MRG|OLD^^^UMR^MR")
    assert (change.patient_id, change.current.patient_id) == ("OLD", "NEW")


def test_a_message_about_very_many_patients_is_refused() -> None:
    """Each change is written and synced on its own: a flood of them would hold the feed."""
    assert len(changes("A08", "PID|1||" + "~".join(map(str, range(200))))) == 200
    many = "~".join(map(str, range(100_000)))
    for segments in ((f"PID|1||{many}",), ("PID|1||NEW", f"MRG|{many}"), ("PID|1||1",) * 201):
        with pytest.raises(MessageError, match="more than 200"):
            changes("A08" if len(segments) != 2 else "A40", *segments)


def test_merges_in_a_circle_and_in_a_chain_end_at_the_last_one() -> None:
    def merge(old: str, new: str, number: int) -> PatientChange:
        (change,) = changes("A40", f"PID|1||{new}", f"MRG|{old}", control_id=str(number))
        return change

    chain = [merge("A", "B", 1), merge("B", "C", 2)]
    assert follow(PatientIdentity("A"), chain).patient_id == "C"
    circle = [merge("A", "B", 1), merge("B", "A", 2)]
    assert follow(PatientIdentity("A"), circle).patient_id == "A"
    assert follow(PatientIdentity("B"), circle).patient_id == "A"


def test_hexadecimal_escapes_are_read_in_both_usual_character_sets() -> None:
    assert name_of("M\\XC3BC\\ller") == name_of("M\\XFC\\ller") == "Müller"
