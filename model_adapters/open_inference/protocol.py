"""The messages of the Open Inference Protocol, version 2, by REST (KServe), and of its binary
tensor data extension (Triton). Pure.

A tensor is either JSON, its elements row-major in ``data``, or binary: little-endian behind the
JSON text, in the order of the tensors, ``binary_data_size`` bytes of it. Then the header
``Inference-Header-Content-Length`` tells how long the JSON text is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NoReturn

import numpy as np
import orjson
from numpy.typing import NDArray

from hub.errors import RejectedError
from hub.ports import Buffer

Array = NDArray[Any]
HEADER_LENGTH = "Inference-Header-Content-Length"
_MOST_AXES = 32
_MOST_ELEMENTS = 1 << 31

_INTEGERS = {
    f"{sign}INT{bits}": f"{sign.lower()}int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)
}
_FLOATS = {"FP16": "float16", "FP32": "float32", "FP64": "float64"}
DTYPES: Mapping[str, str] = {"BOOL": "bool", **_INTEGERS, **_FLOATS}
"""Datatype of the protocol -> numpy's name. ``BYTES`` has none: models give numbers."""
_KINDS: Mapping[str, set[type]] = {"b": {bool}, "f": {int, float}}
"""What JSON numbers become, by the kind of the datatype; integers become ``int``."""
_DATATYPES = {name: datatype for datatype, name in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class TensorMetadata:
    """An input or output as the server describes it."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    """-1 for a size that varies."""


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """The server's description of a model."""

    name: str
    versions: tuple[str, ...]
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


@dataclass(frozen=True, slots=True)
class Message:
    """A request as it is posted."""

    content: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Asked:
    """What an answer is compared with."""

    request_id: str
    model_name: str
    outputs: tuple[TensorMetadata, ...]
    """Those that are wanted."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server answered, checked."""

    tensors: Mapping[str, Array]
    version: str
    """Empty where the server does not tell."""


# --- metadata ----------------------------------------------------------------------------


def model_metadata(document: object) -> ModelMetadata:
    """Raises:
    RejectedError: it is not what the protocol says.
    """
    found = _object(document, "the model's metadata")
    versions = found.get("versions") or []
    if not isinstance(versions, list) or not all(isinstance(one, str) for one in versions):
        _refuse("versions is no list of texts")
    return ModelMetadata(
        name=_text(found, "name"),
        versions=tuple(versions),
        inputs=_tensors_metadata(found, "inputs"),
        outputs=_tensors_metadata(found, "outputs"),
    )


def _tensors_metadata(document: Mapping[str, Any], name: str) -> tuple[TensorMetadata, ...]:
    listed = document.get(name)
    if not isinstance(listed, list) or not listed:
        _refuse(f"the model's metadata describes no {name}")
    found = []
    for one in listed:
        tensor = _object(one, f"one of the {name}")
        shape = _shape(tensor, lowest=-1)
        found.append(TensorMetadata(_text(tensor, "name"), _text(tensor, "datatype"), shape))
    if len({tensor.name for tensor in found}) != len(found):
        _refuse(f"one of the {name} is described twice")
    return tuple(found)


# --- request -----------------------------------------------------------------------------


def encode_request(
    request_id: str, feeds: Mapping[str, Array], outputs: Iterable[str], *, binary: bool
) -> Message:
    """An inference request.

    Args:
        request_id: which the server repeats.
        feeds: the inputs by name.
        outputs: names of those that are wanted.
        binary: as binary tensor data, both ways; otherwise JSON, both ways.

    Raises:
        RejectedError: a number that JSON does not have.
    """
    wanted = {"parameters": {"binary_data": True}} if binary else {}
    document = {
        "id": request_id,
        "inputs": [_input(name, array, binary=binary) for name, array in feeds.items()],
        "outputs": [{"name": name, **wanted} for name in outputs],
    }
    text = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    if not binary:
        return Message(text, {"Content-Type": "application/json"})
    parts: list[Buffer] = [text, *(_little_endian(array).data for array in feeds.values())]
    content = b"".join(parts)
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(text))}
    return Message(content, headers)


def _input(name: str, array: Array, *, binary: bool) -> dict[str, Any]:
    head = {"name": name, "shape": list(array.shape), "datatype": _DATATYPES[str(array.dtype)]}
    if binary:
        return {**head, "parameters": {"binary_data_size": array.nbytes}}
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise RejectedError(f"{name} is not finite, which JSON cannot say; binary tensors can")
    return {**head, "data": np.ascontiguousarray(array).reshape(-1)}


def _little_endian(array: Array) -> Array:
    """Its bytes, not copied where they are in order already."""
    ordered = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
    return ordered.reshape(-1).view(np.uint8)


# --- answer ------------------------------------------------------------------------------


def decode_answer(body: bytearray, header_length: str | None, asked: Asked) -> Answer:
    """The outputs of an answer, in whatever form they came; those that were not asked for are
    left out.

    Args:
        body: of the response. Arrays may share its memory.
        header_length: value of the header ``Inference-Header-Content-Length``.
        asked: what the answer is compared with.

    Raises:
        RejectedError: it is not an answer to what was asked; the message holds nothing of it.
    """
    text, data = _parts(body, header_length)
    document = _object(_json(text), "the answer")
    if document.get("model_name") != asked.model_name:
        _refuse("it is from another model")
    if document.get("id") not in (None, asked.request_id):
        _refuse("it belongs to another request")
    outputs = document.get("outputs")
    if not isinstance(outputs, list):
        _refuse("it has no outputs")
    tensors = _tensors(outputs, data, {tensor.name: tensor for tensor in asked.outputs})
    missing = sorted({tensor.name for tensor in asked.outputs} - set(tensors))
    if missing:
        _refuse(f"it lacks the outputs {', '.join(missing)}")
    return Answer(tensors, _version(document))


