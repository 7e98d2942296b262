"""Send DICOM files by hand: ``caidx send PATH --to AET@host:port``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from connectors.dicom.requester import Peer, association, status_in
from connectors.dicom.status import Verdict, verdict_of
from hub.errors import RejectedError
from hub.formats.dicom.header import scan_header, split_part10
from hub.ports import SendTls, SentAs, SentFile
from hub.transport.tls import must_be_usable
from hub.transport.tls_config import TlsClientConfig

_MAXIMUM_CONTEXTS = 128
"""Presentation context IDs are the odd numbers from 1 to 255 (PS3.8 9.3.2.2)."""

_SENT_AS = {
    Verdict.STORED: SentAs.STORED,
    Verdict.STORED_WITH_WARNING: SentAs.WARNING,
    Verdict.TRY_AGAIN: SentAs.FAILED,
    Verdict.REFUSED: SentAs.REFUSED,
}


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    context: tuple[str, str]
    """SOP class and transfer syntax."""
    sop_instance_uid: str


def send_files(
    paths: Sequence[Path],
    *,
    host: str,
    port: int,
    called_ae_title: str,
    calling_ae_title: str,
    on_progress: Callable[[SentFile], None] | None = None,
    tls: SendTls | None = None,
) -> list[SentFile]:
    """Send Part 10 files, and all files in folders, byte by byte as they are.

    Uses one association, or more where the files need over 128 presentation contexts. What
    is no DICOM file is skipped and told.

    Raises:
        TransientError: the receiver cannot be reached, or rejects the association.
        RejectedError: the receiver accepts none of the SOP classes.
        ConfigError: a file of ``tls`` cannot be used.
    """
    by_tls = None if tls is None else _tls_config(tls)
    must_be_usable(by_tls)
    peer = Peer(host, port, called_ae_title, calling_ae_title, tls=by_tls)
    sent: list[SentFile] = []

    def tell(outcome: SentFile) -> None:
        sent.append(outcome)
        if on_progress is not None:
            on_progress(outcome)

    files: list[_File] = []
    for path in _all_files(paths):
        looked_at = _look_at(path)
        if isinstance(looked_at, SentFile):
            tell(looked_at)
        else:
            files.append(looked_at)
    for batch in _batches(files):
        _send_batch(peer, batch, tell)
    return sent


def _tls_config(tls: SendTls) -> TlsClientConfig:
    password = tls.private_key_password
    return TlsClientConfig(
        trusted=tls.trusted,
        verify_host=tls.verify_host,
        certificate=tls.certificate,
        private_key=tls.private_key,
        private_key_password=None if password is None else SecretStr(password),
        minimum="1.2",
    )


def _all_files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(inner for inner in path.rglob("*") if inner.is_file())
        else:
            yield path


def _look_at(path: Path) -> _File | SentFile:
    try:
        transfer_syntax_uid, data_set = split_part10(path.read_bytes())
        scan = scan_header(data_set, transfer_syntax_uid)
    except OSError as error:
        return SentFile(path, SentAs.SKIPPED, f"cannot be read: {error.strerror}")
    except RejectedError as error:
        return SentFile(path, SentAs.SKIPPED, str(error))
    return _File(path, (scan.sop_class_uid, transfer_syntax_uid), scan.sop_instance_uid)


def _batches(files: Sequence[_File]) -> Iterator[list[_File]]:
    """Groups of files that share at most 128 presentation contexts, in order."""
    pending = list(files)
    while pending:
        distinct = dict.fromkeys(file.context for file in pending)
        proposed = set(islice(distinct, _MAXIMUM_CONTEXTS))
        yield [file for file in pending if file.context in proposed]
        pending = [file for file in pending if file.context not in proposed]


def _send_batch(peer: Peer, batch: Sequence[_File], tell: Callable[[SentFile], None]) -> None:
    proposed = list(dict.fromkeys(file.context for file in batch))
    contexts = [(sop_class, [transfer_syntax]) for sop_class, transfer_syntax in proposed]
    with association(peer, contexts) as opened:
        agreed = {
            (str(item.abstract_syntax), str(item.transfer_syntax[0]))
            for item in opened.accepted_contexts
        }
        for number, file in enumerate(batch):
            tell(_send_one(opened, file, number, accepted=file.context in agreed))


def _send_one(opened: Any, file: _File, number: int, *, accepted: bool) -> SentFile:
    if not opened.is_established:
        return SentFile(file.path, SentAs.FAILED, "the association was lost", file.sop_instance_uid)
    if not accepted:
        detail = "the receiver does not accept this SOP class in this transfer syntax"
        return SentFile(file.path, SentAs.REFUSED, detail, file.sop_instance_uid)
    status = status_in(opened.send_c_store(file.path, msg_id=number % 65535 + 1))
    if status is None:
        return SentFile(file.path, SentAs.FAILED, "no answer", file.sop_instance_uid)
    return SentFile(
        file.path, _SENT_AS[verdict_of(status)], f"C-STORE 0x{status:04X}", file.sop_instance_uid
    )
