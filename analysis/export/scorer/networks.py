"""ONNX models, run on one core unless more are asked for."""

from pathlib import Path

import numpy as np
import onnxruntime

from .errors import DetectorError


class Network:
    """An ONNX model with one output. Raises DetectorError if it cannot be loaded."""

    def __init__(self, path: Path, *, threads: int = 1):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = threads
        options.log_severity_level = 3  # errors only
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has an error type for each cause, with no common base
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise DetectorError(f"{path}: is no ONNX model that onnxruntime can load ({reason})") from None

    def __call__(self, **inputs: np.ndarray) -> np.ndarray:
        (output,) = self.session.run(None, inputs)
        return output
