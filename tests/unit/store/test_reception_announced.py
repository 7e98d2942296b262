"""What a sender says that it will send decides what room is made for it, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from hub.ports import EndOfTransfer, Sender
from tests.received import Receiving, received_object

_IMAGE = 527_000


@pytest.fixture
def receiving(tmp_path: Path) -> Receiving:
    return Receiving(tmp_path / "objects")


def sizes(receiving: Receiving) -> list[int]:
    """Of all segments, in MiB, ascending."""
    files = (receiving.root / "used").glob("??/*")
    return sorted(file.stat().st_size >> 20 for file in files)


def send(receiving: Receiving, studies: list[int], announced: int) -> None:
    reception = receiving.open(Sender("web", announced_bytes=announced))
    for number, study in enumerate(studies):
        reception.store(received_object(study, number, pixel_bytes=_IMAGE))
    reception.close(EndOfTransfer.RELEASED)


@pytest.mark.parametrize(
    ("count", "announced", "expected"),
    [
        (10, 0, [1, 4, 16]),
        (10, 10 * _IMAGE, [4, 4]),
        (1, 1 * _IMAGE, [1]),
        (8, 3 * _IMAGE, [4, 16]),
        (1, 1 << 40, [16]),
    ],
    ids=["nobody knows", "it fits", "one image", "it is more", "it is far less"],
)
def test_a_transfer_that_says_its_length_wastes_little(
    receiving: Receiving, count: int, announced: int, expected: list[int]
) -> None:
    send(receiving, [1] * count, announced)
    assert sizes(receiving) == expected
    assert len(receiving.files()) == count
    assert receiving.ends() == sorted(["continued"] * (len(expected) - 1) + ["released"])


def test_what_is_announced_is_not_made_room_for_in_every_study(receiving: Receiving) -> None:
    send(receiving, [1, 2, 3, 4], 20 << 20)
    assert sizes(receiving) == [1, 1, 1, 16]
