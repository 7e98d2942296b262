"""Ways to run a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol, runtime_checkable

from hub.domain.inference import Deferred, InferenceRequest, InferenceResult, ModelKey, Unsuitable
from hub.domain.model_card import ModelCard
from hub.ports.process import Health


@dataclass(frozen=True, slots=True)
class ModelPackage:
    """A model as registered: its card, its files, its digest."""

    key: ModelKey
    card: ModelCard
    directory: Path
    """Folder of ``model.yaml``."""
    artefacts: Mapping[str, Path] = field(default_factory=dict)
    """``Artefact.path`` of the card -> the file itself: found, contained and pinned when the
    package was registered. Whoever reads it checks the SHA-256 of what was read."""


class ModelAdapter(Protocol):
    """One way to run models. Thread-safe; ``infer`` may be called concurrently."""

    def load(self, package: ModelPackage) -> None:
        """Make a model ready; loading a new version happens before the old one is unloaded.

        Raises:
            ConfigError: the package is not what its manifest says.
            TransientError: it cannot be loaded now.
        """
        ...

    def infer(self, request: InferenceRequest) -> InferenceResult | Unsuitable | Deferred:
        """Answer one request.

        Raises:
            TransientError: this attempt failed (worker died, time-out); another may succeed.
            RejectedError: the input cannot be read or the model's answer is broken.
        """
        ...

    def unload(self, model: ModelKey) -> None: ...

    def health(self) -> Health: ...

    def close(self) -> None: ...


@runtime_checkable
class Resuming(Protocol):
    """A model adapter whose answers may be ``Deferred``: it is asked after them."""

    def resume(
        self, request: InferenceRequest, job: Deferred, answer: bytes | None
    ) -> InferenceResult | Unsuitable | Deferred:
        """Ask after a job, once ``job.not_before`` is there; or take the ``answer`` that its
        vendor sent to the callback, whose signature was right. Also after a restart, by another
        process than the one that began.

        Raises:
            TransientError: it cannot be asked now.
            RejectedError: the vendor gave up, or its answer is broken.
        """
        ...

    def abandon(self, model: ModelKey, job: Deferred) -> None:
        """Nobody waits for the job any more: its deadline has passed, its model was suspended, or
        the request was taken back. Whether who works on it stops is his own affair.

        Raises:
            TransientError: he cannot be told now.
            RejectedError: he cannot be told.
        """
        ...


class CallbackVerifier(Protocol):
    """Whether a message that came to a callback is from the vendor that was asked."""

    def __call__(self, package: ModelPackage, headers: Mapping[str, str], body: bytes) -> str:
        """The message's identifier, which is taken once only. ``headers``: lower-case names.

        Raises:
            RejectedError: no signature, a wrong one, or one that is too old; the message says
                which, and no secret.
        """
        ...


class VendorDoor(Protocol):
    """Where a vendor reaches the hub about one request."""

    def callback_url(self, request_id: str) -> str:
        """Where a signed answer is posted to."""
        ...

    def images(self, request: InferenceRequest, valid_until: datetime) -> Retrieval:
        """Where the images of a request lie, for whoever is asked it and nobody else."""
        ...


@dataclass(frozen=True, slots=True)
class Retrieval:
    """A DICOMweb service (PS3.18, WADO-RS) that shows the images of one request only."""

    url: str
    """Base URL; ``/studies/{study}/series/{series}`` is below it."""
    authorization: str = field(repr=False)
    """Value of the ``Authorization`` header."""
    valid_until: datetime
