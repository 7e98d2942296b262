"""``caidx patient``: what became of patients, told by hand."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated

import typer

from hub.cli.actor import actor
from hub.cli.session import Session, session_of
from hub.domain.patient import PatientChange
from hub.errors import RejectedError
from hub.formats.fhir.patient import read_patient_changes
from hub.formats.hl7v2.message import read_message
from hub.formats.hl7v2.patient import IdentifierRules, patient_changes
from hub.store.database import refusing
from hub.store.patients import record_change

_BLOCK_MARKS = b"\x0b\x1c\r\n"
"""What a file may hold around a message that was taken from a stream (MLLP)."""
_MESSAGE_STARTS = (b"MSH", b"\xef\xbb\xbfMSH")

app = typer.Typer(help="Patients that were renamed or merged.", no_args_is_help=True)


@app.command()
def change(
    context: typer.Context,
    file: Annotated[
        typer.FileBinaryRead,
        typer.Argument(
            metavar="FILE",
            help="An HL7 v2 message ADT (A08, A31, A18, A34, A40, A47), or JSON of a FHIR R4 "
            "Patient or of a Bundle; or -",
        ),
    ],
    issuer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ASSIGNER=ISSUER",
            help="Assigning authority (HL7) or system (FHIR) of an identifier, and Issuer of "
            "Patient ID as in the images, empty where they name none; may be repeated. Without "
            "it: HL7's namespaces, and the systems of the configuration's `identifier_systems`.",
        ),
    ] = None,
) -> None:
    """Tell that a patient was renamed, or merged into another one: results that are on their way
    follow."""
    session = session_of(context)
    issuers = _issuers(issuer or [])
    with session.hub() as hub:
        told = _read(session, file.read(), issuers, hub.clock.now())
        journal = hub.journal(actor())
        with refusing(), hub.database.write() as connection:
            new = [one for one in told if record_change(connection, journal, one)]
    for one in new:
        session.out.print(f"patient {one.kind.value}: recorded as {one.change_id}")
    if len(new) < len(told):
        session.out.print(f"{len(told) - len(new)} of {len(told)} changes were known already")


def _issuers(options: list[str]) -> dict[str, str]:
    issuers = {}
    for option in options:
        assigner, given, issuer = option.rpartition("=")
        if not given or not assigner:
            raise typer.BadParameter(f"{option} is not ASSIGNER=ISSUER", param_hint="--issuer")
        issuers[assigner] = issuer
    return issuers


def _read(
    session: Session, content: bytes, issuers: Mapping[str, str], now: datetime
) -> tuple[PatientChange, ...]:
    """The changes that a document tells, in the name of this user."""
    message = content.strip(_BLOCK_MARKS)
    if message.startswith(_MESSAGE_STARTS):
        rules = IdentifierRules(issuers=issuers)
        return patient_changes(read_message(message), rules, actor(), now)
    systems = {uri: name for name, uri in session.settings.site.systems_by_issuer.items()}
    if not issuers and not systems:
        raise RejectedError(
            "which identifiers images know is not configured: name systems with --issuer"
        )
    return read_patient_changes(content, issuers or systems, actor(), now)
