"""What we propose to an archive that is to send by C-GET."""

from __future__ import annotations

import pytest
from pynetdicom import build_context

from connectors.dicom.storage_proposals import (
    LIKELY_SYNTAXES,
    proposals,
    proposals_for,
    without_first,
)

CT, PRIVATE = "1.2.840.10008.5.1.4.1.1.2", "1.2.3.4"
EXPLICIT, JPEG_LS, JPEG_XL = (
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.110",
)


def test_one_class_gets_a_context_for_each_transfer_syntax() -> None:
    found = proposals({PRIVATE: ()})
    assert found == [(PRIVATE, (syntax,)) for syntax in LIKELY_SYNTAXES]
    assert JPEG_XL in LIKELY_SYNTAXES


def test_what_refers_to_pixels_elsewhere_is_not_proposed() -> None:
    jpip = [f"1.2.840.10008.1.2.4.{n}" for n in (94, 95, 204, 205)]
    offered = {s for _, syntaxes in proposals({CT: jpip}) for s in syntaxes}
    offered |= {s for _, syntaxes in proposals_for(["CT"]) for s in syntaxes}
    assert offered.isdisjoint(jpip)


def test_what_is_known_to_be_available_comes_first() -> None:
    assert proposals({CT: [JPEG_XL]})[:2] == [(CT, (JPEG_XL,)), (CT, (EXPLICIT,))]


@pytest.mark.parametrize("number", [1, 2, 3, 10, 60, 127, 200])
def test_there_is_room_for_all_of_it_in_one_association(number: int) -> None:
    found = proposals({f"1.2.3.{n}": [JPEG_LS] for n in range(number)})
    assert len(found) <= 127
    assert len(dict(found)) == min(number, 127)
    assert sum(26 * len(syntaxes) for _, syntaxes in found) < 64 << 10
    for uid in dict(found):
        syntaxes = [s for name, offered in found if name == uid for s in offered]
        assert {JPEG_LS, EXPLICIT} <= set(syntaxes)
        assert len(set(syntaxes)) == len(syntaxes)


@pytest.mark.parametrize("modalities", [[], ["CT"], ["CT", "PT", "SR"], ["??"]])
def test_of_unknown_classes_the_likely_ones_get_most(modalities: list[str]) -> None:
    found = proposals_for(modalities)
    assert len(found) == 127
    if "CT" in modalities:
        alone = [syntaxes[0] for uid, syntaxes in found if uid == CT and len(syntaxes) == 1]
        assert alone[:4] == list(LIKELY_SYNTAXES[:4])


def test_what_was_of_no_use_is_not_proposed_again() -> None:
    proposed = [(CT, (EXPLICIT,)), (CT, (JPEG_LS, JPEG_XL)), (PRIVATE, (EXPLICIT,))]
    accepted = [build_context(CT, EXPLICIT), build_context(CT, JPEG_LS)]
    assert without_first(proposed, accepted) == proposed[1:]
    assert without_first(proposed[1:], accepted[1:]) == [(CT, (JPEG_XL,)), proposed[2]]
    assert without_first(proposed, []) == proposed
