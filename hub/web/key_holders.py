"""Whoever holds a key, as the door asks: cheap, and a key that was taken back is soon forgotten."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import structlog

from hub.store.api_keys import USE_IS_NOTED_EVERY, ApiKey, KeyRing, KeyState
from hub.web.refusals import Refusal

CACHE_SECONDS = 2.0
"""How long a key that was good is taken as good, unasked."""
REFUSALS_ARE_NOTED_EVERY = 3600.0
"""Seconds: the first refusal of a key is audited at once, the further ones by their number."""

_MOST_CACHED = 1024
_LOOKING_THREADS = 4


class KeyHolders:
    """Asks the database on threads of its own: neither slow handlers nor waiting writers hold up
    the door. Called in one event loop."""

    def __init__(self, ring: KeyRing, seconds: Callable[[], float] = time.monotonic) -> None:
        """``seconds`` tells the time for what is remembered."""
        self._ring = ring
        self._seconds = seconds
        self._looking = ThreadPoolExecutor(_LOOKING_THREADS, thread_name_prefix="door")
        self._noting = ThreadPoolExecutor(1, thread_name_prefix="door-notes")
        self._cache: dict[bytes, tuple[float, ApiKey]] = {}
        self._use_noted: dict[str, float] = {}
        self._refusal_noted: dict[tuple[str, Refusal], float] = {}
        self._attempts: Counter[tuple[str, Refusal]] = Counter()

    async def key_of(self, text: str) -> ApiKey | None:
        """The key that somebody showed, in its state at this moment; None: it is none of ours.

        Raises:
            TransientError: the database is away.
        """
        digest = hashlib.sha256(text.encode()).digest()  # what is remembered is no key
        until, key = self._cache.get(digest, (0.0, None))
        if key is None or until <= self._seconds():
            asked_at = self._seconds()
            loop = asyncio.get_running_loop()
            key = await loop.run_in_executor(self._looking, self._ring.key_of, text)
            self._remember(digest, key, asked_at + CACHE_SECONDS)
        if key is None or key.state is not KeyState.ACTIVE:
            return key
        if key.expires_at is not None and key.expires_at <= self._ring.journal.clock.now():
            return replace(key, state=KeyState.EXPIRED)
        self._note_use(key)
        return key

    def note_refusal(self, key: ApiKey, reason: Refusal, place: str) -> None:
        """A key of ours was refused: in the audit log, without a flood."""
        which, now = (key.key_id, reason), self._seconds()
        self._attempts[which] += 1
        if now - self._refusal_noted.get(which, -REFUSALS_ARE_NOTED_EVERY) < (
            REFUSALS_ARE_NOTED_EVERY
        ):
            return
        self._refusal_noted[which] = now
        attempts = self._attempts.pop(which)
        noted = self._noting.submit(
            self._ring.note_refusal, key, reason.value, place, attempts=attempts
        )
        noted.add_done_callback(_tell_failure)

    def close(self) -> None:
        """What was not written yet is written."""
        self._looking.shutdown(cancel_futures=True)
        self._noting.shutdown()

    def _remember(self, digest: bytes, key: ApiKey | None, until: float) -> None:
        self._cache.pop(digest, None)
        if key is None or key.state is not KeyState.ACTIVE:
            return
        if len(self._cache) >= _MOST_CACHED:
            self._cache.clear()
        self._cache[digest] = (until, key)

    def _note_use(self, key: ApiKey) -> None:
        now, seconds = self._seconds(), USE_IS_NOTED_EVERY.total_seconds()
        if now - self._use_noted.get(key.key_id, -seconds) < seconds:
            return
        self._use_noted[key.key_id] = now
        self._noting.submit(self._ring.note_use, key.key_id).add_done_callback(_tell_failure)


def _tell_failure(done: Future[None]) -> None:
    if not done.cancelled() and (error := done.exception()) is not None:
        structlog.get_logger().warning("use of a key could not be noted", error=error)
