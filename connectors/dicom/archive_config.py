"""What a person can configure of an archive that is asked by DICOM."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from connectors.dicom.config import AeTitle, PduLength, Port, Seconds
from hub.transport.tls_config import TlsClientConfig


class DicomArchiveConfig(BaseModel):
    """A PACS that the hub may ask for studies: C-FIND, and C-MOVE or C-GET (PS3.4 annex C)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ae_title: AeTitle = Field(description="The archive's AE title (called).")
    host: str = Field(description="The archive's host name or address.", min_length=1)
    port: Port = Field(104, description="The archive's TCP port.")
    calling_ae_title: AeTitle = Field("CAIDX", description="The AE title that we call ourselves.")
    retrieve: Literal["c-move", "c-get"] = Field(
        "c-move",
        description="How it sends studies: `c-move` to one of our sources, whose address the "
        "archive has to know, or `c-get` on the same association.",
    )
    move_destination: AeTitle | None = Field(
        None,
        description="For `c-move`: AE title of the source that takes the studies in; left out: "
        "`calling_ae_title`.",
    )
    connect_timeout: Seconds = Field(
        10.0, description="Seconds to wait for the connection and for the association."
    )
    query_timeout: Seconds = Field(20.0, description="Seconds within which a query is answered.")
    maximum_pdu_length: PduLength = Field(
        131072, description="Largest PDU that we receive, in bytes (PS3.8 annex D.1)."
    )
    tls: TlsClientConfig | None = Field(None, description="Connect by TLS.")
