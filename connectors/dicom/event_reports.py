"""N-EVENT-REPORT requests of ours on an association that somebody else opened (PS3.7 10.1.1)."""

from __future__ import annotations

import queue
import threading
from itertools import count

from connectors.dicom.connection import SendMessage
from connectors.dicom.dimse import encode_event_report
from connectors.dicom.normalized import EventReport

_ANSWER_TIMEOUT = 30.0
"""Seconds."""


class EventReports:
    """Sends reports and waits for their answers, on threads other than the association's."""

    def __init__(self, send: SendMessage) -> None:
        self._send = send
        self._message_ids = count(1)
        self._waiting: dict[int, queue.SimpleQueue[int | None]] = {}
        self._closed = False
        self._lock = threading.Lock()

    def report(self, context_id: int, event: EventReport) -> int | None:
        """Send a report; the peer's status, None where there is none."""
        answer: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        with self._lock:
            if self._closed:
                return None
            message_id = next(self._message_ids) % 0xFFFF + 1
            self._waiting[message_id] = answer
        command = encode_event_report(
            message_id, event.sop_class_uid, event.sop_instance_uid, event.event_type_id
        )
        try:
            if not self._send(context_id, command, event.data_set):
                return None
            return answer.get(timeout=_ANSWER_TIMEOUT)
        except queue.Empty:
            return None
        finally:
            with self._lock:
                self._waiting.pop(message_id, None)

    def answered(self, message_id: int | None, status: int | None) -> None:
        """A response came; one that nobody waits for is ignored."""
        with self._lock:
            waiting = self._waiting.get(message_id or 0)
        if waiting is not None:
            waiting.put(status)

    def close(self) -> None:
        """The association is over: nobody waits any more."""
        with self._lock:
            self._closed = True
            waiting = list(self._waiting.values())
        for answer in waiting:
            answer.put(None)
