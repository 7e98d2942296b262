"""An ONNX graph as a session, checked against its manifest; runs inside a worker process."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import onnx
import onnxruntime
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx.external_data_helper import ExternalDataInfo, uses_external_data
from onnxruntime.capi import onnxruntime_pybind11_state as onnx_faults

from hub.domain.model_runtime import Artefact, OnnxRuntime
from hub.errors import RejectedError, TransientError
from hub.ports import ModelPackage
from model_adapters.tensors.engine import Outputs
from model_adapters.tensors.signature import Tensor, check_signature, config_error

Array = NDArray[Any]
_DTYPES = {"float": "float32", "double": "float64"}
"""What ONNX calls otherwise than numpy."""
_GRAPH_FAULTS = (
    onnx_faults.EPFail,
    onnx_faults.Fail,
    onnx_faults.InvalidArgument,
    onnx_faults.InvalidGraph,
    onnx_faults.InvalidProtobuf,
    onnx_faults.NoModel,
    onnx_faults.NoSuchFile,
    onnx_faults.NotImplemented,
    onnx_faults.RuntimeException,
)


class Graph:
    """An `Engine`: a loaded graph. The digest of its package says which version it is."""

    version = ""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._outputs = [output.name for output in session.get_outputs()]
        self._ran_on = f"onnx_local {' '.join(session.get_providers())}"

    def run(self, feeds: Mapping[str, Array]) -> Outputs:
        """Raises:
        RejectedError: the graph does not take this input.
        TransientError: not enough memory.
        """
        try:
            results = self._session.run(self._outputs, feeds)
        except _GRAPH_FAULTS as error:
            if "allocate" in str(error).lower():
                raise TransientError("not enough memory to run the model") from None
            raise RejectedError(f"the model does not run on this input: {_brief(error)}") from None
        return Outputs(dict(zip(self._outputs, results, strict=True)), ran_on=self._ran_on)

    def close(self) -> None:
        """The session goes with its last reference."""


def _brief(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def open_graph(package: ModelPackage, threads: int) -> Graph:
    """Load a graph from bytes whose digests are checked, and check it against the manifest.

    Raises:
        ConfigError: the files or the graph are not what the manifest says.
    """
    card, runtime = package.card, package.card.runtime
    if not isinstance(runtime, OnnxRuntime):
        raise config_error("runtime.kind", f"is {runtime.kind}; this adapter runs onnx")
    graph = _verified(package, runtime.graph, "runtime.graph")
    external = {
        artefact.path: _verified(package, artefact, f"runtime.external_data.{index}")
        for index, artefact in enumerate(runtime.external_data)
    }
    options = _options(threads)
    locations = _external_locations(graph)
    _check_external(locations, external)
    if locations:
        options.add_external_initializers_from_files_in_memory(
            list(external), list(external.values()), [len(data) for data in external.values()]
        )
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except _GRAPH_FAULTS as error:
        raise config_error("runtime.graph", f"cannot be loaded: {_brief(error)}") from None
    check_signature(
        card, map(_described, session.get_inputs()), map(_described, session.get_outputs())
    )
    return Graph(session)


def _described(node: Any) -> Tensor:
    """A node's type is ``tensor(float)``; a size that varies is a name or nothing."""
    kind = str(node.type)
    if kind.startswith("tensor(") and kind.endswith(")"):
        kind = kind[len("tensor(") : -1]
    shape = tuple(size if isinstance(size, int) else None for size in node.shape)
    return Tensor(node.name, _DTYPES.get(kind, kind), shape)


def _verified(package: ModelPackage, artefact: Artefact, field: str) -> bytes:
    path = package.artefacts.get(artefact.path)
    if path is None:
        raise config_error(field, f"{artefact.path} is not among the files of the package")
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = error.strerror or "unreadable"
        raise config_error(field, f"{artefact.path} cannot be read: {reason}") from None
    if hashlib.sha256(data).hexdigest() != artefact.sha256.lower():
        raise config_error(field, f"{artefact.path} is not the file that sha256 pins")
    return data


def _options(threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    # Spinning threads take the cores from the other workers (measured: down to 0.71x).
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def _external_locations(graph: bytes) -> set[str]:
    """Files that the graph's tensors name: a path outside the package must never be opened."""
    model = onnx.ModelProto()
    try:
        model.ParseFromString(graph)
    except DecodeError:
        raise config_error("runtime.graph", "is not an ONNX file") from None
    if not model.HasField("graph"):
        raise config_error("runtime.graph", "is not an ONNX file")
    tensors = onnx.external_data_helper._get_all_tensors(model)  # noqa: SLF001 - no public walk
    return {ExternalDataInfo(t).location for t in tensors if uses_external_data(t)}


def _check_external(locations: set[str], external: Mapping[str, bytes]) -> None:
    unknown = sorted(locations - set(external))
    if unknown:
        raise config_error(
            "runtime.external_data",
            f"the graph keeps tensors in {', '.join(unknown)}, which is not listed here",
        )
