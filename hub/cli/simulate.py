"""``caidx simulate``: peers of the hub that are not there yet, or that shall misbehave."""

from __future__ import annotations

import json
import signal
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from hub.bootstrap.clock import SystemClock
from hub.cli.session import Session, session_of
from hub.config import BUILTIN
from hub.errors import RejectedError, TransientError
from hub.log import configure_logging
from hub.ports import ModelPackage
from hub.simulator.answers import Answers, MadeUpAnswers
from hub.simulator.behaviours import Answering, Behaviour, usual_answering
from hub.simulator.computing import ComputedAnswers
from hub.simulator.server import STATISTICS, VendorServer
from hub.simulator.vendor import Vendor, VendorOptions
from hub.store.packages import read_package
from hub.transport.http_config import HttpPeerConfig
from hub.transport.http_peer import client as http_client
from hub.transport.tls import server_context
from hub.transport.tls_config import TlsServerConfig
from hub.transport.webhook_signature import key_of

app = typer.Typer(help="Peers to try the hub with.", no_args_is_help=True)

_SECONDS = 300.0
"""Of one exchange with the hub: a CT is retrieved in it."""
_File = Annotated[Path | None, typer.Option(exists=True, dir_okay=False)]
_Model = Annotated[
    str, typer.Option(help="A model that answers: folder, or `builtin:NAME`. Left out: made up.")
]
_Secret = Annotated[
    str, typer.Option(envvar="CAIDX_VENDOR_SECRET", help="whsec_...: webhooks are signed.")
]
_ApiKey = Annotated[
    str, typer.Option(envvar="CAIDX_VENDOR_API_KEY", help="Wanted as Bearer token or X-API-Key.")
]


@app.callback()
def simulate() -> None:
    """Peers to try the hub with; none of them is for patients."""


@app.command()
def vendor(
    context: typer.Context,
    *,
    behaviour: Annotated[Behaviour, typer.Option(help="What it does.")] = Behaviour.OK,
    answer: Annotated[
        str, typer.Option(help="sync, poll or webhook. Left out: what the behaviour is about.")
    ] = "",
    model: _Model = "",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: one that is free.")] = 0,
    secret: _Secret = "",
    api_key: _ApiKey = "",
    delay: Annotated[float, typer.Option(min=0, help="Seconds, where it answers late.")] = 1.0,
    fail_first: Annotated[
        int, typer.Option(min=0, help="Only so many requests meet the behaviour, then ok. 0: all.")
    ] = 0,
    certificate: _File = None,
    private_key: _File = None,
    client_authorities: _File = None,
    ca_file: _File = None,
) -> None:
    """Be a vendor's service that speaks the contract (docs/contract), well or badly, until Ctrl-C.

    Prints one line of JSON when it listens: `url` for the manifest's `runtime.url`, `statistics` to
    see what happened. With `--certificate` and `--private-key` it speaks HTTPS, with
    `--client-authorities` only to clients whose certificates these have signed. `--ca-file`: whom
    to trust when it asks the hub.
    """
    configure_logging("info", "json")
    options = VendorOptions(
        behaviour=behaviour,
        answering=_answering(answer, behaviour),
        delay_seconds=delay,
        fail_first=fail_first,
        webhook_key=_key(secret),
        api_key=api_key,
    )
    tls = _tls(certificate, private_key, client_authorities)
    package = _package(session_of(context), model) if model else None
    with http_client(HttpPeerConfig(url="http://hub", ca_file=ca_file), timeout=_SECONDS) as client:
        answers: Answers = MadeUpAnswers()
        if package is not None:
            components = session_of(context).components
            answers = ComputedAnswers(package, components, SystemClock(), client)
        _serve(Vendor(options, answers, client), (host, port), tls)


def _answering(given: str, behaviour: Behaviour) -> Answering:
    match given:
        case "":
            return usual_answering(behaviour)
        case "sync" | "poll" | "webhook":
            return given
        case _:
            raise typer.BadParameter("must be sync, poll or webhook", param_hint="--answer")


def _key(secret: str) -> bytes:
    try:
        return key_of(secret) if secret else b""
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--secret") from None


def _tls(
    certificate: Path | None, private_key: Path | None, authorities: Path | None
) -> ssl.SSLContext | None:
    if certificate is None:
        return None
    config = TlsServerConfig.model_validate(
        {
            "certificate": certificate,
            "private_key": private_key or certificate,
            "client_certificates": "required" if authorities else "none",
            "trusted": authorities,
        }
    )
    return server_context(config, "--certificate")


def _package(session: Session, model: str) -> ModelPackage:
    if not model.startswith(BUILTIN):
        return read_package(Path(model))
    folder = session.components.models.get(model.removeprefix(BUILTIN))
    if folder is None:
        raise RejectedError(f"no installed package ships {model}")
    return read_package(folder)


@contextmanager
def _serving(
    vendor: Vendor, address: tuple[str, int], tls: ssl.SSLContext | None
) -> Iterator[VendorServer]:
    try:
        server = VendorServer(address, vendor, tls)
    except OSError as error:
        vendor.close()
        raise TransientError(
            f"cannot listen on {address[0]}:{address[1]}: {error.strerror}"
        ) from None
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        vendor.close()
        server.shutdown()
        server.server_close()


def _serve(vendor: Vendor, address: tuple[str, int], tls: ssl.SSLContext | None) -> None:
    """Until a signal says stop."""
    with _serving(vendor, address, tls) as server:
        root = server.url.rpartition("/")[0]
        behaviour = vendor.options.behaviour.value
        ready = {"url": server.url, "statistics": root + STATISTICS, "behaviour": behaviour}
        typer.echo(json.dumps(ready))
        _wait_for_signal()


def _wait_for_signal() -> None:
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    stopped.wait()
