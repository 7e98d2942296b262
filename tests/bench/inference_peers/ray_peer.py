"""Ray Serve: one replica that takes a binary tensor."""

from __future__ import annotations

import signal
import sys

import numpy as np
import onnxruntime
import ray
from ray import serve
from starlette.requests import Request

GRAPH, SHAPE, THREADS, PORT = sys.argv[1:5]


@serve.deployment(max_ongoing_requests=64)
class Bench:
    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(THREADS)
        self.session = onnxruntime.InferenceSession(
            GRAPH, options, providers=["CPUExecutionProvider"]
        )
        self.shape = tuple(int(part) for part in SHAPE.split(","))

    async def __call__(self, request: Request) -> dict[str, float]:
        if request.method == "GET":
            return {}
        x = np.frombuffer(await request.body(), np.float32).reshape(self.shape)
        (score,) = self.session.run(["score"], {"x": x})
        return {"score": float(score)}


if __name__ == "__main__":
    ray.init(include_dashboard=False, log_to_driver=False, num_cpus=4)
    serve.start(http_options={"host": "127.0.0.1", "port": int(PORT)})
    serve.run(Bench.bind())
    print("ready", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()
