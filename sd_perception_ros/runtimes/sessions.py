"""ONNX Runtime and OpenVINO: both run the same ONNX files on the CPU, in fp32."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
import importlib.util
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class Session(ABC):
    """
    An ONNX file that is ready to run.

    :param file: its inputs and outputs have these names; it may lack inputs that it does not need.
    :param threads: CPU threads of one run.
    """

    @abstractmethod
    def __init__(
        self, file: Path, inputs: Sequence[str], outputs: Sequence[str], threads: int
    ) -> None: ...

    @abstractmethod
    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Run on float32 tensors of the CPU in the order of the inputs."""


class OnnxRuntimeSession(Session):
    """ONNX Runtime: loads in a moment, and takes pictures of any size."""

    def __init__(
        self, file: Path, inputs: Sequence[str], outputs: Sequence[str], threads: int
    ) -> None:
        # The builds on PyPI collect telemetry from their import on, unless this says no.
        os.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Idle threads sleep instead of spinning: the middleware needs the processor, too.
        options.add_session_config_entry('session.intra_op.allow_spinning', '0')
        self._session = onnxruntime.InferenceSession(
            str(file), options, providers=['CPUExecutionProvider']
        )
        self._inputs, self._outputs = inputs, list(outputs)
        self._needed = {each.name for each in self._session.get_inputs()}

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Run on tensors of any size."""
        feed = {
            name: tensor.contiguous().numpy()
            for name, tensor in zip(self._inputs, tensors, strict=True)
            if name in self._needed
        }
        return tuple(torch.from_numpy(each) for each in self._session.run(self._outputs, feed))


class OpenVinoSession(Session):
    """OpenVINO: compiles for each size, which takes a second or more the first time."""

    def __init__(
        self, file: Path, inputs: Sequence[str], outputs: Sequence[str], threads: int
    ) -> None:
        import openvino

        self._core = openvino.Core()
        self._graph = self._core.read_model(file)
        self._options = {
            'INFERENCE_PRECISION_HINT': 'f32',
            'PERFORMANCE_HINT': 'LATENCY',
            'INFERENCE_NUM_THREADS': threads,
        }
        self._inputs, self._outputs = inputs, outputs
        self._needed = {each.get_any_name() for each in self._graph.inputs}
        self._compiled: dict[tuple[torch.Size, ...], Any] = {}

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Run on tensors of any size."""
        feed = {
            name: tensor.contiguous().numpy()
            for name, tensor in zip(self._inputs, tensors, strict=True)
            if name in self._needed
        }
        sizes = tuple(tensor.shape for tensor in tensors)
        if sizes not in self._compiled:
            graph = self._graph.clone()
            graph.reshape({name: list(array.shape) for name, array in feed.items()})
            self._compiled[sizes] = self._core.compile_model(graph, 'CPU', self._options)
        answers = self._compiled[sizes](feed, share_inputs=True)
        return tuple(torch.from_numpy(answers[name]) for name in self._outputs)


SESSIONS: dict[str, type[Session]] = {
    'onnxruntime': OnnxRuntimeSession,
    'openvino': OpenVinoSession,
}


def missing_packages(runtime: str) -> list[str]:
    """Return the packages that this runtime lacks here; torch writes its graphs with onnx."""
    return [name for name in (runtime, 'onnx') if importlib.util.find_spec(name) is None]
