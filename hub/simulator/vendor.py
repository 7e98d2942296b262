"""The vendor behind the HTTP server: jobs, each worked on once, and answers that are posted."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import httpx
import orjson
import structlog

from hub.formats.contract.request import RequestMessage
from hub.formats.http_answers import is_passing
from hub.simulator.answers import Answers
from hub.simulator.behaviours import LATE, Answering, Behaviour, spoilt
from hub.transport.webhook_signature import signed_headers

_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 5.0
_AGE_OF_OLD = timedelta(hours=1)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class VendorOptions:
    """How the simulated vendor is; see ``caidx simulate vendor``."""

    behaviour: Behaviour
    answering: Answering
    delay_seconds: float = 1.0
    fail_first: int = 0
    """So many requests meet the behaviour, the others are answered; 0: all meet it."""
    webhook_key: bytes = field(default=b"", repr=False)
    api_key: str = field(default="", repr=False)


@dataclass(slots=True)
class Job:
    """A request that is worked on, or was."""

    message: RequestMessage
    behaviour: Behaviour
    due: float
    """When its answer may be given, as `time.monotonic` has it."""
    done: threading.Event = field(default_factory=threading.Event)
    answer: bytes = b""
    is_cancelled: bool = False
    lost_replies: int = 0

    def lose_reply(self) -> bool:
        """Whether this reply is the one that gets lost: the first."""
        self.lost_replies += 1
        return self.lost_replies == 1

    @property
    def reference(self) -> str:
        """What the job is called."""
        return f"job-{sha256(self.message.request_id.encode()).hexdigest()[:16]}"

    @property
    def is_answered(self) -> bool:
        """Whether the answer may be given now."""
        return self.done.is_set() and time.monotonic() >= self.due

    @property
    def given(self) -> bytes:
        """The answer, as the behaviour gives it."""
        return spoilt(self.answer, self.behaviour)

    @property
    def may_be_tried_again(self) -> bool:
        """Its answer was: not now."""
        return self.done.is_set() and bool(orjson.loads(self.answer).get("retryable"))


@dataclass(frozen=True, slots=True)
class _Overheard:
    """A message that somebody recorded on its way."""

    headers: Mapping[str, str]
    body: bytes


class Vendor:
    """Thread-safe.

    Args:
        options: see there.
        answers: what is answered.
        client: posts to callbacks.
    """

    def __init__(self, options: VendorOptions, answers: Answers, client: httpx.Client) -> None:
        self.options = options
        self.stopping = threading.Event()
        self._answers = answers
        self._client = client
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._asked = 0
        self._counts: Counter[str] = Counter()
        self._computed: Counter[str] = Counter()
        self._webhooks: list[dict[str, Any]] = []
        self._received: list[dict[str, Any]] = []
        self._overheard: _Overheard | None = None

    # --- what the server asks ------------------------------------------------------------------

    def behaviour_of_next(self) -> Behaviour:
        """Of the request that has just come."""
        with self._lock:
            self._asked += 1
            first = self.options.fail_first
            return Behaviour.OK if first and self._asked > first else self.options.behaviour

    def submit(self, message: RequestMessage, behaviour: Behaviour) -> Job:
        """The job about a request: the same one for the same request, worked on once."""
        with self._lock:
            job = self._jobs.get(message.request_id)
            if job is not None and not job.may_be_tried_again:
                job.behaviour, job.is_cancelled = behaviour, False
                return job
            delay = self.options.delay_seconds if self.options.behaviour in LATE else 0.0
            job = Job(message, behaviour, time.monotonic() + delay)
            self._jobs[message.request_id] = job
        threading.Thread(target=self._work, args=(job,), name="vendor-job", daemon=True).start()
        return job

    def find(self, reference: str) -> Job | None:
        """A job that was not cancelled."""
        with self._lock:
            for job in self._jobs.values():
                if job.reference == reference and not job.is_cancelled:
                    return job
        return None

    def cancel(self, job: Job) -> None:
        """Nobody waits for it."""
        job.is_cancelled = True

    def await_answer(self, job: Job) -> bytes:
        """The answer, when it may be given, or when the vendor stops."""
        while not job.is_answered and not self.stopping.wait(0.01):
            continue
        return job.given

    # --- statistics ----------------------------------------------------------------------------

    def count(self, what: str) -> None:
        """One more of something."""
        with self._lock:
            self._counts[what] += 1

    def received(self, headers: Mapping[str, str], body: Any) -> None:
        """Keep what was sent, for tests that look for what must not be in it."""
        with self._lock:
            self._received.append({"headers": dict(headers), "body": body})

    def statistics(self) -> dict[str, Any]:
        """What happened so far."""
        with self._lock:
            return {
                "behaviour": self.options.behaviour.value,
                "counts": dict(self._counts),
                "computed": dict(self._computed),
                "cancelled": sum(job.is_cancelled for job in self._jobs.values()),
                "webhooks": list(self._webhooks),
            }

    def everything_received(self) -> list[dict[str, Any]]:
        """Every request that was read, whole."""
        with self._lock:
            return list(self._received)

    def close(self) -> None:
        """Stop what waits."""
        self.stopping.set()
        self._answers.close()

    # --- work ----------------------------------------------------------------------------------

    def _work(self, job: Job) -> None:
        with self._lock:
            self._computed[job.message.request_id] += 1
        job.answer = self._answers.answer(job.message)
        job.done.set()
        if self.options.answering == "webhook" and job.message.callback is not None:
            self.await_answer(job)
            if not self.stopping.is_set() and not job.is_cancelled:
                self._call_back(job, job.message.callback.url)

    def _call_back(self, job: Job, url: str) -> None:
        overheard = self._overheard
        if job.behaviour is Behaviour.NEVER:
            return
        if job.behaviour is Behaviour.REPLAYED_WEBHOOK and overheard is not None:
            self._post(job, url, "replay-of-another", overheard)
        message = self._post_until_taken(job, url)
        if job.behaviour is Behaviour.DUPLICATE_WEBHOOK:
            self._post(job, url, "duplicate", self._signed(job))
        if job.behaviour is Behaviour.REPLAYED_WEBHOOK:
            self._post(job, url, "replay", message)
            self._overheard = overheard or message

    def _signed(self, job: Job) -> _Overheard:
        """The message as it is sent now."""
        headers: dict[str, str] = {}
        now, body = datetime.now(UTC), job.given
        if job.behaviour is Behaviour.OLD_WEBHOOK:
            now -= _AGE_OF_OLD
        if job.behaviour is not Behaviour.UNSIGNED_WEBHOOK and self.options.webhook_key:
            headers |= signed_headers(
                f"msg-{sha256(body).hexdigest()[:32]}", now, body, [self.options.webhook_key]
            )
        return _Overheard(headers, body)

    def _post_until_taken(self, job: Job, url: str) -> _Overheard:
        """The message as it was sent last."""
        pause = _FIRST_PAUSE
        while True:
            message = self._signed(job)
            status = self._post(job, url, "answer", message)
            is_passed = status == 0 or is_passing(status)
            if not is_passed or job.is_cancelled or self.stopping.wait(pause):
                return message
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _post(self, job: Job, url: str, what: str, message: _Overheard) -> int:
        headers = {"content-type": "application/json", **message.headers}
        try:
            status = self._client.post(url, content=message.body, headers=headers).status_code
        except (httpx.RequestError, httpx.InvalidURL):
            status = 0
        with self._lock:
            self._webhooks.append(
                {"kind": what, "request_id": job.message.request_id, "status": status}
            )
        log.info("vendor.posted", kind=what, request_id=job.message.request_id, status=status)
        return status
