"""Bodies come in pieces: wherever they are cut, the parts are the same."""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import pairwise

import pytest

from connectors.dicomweb.multipart import MultipartReader, PartBegins, PartEnds
from tests.unit.connectors.dicomweb.bodies import BOUNDARY, multipart

_DELIMITER = f"\r\n--{BOUNDARY}".encode()
_PARTS = [
    b"first",
    b"",
    _DELIMITER[:-1],  # nearly a boundary
    b"\r\n" * 5 + _DELIMITER[:-3] + _DELIMITER[:5] + b"\r",
    b"\r" * 30 + b"--" + BOUNDARY.encode(),
]


def parts_of(pieces: Iterable[bytes]) -> list[bytes]:
    """What the reader makes of a body."""
    reader, found, ended = MultipartReader(BOUNDARY), list[bytearray](), 0
    for piece in pieces:
        for event in reader.feed(piece):
            if isinstance(event, PartBegins):
                assert event.headers == {"content-type": "application/dicom"}
                found.append(bytearray())
            elif isinstance(event, PartEnds):
                ended += 1
            else:
                found[-1] += event
    assert reader.finished
    assert ended == len(found)
    return [bytes(part) for part in found]


def test_a_body_may_be_cut_anywhere_once() -> None:
    body = multipart(_PARTS)
    for cut in range(len(body) + 1):
        assert parts_of([body[:cut], body[cut:]]) == _PARTS


@pytest.mark.parametrize("size", [1, 2, 3, 7, 11, 12, 13, 14, 40])
def test_a_body_may_come_in_small_pieces(size: int) -> None:
    body = multipart(_PARTS)
    assert parts_of(body[at : at + size] for at in range(0, len(body), size)) == _PARTS


@pytest.mark.parametrize("seed", range(20))
def test_what_looks_like_a_boundary_is_none(seed: int) -> None:
    chance = random.Random(seed)
    pieces = [_DELIMITER[:n] for n in range(1, len(_DELIMITER))] + [b"\r", b"x", b"-"]
    parts = [b"".join(chance.choices(pieces, k=30)) for _ in range(4)]
    body, cuts = multipart(parts), [0]
    while cuts[-1] < len(body):
        cuts.append(cuts[-1] + chance.randint(1, 60))
    assert parts_of(body[a:b] for a, b in pairwise(cuts)) == parts
