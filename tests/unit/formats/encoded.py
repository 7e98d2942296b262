"""What the tests of the encoders share: a context, all documents of a result, the judges."""

from __future__ import annotations

import subprocess
from pathlib import Path
from zoneinfo import ZoneInfo

from hub.domain.delivery import Document, DocumentKind
from hub.domain.inference import InferenceRequest, InferenceResult
from hub.formats.encoding import EncodingContext
from hub.formats.printed import pdf as report_pdf
from hub.formats.seg import binary as dicom_seg
from hub.formats.sr import report as dicom_sr
from tests import builders

CONTEXT = EncodingContext(
    made_at=builders.MADE_AT,
    institution_name="Universitätsmedizin Beispielstadt",
    software_version="0.1.0",
    timezone=ZoneInfo("Europe/Berlin"),
)

ENCODERS = {
    DocumentKind.SEG: dicom_seg.encode,
    DocumentKind.SR: dicom_sr.encode,
    DocumentKind.PDF: report_pdf.encode,
    DocumentKind.ENCAPSULATED_PDF: report_pdf.encode_dicom,
}


def all_documents(
    request: InferenceRequest, result: InferenceResult
) -> dict[DocumentKind, Document]:
    """Every document of a result, each referring to those before it."""
    documents: dict[DocumentKind, Document] = {}
    for kind, encode in ENCODERS.items():
        document = encode(request, result, builders.model_card(), CONTEXT, documents)
        if document is not None:
            documents[kind] = document
    return documents


def output_of(tool: str, *arguments: str) -> str:
    """What a tool prints, on both streams; it fails where the tool is missing."""
    done = subprocess.run([tool, *arguments], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def validator_errors(document: Document, folder: Path) -> list[str]:
    """The lines in which dciodvfy (dicom3tools) finds an error."""
    file = folder / f"{document.kind.value}.dcm"
    file.write_bytes(document.content)
    printed = output_of("dciodvfy", "-new", str(file))
    assert printed.strip(), "dciodvfy names the kind of every object that it reads"
    return [line for line in printed.splitlines() if line.startswith("Error")]
