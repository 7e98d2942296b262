"""Who may have an association with us, and on which terms (PS3.8 7.1, PS3.7 annex D.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address

from connectors.dicom.pdu import (
    APPLICATION_CONTEXT,
    AnsweredContext,
    AssociateAccept,
    AssociateRequest,
    ContextResult,
    ProposedContext,
    Rejection,
    RoleSelection,
)
from connectors.dicom.storage_classes import IMPLICIT_VR_LITTLE_ENDIAN
from hub.formats.dicom.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

_PROTOCOL_VERSION = 0x0001
"""Bit 0: the only version there is (PS3.8 9.3.2)."""
_IPV4_IN_IPV6 = "::ffff:"


@dataclass(frozen=True, slots=True)
class CallerPolicy:
    """Who may call, and whom."""

    called_ae_title: str
    """Our AE title; empty where callers may use any."""
    calling_ae_titles: frozenset[str]
    """Empty where the AE title does not matter."""
    networks: tuple[IPv4Network | IPv6Network, ...]
    """Empty where the address does not matter."""
    rejects_unknown: bool
    """What is done with all callers where neither AE titles nor networks name any."""

    def objection(self, request: AssociateRequest, address: str) -> Rejection | None:
        """Why this caller gets no association; None if it may have one.

        A caller is an AE title at an address: one that calls from elsewhere is not recognized.
        """
        if not request.protocol_version & _PROTOCOL_VERSION:
            return Rejection.PROTOCOL_VERSION_NOT_SUPPORTED
        if request.application_context != APPLICATION_CONTEXT:
            return Rejection.APPLICATION_CONTEXT_NOT_SUPPORTED
        if not self._knows(request.calling_ae_title, address):
            return Rejection.CALLING_AE_TITLE_NOT_RECOGNIZED
        if self.called_ae_title and request.called_ae_title != self.called_ae_title:
            return Rejection.CALLED_AE_TITLE_NOT_RECOGNIZED
        return None

    def _knows(self, calling_ae_title: str, address: str) -> bool:
        if not self.calling_ae_titles and not self.networks:
            return not self.rejects_unknown
        if self.calling_ae_titles and calling_ae_title not in self.calling_ae_titles:
            return False
        return not self.networks or self._is_listed(address)

    def _is_listed(self, address: str) -> bool:
        found = ip_address(address.removeprefix(_IPV4_IN_IPV6).partition("%")[0])
        return any(found in network for network in self.networks)


@dataclass(frozen=True, slots=True)
class AcceptedContext:
    """A presentation context of an association."""

    abstract_syntax: str
    transfer_syntax: str
    peer_uses: bool = True
    """The peer may ask us (it is the SCU)."""
    peer_provides: bool = False
    """The peer may report to us (it is the SCP)."""


def negotiate(
    request: AssociateRequest,
    offered: Mapping[str, Sequence[str]],
    maximum_length: int,
    used: Mapping[str, Sequence[str]] | None = None,
) -> tuple[AssociateAccept, dict[int, AcceptedContext]]:
    """Our answer, and the accepted contexts by their ID.

    Args:
        request: the peer's.
        offered: abstract syntax -> transfer syntaxes, the best first. Where the peer proposes
            several in one context, the order here decides.
        maximum_length: of the P-DATA-TF PDUs that we take.
        used: the same of SOP classes that a peer may provide where it proposes that role.
    """
    roles = _roles(request, offered, used or {})
    providers = {uid: (used or {})[uid] for uid, role in roles.items() if role.is_scp}
    known = {**providers, **offered}
    answers = [_answer(proposed, known) for proposed in request.contexts]
    accepted = {
        proposed.context_id: AcceptedContext(
            proposed.abstract_syntax,
            answer.transfer_syntax,
            peer_uses=proposed.abstract_syntax in offered,
            peer_provides=proposed.abstract_syntax in providers,
        )
        for proposed, answer in zip(request.contexts, answers, strict=True)
        if answer.result is ContextResult.ACCEPTANCE
    }
    accept = AssociateAccept(
        called=request.called,
        calling=request.calling,
        contexts=tuple(answers),
        maximum_length=maximum_length,
        implementation_class_uid=IMPLEMENTATION_CLASS_UID,
        implementation_version_name=IMPLEMENTATION_VERSION_NAME,
        roles=tuple(roles.values()),
        answers_asynchronous_operations=request.asks_for_asynchronous_operations,
    )
    return accept, accepted


def _roles(
    request: AssociateRequest,
    offered: Mapping[str, Sequence[str]],
    used: Mapping[str, Sequence[str]],
) -> dict[str, RoleSelection]:
    """What we answer to the proposed roles. We serve: a peer is the user of a SOP class, and its
    provider only where we wait for its reports (PS3.7 D.3.3.4.2)."""
    return {
        role.sop_class_uid: RoleSelection(
            role.sop_class_uid,
            is_scu=role.is_scu and role.sop_class_uid in offered,
            is_scp=role.is_scp and role.sop_class_uid in used,
        )
        for role in request.roles
        if role.sop_class_uid in offered or role.sop_class_uid in used
    }


def _answer(proposed: ProposedContext, offered: Mapping[str, Sequence[str]]) -> AnsweredContext:
    number = proposed.context_id
    known = offered.get(proposed.abstract_syntax)
    if known is None:
        refused = ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED
        return AnsweredContext(number, refused, IMPLICIT_VR_LITTLE_ENDIAN)
    proposals = set(proposed.transfer_syntaxes)
    chosen = next((syntax for syntax in known if syntax in proposals), None)
    if chosen is None:
        refused = ContextResult.TRANSFER_SYNTAXES_NOT_SUPPORTED
        return AnsweredContext(number, refused, IMPLICIT_VR_LITTLE_ENDIAN)
    return AnsweredContext(number, ContextResult.ACCEPTANCE, chosen)
