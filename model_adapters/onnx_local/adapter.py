"""Runs ONNX models of registered packages in local worker processes."""

from __future__ import annotations

from dataclasses import dataclass
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
from hub.domain.model_input import VolumeInput
from hub.domain.model_output import OutputSpec
from hub.domain.study import Instance, Location, Series
from hub.errors import TransientError, UnsuitableError
from hub.formats.image_header import MAXIMUM_VOXELS, PLAIN_SYNTAXES
from hub.formats.pixel_data import native_bytes_held
from hub.ports import AdapterContext, Health, HealthState, ModelPackage
from model_adapters.onnx_local.config import OnnxLocalConfig
from model_adapters.onnx_local.messages import Answered, Limits, Run, VoxelShape, layout_of
from model_adapters.onnx_local.processes import WorkerLostError, WorkerPool, WorkerProcess


class OnnxLocalAdapter:
    """A ``ModelAdapter``: one request costs at most one worker process."""

    def __init__(self, config: OnnxLocalConfig, context: AdapterContext) -> None:
        self._config = config
        self._context = context
        self._packages: dict[ModelKey, ModelPackage] = {}
        self._lock = Lock()
        self._pool = WorkerPool(config.processes, self._start_worker)
        self._pool.start_one()  # loading waits for it, and what else the hub starts need not
        self._health = Health(HealthState.STARTING, "no model yet", context.clock.now())

    def _start_worker(self) -> WorkerProcess:
        config = self._config
        limit = config.memory_limit_mb
        limits = Limits(
            graph_threads=config.threads_per_graph,
            decoder_threads=config.threads_per_decoder,
            memory_bytes=None if limit is None else limit << 20,
        )
        return WorkerProcess(self._context.objects, limits, config.start_timeout_seconds)

    def load(self, package: ModelPackage) -> None:
        """Load the model in one worker, which checks it; the others load it when they need it.

        Raises:
            ConfigError: the files or the graph are not what the manifest says.
            TransientError: the worker died or took too long.
        """
        with self._pool.worker() as worker:
            worker.load(package)
        with self._lock:
            self._packages[package.key] = package
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
            series = _single_series(package.card, request.series)
            return self._run(package, request, series)
        except UnsuitableError as error:
            return Unsuitable(request.request_id, error.reasons)

    def _run(
        self, package: ModelPackage, request: InferenceRequest, series: Series
    ) -> InferenceResult:
        card = package.card
        try:
            with self._pool.worker() as worker:
                layout = layout_of(card.output)
                wanted = layout.size(_claimed_voxels(card, series)) if layout.size(1) else 0
                shared = worker.voxels(wanted) if wanted else None
                task = Run(
                    model=package.key,
                    study_instance_uid=request.study.study_instance_uid,
                    instances=_in_slice_order(series),
                    voxels=shared.name if shared else "",
                )
                answered = worker.run(package, task, card.runtime.timeout_seconds)
                drawn = _Drawn()
                if shared is not None and answered.voxels is not None:
                    drawn = _drawn(card.output, answered.voxels, shared.buf or memoryview(b""))
        except WorkerLostError as error:
            self._is(HealthState.DEGRADED, str(error))
            raise
        self._is(HealthState.HEALTHY, f"{len(self._packages)} models")
        return _result(request, answered, drawn)

    def unload(self, model: ModelKey) -> None:
        """Forget a model; a worker that is busy forgets it when it is next asked."""
        with self._lock:
            self._packages.pop(model, None)
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
    )
