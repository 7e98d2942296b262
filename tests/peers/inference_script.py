"""A strict server of the Open Inference Protocol that knows binary tensors, as Triton does.

Triton is no package that tests can install, and MLServer's REST interface knows JSON only: so this
one is written from the texts of the protocol (KServe, "Open Inference Protocol", REST) and of the
binary tensor data extension (Triton), and shares no code with the hub. It refuses with 400 and
``{"error": ...}`` whatever those texts do not allow.
"""

from __future__ import annotations

import http.server
import json
import math
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

_NAMES = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "i1",
    "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
_ONNX = {
    "float": "FP32", "double": "FP64", "float16": "FP16", "bool": "BOOL",
    **{f"{s}int{n}": f"{s}int{n}".upper() for s in ("", "u") for n in (8, 16, 32, 64)},
}  # fmt: skip
_PATH = re.compile(r"/v2/models/(?P<model>[^/]+)(/versions/(?P<version>[^/]+))?(?P<rest>/\w+)?")
_LENGTH = "Inference-Header-Content-Length"


class _WrongError(Exception):
    """The request is not what the texts say."""


@dataclass
class InferenceScript:
    """One model, and how the server tells of it and answers."""

    graph: Path
    name: str
    version: str = "1"
    takes: tuple[str, ...] = ("json", "binary")
    """The forms of tensors that it accepts."""
    answers: str = "asked"
    """``asked``: each output as the request wants it; ``json`` or ``binary``: always so."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """Replaces parts of the model's metadata."""
    answer: dict[str, Any] = field(default_factory=dict)
    """Replaces parts of the answers' JSON text."""
    status: dict[str, tuple[int, dict[str, str]]] = field(default_factory=dict)
    """Status and headers for paths that end so, instead of an answer."""
    requests: list[dict[str, str]] = field(default_factory=list)
    """Headers of each request, lower case, with ``:path``; ``:connection`` tells connections
    apart."""
    url: str = ""

    def __post_init__(self) -> None:
        self._session = onnxruntime.InferenceSession(
            self.graph, _one_thread(), providers=["CPUExecutionProvider"]
        )

    def described(self) -> dict[str, Any]:
        """The model's metadata."""
        nodes = {"inputs": self._session.get_inputs(), "outputs": self._session.get_outputs()}
        told = {key: [_described(node) for node in found] for key, found in nodes.items()}
        fixed = {"name": self.name, "versions": [self.version], "platform": "onnx_onnxv1"}
        return fixed | told | self.metadata

    def infer(self, body: bytes, header_length: str | None) -> tuple[bytes, dict[str, str]]:
        """The answer to an inference request: body and headers."""
        text, data = body, b""
        if header_length is not None:
            text, data = body[: int(header_length)], body[int(header_length) :]
        asked = json.loads(text)
        _only(asked, "id", "parameters", "inputs", "outputs")
        feeds: dict[str, Any] = {}
        for tensor in asked["inputs"]:
            feeds[tensor["name"]], data = self._read(tensor, data)
        if data:
            raise _WrongError("more binary data than the inputs have")
        wanted = asked.get("outputs") or [{"name": one.name} for one in self._session.get_outputs()]
        results = self._session.run([one["name"] for one in wanted], feeds)
        return self._answered(asked, wanted, results)

    def _read(self, tensor: dict[str, Any], data: bytes) -> tuple[Any, bytes]:
        _only(tensor, "name", "shape", "datatype", "parameters", "data")
        kind, count = np.dtype(_NAMES[tensor["datatype"]]), math.prod(tensor["shape"])
        size = tensor.get("parameters", {}).get("binary_data_size")
        if ("json" if size is None else "binary") not in self.takes:
            raise _WrongError("not in this form")
        if size is None:
            if tensor["datatype"] == "FP16":
                raise _WrongError("FP16 only as binary data")
            flat = np.array(tensor["data"])
            if flat.shape != (count,):
                raise _WrongError("data is not flat, or of another length")
            return flat.astype(kind).reshape(tensor["shape"]), data
        if "data" in tensor or size != count * kind.itemsize or len(data) < size:
            raise _WrongError("binary_data_size does not fit")
        return np.frombuffer(data[:size], kind).reshape(tensor["shape"]), data[size:]

    def _answered(
        self, asked: dict[str, Any], wanted: list[dict[str, Any]], results: list[Any]
    ) -> tuple[bytes, dict[str, str]]:
        all_binary = asked.get("parameters", {}).get("binary_data_output", False)
        outputs, pieces = [], []
        for one, array in zip(wanted, results, strict=True):
            datatype = next(
                _datatype(node) for node in self._session.get_outputs() if node.name == one["name"]
            )
            told = {"name": one["name"], "datatype": datatype, "shape": list(array.shape)}
            binary = one.get("parameters", {}).get("binary_data", all_binary)
            if self.answers != "asked":
                binary = self.answers == "binary"
            if binary:
                pieces.append(array.astype(_NAMES[datatype]).tobytes())
                told["parameters"] = {"binary_data_size": len(pieces[-1])}
            else:
                told["data"] = array.reshape(-1).tolist()
            outputs.append(told)
        fixed = {"model_name": self.name, "model_version": self.version, "id": asked.get("id", "")}
        text = json.dumps(fixed | {"outputs": outputs} | self.answer).encode()
        if not pieces:
            return text, {"Content-Type": "application/json"}
        headers = {"Content-Type": "application/octet-stream", _LENGTH: str(len(text))}
        return text + b"".join(pieces), headers


