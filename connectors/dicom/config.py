"""What a person can configure of the DICOM connector."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, IPvAnyNetwork

from hub.domain.delivery import DocumentKind
from hub.transport.tls_config import TlsClientConfig, TlsServerConfig

AeTitle = Annotated[
    str, Field(min_length=1, max_length=16, pattern=r"^[!-\[\]-~](?:[ -\[\]-~]*[!-\[\]-~])?$")
]
"""PS3.5 6.2, VR AE: at most 16 printable ASCII characters, no backslash, no outer spaces."""
Uid = Annotated[str, Field(max_length=64, pattern=r"^[0-9]+(\.[0-9]+)*$")]
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86400)]
PduLength = Annotated[int, Field(ge=4096, le=1 << 20)]

_MIB = 1 << 20


class DicomPeerConfig(BaseModel):
    """How to reach somebody who asked us for storage commitment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ae_title: AeTitle = Field(description="The AE title that it calls us by.")
    host: str = Field(description="Its host name or address.", min_length=1)
    port: Port = Field(104, description="The TCP port that it listens on.")
    tls: TlsClientConfig | None = Field(None, description="Connect by TLS.")


class DicomSourceConfig(BaseModel):
    """A Storage SCP: modalities and PACS send their studies here by C-STORE."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ae_title: AeTitle = Field("CAIDX", description="Our AE title.")
    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for every interface.")
    port: Port = Field(11112, description="TCP port to listen on.")
    require_called_ae_title: bool = Field(
        default=False, description="Reject senders that call us by another AE title."
    )
    allowed_calling_ae_titles: tuple[AeTitle, ...] = Field(
        (), description="AE titles that may call; empty where the title does not matter."
    )
    allowed_addresses: tuple[IPvAnyNetwork, ...] = Field(
        (),
        description="Addresses or networks (`192.0.2.0/24`) that may call; empty where the "
        "address does not matter.",
    )
    unknown_callers: Literal["accept", "reject"] | None = Field(
        None,
        description="What to do with callers while neither list above names any; by default "
        "they are accepted where we listen on loopback alone, and rejected elsewhere.",
    )
    maximum_associations: int = Field(
        32, ge=1, le=1000, description="Associations at a time; further ones are asked to wait."
    )
    maximum_associations_per_caller: int = Field(
        16,
        ge=1,
        le=1000,
        description="Of these, how many one AE title at one address may have; titles that "
        "`allowed_calling_ae_titles` does not list count together.",
    )
    maximum_pdu_length: PduLength = Field(
        _MIB, description="Largest PDU that we receive, in bytes (PS3.8 annex D.1)."
    )
    storage_sop_classes: tuple[Uid, ...] = Field(
        (),
        description="SOP Class UIDs to accept; empty means all of the standard's Storage classes.",
    )
    additional_sop_classes: tuple[Uid, ...] = Field(
        (), description="Private Storage SOP classes to accept beside them."
    )
    idle_timeout: Seconds = Field(
        300.0, description="An association without a word for so many seconds is aborted."
    )
    request_timeout: Seconds = Field(
        30.0, description="Seconds within which a new connection has to ask for an association."
    )
    stop_grace: Seconds = Field(
        5.0, description="Seconds that open associations get to end when the hub stops."
    )
    maximum_instance_size: int = Field(
        4 << 30, ge=_MIB, description="Largest data set that is taken, in bytes."
    )
    spool_threshold: int = Field(
        8 * _MIB,
        ge=64 * 1024,
        le=256 * _MIB,
        description="Data sets longer than so many bytes go to the disk as they come.",
    )
    buffer_memory: int = Field(
        256 * _MIB,
        ge=0,
        description="Bytes that the data sets of all associations may take in memory together; "
        "beyond them they go to the disk as they come.",
    )
    tls: TlsServerConfig | None = Field(
        None, description="Speak TLS only, on this port; 2762 is the usual one."
    )

    services: tuple[
        Literal[
            "storage-commitment",
            "procedure-step",
            "availability-notification",
            "commitment-reports",
        ],
        ...,
    ] = Field(
        ("procedure-step", "availability-notification", "commitment-reports"),
        description="What is offered beside storage: MPPS, Instance Availability Notification, "
        "the answers of archives to which a destination with `confirm: commitment` sends, and "
        "storage commitment, which modalities may take as leave to delete their images: turn "
        "it on where the hub keeps images for as long as you need them.",
    )
    peers: tuple[DicomPeerConfig, ...] = Field(
        (),
        description="Where the answers of storage commitment go when the one who asked has "
        "closed its association.",
    )

    @property
    def rejects_unknown_callers(self) -> bool:
        """What `unknown_callers` comes to."""
        if self.unknown_callers is not None:
            return self.unknown_callers == "reject"
        return not _is_loopback(self.host)


class DicomDestinationConfig(BaseModel):
    """A Storage SCP of somebody else, such as a PACS, that gets results by C-STORE."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ae_title: AeTitle = Field(description="The destination's AE title (called).")
    host: str = Field(description="The destination's host name or address.", min_length=1)
    port: Port = Field(104, description="The destination's TCP port.")
    calling_ae_title: AeTitle = Field("CAIDX", description="The AE title that we call ourselves.")
    documents: tuple[DocumentKind, ...] = Field(
        (DocumentKind.SR, DocumentKind.SEG, DocumentKind.ENCAPSULATED_PDF),
        description="The kinds of document that it gets.",
    )
    connect_timeout: Seconds = Field(
        10.0, description="Seconds to wait for the connection and for the association."
    )
    response_timeout: Seconds = Field(
        60.0, description="Seconds to wait for the response to one C-STORE."
    )
    maximum_pdu_length: PduLength = Field(
        131072, description="Largest PDU that we receive, in bytes (PS3.8 annex D.1)."
    )
    tls: TlsClientConfig | None = Field(None, description="Connect by TLS.")
    confirm: Literal["none", "query", "commitment"] = Field(
        "none",
        description="How it is found out that the destination keeps what it took: `query` looks "
        "for the object by C-FIND; `commitment` asks for storage commitment, and its answer comes "
        "to a DICOM source of the hub: the destination has to know `calling_ae_title` by that "
        "source's host and port.",
    )
    confirm_within: Seconds = Field(
        300.0,
        description="Seconds that the destination may take until a query finds an object; after "
        "that it is sent again.",
    )
    commitment_wait: float = Field(
        1.0,
        ge=0,
        le=60,
        description="Seconds that the association stays open for the answer to storage "
        "commitment; later it comes on an association of its own.",
    )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
