"""The process that decodes images for pictures: what crashes in a codec ends it, and nothing else.

It shares a pipe with its parent, holds no lock, and can be killed at any moment.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from multiprocessing.connection import Connection

from hub.domain.study import Location
from hub.errors import CaidxError, IntegrityError, RejectedError, TransientError
from hub.formats.images.rendered_image import rendered
from hub.ports import ObjectStore, RenderedImage
from hub.supervisor.faults import fault_name

Render = Callable[[bytes, int], RenderedImage]


def serve(
    connection: Connection,
    store: ObjectStore,
    memory_bytes: int | None,
    render: Render = rendered,
) -> None:
    """Answer one parent until it closes the pipe. ``render`` is what tests replace."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    if memory_bytes is not None:
        _limit_memory(memory_bytes)
    answer: RenderedImage | CaidxError | None = None  # it is ready
    while True:
        try:
            connection.send(answer)
            location, frame_number = connection.recv()
        except (EOFError, OSError):
            return
        answer = _answer(store, location, frame_number, render)


def _answer(
    store: ObjectStore, location: Location, frame_number: int, render: Render
) -> RenderedImage | CaidxError:
    try:
        return render(store.read(location), frame_number)
    except IntegrityError:
        return RejectedError("the store no longer holds the image")
    except MemoryError:
        return TransientError("not enough memory for the image")
    except (RejectedError, TransientError) as error:
        return error
    except Exception as error:
        return RejectedError(fault_name(error))


def _limit_memory(limit: int) -> None:
    import resource  # noqa: PLC0415 - only Unix has it, and only a limit needs it

    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
