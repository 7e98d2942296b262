"""An ONNX graph as a session, checked against its manifest; runs inside a worker process."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx.external_data_helper import ExternalDataInfo, uses_external_data
from onnxruntime.capi import onnxruntime_pybind11_state as onnx_faults

from hub.domain.model_card import ModelCard
from hub.domain.model_output import (
    DetectionsFinding,
    FindingSpec,
    MapSpec,
    ProbabilitiesSpec,
    RegionSpec,
)
from hub.domain.model_runtime import Artefact, OnnxRuntime, TensorBinding, TensorRuntime
from hub.domain.model_steps import EcgIntervals
from hub.errors import ConfigError, ConfigProblem, RejectedError, TransientError, UnsuitableError
from hub.formats.recording import Waveform
from hub.formats.volume import Volume
from hub.ports import ModelPackage
from model_adapters.tensors.preprocessing import SINGLE, Data

Array = NDArray[Any]
MANIFEST = "model.yaml"
ECG_VALUES = ("rr_ms", "pr_ms", "qrs_ms", "qt_ms", "beats")
"""What the step ``ecg_intervals`` derives."""
_TENSOR_TYPES = {"float32": "tensor(float)", "int16": "tensor(int16)", "uint8": "tensor(uint8)"}
_LABEL_TYPES = frozenset(f"tensor({name})" for name in ("uint8", "int8", "int16", "int32", "int64"))
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
    """A loaded graph; ``card`` is its manifest."""

    def __init__(self, card: ModelCard, session: Any) -> None:
        self.card = card
        self._session = session
        self._outputs = [output.name for output in session.get_outputs()]

    def run(self, data: Data) -> dict[str, Array]:
        """Feed the graph as the manifest says; every output by name.

        Raises:
            UnsuitableError: the graph needs what the input does not have.
            RejectedError: the graph does not take this input.
            TransientError: not enough memory.
        """
        feeds = {binding.name: feed(binding, data) for binding in bindings_of(self.card)}
        try:
            results = self._session.run(self._outputs, feeds)
        except _GRAPH_FAULTS as error:
            if "allocate" in str(error).lower():
                raise TransientError("not enough memory to run the model") from None
            raise RejectedError(f"the model does not run on this input: {_brief(error)}") from None
        return dict(zip(self._outputs, results, strict=True))


def _brief(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


# --- loading -----------------------------------------------------------------------------


def open_graph(package: ModelPackage, threads: int) -> Graph:
    """Load a graph from bytes whose digests are checked, and check it against the manifest.

    Raises:
        ConfigError: the files or the graph are not what the manifest says.
    """
    card, runtime = package.card, package.card.runtime
    if not isinstance(runtime, OnnxRuntime):
        raise _config_error("runtime.kind", f"is {runtime.kind}; this adapter runs onnx")
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
        raise _config_error("runtime.graph", f"cannot be loaded: {_brief(error)}") from None
    problems = graph_problems(card, session)
    if problems:
        raise ConfigError(problems)
    return Graph(card, session)


def _verified(package: ModelPackage, artefact: Artefact, field: str) -> bytes:
    path = package.artefacts.get(artefact.path)
    if path is None:
        raise _config_error(field, f"{artefact.path} is not among the files of the package")
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = error.strerror or "unreadable"
        raise _config_error(field, f"{artefact.path} cannot be read: {reason}") from None
    if hashlib.sha256(data).hexdigest() != artefact.sha256.lower():
        raise _config_error(field, f"{artefact.path} is not the file that sha256 pins")
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
        raise _config_error("runtime.graph", "is not an ONNX file") from None
    if not model.HasField("graph"):
        raise _config_error("runtime.graph", "is not an ONNX file")
    tensors = onnx.external_data_helper._get_all_tensors(model)  # noqa: SLF001 - no public walk
    return {ExternalDataInfo(t).location for t in tensors if uses_external_data(t)}


def _check_external(locations: set[str], external: Mapping[str, bytes]) -> None:
    unknown = sorted(locations - set(external))
    if unknown:
        raise _config_error(
            "runtime.external_data",
            f"the graph keeps tensors in {', '.join(unknown)}, which is not listed here",
        )


def _config_error(field: str, message: str) -> ConfigError:
    return ConfigError((ConfigProblem(MANIFEST, 0, field, message),))


# --- the graph against its manifest ------------------------------------------------------


def graph_problems(card: ModelCard, session: Any) -> tuple[ConfigProblem, ...]:
    """Where inputs and outputs of a session are not what the manifest says."""
    found = [*_input_problems(card, session.get_inputs())]
    outputs = {output.name: output for output in session.get_outputs()}
    found += _name_problems(card, set(outputs))
    region = card.output.region
    if region is not None and region.output in outputs:
        found += _region_problems(region, outputs[region.output])
    for field, spec in _float_voxels(card):
        if spec.output in outputs:
            found += _float_problems(field, spec.axes, outputs[spec.output])
    return tuple(ConfigProblem(MANIFEST, 0, field, message) for field, message in found)


def bindings_of(card: ModelCard) -> tuple[TensorBinding, ...]:
    """What the graph is fed with."""
    return card.runtime.inputs if isinstance(card.runtime, TensorRuntime) else ()


def _input_problems(card: ModelCard, inputs: list[Any]) -> list[tuple[str, str]]:
    bindings = {binding.name: binding for binding in bindings_of(card)}
    names = {node.name for node in inputs}
    found = [
        ("runtime.inputs", f"the graph has no input {name}; its inputs are {_listed(names)}")
        for name in bindings
        if name not in names
    ]
    for node in inputs:
        binding = bindings.get(node.name)
        if binding is None:
            found.append(("runtime.inputs", f"nothing feeds the graph's input {node.name}"))
        else:
            found += [(f"runtime.inputs.{node.name}", p) for p in _mismatches(binding, node)]
    return found


def _mismatches(binding: TensorBinding, node: Any) -> list[str]:
    found = []
    if node.type != _TENSOR_TYPES[binding.dtype]:
        found.append(f"the graph takes {node.type}, not {binding.dtype}")
    if binding.feed != "data":
        return found
    tokens = binding.axes.split()
    if len(tokens) != len(node.shape):
        found.append(f"the graph takes {len(node.shape)} axes, axes names {len(tokens)}")
        return found
    found += [
        f"axis {index} of the graph has {size} elements, not 1"
        for index, (token, size) in enumerate(zip(tokens, node.shape, strict=True))
        if token == SINGLE and isinstance(size, int) and size != 1
    ]
    return found


def _name_problems(card: ModelCard, outputs: set[str]) -> list[tuple[str, str]]:
    found = []
    known = set(outputs)
    for index, step in enumerate(card.output.postprocessing):
        if step.output not in known:
            found.append((f"output.postprocessing.{index}.output", _unknown(step.output, known)))
        known |= set(ECG_VALUES) if isinstance(step, EcgIntervals) else {step.to}
    for index, spec in enumerate(card.output.findings):
        for field, name in _names_of(spec):
            if name.split("[")[0] not in known:
                found.append((f"output.findings.{index}.{field}", _unknown(name, known)))
    for index, rule in enumerate(card.output.not_assessable):
        if rule.output.split("[")[0] not in known:
            found.append((f"output.not_assessable.{index}.output", _unknown(rule.output, known)))
    region = card.output.region
    if region is not None and region.output not in outputs:
        found.append(("output.region.output", _unknown(region.output, outputs)))
    for field, voxels in _float_voxels(card):
        if voxels.output not in outputs:
            found.append((f"{field}.output", _unknown(voxels.output, outputs)))
    return found


def _names_of(spec: FindingSpec) -> list[tuple[str, str]]:
    """The outputs that a finding is made of, each with the field that names it."""
    found = [("output", spec.output)]
    if isinstance(spec, DetectionsFinding):
        found.append(("scores", spec.scores))
        found += [("classes", spec.classes)] if spec.classes else []
        numbers = enumerate(spec.measurements)
        found += [(f"measurements.{index}.output", one.output) for index, one in numbers]
    elif spec.location is not None:
        found.append(("location.output", spec.location.output))
    return found


def _float_voxels(card: ModelCard) -> list[tuple[str, MapSpec | ProbabilitiesSpec]]:
    """Probabilities and maps, each with its field."""
    region = card.output.region
    found: list[tuple[str, MapSpec | ProbabilitiesSpec]] = []
    if region is not None and region.probabilities is not None:
        found.append(("output.region.probabilities", region.probabilities))
    found += [(f"output.maps.{index}", spec) for index, spec in enumerate(card.output.maps)]
    return found


def _float_problems(field: str, axes: str, output: Any) -> list[tuple[str, str]]:
    found = []
    if output.type != _TENSOR_TYPES["float32"]:
        found.append((f"{field}.output", f"holds float32 numbers, not {output.type}"))
    if len(output.shape) != len(axes.split()):
        found.append((f"{field}.axes", f"the graph gives {len(output.shape)} axes"))
    return found


def _unknown(name: str, known: set[str]) -> str:
    return f"no output {name}; known are {_listed(known)}"


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _region_problems(region: RegionSpec, output: Any) -> list[tuple[str, str]]:
    found = []
    if output.type not in _LABEL_TYPES:
        found.append(
            ("output.region.output", f"a label map holds whole numbers, not {output.type}")
        )
    if len(output.shape) != len(region.axes.split()):
        found.append(("output.region.axes", f"the graph gives {len(output.shape)} axes"))
    return found


# --- feeding -----------------------------------------------------------------------------


def feed(binding: TensorBinding, data: Data) -> Array:
    """The tensor for one input of the graph, contiguous and of the manifest's type."""
    if binding.feed == "data":
        return _converted(_with_axes(binding.axes, data), binding.dtype)
    if binding.feed == "frequency_hz":
        return _converted(np.array([data.frequency_hz]), binding.dtype)
    if data.spacing_mm is None:
        raise UnsuitableError((f"the model needs millimetres: {data.no_spacing}",))
    return _converted(np.array(data.spacing_mm), binding.dtype)


def _with_axes(axes: str, data: Data) -> Array:
    tokens = axes.split()
    names = axis_names(data)
    array = data.array.transpose([names.index(token) for token in tokens if token != SINGLE])
    return np.expand_dims(array, [index for index, token in enumerate(tokens) if token == SINGLE])


def axis_names(data: Data) -> tuple[str, ...]:
    """What the axes of the data are called in the manifest."""
    if isinstance(data.source, Waveform):
        return ("lead", "sample")[-data.array.ndim :]
    if isinstance(data.source, Volume):
        return ("slice", "row", "column")
    return ("channel", "row", "column")[-data.array.ndim :]


def _converted(array: Array, dtype: str) -> Array:
    if dtype != "float32":
        limits = np.iinfo(dtype)
        if array.min() < limits.min or array.max() > limits.max:
            raise RejectedError(f"the input does not fit into {dtype}")
        if array.dtype.kind == "f":
            array = np.rint(array)
    return np.ascontiguousarray(array, dtype=dtype)
