"""What a person can configure of the HL7 v2 connector."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, IPvAnyNetwork

from hub.domain.delivery import DocumentKind
from hub.transport.tls_config import TlsClientConfig, TlsServerConfig

Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86400)]
Header = Annotated[str, Field(max_length=227, pattern=r"^[^|~\\\x00-\x1f]*$")]
"""An application or facility as in MSH-3 to MSH-6: a name, or a name, a universal ID and its type
with ``^`` between them (HD, 2.A.36)."""
MessageType = Annotated[str, Field(pattern=r"^[A-Z]{3}\^[A-Z0-9]{3}$")]

_KIB, _MIB = 1 << 10, 1 << 20


class Hl7v2SourceConfig(BaseModel):
    """An MLLP listener for an ADT feed: who was renamed, who was merged into whom."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for every interface."""
    port: Port = 2575
    """TCP port to listen on."""
    allowed_addresses: tuple[IPvAnyNetwork, ...] = ()
    """Addresses or networks (`192.0.2.0/24`) that may send; empty where the address does not
    matter."""
    unknown_senders: Literal["accept", "reject"] | None = None
    """What to do with senders while no address is listed and TLS asks for no certificate; by
    default they are accepted where we listen on loopback alone, and rejected elsewhere."""
    sending_applications: tuple[str, ...] = ()
    """Names in MSH-3 whose messages are taken; empty where the name does not matter."""
    assigning_authorities: Mapping[str, str] = Field(default_factory=dict)
    """Assigning authority of an identifier (PID-3.4, its namespace or its universal ID) -> Issuer
    of Patient ID (0010,0021) as in the images, empty where the images name none. Where any is
    listed, identifiers of others do not count; where none is, the issuer is the namespace."""
    identifier_types: tuple[str, ...] = ("MR", "PI", "PT")
    """Types of identifiers (PID-3.5) that count, the preferred first; those without a type count,
    too."""
    passed_over: tuple[MessageType, ...] = ()
    """Messages that say nothing of interest, e.g. `ADT^A01`: they are acknowledged with AA and
    forgotten. All others that are not taken are answered with AR."""
    processing_ids: tuple[Literal["P", "T", "D"], ...] = ("P",)
    """Processing IDs (MSH-11) that are taken: P production, T training, D debugging."""
    character_set: str = "UNICODE UTF-8"
    """Of messages that name none, as in MSH-18 (table 0211)."""
    maximum_message_size: int = Field(default=_MIB, ge=16 * _KIB, le=64 * _MIB)
    """Bytes of one message; a longer one is refused, and its connection closed."""
    maximum_connections: int = Field(default=16, ge=1, le=1000)
    """Connections at a time; further ones are closed."""
    maximum_connections_per_address: int = Field(default=8, ge=1, le=1000)
    """Of these, how many one address may have."""
    idle_timeout: Seconds = 3600.0
    """A connection without a message for so many seconds is closed."""
    message_timeout: Seconds = 30.0
    """Seconds that one message may take to arrive, its answer to leave, and TLS to begin."""
    stop_grace: Seconds = 5.0
    """Seconds that messages which are being taken get to end when the hub stops."""
    tls: TlsServerConfig | None = None
    """Speak TLS only, on this port."""

    @property
    def rejects_all(self) -> bool:
        """Nobody is known, and unknown senders are rejected."""
        shows_certificate = self.tls is not None and self.tls.client_certificates == "required"
        if self.allowed_addresses or shows_certificate:
            return False
        if self.unknown_senders is not None:
            return self.unknown_senders == "reject"
        return not _is_loopback(self.host)


class Hl7v2DestinationConfig(BaseModel):
    """A RIS or an interface engine that takes results as ORU^R01."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    host: str = Field(min_length=1)
    """Its host name or address."""
    port: Port = 2575
    """The TCP port that it listens on."""
    documents: tuple[Literal[DocumentKind.ORU], ...] = (DocumentKind.ORU,)
    """What is sent there."""
    receiving_application: Header = ""
    """MSH-5."""
    receiving_facility: Header = ""
    """MSH-6."""
    sending_application: Header = ""
    """MSH-3; empty: CAIDX."""
    sending_facility: Header = ""
    """MSH-4; empty: the name of the institution."""
    processing_id: Literal["P", "T", "D"] = "P"
    """MSH-11: P production, T training, D debugging."""
    connect_timeout: Seconds = 10.0
    """Seconds to wait for the connection and for TLS."""
    response_timeout: Seconds = 30.0
    """Seconds to wait for the acknowledgement."""
    keep_open: float = Field(default=300.0, ge=0, le=86400)
    """Seconds that a connection is kept for the next message; 0: each gets its own."""
    tls: TlsClientConfig | None = None
    """Connect by TLS."""


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
