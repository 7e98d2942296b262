"""Structured logs that cannot hold patient data.

Each line is an event (fixed words, no values in it) with fields. Only the fields listed here are
written, and only values of the expected form; anything else becomes ``[withheld]``. So a name or
a birth date that slips into a log call does not reach the log. Libraries write their messages
from the data they work on: of theirs, only logger, level and class of the exception are kept.

Use: ``structlog.get_logger().info("study.completed", study_instance_uid=uid, instances=340)``;
for failures pass ``error=exception``: its class is written, and its message only where it is one
of the hub's own errors, whose messages never hold patient data. ``reason`` takes such a message
as text; what looks like a person's name or an identifier in it has it withheld all the same.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from types import TracebackType
from typing import Any, TextIO

import structlog

from hub.errors import CaidxError

WITHHELD = "[withheld]"

_EVENT = re.compile(r"[a-z][a-z ,;:._'-]{0,99}")
_UID = re.compile(r"[0-9.]{1,64}")
_ERROR = re.compile(r"[A-Za-z0-9_.]{1,100}( in [A-Za-z0-9_.?]{1,100}:\d{1,6})?")
_HARMLESS_NUMBERS = re.compile(r"\b(?:\d+(?:\.\d+)+|[0-9a-f]{32,64})\b")
"""UIDs, decimals, digests and request identifiers."""
_SUSPECT = re.compile(r"\^|\d{6,}")
"""A DICOM person name (PS3.5 6.2.1), or digits enough for a date or a patient ID."""
_LONGEST_REASON = 500
_WORD = re.compile(r"[A-Za-z0-9_.:|#/@+\[\]-]{1,200}")


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_UIDS = _names(
    "study_instance_uid series_instance_uid sop_instance_uid sop_class_uid transfer_syntax_uid"
)
_WORDS = _names(
    "action adapter address alert alert_id archive association_id called_ae_title calling_ae_title "
    "component connector database decision delivery_id destination document_id document_kind "
    "engine entity evidence executor_id family format host job job_id kind level logger loop "
    "mode model model_id model_version outcome part priority problem_kind queue release request_id "
    "role route schema segment service sha256 signal source state status stored_as thread "
    "timestamp url_host version worker worker_id"
)
_NUMBERS = _names(
    "alerts attempt attempts bytes connections count deliveries documents duplicates exit_status "
    "expected failed files findings instances interval jobs length limit models offset pending pid "
    "port problems received requests restarts retries returncode revision sequence series slices "
    "studies threads total transfers waiting warnings workers"
)
_UNITS = ("_seconds", "_milliseconds", "_bytes", "_count")


def configure_logging(level: str, format: str, stream: TextIO | None = None) -> None:  # noqa: A002
    """Set up this process: the hub's log, that of the libraries, and what nobody caught.

    ``level`` is ``debug``, ``info``, ``warning`` or ``error``; ``format`` is ``json`` (one object
    per line) or ``console``. Lines go to ``stream``, or to standard error.
    """
    out = stream or sys.stderr
    number = logging.getLevelNamesMapping()[level.upper()]
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer()
        if format == "json"
        else structlog.dev.ConsoleRenderer(colors=out.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            describe_errors,
            withhold_unknown,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=False,
    )
    _silence_libraries()
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread


# --- what a line may hold ------------------------------------------------------------------


def describe_errors(_logger: object, _method: str, event: structlog.typing.EventDict) -> Any:
    """Replace exceptions by their class and the code positions they came through."""
    given = [event.pop("exc_info", None), event.pop("error", None)]
    event.pop("traceback", None)
    for value in given:
        error = _exception(value)
        if error is None:
            continue
        event["error"] = type(error).__name__
        if isinstance(error, CaidxError):
            event["reason"] = str(error)
        else:
            event["traceback"] = _positions(error)
    if "error" not in event and isinstance(given[1], str):
        event["error"] = given[1]
    return event


def _exception(value: object) -> BaseException | None:
    if isinstance(value, BaseException):
        return value
    if isinstance(value, tuple) and len(value) == 3:  # noqa: PLR2004 - sys.exc_info()
        return value[1] if isinstance(value[1], BaseException) else None
    return sys.exc_info()[1] if value is True else None


def _positions(error: BaseException) -> list[str]:
    frames = traceback.extract_tb(error.__traceback__)
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]


def withhold_unknown(_logger: object, _method: str, event: structlog.typing.EventDict) -> Any:
    """Keep the fields that may be logged, in their expected form; withhold every other value."""
    kept: MutableMapping[str, Any] = {}
    for name, value in event.items():
        known = name if _is_known(name) else WITHHELD
        kept[known] = value if _may_be_written(name, value) else WITHHELD
    return kept


def _is_known(name: str) -> bool:
    listed = name in _UIDS or name in _WORDS or name in _NUMBERS or name in _TEXTS
    return listed or name == "seconds" or name.endswith(_UNITS)


def _may_be_written(name: str, value: object) -> bool:
    if value is None or isinstance(value, bool):
        return _is_known(name)
    if isinstance(value, list | tuple | set | frozenset):
        return all(_may_be_written(name, part) for part in value)
    if isinstance(value, int | float):
        return name in _NUMBERS or name in _WORDS or name == "seconds" or name.endswith(_UNITS)
    return isinstance(value, str) and _text_may_be_written(name, value)


def _text_may_be_written(name: str, value: str) -> bool:
    if name in _TEXTS:
        return _TEXTS[name](value)
    if name in _UIDS:
        return _UID.fullmatch(value) is not None
    return name in _WORDS and _WORD.fullmatch(value) is not None


def _is_harmless_reason(text: str) -> bool:
    rest = _HARMLESS_NUMBERS.sub("", text)
    return len(text) <= _LONGEST_REASON and _SUSPECT.search(rest) is None


_TEXTS: Mapping[str, Callable[[str], bool]] = {
    "event": lambda text: _EVENT.fullmatch(text) is not None,
    "error": lambda text: _ERROR.fullmatch(text) is not None,
    "reason": _is_harmless_reason,
    "traceback": lambda _: True,  # made by this module alone, from positions in code
}


# --- libraries, and what nobody caught ------------------------------------------------------


class _WithheldRecord(logging.LogRecord):
    """A library's record without its message, whatever handler it ends up in."""

    def __init__(  # noqa: PLR0917 - the signature is the standard library's
        self,
        name: str,
        level: int,
        pathname: str,
        lineno: int,
        msg: object,
        args: tuple[object, ...] | Mapping[str, object] | None,
        exc_info: Any,
        func: str | None = None,
        _sinfo: str | None = None,
        **_: object,
    ) -> None:
        error = _exception(exc_info) or _exception_in(msg, args)
        self.error_class = "" if error is None else type(error).__name__
        text = f"message withheld {self.error_class}".strip()
        super().__init__(name, level, pathname, lineno, text, (), None, func, None)


