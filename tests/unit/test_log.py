"""Logs: what may be in them is, and patient data is not, however it gets there."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from hub.errors import RejectedError
from hub.log import WITHHELD, configure_logging

CANARY = "CANARY^JANE"
CANARY_ID = "8008135777"
LIBRARIES = ["alembic", "dbos", "httpx", "pynetdicom", "pydicom", "sqlalchemy", "uvicorn"]


class Log:
    def __init__(self) -> None:
        self.stream = io.StringIO()

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]


@pytest.fixture
def log() -> Iterator[Log]:
    root, factory = logging.getLogger(), logging.getLogRecordFactory()
    handlers, level = root.handlers, root.level
    hooks = sys.excepthook, threading.excepthook
    made = Log()
    configure_logging("info", "json", made.stream)
    yield made
    logging.setLogRecordFactory(factory)
    logging.captureWarnings(capture=False)
    root.handlers = handlers
    root.setLevel(level)
    sys.excepthook, threading.excepthook = hooks
    structlog.reset_defaults()


def test_a_line_is_one_json_object_with_a_utc_time(log: Log) -> None:
    structlog.get_logger().info("study completed", study_instance_uid="1.2.3", instances=340)
    line = log.lines[0]
    assert line["event"] == "study completed"
    assert line["level"] == "info"
    assert line["study_instance_uid"] == "1.2.3"
    assert line["instances"] == 340
    assert line["timestamp"].endswith("Z")


def test_lines_below_the_level_are_not_written(log: Log) -> None:
    structlog.get_logger().debug("too detailed")
    assert log.text == ""


def test_the_console_format_is_for_people() -> None:
    stream = io.StringIO()
    configure_logging("info", "console", stream)
    structlog.get_logger().info("study completed", instances=3)
    assert "study completed" in stream.getvalue()
    assert "instances=3" in stream.getvalue()


@pytest.mark.parametrize(
    "fields",
    [
        {"patient_name": CANARY},
        {"patient_id": CANARY_ID},
        {"detail": CANARY},
        {"reason": f"cannot read {CANARY}"},
        {"reason": f"no patient {CANARY_ID}"},
        {"reason": "born 19580217"},
        {"traceback": CANARY},
        {"study_instance_uid": CANARY},
        {"source": CANARY},
        {"error": CANARY},
        {"instances": CANARY},
        {"source": {"name": CANARY}},
        {"source": ["a", CANARY]},
        {"seconds": CANARY},
        {"queue_seconds": CANARY_ID},
        {CANARY: 1},
        {"detail": int(CANARY_ID)},
    ],
)
def test_patient_data_in_a_field_is_withheld(log: Log, fields: dict[str, Any]) -> None:
    structlog.get_logger().info("study completed", **fields)
    assert log.lines[0]["event"] == "study completed"
    assert CANARY not in log.text
    assert CANARY_ID not in log.text


def test_a_birth_date_in_a_reason_is_withheld(log: Log) -> None:
    structlog.get_logger().info("object.refused", reason="born 19580217")
    assert log.lines[0]["reason"] == WITHHELD


def test_a_reason_may_name_uids_numbers_and_digests(log: Log) -> None:
    reason = f"study 1.2.840.10008.1234567890: port 11112 in use, 0.123456789 s, {'0123abcd' * 8}"
    structlog.get_logger().warning("source.not-started", reason=reason)
    assert log.lines[0]["reason"] == reason


def test_a_fault_may_be_named_by_class_and_place(log: Log) -> None:
    structlog.get_logger().error("job.fault", error="ValueError in hub.pipeline:12")
    assert log.lines[0]["error"] == "ValueError in hub.pipeline:12"


def test_a_withheld_value_says_so(log: Log) -> None:
    structlog.get_logger().info("study completed", source=CANARY, patient_name=CANARY)
    assert log.lines[0]["source"] == WITHHELD
    assert log.lines[0][WITHHELD] == WITHHELD


def test_values_in_the_event_text_are_withheld(log: Log) -> None:
    structlog.get_logger().info(f"received {CANARY}")
    structlog.get_logger().info(f"received {CANARY_ID}")
    assert [line["event"] for line in log.lines] == [WITHHELD, WITHHELD]


def test_a_foreign_error_is_its_class_and_where_it_was_raised(log: Log) -> None:
    try:
        int(CANARY)
    except ValueError as error:
        structlog.get_logger().warning("request failed", error=error)
        structlog.get_logger().exception("request failed")
    for line in log.lines:
        assert line["error"] == "ValueError"
        assert "test_a_foreign_error" in line["traceback"][0]
    assert CANARY not in log.text


def test_the_hubs_own_error_keeps_its_message(log: Log) -> None:
    structlog.get_logger().warning("request failed", error=RejectedError("no rescale slope"))
    assert log.lines[0]["error"] == "RejectedError"
    assert log.lines[0]["reason"] == "no rescale slope"


@pytest.mark.parametrize("library", [*LIBRARIES, "pynetdicom.acse", "anything.else"])
def test_of_a_library_only_name_level_and_class_are_kept(log: Log, library: str) -> None:
    logger = logging.getLogger(library)
    logger.error("PatientName %s", CANARY)
    logger.warning(CANARY, extra={"patient": CANARY})
    logger.warning("value of %(id)s", {"id": CANARY_ID})
    logger.info("not important: %s", CANARY)
    try:
        {}[CANARY]
    except KeyError:
        logger.exception("failed for %s", CANARY)
    assert [(line["logger"], line["level"]) for line in log.lines] == [
        (library, "error"),
        (library, "warning"),
        (library, "warning"),
        (library, "error"),
    ]
    assert log.lines[3]["error"] == "KeyError"
    assert CANARY not in log.text
    assert CANARY_ID not in log.text


def test_a_handler_that_a_library_adds_later_gets_no_message_either(log: Log) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logging.getLogger("dbos").addHandler(handler)
    try:
        logging.getLogger("dbos").error("failed for %s", CANARY)
    finally:
        logging.getLogger("dbos").removeHandler(handler)
    assert "message withheld" in stream.getvalue()
    assert CANARY not in stream.getvalue()


def test_warnings_of_libraries_are_withheld(log: Log) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)
        warnings.warn(f"Invalid value for VR DA: {CANARY}", stacklevel=1)
    assert log.lines[0]["logger"] == "py.warnings"
    assert CANARY not in log.text


def test_what_nobody_caught_is_logged_without_its_message(
    log: Log, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise ValueError(CANARY)

    thread = threading.Thread(target=fail, name=CANARY)
    thread.start()
    thread.join()
    try:
        fail()
    except ValueError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    assert [line["error"] for line in log.lines] == ["ValueError", "ValueError"]
    assert CANARY not in log.text + capsys.readouterr().err
