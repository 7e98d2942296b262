"""``caidx model preview``: a model's answer about a stored study, as one document, unsent."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Annotated

import pydicom
import typer

from hub.bootstrap.preview import preview as make_preview
from hub.cli.actor import actor
from hub.cli.session import session_of
from hub.domain.delivery import DICOM_KINDS, Document, DocumentKind
from hub.errors import RejectedError


def preview(
    context: typer.Context,
    model_id: Annotated[str, typer.Argument(metavar="MODEL")],
    study_instance_uid: Annotated[str, typer.Argument(metavar="STUDY")],
    kind: Annotated[
        DocumentKind, typer.Option("--as", metavar="KIND", help="sr, seg, pdf, fhir, oru ...")
    ],
    series: Annotated[
        list[str] | None,
        typer.Option(help="Series Instance UID of the model's input; may be repeated."),
    ] = None,
    *,
    version: Annotated[
        str, typer.Option(metavar="V", help="Of the model, active or not; else the one in use.")
    ] = "",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", dir_okay=False, help="Write the bytes here.")
    ] = None,
) -> None:
    """Run a model on a stored study and show one document of its answer.

    Nothing is kept and nothing is sent. Without `--series` the model gets what a route would give
    to it, or the whole study. Without `--output` the document is printed as text.
    """
    session = session_of(context)
    if kind is DocumentKind.RECORD:
        raise typer.BadParameter("a record is the hub's own", param_hint="--as")
    with session.hub() as hub:
        shown = make_preview(
            hub,
            model_id,
            study_instance_uid,
            kind,
            actor=actor(),
            series_instance_uids=tuple(series or ()),
            version=version,
        )
    if shown.document is None:
        raise RejectedError(f"the answer is {shown.result.outcome}, and has no {kind} document")
    if output is not None:
        output.write_bytes(shown.document.content)
        session.err.print(f"{len(shown.document.content)} bytes are written; nothing was sent")
        return
    typer.echo(_as_text(shown.document))


def _as_text(document: Document) -> str:
    if document.kind in DICOM_KINDS:
        found = pydicom.dcmread(BytesIO(document.content), stop_before_pixels=True)
        return str(found)
    show = _TEXTS.get(document.media_type)
    if show is None:
        raise RejectedError(f"a {document.kind} document is no text: name a file by --output")
    return show(document.content)


def _indented(content: bytes) -> str:
    return json.dumps(json.loads(content), indent=2, ensure_ascii=False)


def _by_segment(content: bytes) -> str:
    return content.decode().replace("\r", "\n")


_TEXTS: Mapping[str, Callable[[bytes], str]] = {
    "application/fhir+json": _indented,
    "application/json": _indented,
    "x-application/hl7-v2+er7": _by_segment,
}
