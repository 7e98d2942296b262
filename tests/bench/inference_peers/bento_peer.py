"""BentoML: a service with its usual JSON interface."""

from __future__ import annotations

import os

import bentoml
import numpy as np
import onnxruntime

GRAPH, THREADS = os.environ["BENCH_GRAPH"], int(os.environ["BENCH_THREADS"])


@bentoml.service(workers=1, traffic={"timeout": 120}, logging={"access": {"enabled": False}})
class Bench:
    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        self.session = onnxruntime.InferenceSession(
            GRAPH, options, providers=["CPUExecutionProvider"]
        )

    @bentoml.api
    def infer(self, x: np.ndarray) -> float:
        (score,) = self.session.run(["score"], {"x": x.astype(np.float32)})
        return float(score)