def _parts(body: bytearray, header_length: str | None) -> tuple[memoryview, memoryview]:
    whole = memoryview(body)
    if header_length is None:
        return whole, whole[:0]
    if not (header_length.isascii() and header_length.isdigit()):
        _refuse(f"{HEADER_LENGTH} is no number")
    length = int(header_length[:20])
    if length > len(body):
        _refuse(f"{HEADER_LENGTH} is larger than the answer")
    return whole[:length], whole[length:]


def _json(text: memoryview) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        _refuse("it is no JSON")


def _version(document: Mapping[str, Any]) -> str:
    version = document.get("model_version")
    if version is None:
        return ""
    if not isinstance(version, str):
        _refuse("model_version is no text")
    return version


def _tensors(
    outputs: Sequence[object], data: memoryview, wanted: Mapping[str, TensorMetadata]
) -> dict[str, Array]:
    found: dict[str, Array] = {}
    names: set[str] = set()
    for one in outputs:
        output = _object(one, "one of the outputs")
        name = _text(output, "name")
        if name in names:
            _refuse("an output comes twice")
        names.add(name)
        size = _binary_size(output)
        if size is not None and size > len(data):
            _refuse("its binary data is too short")
        own, data = (None, data) if size is None else (data[:size], data[size:])
        if name in wanted:
            found[name] = _tensor(output, own, wanted[name])
    if len(data):
        _refuse("there is more binary data than its outputs have")
    return found


def _binary_size(output: Mapping[str, Any]) -> int | None:
    size = _object(output.get("parameters") or {}, "parameters").get("binary_data_size")
    if size is None:
        return None
    if type(size) is not int or size < 0:
        _refuse("binary_data_size is no size")
    if "data" in output:
        _refuse("an output comes both as JSON and as binary data")
    return size


def _tensor(output: Mapping[str, Any], own: memoryview | None, wanted: TensorMetadata) -> Array:
    name, datatype, shape = wanted.name, _text(output, "datatype"), _shape(output, lowest=0)
    dtype = DTYPES.get(datatype)
    if dtype is None or datatype != wanted.datatype:
        _refuse(f"the output {name} is not of the datatype that the metadata says")
    if not _fits(shape, wanted.shape):
        _refuse(f"the output {name} has not the shape that the metadata says")
    if math.prod(shape) > _MOST_ELEMENTS:
        _refuse(f"the output {name} is too large")
    if own is not None:
        return _from_binary(own, dtype, shape)
    if datatype == "FP16":
        _refuse("FP16 has to come as binary data")
    return _from_json(output.get("data"), dtype, shape)


def _fits(shape: tuple[int, ...], pattern: tuple[int, ...]) -> bool:
    pairs = zip(shape, pattern, strict=False)
    return len(shape) == len(pattern) and all(wanted in (-1, size) for size, wanted in pairs)


def _from_binary(own: memoryview, dtype: str, shape: tuple[int, ...]) -> Array:
    kind = np.dtype(dtype).newbyteorder("<")
    if len(own) != math.prod(shape) * kind.itemsize:
        _refuse("binary_data_size does not agree with the shape")
    if dtype == "bool" and len(own) and np.frombuffer(own, np.uint8).max() > 1:
        _refuse("a BOOL is neither 0 nor 1")
    array: Array = np.frombuffer(own, kind).reshape(shape)
    return array.astype(dtype, copy=False)


def _from_json(data: object, dtype: str, shape: tuple[int, ...]) -> Array:
    if not isinstance(data, list):
        _refuse("an output has no data")
    elements = _flat(data, shape)
    if len(elements) != math.prod(shape):
        _refuse("the length of data does not agree with the shape")
    kinds = set(map(type, elements))
    if not kinds <= _KINDS.get(np.dtype(dtype).kind, {int}):
        _refuse("data holds something else than finite numbers of its datatype")
    try:
        with np.errstate(over="ignore"):
            array = np.array(elements, dtype).reshape(shape)
    except OverflowError:
        _refuse("a number is beyond its datatype")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        _refuse("a number is beyond its datatype")
    return array


def _flat(data: list[Any], shape: tuple[int, ...]) -> list[Any]:
    """The elements of nested lists, too: the protocol allows both."""
    if not data or not isinstance(data[0], list):
        return data
    level: list[Any] = [data]
    for size in shape:
        if any(type(one) is not list or len(one) != size for one in level):
            _refuse("the nesting of data does not agree with the shape")
        level = list(chain.from_iterable(level))
    return level


# --- parts of a document -----------------------------------------------------------------


def _object(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        _refuse(f"{what}: no JSON object")
    return value


def _text(document: Mapping[str, Any], name: str) -> str:
    value = document.get(name)
    if not isinstance(value, str) or not value:
        _refuse(f"{name} is missing")
    return value


def _shape(document: Mapping[str, Any], *, lowest: int) -> tuple[int, ...]:
    shape = document.get("shape")
    if (
        not isinstance(shape, list)
        or len(shape) > _MOST_AXES
        or not all(type(size) is int and lowest <= size <= _MOST_ELEMENTS for size in shape)
    ):
        _refuse("shape is no list of sizes")
    return tuple(shape)


def _refuse(why: str) -> NoReturn:
    raise RejectedError(f"the server's answer cannot be used: {why}")
