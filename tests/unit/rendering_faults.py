"""What the process of the renderer runs in tests of its faults."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection

from hub.domain.study import Location
from hub.formats.images.rendered_image import rendered
from hub.ports import ObjectStore, RenderedImage
from hub.supervisor import rendering_process

CRASHES, HANGS, GREEDY, BUGGY = b"crash", b"hang", b"greedy", b"bug"


@dataclass(frozen=True, slots=True)
class Files:
    """An object store of a few files, by the name of their segment."""

    files: dict[str, bytes]

    def read(self, location: Location) -> bytes:
        return self.files[location.segment]


def serve(connection: Connection, store: ObjectStore, memory_bytes: int | None) -> None:
    """The real one, whose codec is poisoned by some inputs."""
    rendering_process.serve(connection, store, memory_bytes, _poisoned)


def _poisoned(data: bytes, frame_number: int) -> RenderedImage:
    if data == CRASHES:
        os._exit(139)
    if data == HANGS:
        time.sleep(60)
    if data == GREEDY:
        return RenderedImage(1, 1, 1, bytes(1 << 32))
    if data == BUGGY:
        raise KeyError("Müller^Jörg")
    return rendered(data, frame_number)
