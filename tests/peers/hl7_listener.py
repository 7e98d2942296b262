"""An HL7 v2 listener that shares no code with the hub: python-hl7's MLLP server records and
answers, and hl7apy judges messages by the definitions of HL7 v2.5.1."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hl7
from hl7.mllp import start_hl7_server
from hl7apy import get_default_encoding_chars
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.exceptions import HL7apyException
from hl7apy.parser import parse_components, parse_message

from tests.peers import free_port

_LIMIT = 64 << 20


# --- the judge ---------------------------------------------------------------------------------


def problems_of(message: str, report: Path) -> list[str]:
    """What hl7apy, strict, has against a message of HL7 v2.5.1; empty: it is valid.

    hl7apy takes the parts of OBX-5 for texts of 199 characters, whatever they are, so each is
    judged on its own, by the type that OBX-2 names.
    """
    segments, problems = [], []
    for segment in message.strip("\r").split("\r"):
        fields = segment.split("|")
        if fields[0] == "OBX" and len(fields) > 5 and fields[5]:
            problems += _value_problems(fields[2], fields[5])
            fields[5] = "x"
        segments.append("|".join(fields))
    try:
        parsed = parse_message(
            "\r".join(segments), validation_level=VALIDATION_LEVEL.STRICT, find_groups=True
        )
        parsed.validate(report_file=str(report))
    except (HL7apyException, ValueError) as error:
        problems.append(f"{type(error).__name__}: {error}")
    if report.exists():
        problems += [line for line in report.read_text().splitlines() if line.startswith("Error")]
    return problems


def _value_problems(value_type: str, value: str) -> list[str]:
    if not value_type:
        return ["OBX-5 without OBX-2"]
    if value_type == "ED":  # its data may be longer than hl7apy's TX
        *described, data = value.split("^")
        base64.b64decode(data, validate=True)
        value = "^".join([*described, "x"])
    try:
        parse_components(
            value,
            field_datatype=value_type,
            version="2.5.1",
            encoding_chars=get_default_encoding_chars("2.5.1"),
            validation_level=VALIDATION_LEVEL.STRICT,
        )
    except (HL7apyException, ValueError) as error:
        return [f"OBX-5 as {value_type}: {type(error).__name__}: {error}"]
    return []


# --- the listener ------------------------------------------------------------------------------


@dataclass
class Hl7Listener:
    """Answers on a port of its own until the block of `listening` ends."""

    port: int
    messages: list[Any] = field(default_factory=list)
    """As python-hl7 parsed them."""
    connections: int = 0
    answers: list[str] = field(default_factory=list)
    """One for each message, then AA: an acknowledgement code, with an error code of table 0357
    after a slash (``AE/207``), or ``nothing``, ``garbage``, ``late``, ``close``, ``other`` (for
    another message)."""
    lateness: float = 1.0
    echo: str = "what patient CANARY"
    """What it says in MSA-3, ERR-3 and ERR-8 of an error."""

    @property
    def texts(self) -> list[str]:
        return [str(message) for message in self.messages]

    _writers: list[Any] = field(default_factory=list)
    _loop: Any = None

    def hang_up(self) -> None:
        """Close every connection; new ones are taken."""

        async def close() -> None:
            for writer in self._writers:
                writer.close()

        asyncio.run_coroutine_threadsafe(close(), self._loop).result(10)

    async def serve(self, reader: Any, writer: Any) -> None:
        self.connections += 1
        self._writers.append(writer)
        try:
            while True:
                message = await reader.readmessage()
                self.messages.append(message)
                if not await self._answer(message, writer):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, message: Any, writer: Any) -> bool:
        wanted = self.answers.pop(0) if self.answers else "AA"
        if wanted == "close":
            return False
        if wanted == "nothing":
            return True
        if wanted == "garbage":
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10)
        elif wanted == "other":
            answer = str(message.create_ack("AA")).replace(str(message["MSH.F10"]), "ANOTHER")
            writer.writeblock(answer.encode())
        else:
            if wanted == "late":
                wanted = "AA"
                await asyncio.sleep(self.lateness)
            code, _, error = wanted.partition("/")
            answer = str(message.create_ack(code))
            if error:
                header, _, acknowledged = answer.strip("\r").partition("\r")
                answer = f"{header}\r{acknowledged}|{self.echo}"
                answer += f"\rERR||PID^1|{error}^{self.echo}^HL70357|E||||{self.echo}"
            writer.writeblock(answer.encode())
        await writer.drain()
        return True


@contextlib.contextmanager
def listening(
    *answers: str, port: int = 0, tls: ssl.SSLContext | None = None, lateness: float = 1.0
) -> Iterator[Hl7Listener]:
    """A listener that gives these answers, then AA."""
    listener = Hl7Listener(port or free_port(), answers=list(answers), lateness=lateness)
    loop = listener._loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="hl7-listener", daemon=True)
    thread.start()

    async def begin() -> Any:
        return await start_hl7_server(
            listener.serve,
            "127.0.0.1",
            listener.port,
            ssl=tls,
            limit=_LIMIT,
            encoding="utf-8",
        )

    server = asyncio.run_coroutine_threadsafe(begin(), loop).result(10)
    try:
        yield listener
    finally:
        asyncio.run_coroutine_threadsafe(_end(server), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _end(server: Any) -> None:
    server.close()
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def field_of(message: Any, segment: str, number: int, component: int = 1, index: int = 1) -> str:
    """A value of a message as python-hl7 sees it, unescaped."""
    return str(message.extract_field(segment, index, number, 1, component, 1))


def parsed(text: str) -> Any:
    """The message as python-hl7 sees it."""
    return hl7.parse(text)
