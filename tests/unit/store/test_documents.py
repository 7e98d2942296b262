from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from hub.errors import IntegrityError, TransientError
from hub.store.documents import DocumentStore


def test_what_was_put_comes_back(tmp_path: Path) -> None:
    store = DocumentStore(tmp_path)
    name = store.put(b"report")
    assert store.put(b"report") == name
    assert store.get(name) == b"report"
    assert len(list(tmp_path.glob("*/*"))) == 1


def test_changed_or_missing_bytes_are_never_handed_out(tmp_path: Path) -> None:
    store = DocumentStore(tmp_path)
    name = store.put(b"report")
    (file,) = tmp_path.glob("*/*")
    file.write_bytes(b"forged")
    with pytest.raises(IntegrityError, match="was changed"):
        store.get(name)
    file.unlink()
    with pytest.raises(IntegrityError, match="is missing"):
        store.get(name)


def test_a_full_disk_is_transient_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fdatasync", full)
    with pytest.raises(TransientError, match="no space"):
        DocumentStore(tmp_path).put(b"report")
    assert list(tmp_path.glob("*/*")) == []


def test_nobody_else_can_look_into_the_folders(tmp_path: Path) -> None:
    store = DocumentStore(tmp_path / "documents")
    store.put(b"report")
    folders = [store.root, *store.root.iterdir()]
    assert [folder.stat().st_mode & 0o077 for folder in folders] == [0, 0]
