"""Performs what a peer asks for on one association: C-ECHO and C-STORE here, DIMSE-N by the
services behind (PS3.7 chapters 9 and 10)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog

from connectors.dicom.association import Chunk, Message
from connectors.dicom.connection import SendMessage
from connectors.dicom.dimse import Command, CommandField, encode_response, is_uid
from connectors.dicom.event_reports import EventReports
from connectors.dicom.limits import AssociationLimits
from connectors.dicom.negotiation import AcceptedContext, CallerPolicy, negotiate
from connectors.dicom.normalized import CommandField as NormalizedField
from connectors.dicom.normalized import NormalizedRequest, NormalizedResponse, Services
from connectors.dicom.pdu import AssociateAccept, AssociateRequest, Rejection
from connectors.dicom.status import (
    INVALID_OBJECT_INSTANCE,
    NO_SUCH_SOP_CLASS,
    RESOURCE_LIMITATION,
    SOP_CLASS_NOT_SUPPORTED,
    SUCCESS,
    UNRECOGNIZED_OPERATION,
    error_comment,
    status_of,
)
from connectors.dicom.storage import StorageTransfer
from connectors.dicom.storage_classes import VERIFICATION
from hub.errors import CaidxError
from hub.ports import EndOfTransfer, Intake, ReceivedObject, Sender

log = structlog.get_logger(__name__)

_NORMALIZED = frozenset(NormalizedField)
_MOST_FOLLOWING = 8
"""Answers that follow their response, of one association at a time: each has a thread."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a source offers to its peers; shared by all associations."""

    source: str
    callers: CallerPolicy
    limits: AssociationLimits
    contexts: Mapping[str, Sequence[str]]
    """Abstract syntax -> transfer syntaxes, the best first."""
    storage: frozenset[str]
    """Those that are Storage SOP classes."""
    maximum_length: int
    """Of P-DATA-TF PDUs."""
    maximum_instance_size: int
    intake: Intake
    services: Services | None
    used: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """As ``contexts``, of those that a peer may provide."""


