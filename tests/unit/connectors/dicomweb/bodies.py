"""Bodies of requests, well and ill made."""

from __future__ import annotations

from collections.abc import Sequence

import httpx

BOUNDARY = "a-boundary"
TYPE = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'


def multipart(
    parts: Sequence[bytes],
    *,
    part_type: str = "application/dicom",
    boundary: str = BOUNDARY,
    end: bool = True,
) -> bytes:
    """A body of these parts."""
    head = f"--{boundary}\r\nContent-Type: {part_type}\r\n\r\n".encode()
    body = b"".join(head + part + b"\r\n" for part in parts)
    return body + (f"--{boundary}--\r\n".encode() if end else b"")


def stow(
    url: str, body: bytes, content_type: str = TYPE, study: str = "", **headers: str
) -> httpx.Response:
    path = f"{url}/studies/{study}" if study else f"{url}/studies"
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(
        path, content=body, headers={"Content-Type": content_type, **named}, timeout=20
    )


def parts_of(answer: httpx.Response) -> list[tuple[dict[str, str], bytes]]:
    """Headers and contents of a multipart answer, read by hand."""
    boundary = answer.headers["content-type"].partition("boundary=")[2].strip('"')
    pieces = (b"\r\n" + answer.content).split(f"\r\n--{boundary}".encode())
    assert pieces[0] == b""
    assert pieces[-1].strip() == b"--"
    found = []
    for piece in pieces[1:-1]:
        head, _, content = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        lines = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        found.append(({name.lower(): value for name, value in lines.items()}, content))
    return found
