"""The child process: reads, decodes, runs the model, answers. Whatever happens stays here.

It holds no locks and shares nothing but a pipe and one block of memory for voxels, so
that it can be killed at any moment.
"""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from importlib import import_module
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.domain.finding import Evidence
from hub.domain.inference import ModelKey, Outcome, Timing
from hub.domain.intended_use import frame_reasons
from hub.domain.model_card import ModelCard
from hub.domain.model_input import ImageInput, VolumeInput, WaveformInput
from hub.domain.model_output import OutputSpec
from hub.errors import (
    CaidxError,
    IntegrityError,
    RejectedError,
    TransientError,
    UnsuitableError,
)
from hub.formats.images.image import Image, read_single_image
from hub.formats.images.recording import Waveform
from hub.formats.images.volume import Volume, read_volume
from hub.ports import ObjectStore, at_first_call
from model_adapters.tensors.engine import Model, OpenEngine
from model_adapters.tensors.messages import (
    Answered,
    Done,
    EngineKind,
    Failed,
    Limits,
    Load,
    Run,
    Unload,
    VoxelShape,
)
from model_adapters.tensors.postprocessing import findings_of
from model_adapters.tensors.preprocessing import Data, preprocess
from model_adapters.tensors.regions import (
    includes_of,
    segments_of,
    source_labels,
    source_map,
    source_probabilities,
)
from model_adapters.tensors.source_grid import source_grid
from model_adapters.tensors.values import Subject

read_waveform = at_first_call("hub.formats.images.waveform:read_waveform")
answer_measured = at_first_call("model_adapters.tensors.observed:answer_measured")

Source = Volume | Image | Waveform
_FOR_REQUESTS = ("hub.formats.images.waveform", "highdicom")
"""Loaded when the first model is and nothing else is to be done: reading takes them."""
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Options of mallopt(3)."""
_KEPT_BYTES = 1 << 30
"""Freed memory beyond this goes back to the system."""
_FLOAT, _BYTE = "<f4", "u1"
"""Of maps; of labels and probabilities."""
_IDLE_SECONDS = 0.2
"""Another model to load comes sooner than that."""


# --- the loop ----------------------------------------------------------------------------


def main(connection: Connection, store: ObjectStore, kind: EngineKind, limits: Limits) -> None:
    """Serve one parent until it closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    if limits.memory_bytes is not None:
        _limit_memory(limits.memory_bytes)
    keep_freed_memory()
    module, _, name = kind.opener.partition(":")
    opener: OpenEngine = getattr(import_module(module), name)
    worker = Worker(store, opener, kind.settings, limits.decoder_threads)
    reply: Done | Answered | Failed = Done()
    while True:
        try:
            connection.send(reply)
            if worker.has_models and not connection.poll(_IDLE_SECONDS):
                _load_the_rest()
            message = connection.recv()
        except (EOFError, OSError):
            return
        reply = worker.handle(message)


def _load_the_rest() -> None:
    for module in _FOR_REQUESTS:
        import_module(module)


def _limit_memory(limit: int) -> None:
    import resource  # noqa: PLC0415 - only Unix has it, and only a limit needs it

    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def keep_freed_memory() -> None:
    """The next volume needs as much as the last one. Had that gone back to the system, it would
    have to be given and cleared again page by page: up to a third of the time of a CT."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc and musl; macOS has none
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


class Worker:
    """The models of one process."""

    def __init__(
        self, store: ObjectStore, opener: OpenEngine, settings: Any, decoder_threads: int
    ) -> None:
        self._store = store
        self._open = opener
        self._settings = settings
        self._models: dict[ModelKey, Model] = {}
        self._decoders = ThreadPoolExecutor(decoder_threads)

    @property
    def has_models(self) -> bool:
        return bool(self._models)

    def handle(self, message: Load | Unload | Run) -> Done | Answered | Failed:
        """Do as the parent says; every failure becomes an answer."""
        try:
            return self._done(message)
        except CaidxError as error:
            return Failed.of(error)
        except MemoryError:
            return Failed(TransientError, "not enough memory for this request")
        except Exception as error:
            return Failed(RejectedError, _without_content(error))

    def _done(self, message: Load | Unload | Run) -> Done | Answered:
        if isinstance(message, Load):
            package = message.package
            engine = self._open(package, self._settings)
            self._models[package.key] = Model(package.card, engine)
            return Done(engine.version)
        if isinstance(message, Unload):
            for key in message.models:
                model = self._models.pop(key, None)
                if model is not None:
                    model.engine.close()
            return Done()
        return answer(self._models[message.model], message, self._store, self._decoders)


def _without_content(error: Exception) -> str:
    """Kind and place of an unforeseen error; its text could hold patient data."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "" if trace is None else f" at {Path(trace.tb_frame.f_code.co_filename).name}"
    line = "" if trace is None else f":{trace.tb_lineno}"
    return f"unexpected {type(error).__name__}{place}{line}"


# --- one request -------------------------------------------------------------------------


class _Stopwatch:
    """Seconds of each part of the work."""

    def __init__(self) -> None:
        self.timings: list[Timing] = []
        self._at = perf_counter()

    def lap(self, part: str) -> None:
        now = perf_counter()
        self.timings.append(Timing(part, now - self._at))
        self._at = now