def _exception_in(msg: object, args: object) -> BaseException | None:
    candidates = [msg, *args] if isinstance(args, tuple) else [msg]
    return next((value for value in candidates if isinstance(value, BaseException)), None)


class _LibraryHandler(logging.Handler):
    """Writes a library's record as an event of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        fields = {"logger": record.name}
        if error_class := getattr(record, "error_class", ""):
            fields["error"] = error_class
        structlog.get_logger().log(record.levelno, "message of a library", **fields)


def _silence_libraries() -> None:
    logging.setLogRecordFactory(_WithheldRecord)
    logging.captureWarnings(capture=True)
    root = logging.getLogger()
    root.handlers = [_LibraryHandler()]
    root.setLevel(logging.WARNING)
    for name in ("alembic", "dbos", "httpx", "pynetdicom", "pydicom", "sqlalchemy", "uvicorn"):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.setLevel(logging.WARNING)
        library.propagate = True


def _uncaught(
    kind: type[BaseException], error: BaseException, _traceback: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    structlog.get_logger().critical("uncaught error", error=error)


def _uncaught_in_thread(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_value is not None:
        thread = "" if arguments.thread is None else type(arguments.thread).__name__
        structlog.get_logger().critical(
            "uncaught error in a thread", error=arguments.exc_value, thread=thread
        )
