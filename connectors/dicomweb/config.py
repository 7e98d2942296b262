"""What a person can configure of the DICOMweb source."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

MEBIBYTE = 1 << 20


class DicomWebSourceConfig(BaseModel):
    """STOW-RS into the hub, and QIDO-RS and WADO-RS over what the hub holds; part of the hub's
    HTTP server (``web.host``, ``web.port``)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(
        "/dicom-web",
        pattern=r"^(?:/[A-Za-z0-9._~-]+)+$",
        max_length=200,
        description="Where it is served; each source has a path of its own.",
    )
    read: bool = Field(
        default=True, description="Whether studies can be searched and retrieved (QIDO, WADO)."
    )
    maximum_request_bytes: int = Field(
        16 << 30, ge=MEBIBYTE, le=1 << 42, description="Longest STOW request body."
    )
    maximum_parts: int = Field(
        10_000, ge=1, le=1_000_000, description="Most instances in one STOW request."
    )
    memory_bytes: int = Field(
        64 * MEBIBYTE,
        ge=16 * MEBIBYTE,
        le=1 << 36,
        description="Memory for parts that are being received, all requests together; what does "
        "not fit is written to the disk as it arrives.",
    )
    maximum_results: int = Field(
        1000, ge=1, le=100_000, description="Most results of one search; more are paged for."
    )
