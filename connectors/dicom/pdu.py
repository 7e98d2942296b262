"""Protocol data units of the upper layer (PS3.8 9.3): bytes to values, values to bytes.

Everything here is bounded by the length of the PDU that it is given, and nothing recurses. What
a peer may not send is an `InvalidPduError`; items that nobody knows are jumped over, as the
standard asks (PS3.8 9.3.1).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, IntEnum

HEAD_LENGTH = 6
"""PDU type, a reserved byte, and the length of what follows as an unsigned 32-bit number."""
PDV_HEAD_LENGTH = 6
"""Length of the item, presentation context ID, message control header (PS3.8 9.3.5.1, E.2)."""
MAXIMUM_ASSOCIATE_LENGTH = 1 << 20
"""128 presentation contexts with 60 transfer syntaxes each take a quarter of this."""
APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
"""The DICOM application context name (PS3.7 A.2.1)."""

IS_COMMAND, IS_LAST = 0x01, 0x02
"""Bits of the message control header (PS3.8 E.2)."""


class PduType(IntEnum):
    """First byte of a PDU (PS3.8 9.3)."""

    A_ASSOCIATE_RQ = 0x01
    A_ASSOCIATE_AC = 0x02
    A_ASSOCIATE_RJ = 0x03
    P_DATA_TF = 0x04
    A_RELEASE_RQ = 0x05
    A_RELEASE_RP = 0x06
    A_ABORT = 0x07


class AbortSource(IntEnum):
    """Who aborts (PS3.8 Table 9-26)."""

    SERVICE_USER = 0
    SERVICE_PROVIDER = 2


class AbortReason(IntEnum):
    """Why the service provider aborts (PS3.8 Table 9-26)."""

    NOT_SPECIFIED = 0
    UNRECOGNIZED_PDU = 1
    UNEXPECTED_PDU = 2
    UNRECOGNIZED_PARAMETER = 4
    UNEXPECTED_PARAMETER = 5
    INVALID_PARAMETER_VALUE = 6


class Rejection(Enum):
    """Result, source and reason of an A-ASSOCIATE-RJ (PS3.8 Table 9-21)."""

    APPLICATION_CONTEXT_NOT_SUPPORTED = (1, 1, 2)
    CALLING_AE_TITLE_NOT_RECOGNIZED = (1, 1, 3)
    CALLED_AE_TITLE_NOT_RECOGNIZED = (1, 1, 7)
    PROTOCOL_VERSION_NOT_SUPPORTED = (1, 2, 2)
    TEMPORARY_CONGESTION = (2, 3, 1)
    LOCAL_LIMIT_EXCEEDED = (2, 3, 2)


class ContextResult(IntEnum):
    """What became of a proposed presentation context (PS3.8 Table 9-18)."""

    ACCEPTANCE = 0
    ABSTRACT_SYNTAX_NOT_SUPPORTED = 3
    TRANSFER_SYNTAXES_NOT_SUPPORTED = 4


class InvalidPduError(Exception):
    """A PDU that the standard does not allow; ``reason`` is what the abort tells."""

    def __init__(
        self, message: str, reason: AbortReason = AbortReason.INVALID_PARAMETER_VALUE
    ) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ProposedContext:
    """A presentation context as the requestor proposes it (PS3.8 9.3.2.2)."""

    context_id: int
    """Odd, 1 to 255."""
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AnsweredContext:
    """A presentation context as the acceptor answers it (PS3.8 9.3.3.2)."""

    context_id: int
    result: ContextResult
    transfer_syntax: str
    """Not significant unless accepted."""


@dataclass(frozen=True, slots=True)
class RoleSelection:
    """SCP/SCU role selection of the requestor for one SOP class (PS3.7 D.3.3.4)."""

    sop_class_uid: str
    is_scu: bool
    is_scp: bool


@dataclass(frozen=True, slots=True)
class AssociateRequest:
    """A-ASSOCIATE-RQ (PS3.8 9.3.2)."""

    protocol_version: int
    called: bytes
    """Called AE title, the 16 bytes as they came; they go back in the answer."""
    calling: bytes
    application_context: str
    contexts: tuple[ProposedContext, ...]
    maximum_length: int
    """Of the P-DATA-TF PDUs that the requestor takes; 0 is without limit (PS3.8 D.1)."""
    roles: tuple[RoleSelection, ...] = ()
    asks_for_asynchronous_operations: bool = False
    implementation_class_uid: str = ""
    implementation_version_name: str = ""

    @property
    def called_ae_title(self) -> str:
        return ae_title(self.called)

    @property
    def calling_ae_title(self) -> str:
        return ae_title(self.calling)


@dataclass(frozen=True, slots=True)
class AssociateAccept:
    """A-ASSOCIATE-AC (PS3.8 9.3.3)."""

    called: bytes
    calling: bytes
    contexts: tuple[AnsweredContext, ...]
    maximum_length: int
    implementation_class_uid: str
    implementation_version_name: str
    roles: tuple[RoleSelection, ...] = ()
    answers_asynchronous_operations: bool = False
    """With one operation at a time, either way (PS3.7 D.3.3.3)."""


def ae_title(raw: bytes) -> str:
    """Without the spaces around it (PS3.8 9.3.2); what is not ASCII becomes U+FFFD."""
    return raw.decode("ascii", "replace").strip(" \0")


# --- decoding ------------------------------------------------------------------------------

_VARIABLE_ITEMS = 68
"""Offset of the first item behind the fixed fields of an A-ASSOCIATE PDU, without its head."""


def decode_associate_request(body: bytes) -> AssociateRequest:
    """What follows the head of an A-ASSOCIATE-RQ.

    Raises:
        InvalidPduError: it breaks off, a presentation context ID is even or there twice.
    """
    if len(body) < _VARIABLE_ITEMS:
        raise InvalidPduError("the A-ASSOCIATE-RQ breaks off")
    (version,) = struct.unpack_from(">H", body)
    application_context, contexts = "", dict[int, ProposedContext]()
    user = _UserInformation()
    for kind, value in _items(body[_VARIABLE_ITEMS:]):
        if kind == _Item.APPLICATION_CONTEXT:
            application_context = _uid(value)
        elif kind == _Item.PROPOSED_CONTEXT:
            context = _proposed_context(value)
            if context.context_id in contexts:
                raise InvalidPduError("a presentation context ID is there twice")
            contexts[context.context_id] = context
        elif kind == _Item.USER_INFORMATION:
            user = _user_information(value)
    return AssociateRequest(
        protocol_version=version,
        called=body[4:20],
        calling=body[20:36],
        application_context=application_context,
        contexts=tuple(contexts.values()),
        maximum_length=user.maximum_length,
        roles=tuple(user.roles),
        asks_for_asynchronous_operations=user.asks_for_asynchronous_operations,
        implementation_class_uid=user.implementation_class_uid,
        implementation_version_name=user.implementation_version_name,
    )


def decode_abort(body: bytes) -> tuple[int, int]:
    """Source and reason of an A-ABORT (PS3.8 9.3.8), whatever they are."""
    return body[2], body[3]


class _Item(IntEnum):
    APPLICATION_CONTEXT = 0x10
    PROPOSED_CONTEXT = 0x20
    ANSWERED_CONTEXT = 0x21
    ABSTRACT_SYNTAX = 0x30
    TRANSFER_SYNTAX = 0x40
    USER_INFORMATION = 0x50
    MAXIMUM_LENGTH = 0x51
    IMPLEMENTATION_CLASS_UID = 0x52
    ASYNCHRONOUS_OPERATIONS = 0x53
    ROLE_SELECTION = 0x54
    IMPLEMENTATION_VERSION_NAME = 0x55


class _UserInformation:
    """What is read of the user information item (PS3.7 D.3.3). Extended negotiation and user
    identity need no answer of an acceptor that does not take part in them, and get none."""

    __slots__ = (
        "asks_for_asynchronous_operations",
        "implementation_class_uid",
        "implementation_version_name",
        "maximum_length",
        "roles",
    )

    def __init__(self) -> None:
        self.maximum_length = 0
        self.implementation_class_uid = ""
        self.implementation_version_name = ""
        self.asks_for_asynchronous_operations = False
        self.roles: list[RoleSelection] = []


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    position, end = 0, len(data)
    while position < end:
        if end - position < 4:  # noqa: PLR2004 - type, reserved, 16-bit length
            raise InvalidPduError("an item breaks off")
        kind, length = struct.unpack_from(">BxH", data, position)
        position += 4 + length
        if position > end:
            raise InvalidPduError("an item runs past the end of the PDU")
        yield kind, data[position - length : position]


def _uid(value: bytes) -> str:
    return value.decode("ascii", "replace").rstrip("\0 ")


def _proposed_context(value: bytes) -> ProposedContext:
    if len(value) < 4 or value[0] % 2 == 0:  # noqa: PLR2004 - ID and three reserved bytes
        raise InvalidPduError("a presentation context item is not valid")
    abstract_syntax, transfer_syntaxes = "", list[str]()
    for kind, inner in _items(value[4:]):
        if kind == _Item.ABSTRACT_SYNTAX:
            abstract_syntax = _uid(inner)
        elif kind == _Item.TRANSFER_SYNTAX:
            transfer_syntaxes.append(_uid(inner))
    return ProposedContext(value[0], abstract_syntax, tuple(transfer_syntaxes))


def _user_information(value: bytes) -> _UserInformation:
    user = _UserInformation()
    for kind, inner in _items(value):
        if kind == _Item.MAXIMUM_LENGTH:
            if len(inner) != 4:  # noqa: PLR2004 - one unsigned 32-bit number
                raise InvalidPduError("the maximum length item is not valid")
            (user.maximum_length,) = struct.unpack(">I", inner)
        elif kind == _Item.IMPLEMENTATION_CLASS_UID:
            user.implementation_class_uid = _uid(inner)
        elif kind == _Item.IMPLEMENTATION_VERSION_NAME:
            user.implementation_version_name = _uid(inner)
        elif kind == _Item.ASYNCHRONOUS_OPERATIONS:
            user.asks_for_asynchronous_operations = True
        elif kind == _Item.ROLE_SELECTION:
            user.roles.append(_role_selection(inner))
    return user


def _role_selection(value: bytes) -> RoleSelection:
    length = int.from_bytes(value[:2], "big")
    if len(value) != length + 4:
        raise InvalidPduError("a role selection item is not valid")
    uid, scu, scp = _uid(value[2 : 2 + length]), value[-2], value[-1]
    return RoleSelection(uid, bool(scu), bool(scp))


# --- encoding ------------------------------------------------------------------------------


def pdu(kind: PduType, body: bytes) -> bytes:
    """A PDU with its head."""
    return struct.pack(">BxI", kind, len(body)) + body


def encode_associate_accept(accept: AssociateAccept) -> bytes:
    """A-ASSOCIATE-AC (PS3.8 9.3.3)."""
    user = [
        _item(_Item.MAXIMUM_LENGTH, struct.pack(">I", accept.maximum_length)),
        _item(_Item.IMPLEMENTATION_CLASS_UID, accept.implementation_class_uid.encode()),
    ]
    if accept.answers_asynchronous_operations:
        user.append(_item(_Item.ASYNCHRONOUS_OPERATIONS, struct.pack(">HH", 1, 1)))
    for role in accept.roles:
        uid = role.sop_class_uid.encode()
        answer = struct.pack(">H", len(uid)) + uid + bytes((role.is_scu, role.is_scp))
        user.append(_item(_Item.ROLE_SELECTION, answer))
    name = accept.implementation_version_name.encode()
    user.append(_item(_Item.IMPLEMENTATION_VERSION_NAME, name))
    body = b"".join(
        (
            struct.pack(">H2x16s16s32x", 1, accept.called, accept.calling),
            _item(_Item.APPLICATION_CONTEXT, APPLICATION_CONTEXT.encode()),
            *map(_answered_context, accept.contexts),
            _item(_Item.USER_INFORMATION, b"".join(user)),
        )
    )
    return pdu(PduType.A_ASSOCIATE_AC, body)


def _answered_context(context: AnsweredContext) -> bytes:
    syntax = _item(_Item.TRANSFER_SYNTAX, context.transfer_syntax.encode())
    head = struct.pack(">BxBx", context.context_id, context.result)
    return _item(_Item.ANSWERED_CONTEXT, head + syntax)


def _item(kind: _Item, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def encode_associate_reject(rejection: Rejection) -> bytes:
    """A-ASSOCIATE-RJ (PS3.8 9.3.4)."""
    return pdu(PduType.A_ASSOCIATE_RJ, struct.pack(">xBBB", *rejection.value))


def encode_release_response() -> bytes:
    """A-RELEASE-RP (PS3.8 9.3.7)."""
    return pdu(PduType.A_RELEASE_RP, bytes(4))


def encode_abort(source: AbortSource, reason: AbortReason) -> bytes:
    """A-ABORT (PS3.8 9.3.8)."""
    return pdu(PduType.A_ABORT, struct.pack(">xxBB", source, reason))


def encode_message(context_id: int, command: bytes, data_set: bytes, maximum_length: int) -> bytes:
    """A DIMSE message in as few P-DATA-TF PDUs as the peer's maximum allows (PS3.8 9.3.5, E.1).

    ``maximum_length`` 0 is without limit; one PDV to a PDU, as everybody can read.
    """
    # A peer that takes no byte beside a PDV's head gets one: the standard gives no way out.
    largest = max(maximum_length - PDV_HEAD_LENGTH, 1) if maximum_length else 1 << 30
    parts = list(_fragments(context_id, command, IS_COMMAND, largest))
    if data_set:
        parts.extend(_fragments(context_id, data_set, 0, largest))
    return b"".join(parts)


def _fragments(context_id: int, value: bytes, control: int, largest: int) -> Iterator[bytes]:
    for start in range(0, len(value), largest):
        fragment = value[start : start + largest]
        length = len(fragment)
        last = IS_LAST if start + length == len(value) else 0
        head = (PduType.P_DATA_TF, length + 6, length + 2, context_id, control | last)
        yield struct.pack(">BxIIBB", *head) + fragment
