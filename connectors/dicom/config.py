"""What a person can configure of the DICOM connector."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from hub.domain.delivery import DocumentKind

AeTitle = Annotated[
    str, Field(min_length=1, max_length=16, pattern=r"^[!-\[\]-~](?:[ -\[\]-~]*[!-\[\]-~])?$")
]
"""PS3.5 6.2, VR AE: at most 16 printable ASCII characters, no backslash, no outer spaces."""
Uid = Annotated[str, Field(max_length=64, pattern=r"^[0-9]+(\.[0-9]+)*$")]
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86400)]
PduLength = Annotated[int, Field(ge=4096, le=1 << 20)]


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
        (), description="Senders that may connect; empty means any."
    )
    maximum_associations: int = Field(
        32, ge=1, le=1000, description="Associations at a time; further ones are asked to wait."
    )
    maximum_pdu_length: PduLength = Field(
        131072, description="Largest PDU that we receive, in bytes (PS3.8 annex D.1)."
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
