"""Scanners that insist: each sends studies until every image of them was acknowledged."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterable, Mapping

import sqlalchemy as sa

from hub.domain.study import Location
from hub.formats.dicom.part10 import split_part10
from hub.store.schema import instances
from hub.store.segments.objects import SegmentStore
from tests.bench.intake_corpus import TOKEN, Corpus, sop_instance_uid, token_of
from tests.bench.intake_sender import Association, messages
from tests.running_hub import RunningHub, wait_for

PDU_LENGTH = 32768
PATIENCE = 60.0
"""Seconds that a scanner goes on trying to get one study through."""
_PAUSE = 0.01


class Scanner(threading.Thread):
    """One sender with associations of its own, one study after another, until ``finish``."""

    def __init__(self, number: int, port: int, corpus: Corpus) -> None:
        super().__init__(name=f"scanner-{number}", daemon=True)
        self._number, self._port, self._corpus = number, port, corpus
        self._messages = messages(corpus, PDU_LENGTH)
        self._finishing = threading.Event()
        self._fault: Exception | None = None
        self.acknowledged: set[tuple[bytes, int]] = set()
        """Token and index of each image that was acknowledged."""
        self.broken = 0
        """How often an association broke off."""

    def run(self) -> None:
        study = 0
        try:
            while not self._finishing.is_set():
                study += 1
                self._send_study(token_of(study, self._number))
        except Exception as error:  # noqa: BLE001 - a thread cannot raise: finish does
            self._fault = error

    def finish(self) -> None:
        """End with the study that is being sent.

        Raises:
            AssertionError: an image was refused, or not taken for long.
        """
        self._finishing.set()
        self.join(2 * PATIENCE)
        assert not self.is_alive(), "the scanner hangs"
        if self._fault is not None:
            raise AssertionError(f"{self.name} failed") from self._fault

    def sent(self) -> dict[str, str]:
        """SOP Instance UID -> SHA-256 of the data set, of all that was acknowledged."""
        return {
            sop_instance_uid(token, index): hashlib.sha256(
                self._corpus.data_sets[index].replace(TOKEN, token)
            ).hexdigest()
            for token, index in self.acknowledged
        }

    def _send_study(self, token: bytes) -> None:
        for message in self._messages:
            message.renew(token)
        waiting = list(range(len(self._messages)))
        deadline = time.monotonic() + PATIENCE
        while waiting:
            assert time.monotonic() < deadline, "the receiver did not come back"
            try:
                self._attempt(token, waiting)
            except OSError:
                self.broken += 1
                time.sleep(_PAUSE)

    def _attempt(self, token: bytes, waiting: list[int]) -> None:
        corpus = self._corpus
        association = Association(self._port, corpus.sop_class_uid, corpus.transfer_syntax_uid)
        try:
            while waiting:
                association.store(self._messages[waiting[0]])
                self.acknowledged.add((token, waiting.pop(0)))
                time.sleep(_PAUSE)
            association.release()
        finally:
            association.close()


def must_hold_exactly(hub: RunningHub, scanners: Iterable[Scanner]) -> None:
    """All that was acknowledged is in the index once, with the bytes that were sent; and nothing
    else is."""
    sent: dict[str, str] = {}
    for scanner in scanners:
        sent |= scanner.sent()
    must_hold(hub, sent)


def must_hold(hub: RunningHub, sent: Mapping[str, str]) -> None:
    """As `must_hold_exactly`, for SOP Instance UID -> SHA-256."""
    count = sa.select(sa.func.count()).select_from(instances)

    def indexed() -> int:
        with hub.database.read() as connection:
            return connection.execute(count).scalar_one()

    def explain() -> str:
        return f"{indexed()} are indexed, {len(sent)} were acknowledged\n{hub.log_text()[-4000:]}"

    wait_for(lambda: indexed() >= len(sent), "the index to hold all", PATIENCE, explain)
    with hub.database.read() as connection:
        rows = connection.execute(sa.select(instances)).all()
    assert {row.sop_instance_uid: row.sha256 for row in rows} == sent
    assert len(rows) == len(sent)
    store = SegmentStore(hub.data / "objects")
    for row in rows:
        file = store.read(Location(row.segment, row.offset, row.length))
        digest = hashlib.sha256(split_part10(file)[1]).hexdigest()
        assert digest == sent[row.sop_instance_uid], "the store holds other bytes"