def answer(model: Model, task: Run, store: ObjectStore, decoders: Executor) -> Answered:
    """Read, decode, preprocess, infer, postprocess."""
    if task.measured is not None:
        of_values: Answered = answer_measured(model, task, task.measured)
        return of_values
    card = model.card
    source, timings = read_source(card, task, store, decoders)
    watch = _Stopwatch()
    data = preprocess(card, source)
    watch.lap("preprocess")
    answered = model.run(data)
    outputs = answered.tensors
    watch.lap("inference")
    subject = Subject(card.id, task.study_instance_uid, _evidence(source), source_grid(data))
    found = findings_of(card, outputs, subject)
    voxels = None
    if task.voxels and found.outcome is Outcome.ASSESSED:
        _share(_voxel_parts(card.output, outputs, data), task.voxels)
        voxels = _voxel_shape(card.output, source, subject)
    watch.lap("postprocess")
    return Answered(
        outcome=found.outcome,
        findings=found.findings,
        voxels=voxels,
        reasons=found.reasons,
        warnings=source.warnings,
        timings=(*timings, *watch.timings),
        version=answered.version,
        ran_on=answered.ran_on,
    )


def read_source(
    card: ModelCard, task: Run, store: ObjectStore, decoders: Executor
) -> tuple[Source, tuple[Timing, Timing]]:
    """The decoded input, and the seconds of reading and of decoding it."""
    begun = perf_counter()
    reading = 0.0

    def files() -> Iterator[bytes]:
        nonlocal reading
        for _, location in task.instances:
            start = perf_counter()
            data = store.read(location)
            reading += perf_counter() - start
            yield data

    source = _decoded(card, files(), len(task.instances), decoders)
    if set(_sop_instance_uids(source)) != {uid for uid, _ in task.instances}:
        raise IntegrityError("the object store returned other instances than the index names")
    if not isinstance(source, Waveform) and source.frames:
        _check_frames(card, source)
    timings = Timing("read", reading), Timing("decode", perf_counter() - begun - reading)
    return source, timings


def _decoded(card: ModelCard, files: Iterator[bytes], count: int, decoders: Executor) -> Source:
    if isinstance(card.input, VolumeInput):
        tolerance = card.input.spacing_tolerance
        return read_volume(files, count, spacing_tolerance=tolerance, decoders=decoders)
    if isinstance(card.input, ImageInput):
        return read_single_image(next(files), card.input)
    if not isinstance(card.input, WaveformInput):
        raise RejectedError(f"this adapter reads no {card.input.kind}")
    wave: Waveform = read_waveform(next(files))
    if wave.seconds < card.input.minimum_seconds:
        needed = f"{card.input.minimum_seconds:g} s are needed"
        raise UnsuitableError((f"{wave.seconds:.1f} s recorded, {needed}",))
    return wave


def _check_frames(card: ModelCard, source: Volume | Image) -> None:
    """The part of the input gate that needs the functional groups."""
    depths: list[float | None] = []
    if isinstance(source, Volume):
        spacing = source.spacing_mm[0]
        depths = [index * spacing for index in range(len(source.stored_values))]
    reasons = frame_reasons(
        card.intended_use,
        thicknesses=source.slice_thicknesses_mm,
        depths=depths,
        has_contrast=[source.has_contrast],
    )
    if reasons:
        raise UnsuitableError(reasons)


def _evidence(source: Source) -> tuple[Evidence, ...]:
    """The objects that the model saw; the frame, where it saw but one."""
    if isinstance(source, Image) and source.frames:
        (frame,) = source.frames
        return (Evidence(source.sop_instance_uids[0], (frame.number,)),)
    return tuple(Evidence(uid) for uid in dict.fromkeys(_sop_instance_uids(source)))


def _sop_instance_uids(source: Source) -> tuple[str, ...]:
    if isinstance(source, Waveform):
        return (source.sop_instance_uid,)
    return source.sop_instance_uids


def _voxel_parts(
    output: OutputSpec, values: Mapping[str, NDArray[Any]], data: Data
) -> list[tuple[NDArray[Any], str]]:
    """The arrays in the order of the layout, each with the type that it is shared as."""
    parts = [(source_map(spec, values[spec.output], data), _FLOAT) for spec in output.maps]
    spec = output.region
    if spec is not None:
        parts.append((source_labels(spec, values[spec.output], data), _BYTE))
    if spec is not None and spec.probabilities is not None:
        found = source_probabilities(spec, values[spec.probabilities.output], data)
        parts += [(segment, _BYTE) for segment in found]
    return parts


def _share(parts: list[tuple[NDArray[Any], str]], name: str) -> None:
    """Copy voxels into the parent's memory. Nothing between attach and close may fail: memory
    that is still in use cannot be closed."""
    sizes = [array.size * np.dtype(kind).itemsize for array, kind in parts]
    shared = SharedMemory(name)
    fits = shared.size >= sum(sizes)
    if fits:
        begin = 0
        for (array, kind), size in zip(parts, sizes, strict=True):
            buffer = memoryview(shared.buf or b"")
            target = np.frombuffer(buffer, kind, count=array.size, offset=begin)
            np.copyto(target.reshape(array.shape), array, casting="unsafe")
            begin += size
            del target, buffer
    shared.close()
    if not fits:
        raise IntegrityError("the images are larger than the index says")


def _voxel_shape(output: OutputSpec, source: Source, subject: Subject) -> VoxelShape | None:
    if isinstance(source, Waveform):
        return None
    rows, columns = source.stored_values.shape[-2:]
    spec = output.region
    segments = () if spec is None else segments_of(spec, subject)
    includes = () if spec is None else includes_of(spec)
    uids = source.sop_instance_uids
    return VoxelShape(uids, rows, columns, segments, includes, source.frames)
