"""The least that a web framework needs: a binary tensor in, a number out."""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool

GRAPH, SHAPE, THREADS, PORT = sys.argv[1:5]

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(THREADS)
session = onnxruntime.InferenceSession(GRAPH, options, providers=["CPUExecutionProvider"])
shape = tuple(int(part) for part in SHAPE.split(","))
app = FastAPI()


def run(body: bytes) -> float:
    (score,) = session.run(["score"], {"x": np.frombuffer(body, np.float32).reshape(shape)})
    return float(score)


@app.get("/ready")
def ready() -> bool:
    return True


@app.post("/infer")
async def infer(request: Request) -> dict[str, float]:
    return {"score": await run_in_threadpool(run, await request.body())}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(PORT), log_level="error", access_log=False)
