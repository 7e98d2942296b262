"""Our errors as acknowledgements, and acknowledgements as our errors (HL7 v2.5.1 chapter 2.9.2).

What we answer:

===========================  ==================================================================
outcome                      acknowledgement
===========================  ==================================================================
recorded, or passed over     AA (CA)
`TransientError`             AE (CE) with ERR-3 207: the same message may be sent again
`RejectedError`              AR (CR) with ERR-3 and, where a field is wrong, its place in ERR-2
===========================  ==================================================================

What an answer to a result of ours means:

===========================  ==================================================================
acknowledgement              meaning
===========================  ==================================================================
AA, CA                       delivered
AE, CE; AR, CR               where ERR-3 names the reason, that decides: record locked or an
                             internal error (206, 207) are `TransientError`, others of table
                             0357 `RejectedError`. Without it: AE, CE `TransientError`, AR, CR
                             `RejectedError`. The standard itself says "do not resend" to AE and
                             "resend as you like" to AR, and systems do either.
for another message, or no   `TransientError`
acknowledgement at all
===========================  ==================================================================

The texts of an answer (MSA-3, ERR-7, ERR-8) often repeat what was sent. Only its codes are taken.
"""

from __future__ import annotations

from datetime import datetime

from hub.errors import RejectedError, TransientError
from hub.formats.hl7v2.message import (
    INTERNAL_ERROR,
    UNSUPPORTED_MESSAGE_TYPE,
    Delimiters,
    Message,
    MessageError,
    Segment,
    components,
    read_message,
    segment,
)

_TAKEN = ("AA", "CA")
_ERRORS = ("AE", "CE")
_REFUSED = ("AR", "CR")
_RECORD_LOCKED = "206"
_TRY_AGAIN = (_RECORD_LOCKED, INTERNAL_ERROR)
_FINAL = tuple(str(code) for code in (*range(100, 105), *range(200, 206)))
_ERROR_TABLE = "HL70357"
_LONGEST_ECHO = 199
_OUR_NAME = "CAIDX"


# --- what we answer ----------------------------------------------------------------------------


def answer_to(
    header: Message | None, error: TransientError | RejectedError | None, now: datetime, own_id: str
) -> list[bytes]:
    """The acknowledgements that a sender asked for: one, unless MSH-15 and MSH-16 say otherwise
    (2.9.3, enhanced mode).

    Args:
        header: MSH of the message as ``read_header`` found it: its bytes go back as they came.
        error: why it was not taken.
        now: the time.
        own_id: MSH-10 of the answer.
    """
    msh = header.header if header is not None else None
    code = _code(error)
    return [
        _acknowledgement(msh, one, error, now, f"{own_id}{number or ''}")
        for number, one in enumerate(_wanted(msh, code))
    ]


def _code(error: TransientError | RejectedError | None) -> str:
    if error is None:
        return "AA"
    return "AE" if isinstance(error, TransientError) else "AR"


def _wanted(msh: Segment | None, code: str) -> list[str]:
    accept = msh.text(15).upper() if msh is not None else ""
    application = msh.text(16).upper() if msh is not None else ""
    if not accept and not application:
        return [code]
    conditions = ((accept, f"C{code[1]}"), (application, code))
    failed = code != "AA"
    return [one for condition, one in conditions if condition in ("AL", "ER" if failed else "SU")]


def _acknowledgement(
    msh: Segment | None,
    code: str,
    error: TransientError | RejectedError | None,
    now: datetime,
    own_id: str,
) -> bytes:
    event = msh.text(9, 2) if msh is not None else ""
    header = {
        3: _echo(msh, 5) or _OUR_NAME,
        4: _echo(msh, 6),
        5: _echo(msh, 3),
        6: _echo(msh, 4),
        7: f"{now:%Y%m%d%H%M%S%z}",
        9: components("ACK", event, "ACK"),
        10: own_id,
        11: _echo(msh, 11) or "P",
        12: _echo(msh, 12) or "2.5.1",
        18: _echo(msh, 18),
    }
    segments = [segment("MSH", header), segment("MSA", {1: code, 2: _echo(msh, 10)})]
    if error is not None:
        segments.append(segment("ERR", _error_fields(error)))
    # an escape sequence of the sender's may stand for what no byte of its message was
    return "".join(f"{one}\r" for one in segments).encode("latin_1", "replace")


def _error_fields(error: TransientError | RejectedError) -> dict[int, str]:
    code = UNSUPPORTED_MESSAGE_TYPE if isinstance(error, RejectedError) else INTERNAL_ERROR
    location = ""
    if isinstance(error, MessageError):
        code, location = error.code, error.location
    text = str(error) if isinstance(error, RejectedError) else "try again later"
    return {2: location, 3: components(code, text, _ERROR_TABLE), 4: "E"}


def _echo(msh: Segment | None, number: int) -> str:
    """A field of the message, for our delimiters."""
    if msh is None:
        return ""
    if msh.delimiters == Delimiters():
        return msh.field(number)[:_LONGEST_ECHO]
    return components(*(msh.text(number, part)[:_LONGEST_ECHO] for part in (1, 2, 3)))


# --- what we are answered ----------------------------------------------------------------------


def confirmation(answer: bytes, control_id: str, peer: str) -> str:
    """What a receiver answered, where it took the message.

    Raises:
        TransientError: it did not, or not this one, and may take it later.
        RejectedError: it never will.
    """
    try:
        message = read_message(answer)
    except RejectedError:
        raise TransientError(f"{peer}: the answer is no HL7 v2 message") from None
    found = message.all("MSA")
    if not found:
        raise TransientError(f"{peer}: the answer is no acknowledgement")
    code, named = found[0].text(1), found[0].text(2)
    if named != control_id:
        raise TransientError(f"{peer}: the answer is to another message")
    if code in _TAKEN:
        return f"HL7 {code}"
    raise _error_of(code, _reasons(message), peer)


def _error_of(code: str, reasons: list[str], peer: str) -> TransientError | RejectedError:
    if code not in _ERRORS + _REFUSED:
        return TransientError(f"{peer}: the answer has an unknown acknowledgement code")
    text = f"{peer}: HL7 {code}" + (f", error {' '.join(reasons)}" if reasons else "")
    if any(reason in _TRY_AGAIN for reason in reasons):
        return TransientError(text)
    refused = bool(reasons) or code in _REFUSED
    return RejectedError(text) if refused else TransientError(text)


def _reasons(message: Message) -> list[str]:
    """Codes of table 0357, each once: ERR-3, before version 2.5 ERR-1.4 and MSA-6."""
    told = [one.text(3) for one in message.all("ERR")]
    told += [one.text(1, 4) for one in message.all("ERR")]
    told += [one.text(6) for one in message.all("MSA")]
    return list(dict.fromkeys(code for code in told if code in _TRY_AGAIN + _FINAL))
