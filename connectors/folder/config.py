"""What a person can configure of the folder connector."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from hub.domain.delivery import DocumentKind

USUAL_DOCUMENTS = (
    DocumentKind.SR,
    DocumentKind.SEG,
    DocumentKind.PDF,
    DocumentKind.ENCAPSULATED_PDF,
    DocumentKind.FHIR,
)


class FolderSourceConfig(BaseModel):
    """A drop folder: DICOM files that are moved into it are received."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path = Field(description="The drop folder; it is made when it does not exist.")
    poll_interval: float = Field(
        1.0, gt=0, le=3600, description="Seconds between two looks into the folder."
    )


class FolderDestinationConfig(BaseModel):
    """A folder that gets each result as a file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path = Field(description="Where results go; it is made when it does not exist.")
    documents: tuple[DocumentKind, ...] = Field(
        USUAL_DOCUMENTS, description="The kinds of document that it gets."
    )