class AssociationPerformer:
    """`connection.Performer` for one connection from ``address``."""

    def __init__(self, offer: Offer, address: str, send: SendMessage) -> None:
        self._offer = offer
        self._sender = Sender(offer.source, address=address)
        self._contexts: Mapping[int, AcceptedContext] = {}
        self._transfer = StorageTransfer(
            lambda: offer.intake.open(self._sender), offer.maximum_instance_size
        )
        self._reports = EventReports(send)
        self._after: Callable[[], None] | None = None
        self._following: list[threading.Thread] = []
        self._data_is_too_long = False
        self._began = 0.0

    # --- association -------------------------------------------------------------------------

    def requested(self, request: AssociateRequest) -> AssociateAccept | Rejection:
        """See `connection.Performer`."""
        offer = self._offer
        calling, called = request.calling_ae_title, request.called_ae_title
        self._sender = Sender(offer.source, calling, called, self._sender.address)
        rejection = offer.callers.objection(request, self._sender.address)
        if rejection is None and not offer.limits.take(self._caller):
            rejection = Rejection.LOCAL_LIMIT_EXCEEDED
        if rejection is not None:
            self._log("dicom.association.rejected", reason=rejection.name.lower())
            return rejection
        self._began = time.monotonic()
        answer, self._contexts = negotiate(
            request, offer.contexts, offer.maximum_length, offer.used
        )
        for context in request.contexts:
            if context.context_id not in self._contexts:
                self._log("dicom.context.refused", sop_class_uid=context.abstract_syntax)
        return answer

    def ended(self, end: EndOfTransfer) -> None:
        """See `connection.Performer`."""
        self._reports.close()
        try:
            self._transfer.close(end)
        except CaidxError as error:
            log.error("dicom.close.failed", reason=str(error))  # noqa: TRY400 - told, not traced
        finally:
            self._offer.limits.give_back(self._caller)

    @property
    def _caller(self) -> tuple[str, str]:
        title = self._sender.calling_ae_title
        is_listed = title in self._offer.callers.calling_ae_titles
        return title if is_listed else "", self._sender.address

    def _log(self, event: str, **fields: str) -> None:
        sender = self._sender
        log.warning(
            event,
            calling_ae_title=sender.calling_ae_title,
            called_ae_title=sender.called_ae_title,
            address=sender.address,
            **fields,
        )

    # --- messages ------------------------------------------------------------------------------

    def chunk(self, chunk: Chunk) -> None:
        """See `connection.Performer`."""
        if chunk.command.field != CommandField.C_STORE_RQ:
            self._data_is_too_long = True
        elif self._objection(chunk.context_id, chunk.command) is None:
            self._transfer.chunk(self._named(chunk))

    def message(self, message: Message) -> bytes:
        """See `connection.Performer`."""
        command = message.command
        if command.field == CommandField.C_STORE_RQ:
            return self._store(message)
        too_long, self._data_is_too_long = self._data_is_too_long, False
        if not command.is_request:
            self._reports.answered(command.responded_to, command.status)
            return b""
        if command.field == CommandField.C_CANCEL_RQ:
            return b""  # of something that was answered already: no response (PS3.7 9.3.2.3)
        if command.field in _NORMALIZED and self._is_normalized(message.context_id):
            return self._normalized(message, too_long=too_long)
        known = command.field == CommandField.C_ECHO_RQ
        return encode_response(command, SUCCESS if known else UNRECOGNIZED_OPERATION)

    def responded(self) -> None:
        """See `connection.Performer`."""
        after, self._after = self._after, None
        if after is not None:
            thread = threading.Thread(target=after, name="dicom-report", daemon=True)
            thread.start()
            self._following.append(thread)

    # --- C-STORE -------------------------------------------------------------------------------

    def _store(self, message: Message) -> bytes:
        command = message.command
        status = self._objection(message.context_id, command)
        if status is not None:
            log.warning("dicom.store.refused", status=f"0x{status:04X}")
            return encode_response(command, status)
        named = self._named(message)
        try:
            self._transfer.store(named)
        except CaidxError as error:
            status = status_of(error, named)
            log.warning("dicom.store.refused", status=f"0x{status:04X}", reason=str(error))
            return encode_response(command, status, error_comment=error_comment(error))
        return encode_response(command, SUCCESS)

    def _objection(self, context_id: int, command: Command) -> int | None:
        """What is wrong with a C-STORE-RQ before its data set is looked at."""
        agreed = self._contexts[context_id].abstract_syntax
        if command.sop_class_uid != agreed or agreed not in self._offer.storage:
            return SOP_CLASS_NOT_SUPPORTED
        return None if is_uid(command.sop_instance_uid) else INVALID_OBJECT_INSTANCE

    def _named(self, part: Chunk | Message) -> ReceivedObject:
        return ReceivedObject(
            sop_class_uid=part.command.sop_class_uid,
            sop_instance_uid=part.command.sop_instance_uid,
            transfer_syntax_uid=self._contexts[part.context_id].transfer_syntax,
            data_set=part.data,
        )

    def _is_normalized(self, context_id: int) -> bool:
        agreed = self._contexts[context_id].abstract_syntax
        return agreed != VERIFICATION and agreed not in self._offer.storage

    # --- DIMSE-N -------------------------------------------------------------------------------

    def _normalized(self, message: Message, *, too_long: bool) -> bytes:
        command, context = message.command, self._contexts[message.context_id]
        services = self._offer.services
        is_report = command.field == NormalizedField.N_EVENT_REPORT
        allowed = context.peer_provides if is_report else context.peer_uses
        if services is None or not allowed:
            return encode_response(command, UNRECOGNIZED_OPERATION)
        if command.sop_class_uid != context.abstract_syntax:
            return encode_response(command, NO_SUCH_SOP_CLASS)
        if command.sop_instance_uid and not is_uid(command.sop_instance_uid):
            return encode_response(command, INVALID_OBJECT_INSTANCE)
        self._following = [thread for thread in self._following if thread.is_alive()]
        if too_long or len(self._following) >= _MOST_FOLLOWING:
            return encode_response(command, RESOURCE_LIMITATION)
        answer = services.handle(
            NormalizedRequest(
                command=NormalizedField(command.field),
                sop_class_uid=command.sop_class_uid,
                sop_instance_uid=command.sop_instance_uid,
                action_type_id=command.action_type_id,
                transfer_syntax_uid=context.transfer_syntax,
                data_set=bytes(message.data),
                calling_ae_title=self._sender.calling_ae_title,
                address=self._sender.address,
                event_type_id=command.event_type_id,
            )
        )
        self._after = self._afterwards(answer, message.context_id)
        return encode_response(
            command,
            answer.status,
            error_comment=answer.error_comment,
            sop_instance_uid=answer.sop_instance_uid,
        )

    def _afterwards(self, answer: NormalizedResponse, context_id: int) -> Callable[[], None] | None:
        if answer.after is None:
            return None
        return partial(answer.after, partial(self._reports.report, context_id))