def _one_thread() -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return options


def _datatype(node: Any) -> str:
    return _ONNX[node.type.removeprefix("tensor(").removesuffix(")")]


def _described(node: Any) -> dict[str, Any]:
    shape = [size if isinstance(size, int) else -1 for size in node.shape]
    return {"name": node.name, "datatype": _datatype(node), "shape": shape}


def _only(document: dict[str, Any], *names: str) -> None:
    if set(document) - set(names):
        raise _WrongError(f"unknown members: {sorted(set(document) - set(names))}")


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    script: InferenceScript

    def do_GET(self) -> None:
        self._remember()
        if self.path in ("/v2/health/live", "/v2/health/ready"):
            self._send(200, b"", {})
            return
        found = self._served()
        if found is None:
            self._refuse(404, "Model not found")
        elif found["rest"] is None:
            self._send(200, json.dumps(self.script.described()).encode(), {})
        else:
            self._send(200, b"", {})

    def do_POST(self) -> None:
        self._remember()
        body = self.rfile.read(int(self.headers["content-length"]))
        found = self._served()
        if found is None or found["rest"] != "/infer":
            self._refuse(404, "Model not found")
            return
        try:
            answer, headers = self.script.infer(body, self.headers.get(_LENGTH))
        except (_WrongError, KeyError, ValueError, TypeError) as error:
            self._refuse(400, repr(error))
        else:
            self._send(200, answer, headers)

    def _served(self) -> re.Match[str] | None:
        found = _PATH.fullmatch(self.path)
        if found is None or found["model"] != self.script.name:
            return None
        return found if found["version"] in (None, self.script.version) else None

    def _remember(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        told = {":path": self.path, ":connection": str(self.client_address[1])}
        self.script.requests.append(headers | told)

    def _refuse(self, status: int, error: str) -> None:
        self._send(status, json.dumps({"error": error}).encode(), {})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        for end, (other, given) in self.script.status.items():
            if self.path.endswith(end):
                status, body, headers = other, b'{"error": "PATIENT^CANARY"}', given
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        with suppress(ConnectionError):
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Tests are quiet."""


@contextmanager
def inference_script(
    graph: Path, name: str, tls: ssl.SSLContext | None = None, **how: Any
) -> Iterator[InferenceScript]:
    """A running server on a free port of loopback; ``tls``: it speaks https."""
    script = InferenceScript(graph, name, **how)
    handler = type("_Handler", (_Handler,), {"script": script})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    script.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}"
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
