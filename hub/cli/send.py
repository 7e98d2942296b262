"""``caidx send``: send files to a DICOM receiver, and tell what became of each."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hub.cli.session import Json, Session, session_of
from hub.errors import RejectedError
from hub.ports import SendFiles, SendTls, SentAs, SentFile

_ADDRESS = re.compile(r"(?P<ae>[^@]{1,16})@(?P<host>\[[^]]+\]|[^:]+):(?P<port>[0-9]{1,5})")
_PASSWORD_VARIABLE = "CAIDX_TLS_KEY_PASSWORD"  # noqa: S105 - a name
_GOOD = (SentAs.STORED, SentAs.WARNING)


def _pem(name: str, help_text: str) -> Any:
    """An option that names a PEM file."""
    return typer.Option(name, exists=True, dir_okay=False, metavar="PEM", help=help_text)


ByTls = Annotated[
    bool, typer.Option("--tls", help="Connect by TLS; any other TLS option implies it.")
]
Trusted = Annotated[
    Path | None, _pem("--tls-trusted", "The authorities to trust instead of the system's.")
]
Certificate = Annotated[Path | None, _pem("--tls-certificate", "Our certificate, then its chain.")]
PrivateKey = Annotated[
    Path | None, _pem("--tls-private-key", "Of the certificate, if not in the same file.")
]
KeyPassword = Annotated[
    str | None, typer.Option(envvar=_PASSWORD_VARIABLE, hidden=True, show_envvar=False)
]
VerifyHost = Annotated[
    bool,
    typer.Option(
        "--verify-host/--no-verify-host",
        help="Whether the receiver's certificate has to name its host.",
    ),
]


def send(
    context: typer.Context,
    paths: Annotated[list[Path], typer.Argument(exists=True, help="Files and folders.")],
    to: Annotated[str, typer.Option("--to", metavar="AET@HOST:PORT", help="The receiver.")],
    calling: Annotated[
        str, typer.Option("--from", metavar="AET", help="AE title that we call ourselves.")
    ] = "CAIDX-SEND",
    *,
    by_tls: ByTls = False,
    trusted: Trusted = None,
    certificate: Certificate = None,
    private_key: PrivateKey = None,
    key_password: KeyPassword = None,
    verify_host: VerifyHost = True,
    as_json: Json = False,
) -> None:
    """Send files by C-STORE, as they are. Exit status 1 if any of them was not stored.

    The password of an encrypted private key stands in the environment: CAIDX_TLS_KEY_PASSWORD.
    """
    session = session_of(context)
    address = _ADDRESS.fullmatch(to)
    if address is None:
        raise typer.BadParameter("must look like AET@host:port", param_hint="--to")
    if private_key is not None and certificate is None:
        raise typer.BadParameter("needs --tls-certificate", param_hint="--tls-private-key")
    tls = SendTls(trusted, verify_host, certificate, private_key, key_password)
    is_by_tls = by_tls or bool(trusted or certificate) or not verify_host
    sent = send_with_progress(
        session,
        sender_of(session),
        paths,
        host=address["host"].strip("[]"),
        port=int(address["port"]),
        called_ae_title=address["ae"],
        calling_ae_title=calling,
        quiet=as_json,
        tls=tls if is_by_tls else None,
    )
    if as_json:
        session.print_json(sent)
    else:
        _tell(session, sent, to)
    if not sent or any(file.sent_as not in _GOOD for file in sent):
        raise typer.Exit(1)


def sender_of(session: Session) -> SendFiles:
    """The function of the DICOM connector that sends by hand.

    Raises:
        RejectedError: the installation has none.
    """
    connector = session.components.connectors.get("dicom")
    if connector is None or connector.send_files is None:
        raise RejectedError("the DICOM connector is not installed")
    return connector.send_files


def send_with_progress(
    session: Session,
    send_files: SendFiles,
    paths: Sequence[Path],
    *,
    host: str,
    port: int,
    called_ae_title: str,
    calling_ae_title: str,
    quiet: bool = False,
    tls: SendTls | None = None,
) -> list[SentFile]:
    """Send and show how far it is (on standard error, where it is a terminal)."""
    total = sum(1 for path in paths for file in _files(path) if file.is_file())
    columns = (TextColumn("sending"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    shown = session.err.is_terminal and not quiet
    with Progress(*columns, console=session.err, transient=True, disable=not shown) as progress:
        task = progress.add_task("sending", total=total)
        return send_files(
            paths,
            host=host,
            port=port,
            called_ae_title=called_ae_title,
            calling_ae_title=calling_ae_title,
            on_progress=lambda _file: progress.advance(task),
            tls=tls,
        )


def _files(path: Path) -> list[Path]:
    return list(path.rglob("*")) if path.is_dir() else [path]


def _tell(session: Session, sent: Sequence[SentFile], to: str) -> None:
    session.print_table(
        "",
        ("file", "became", "answer"),
        [(file.path, file.sent_as.value, file.detail) for file in sent],
        "nothing to send",
    )
    found = Counter(file.sent_as.value for file in sent)
    counts = ", ".join(f"{number} {name}" for name, number in sorted(found.items()))
    session.out.print(f"{len(sent)} files to {to}: {counts or 'none'}")
