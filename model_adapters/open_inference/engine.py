"""A model on an inference server as an engine; runs inside a worker process.

What the server says of the model is compared with the manifest when the model is loaded, and each
answer with what the server said.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from numpy.typing import NDArray

from hub.domain.model_card import ModelCard
from hub.domain.model_runtime import OpenInferenceRuntime
from hub.errors import RejectedError, TransientError
from hub.ports import ModelPackage
from hub.transport.address_guard import AddressGuard
from hub.transport.http_config import HttpPeerConfig
from hub.transport.oauth2_config import is_private
from model_adapters.open_inference.client import InferenceServer, ServerAnswer
from model_adapters.open_inference.config import origin_of, server_for
from model_adapters.open_inference.protocol import (
    DTYPES,
    Answer,
    Asked,
    ModelMetadata,
    TensorMetadata,
    decode_answer,
    encode_request,
    model_metadata,
)
from model_adapters.open_inference.settings import EngineSettings
from model_adapters.tensors.engine import Outputs
from model_adapters.tensors.signature import Tensor, check_signature, config_error, outputs_of

Array = NDArray[Any]
_QUESTION_SECONDS = 10.0
"""For one question about the server or the model."""
_ANOTHER_VENDORS = "the server is for models of another vendor (adapters.open_inference.servers)"
_IN_CLEAR = (
    "must be https; adapters.open_inference.servers names servers that are asked otherwise"
    " (allow_http)"
)
_UNKNOWN = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.BAD_REQUEST})
"""What servers say of a model that they have not got (Triton: 400)."""
_REFUSED = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
_PASSING = frozenset(
    {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
)


class ServedModel:
    """An `Engine`.

    Args:
        server: that has the model; closed with the engine.
        runtime: of the manifest.
        metadata: what the server said of the model when it was loaded.
        outputs: names of those that the manifest uses.
    """

    def __init__(
        self,
        server: InferenceServer,
        runtime: OpenInferenceRuntime,
        metadata: ModelMetadata,
        outputs: frozenset[str],
    ) -> None:
        self._server = server
        self._runtime = runtime
        self._outputs = tuple(tensor for tensor in metadata.outputs if tensor.name in outputs)
        (only,) = metadata.versions if len(metadata.versions) == 1 else ("",)
        self.version = runtime.model_version or only
        """The one that the manifest names, or the only one that the server has."""

    def run(self, feeds: Mapping[str, Array]) -> Outputs:
        """Raises:
        RejectedError: the server does not take this input, or its answer is broken.
        TransientError: the server is not there, is busy, or does not serve the model now.
        """
        runtime = self._runtime
        asked = Asked(uuid4().hex, runtime.model_name, self._outputs)
        message = encode_request(
            asked.request_id,
            feeds,
            [tensor.name for tensor in self._outputs],
            binary=runtime.tensors == "binary",
        )
        path = f"{model_path(runtime)}/infer"
        found = self._server.post(path, message.content, message.headers, runtime.timeout_seconds)
        if not found.is_ok:
            raise self._refusal(found)
        answer = decode_answer(found.body, found.header_length, asked)
        version = self._version_of(answer)
        return Outputs(answer.tensors, version, self._ran_on(version))

    def close(self) -> None:
        """Close the connections."""
        self._server.close()

    def _version_of(self, answer: Answer) -> str:
        named = self._runtime.model_version
        if named and answer.version not in ("", named):
            raise TransientError("the server answered with another version than was asked for")
        return answer.version or self.version

    def _ran_on(self, version: str) -> str:
        model = self._runtime.model_name + (f"/{version}" if version else "")
        return f"open_inference {origin_of(self._runtime.url)} {model}"

    def _refusal(self, found: ServerAnswer) -> Exception:
        """The text of the answer is not repeated: it may hold some of the input."""
        said = f"{self._server.host} answered {found.status}"
        if found.status in _REFUSED:
            return TransientError(f"{said}: it does not accept who we are to it")
        if found.status == HTTPStatus.NOT_FOUND or (
            found.status == HTTPStatus.BAD_REQUEST and not self._is_served()
        ):
            return TransientError(_not_served(self._server, self._runtime))
        if found.status in _PASSING or found.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return TransientError(said, retry_after=found.retry_after)
        return RejectedError(f"{said}: it does not take this input")

    def _is_served(self) -> bool:
        path = f"{model_path(self._runtime)}/ready"
        return self._server.get(path, _QUESTION_SECONDS).is_ok


def model_path(runtime: OpenInferenceRuntime) -> str:
    """Below the base URL."""
    path = f"v2/models/{quote(runtime.model_name, safe='')}"
    if not runtime.model_version:
        return path
    return f"{path}/versions/{quote(runtime.model_version, safe='')}"


# --- loading -----------------------------------------------------------------------------


def open_engine(package: ModelPackage, settings: EngineSettings) -> ServedModel:
    """Ask the server whether it is ready and has the model that the manifest describes.

    Raises:
        ConfigError: it may not be called, has not got the model, or its inputs and outputs are
            others; names the fields of the manifest.
        TransientError: it is not there, or not ready.
    """
    card, runtime = package.card, package.card.runtime
    if not isinstance(runtime, OpenInferenceRuntime):
        raise config_error("runtime.kind", f"is {runtime.kind}; this adapter runs open_inference")
    server = _server(runtime, settings, card.vendor.name)
    with ExitStack() as unless_it_is_used:
        unless_it_is_used.callback(server.close)
        metadata = _checked(server, card, runtime, settings.load_seconds)
        unless_it_is_used.pop_all()
    return ServedModel(server, runtime, metadata, outputs_of(card))


def _server(
    runtime: OpenInferenceRuntime, settings: EngineSettings, vendor: str
) -> InferenceServer:
    try:
        config: HttpPeerConfig = HttpPeerConfig(url=runtime.url)
        known = server_for(config.url, settings.servers)
        if known is not None and known.vendor not in ("", vendor):
            raise config_error("runtime.url", _ANOTHER_VENDORS)
        if known is not None:
            config = known.model_copy(update={"url": config.url})
        elif not is_private(config.url):
            raise config_error("runtime.url", _IN_CLEAR)
        guard = AddressGuard(settings.private_networks) if known is None else None
        return InferenceServer(config, guard, _SystemClock(), settings.answer_bytes)
    except (RejectedError, ValueError) as error:
        message = str(error) if isinstance(error, RejectedError) else "is no base URL"
        raise config_error("runtime.url", message) from None


class _SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)


def _checked(
    server: InferenceServer, card: ModelCard, runtime: OpenInferenceRuntime, seconds: float
) -> ModelMetadata:
    due = time.monotonic() + seconds

    def ask(path: str) -> ServerAnswer:
        left = max(0.001, due - time.monotonic())
        try:
            found = server.get(path, min(left, _QUESTION_SECONDS))
        except RejectedError as error:
            raise config_error("runtime.url", str(error)) from None
        if found.status in _REFUSED:
            message = f"{server.host} does not accept who we are to it: status {found.status}"
            raise config_error("runtime.url", message)
        return found

    for path, state in (("v2/health/live", "live"), ("v2/health/ready", "ready")):
        if not ask(path).is_ok:
            raise TransientError(f"the server {server.host} is not {state}")
    metadata = _metadata(server, runtime, ask(model_path(runtime)))
    if not ask(f"{model_path(runtime)}/ready").is_ok:
        raise TransientError(f"the server {server.host} has not got {_named(runtime)} ready")
    _check_versions(runtime, metadata)
    check_signature(card, map(_tensor, metadata.inputs), map(_tensor, metadata.outputs))
    _check_outputs(card, runtime, metadata)
    return metadata


def _metadata(
    server: InferenceServer, runtime: OpenInferenceRuntime, found: ServerAnswer
) -> ModelMetadata:
    if found.status in _UNKNOWN:
        field = "runtime.model_version" if runtime.model_version else "runtime.model_name"
        raise config_error(field, _not_served(server, runtime))
    if not found.is_ok:
        message = f"{server.host} answered {found.status} to the question what the model is"
        raise TransientError(message, retry_after=found.retry_after)
    try:
        metadata = model_metadata(found.json)
    except RejectedError as error:
        raise config_error("runtime.url", str(error)) from None
    if metadata.name != runtime.model_name:
        raise config_error("runtime.model_name", "the server describes another model")
    return metadata


def _check_versions(runtime: OpenInferenceRuntime, metadata: ModelMetadata) -> None:
    if (
        runtime.model_version
        and metadata.versions
        and runtime.model_version not in (metadata.versions)
    ):
        message = f"the server has {', '.join(metadata.versions)}"
        raise config_error("runtime.model_version", message)


def _check_outputs(card: ModelCard, runtime: OpenInferenceRuntime, metadata: ModelMetadata) -> None:
    wanted = outputs_of(card)
    for tensor in metadata.outputs:
        if tensor.name in wanted and tensor.datatype not in DTYPES:
            raise config_error("output", f"{tensor.name} is {tensor.datatype}: no numbers")
        if tensor.name in wanted and tensor.datatype == "FP16" and runtime.tensors == "json":
            message = f"must be binary: the output {tensor.name} is FP16, which JSON does not have"
            raise config_error("runtime.tensors", message)


def _tensor(described: TensorMetadata) -> Tensor:
    shape = tuple(None if size < 0 else size for size in described.shape)
    return Tensor(described.name, DTYPES.get(described.datatype, described.datatype), shape)


def _not_served(server: InferenceServer, runtime: OpenInferenceRuntime) -> str:
    return f"the server {server.host} does not serve {_named(runtime)}"


def _named(runtime: OpenInferenceRuntime) -> str:
    version = f" in version {runtime.model_version}" if runtime.model_version else ""
    return f"the model {runtime.model_name}{version}"
