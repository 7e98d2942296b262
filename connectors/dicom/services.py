"""What a source offers beside storage: storage commitment, MPPS, availability notification; and
what it takes of archives that answer our own questions of storage commitment.

This module is light: the services themselves, and pydicom with them, are loaded when the first
request of their kind comes.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import structlog

from connectors.dicom.config import DicomSourceConfig
from connectors.dicom.normalized import CommandField, NormalizedRequest, NormalizedResponse
from hub.errors import CaidxError, TransientError
from hub.ports import CommitmentRequest, SourceContext, importing

STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"
"""Storage Commitment Push Model SOP Class (PS3.4 annex J)."""
PROCEDURE_STEP = "1.2.840.10008.3.1.2.3.3"
"""Modality Performed Procedure Step SOP Class (PS3.4 F.7)."""
AVAILABILITY_NOTIFICATION = "1.2.840.10008.5.1.4.33"
"""Instance Availability Notification SOP Class (PS3.4 annex R)."""

PROCESSING_FAILURE = 0x0110
NO_SUCH_SOP_CLASS = 0x0118
RESOURCE_LIMITATION = 0x0213
"""PS3.7 annex C."""
UNREADABLE = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    IndexError,
    EOFError,
    OverflowError,
    NotImplementedError,
    RecursionError,
    struct.error,
)
"""What pydicom raises for data sets that are none."""

_TRANSFER_SYNTAXES = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")
LOOK_SECONDS = 15.0
"""How often answers that could not be sent are looked for."""
_LONGEST_COMMENT = 64
"""Error Comment (0000,0902) has VR LO."""


log = structlog.get_logger(__name__)


@contextmanager
def reading() -> Iterator[None]:
    """Around what is read out of a data set, and around nothing else.

    Raises:
        RefusedError: it cannot be read.
    """
    try:
        yield
    except UNREADABLE as error:
        raise RefusedError(PROCESSING_FAILURE, "the data set cannot be read") from error


class RefusedError(Exception):
    """A request that is answered with a status of its own."""

    def __init__(self, status: int, comment: str) -> None:
        super().__init__(comment)
        self.status = status
        self.comment = comment


Handler = Callable[[NormalizedRequest], NormalizedResponse]


@dataclass(frozen=True, slots=True)
class _Kind:
    sop_class_uid: str
    module: str
    """``module.service(config, context)`` makes the handler."""
    is_used: bool = False
    """The peer provides it, and reports to us."""


_KINDS = {
    "storage-commitment": _Kind(STORAGE_COMMITMENT, "connectors.dicom.storage_commitment"),
    "procedure-step": _Kind(PROCEDURE_STEP, "connectors.dicom.procedure_step"),
    "availability-notification": _Kind(
        AVAILABILITY_NOTIFICATION, "connectors.dicom.availability_notification"
    ),
    "commitment-reports": _Kind(
        STORAGE_COMMITMENT, "connectors.dicom.commitment_reports", is_used=True
    ),
}


class DicomServices:
    """`connectors.dicom.normalized.Services`; thread-safe."""

    def __init__(self, config: DicomSourceConfig, context: SourceContext) -> None:
        self._config = config
        self._context = context
        self._kinds = tuple(_KINDS[name] for name in config.services)
        self._handlers: dict[_Kind, Handler] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()

    @property
    def sop_classes(self) -> Mapping[str, tuple[str, ...]]:
        """Abstract syntax -> transfer syntaxes."""
        provided = (kind.sop_class_uid for kind in self._kinds if not kind.is_used)
        return dict.fromkeys(provided, _TRANSFER_SYNTAXES)

    @property
    def used_sop_classes(self) -> Mapping[str, tuple[str, ...]]:
        """The same of those that the peer provides."""
        used = (kind.sop_class_uid for kind in self._kinds if kind.is_used)
        return dict.fromkeys(used, _TRANSFER_SYNTAXES)

    def handle(self, request: NormalizedRequest) -> NormalizedResponse:
        """Answer; every failure that is foreseen is a status (PS3.7 annex C). Another fault of
        the hub ends the association: it is told to nobody as one of the data set."""
        try:
            is_report = request.command is CommandField.N_EVENT_REPORT
            return self._handler(request.sop_class_uid, is_used=is_report)(request)
        except RefusedError as error:
            return NormalizedResponse(error.status, error_comment=error.comment[:_LONGEST_COMMENT])
        except TransientError:
            return NormalizedResponse(RESOURCE_LIMITATION, error_comment="try again later")
        except CaidxError as error:
            log.warning("dicom.service.failed", source=self._context.name, error=error)
            return NormalizedResponse(PROCESSING_FAILURE)

    def _kind(self, sop_class_uid: str, *, is_used: bool) -> _Kind | None:
        wanted = (sop_class_uid, is_used)
        return next((k for k in self._kinds if (k.sop_class_uid, k.is_used) == wanted), None)

    def _handler(self, sop_class_uid: str, *, is_used: bool = False) -> Handler:
        kind = self._kind(sop_class_uid, is_used=is_used)
        if kind is None:
            raise RefusedError(NO_SUCH_SOP_CLASS, "this SOP class is not offered")
        with self._lock:
            if kind not in self._handlers:
                with importing():
                    module = import_module(kind.module)
                self._handlers[kind] = module.service(self._config, self._context)
            return self._handlers[kind]

    # --- answers that could not be sent ------------------------------------------------------

    def start(self) -> None:
        """Go on with what was left unanswered, by a process before this one too.

        Only where an answer could be sent at all: to peers that are configured.
        """
        if self._config.peers and self._kind(STORAGE_COMMITMENT, is_used=False):
            name = f"commitment-{self._context.name}"
            threading.Thread(target=self._look, name=name, daemon=True).start()

    def close(self) -> None:
        """Send nothing more."""
        self._closing.set()

    def _look(self) -> None:
        while not self._closing.wait(LOOK_SECONDS):
            try:
                due = self._context.knowledge.due_commitments(self._context.name)
            except CaidxError as error:
                log.warning("commitment.not-looked", source=self._context.name, error=error)
                continue
            self._answer_again(due)

    def _answer_again(self, due: Sequence[CommitmentRequest]) -> None:
        """A peer that is away is called once, and its other answers are put off: waiting for it
        again and again would hold up the answers to everybody else."""
        handler: Any = self._handler(STORAGE_COMMITMENT)
        away: dict[str, str] = {}
        for question in due:
            if self._closing.is_set():
                return
            title = question.calling_ae_title
            try:
                if title in away:
                    handler.put_off(question, away[title])
                elif reason := handler.answer_again(question):
                    away[title] = reason
            except CaidxError as error:
                log.warning("commitment.not-answered", source=self._context.name, error=error)


def build_services(config: DicomSourceConfig, context: SourceContext) -> DicomServices:
    """The services of one source; they go on with what was left unanswered."""
    services = DicomServices(config, context)
    services.start()
    return services
