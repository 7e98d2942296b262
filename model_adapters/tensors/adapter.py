"""What the adapters of tensor models share: hostile input is decoded in worker processes, and the
models are asked from there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Lock

from hub.domain.finding import ParametricMap, Region
from hub.domain.inference import (
    Deferred,
    InferenceRequest,
    InferenceResult,
    ModelKey,
    Unsuitable,
)
from hub.domain.intended_use import slice_depth
from hub.domain.model_card import ModelCard
from hub.domain.model_input import ObservationsInput, VolumeInput
from hub.domain.model_output import OutputSpec
from hub.domain.study import Instance, Location, Series
from hub.errors import TransientError, UnsuitableError
from hub.formats.images.image_header import MAXIMUM_VOXELS, PLAIN_SYNTAXES
from hub.formats.images.pixel_data import native_bytes_held
from hub.ports import AdapterContext, Health, HealthState, ModelPackage
from model_adapters.tensors.config import WorkerConfig
from model_adapters.tensors.measured import measured_of
from model_adapters.tensors.messages import (
    Answered,
    EngineKind,
    Limits,
    Run,
    VoxelShape,
    layout_of,
)
from model_adapters.tensors.processes import WorkerPool, WorkerProcess


class TensorAdapter:
    """A ``ModelAdapter``: one request costs at most one worker process.

    Args:
        kind: how the workers open models.
        config: of the worker processes.
        context: as every adapter gets it.
        reading_seconds: for reading and decoding the input, besides the time that the manifest
            gives to the model; 0: they count as the model's.
    """

    def __init__(
        self,
        kind: EngineKind,
        config: WorkerConfig,
        context: AdapterContext,
        *,
        reading_seconds: float = 0.0,
    ) -> None:
        self._kind = kind
        self._config = config
        self._reading_seconds = reading_seconds
        self._context = context
        self._packages: dict[ModelKey, ModelPackage] = {}
        self._versions: dict[ModelKey, str] = {}
        self._lock = Lock()
        self._pool = WorkerPool(config.processes, self._start_worker)
        self._pool.start_one()  # loading waits for it, and what else the hub starts need not
        self._health = Health(HealthState.STARTING, "no model yet", context.clock.now())

    def _start_worker(self) -> WorkerProcess:
        config = self._config
        limit = config.memory_limit_mb
        limits = Limits(
            decoder_threads=config.threads_per_decoder,
            memory_bytes=None if limit is None else limit << 20,
        )
        return WorkerProcess(
            self._context.objects, self._kind, limits, config.start_timeout_seconds
        )

    def load(self, package: ModelPackage) -> None:
        """Load the model in one worker, which checks it; the others load it when they need it.

        Raises:
            ConfigError: the files or the graph are not what the manifest says.
            TransientError: the worker died or took too long.
        """
        with self._pool.worker() as worker, self._telling_faults():
            version = worker.load(package)
        with self._lock:
            self._packages[package.key] = package
            self._versions.setdefault(package.key, version)
        self._is(HealthState.HEALTHY, f"{len(self._packages)} models")

    def infer(self, request: InferenceRequest) -> InferenceResult | Unsuitable | Deferred:
        """Run one request in a worker process.

        Raises:
            TransientError: the worker died, took too long, or the model is not loaded here.
            RejectedError: the input cannot be read or the model's answer is broken.
            IntegrityError: the store holds other instances than the index names.
        """
        with self._lock:
            package = self._packages.get(request.model)
        if package is None:
            raise TransientError(f"the model {request.model} is not loaded")
        try:
            return self._run(package, request, *_task(package, request))
        except UnsuitableError as error:
            return Unsuitable(request.request_id, error.reasons, ran_on=self._context.name)

    def _run(
        self, package: ModelPackage, request: InferenceRequest, task: Run, room: int
    ) -> InferenceResult:
        card = package.card
        with self._pool.worker() as worker, self._telling_faults():
            shared = worker.voxels(room) if room else None
            task = replace(task, voxels=shared.name if shared else "")
            limit = card.runtime.timeout_seconds + self._reading_seconds
            self._pin(package.key, worker.load(package))
            answered = worker.run(package, task, limit)
            self._pin(package.key, answered.version)
            drawn = _Drawn()
            if shared is not None and answered.voxels is not None:
                drawn = _drawn(card.output, answered.voxels, shared.buf or memoryview(b""))
        self._is(HealthState.HEALTHY, f"{len(self._packages)} models")
        return _result(request, answered, drawn)

    @contextmanager
    def _telling_faults(self) -> Iterator[None]:
        """What the next attempt may not meet shows in the health until one succeeds."""
        try:
            yield
        except TransientError as error:
            self._is(HealthState.DEGRADED, str(error))
            raise

    def _pin(self, model: ModelKey, version: str) -> None:
        """The first version that is told is the one; a result of another one is never used.

        Raises:
            TransientError: it is another one.
        """
        with self._lock:
            pinned = self._versions.get(model) or version
            if model in self._packages:
                self._versions[model] = pinned
        if version and version != pinned:
            raise TransientError(
                f"the server now runs version {version} of the model, it was {pinned} when the"
                " model was loaded; load it again, or name its version in runtime.model_version"
            )

    def unload(self, model: ModelKey) -> None:
        """Forget a model; a worker that is busy forgets it when it is next asked."""
        with self._lock:
            self._packages.pop(model, None)
            self._versions.pop(model, None)
            keep = frozenset(self._packages)
        self._pool.each_idle(lambda worker: worker.forget(keep))

    def health(self) -> Health:
        return self._health

    def close(self) -> None:
        """Let running requests end, then stop the workers."""
        self._pool.close()
        self._is(HealthState.STOPPED, "closed")

    def _is(self, state: HealthState, detail: str) -> None:
        with self._lock:
            if (state, detail) != (self._health.state, self._health.detail):
                self._health = Health(state, detail, self._context.clock.now())


def _task(package: ModelPackage, request: InferenceRequest) -> tuple[Run, int]:
    """What the worker is asked, and how many bytes its voxels need."""
    card = package.card
    task = Run(package.key, request.study.study_instance_uid, instances=(), voxels="")
    if isinstance(card.input, ObservationsInput):
        return replace(task, measured=measured_of(card, request)), 0
    series = _single_series(card, request.series)
    layout = layout_of(card.output)
    room = layout.size(_claimed_voxels(card, series)) if layout.size(1) else 0
    return replace(task, instances=_in_slice_order(series)), room


def _single_series(card: ModelCard, chosen: tuple[Series, ...]) -> Series:
    if len(chosen) != 1:
        raise UnsuitableError((f"{len(chosen)} series were chosen, the model reads one",))
    count = len(chosen[0].instances)
    if not count:
        raise UnsuitableError(("the series is empty",))
    if count > 1 and not isinstance(card.input, VolumeInput):
        raise UnsuitableError((f"the series has {count} objects, the model reads one",))
    return chosen[0]


def _in_slice_order(series: Series) -> tuple[tuple[str, Location], ...]:
    """Files in the order of their slices need not be sorted once decoded."""
    instances: list[Instance] = sorted(series.instances, key=_depth)
    return tuple((instance.sop_instance_uid, instance.location) for instance in instances)


def _depth(instance: Instance) -> float:
    return slice_depth(instance) or 0.0


def _claimed_voxels(card: ModelCard, series: Series) -> int:
    """How many voxels the headers claim, if their files can hold as many; at least 1.

    Raises:
        UnsuitableError: they cannot, or nobody could work on so many.
    """
    voxels = 0
    for image in series.instances:
        planes = image.frames if isinstance(card.input, VolumeInput) else 1
        claimed = (image.rows or 0) * (image.columns or 0)
        compressed = image.transfer_syntax_uid not in PLAIN_SYNTAXES
        held = native_bytes_held(image.location.length, is_compressed=compressed)
        if claimed * image.frames > held:
            raise UnsuitableError(("an image claims more pixels than its file can hold",))
        voxels += claimed * planes
    if voxels > MAXIMUM_VOXELS:
        raise UnsuitableError((f"{voxels} voxels are more than any model is given",))
    return max(1, voxels)


@dataclass(frozen=True, slots=True)
class _Drawn:
    """The voxels of an answer."""

    region: Region | None = None
    maps: tuple[ParametricMap, ...] = ()


def _drawn(output: OutputSpec, shape: VoxelShape, shared: memoryview) -> _Drawn:
    layout, voxels = layout_of(output), shape.voxels
    maps = tuple(
        ParametricMap(
            sop_instance_uids=shape.sop_instance_uids,
            rows=shape.rows,
            columns=shape.columns,
            values=bytes(shared[layout.map(index, voxels)]),
            quantity=spec.quantity,
            unit=spec.unit,
            label=spec.label,
            finding_site=spec.finding_site,
            frames=shape.frames,
        )
        for index, spec in enumerate(output.maps)
    )
    if not layout.labels:
        return _Drawn(None, maps)
    region = Region(
        sop_instance_uids=shape.sop_instance_uids,
        rows=shape.rows,
        columns=shape.columns,
        labels=bytes(shared[layout.label_map(voxels)]),
        segments=shape.segments,
        includes=shape.includes,
        frames=shape.frames,
        probabilities=bytes(shared[layout.all_probabilities(voxels)]),
    )
    return _Drawn(region, maps)


def _result(request: InferenceRequest, answered: Answered, drawn: _Drawn) -> InferenceResult:
    return InferenceResult(
        request_id=request.request_id,
        model=request.model,
        # The worker has compared what it read with the request's instances.
        identity=request.study.identity,
        outcome=answered.outcome,
        findings=answered.findings,
        region=drawn.region,
        maps=drawn.maps,
        reasons=answered.reasons,
        warnings=answered.warnings,
        timings=answered.timings,
        ran_on=answered.ran_on,
    )
