"""An ONNX file as a model of MLServer: what a hospital's data scientists would write.

It runs in MLServer's own virtual environment, and shares no code with the hub.
"""

import numpy as np
import onnxruntime
from mlserver import MLModel
from mlserver.codecs.numpy import to_datatype, to_dtype
from mlserver.types import InferenceRequest, InferenceResponse, MetadataTensor, ResponseOutput

_DTYPES = {"float": "float32", "double": "float64"}


def _described(node: onnxruntime.NodeArg) -> MetadataTensor:
    kind = node.type.removeprefix("tensor(").removesuffix(")")
    datatype = to_datatype(np.dtype(_DTYPES.get(kind, kind)))
    shape = [size if isinstance(size, int) else -1 for size in node.shape]
    return MetadataTensor(name=node.name, datatype=datatype, shape=shape)


class OnnxModel(MLModel):
    """``parameters.uri`` is the file; runs on one thread of the CPU."""

    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            self.settings.parameters.uri, options, providers=["CPUExecutionProvider"]
        )
        self.inputs = [_described(node) for node in self._session.get_inputs()]
        self.outputs = [_described(node) for node in self._session.get_outputs()]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        feeds = {
            given.name: np.array(given.data.root, to_dtype(given)).reshape(given.shape)
            for given in payload.inputs
        }
        wanted = [output.name for output in payload.outputs or self.outputs]
        outputs = [
            ResponseOutput(
                name=name,
                shape=list(array.shape),
                datatype=to_datatype(array.dtype),
                data=array.reshape(-1).tolist(),
            )
            for name, array in zip(wanted, self._session.run(wanted, feeds), strict=True)
        ]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)
