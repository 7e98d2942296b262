"""Writes each document to ``<folder>/<request id>/<kind>-<document id>.<extension>``."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from connectors.folder.config import FolderDestinationConfig
from hub.domain.delivery import Document, Receipt
from hub.errors import RejectedError, TransientError
from hub.ports import DestinationContext

_EXTENSIONS = {
    "application/dicom": "dcm",
    "application/pdf": "pdf",
    "application/fhir+json": "json",
    "application/json": "json",
    "x-application/hl7-v2+er7": "hl7",
}
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")


@dataclass(frozen=True, slots=True)
class FolderDestination:
    """`hub.ports.Destination` on a local or mounted folder."""

    config: FolderDestinationConfig

    def deliver(self, document: Document, idempotency_key: str) -> Receipt:  # noqa: ARG002 - the name is the key
        """Write one document; a reader never sees half of it.

        The same document again is a success. The same name with other bytes is refused: a
        document's bytes never change once made.
        """
        if document.kind not in self.config.documents:
            raise RejectedError(f"the folder is not configured for {document.kind} documents")
        path = self._path(document)
        try:
            if path.exists():
                return _compared(path, document)
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_atomically(path, document.content)
        except OSError as error:
            raise TransientError(f"cannot write to the folder: {error.strerror}") from error
        return Receipt(f"written, {len(document.content)} bytes")

    def check(self) -> str:
        """Write and remove an empty file."""
        folder = self.config.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder, prefix=".check-"):
                return f"{folder} can be written"
        except OSError as error:
            raise TransientError(f"{folder} cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Nothing is open between deliveries."""

    def _path(self, document: Document) -> Path:
        for name in (document.request_id, document.document_id):
            if not _SAFE_NAME.match(name):
                raise RejectedError("the document's identifiers cannot be file names")
        extension = _EXTENSIONS[document.media_type]
        name = f"{document.kind}-{document.document_id}.{extension}"
        return self.config.folder / document.request_id / name


def _compared(path: Path, document: Document) -> Receipt:
    if path.read_bytes() != document.content:
        raise RejectedError("another document lies under this document's name")
    return Receipt("was there already")


def _write_atomically(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    for folder in (path.parent, path.parent.parent):
        _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    """Make a new name in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def build_destination(
    config: FolderDestinationConfig,
    context: DestinationContext,  # noqa: ARG001 - the port's signature
) -> FolderDestination:
    """`hub.ports.Connector.build_destination`."""
    return FolderDestination(config)
