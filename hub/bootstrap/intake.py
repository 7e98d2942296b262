"""What every process that receives objects is given: receiver, web role, workers that fetch."""

from __future__ import annotations

from hub.bootstrap.desk import Desk
from hub.config import Settings
from hub.domain.process import ProcessIdentity
from hub.ports import Clock
from hub.store.reception import IntakeLimits, SegmentIntake
from hub.store.segments.bell import Bell
from hub.store.segments.extents import ExtentPool


def build_intake(
    settings: Settings, process: ProcessIdentity, clock: Clock, desk: Desk
) -> tuple[ExtentPool, SegmentIntake]:
    """The way to the disk, and the pool behind it; the caller starts and stops the pool."""
    root = settings.data / "objects"
    storage = settings.storage
    pool = ExtentPool(root, storage.pool_bytes, storage.minimum_free_bytes)
    intake = SegmentIntake(
        pool=pool,
        bell=Bell(root / "bell"),
        clock=clock,
        receiver_id=process.executor_id,
        limits=IntakeLimits(storage.maximum_instance_bytes),
        on_rejected=desk.rejected,
    )
    return pool, intake
