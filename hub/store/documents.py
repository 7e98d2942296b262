"""Encoded results as files, named by the SHA-256 of their bytes."""

from __future__ import annotations

import errno
import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from hub.errors import IntegrityError, TransientError
from hub.store.disk import make_folder, sync_folder


@dataclass(frozen=True, slots=True)
class DocumentStore:
    """Write once, read often. The same bytes are stored once."""

    root: Path

    def put(self, content: bytes) -> str:
        """Store durably; returns the SHA-256.

        Raises:
            TransientError: no space left.
        """
        sha256 = hashlib.sha256(content).hexdigest()
        path = self._path(sha256)
        if path.exists():
            os.utime(path)  # it counts as new: the sweep leaves it alone
            sync_folder(path.parent)  # whoever stored it may not have come so far
            return sha256
        # Nobody else's: another thread, or a process with our number on another host, may be
        # storing the same bytes.
        partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
        try:
            for folder in (self.root, path.parent):
                make_folder(folder)
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fdatasync(file.fileno())
        except OSError as error:
            partial.unlink(missing_ok=True)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise TransientError("no space left for documents") from error
            raise
        partial.replace(path)
        sync_folder(path.parent)
        return sha256

    def get(self, sha256: str) -> bytes:
        """The bytes, checked against their name.

        Raises:
            IntegrityError: they are gone or were changed.
        """
        try:
            content = self._path(sha256).read_bytes()
        except FileNotFoundError as error:
            message = f"document {sha256} is missing: its study was deleted, or the file is lost"
            raise IntegrityError(message) from error
        if hashlib.sha256(content).hexdigest() != sha256:
            raise IntegrityError(f"document {sha256} was changed")
        return content

    def delete(self, sha256: str) -> None:
        """Remove a document; one that is already gone is fine."""
        self._path(sha256).unlink(missing_ok=True)

    def older_than(self, moment: datetime) -> Iterator[Path]:
        """The files that nobody has stored or begun since: documents, by the SHA-256 that is their
        name, and ``*.partial`` files that a crash left behind."""
        for path in sorted(self.root.glob("??/*")):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < moment.timestamp():
                    yield path

    def _path(self, sha256: str) -> Path:
        return self.root / sha256[:2] / sha256
