"""ONNX Runtime and OpenVINO: both run the same ONNX files on the CPU, in fp32."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
import contextlib
import functools
from importlib.metadata import version
import importlib.util
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sd_perception_ros.runtimes.memory import give_back
from sd_perception_ros.runtimes.onnx_files import GRAPH, is_intact, write_folder
from sd_perception_ros.runtimes.winograd import with_winograd_convolutions

OPTIMIZED, WEIGHTS = 'optimized.onnx', 'weights.bin'
# Smaller parts are faster if they keep their memory, and with convolutions as they are.
LARGE_BYTES = 64 * 2**20


class Session(ABC):
    """
    A loaded ONNX graph.

    :param file: of the ONNX graph.
    :param inputs: names of its inputs in the order of `__call__`; the graph may lack unused ones.
    :param outputs: names of its outputs.
    :param threads: CPU threads of one run.
    """

    @abstractmethod
    def __init__(
        self, file: Path, inputs: Sequence[str], outputs: Sequence[str], threads: int
    ) -> None: ...

    @abstractmethod
    def __call__(self, *tensors: Tensor, frugal: bool = False) -> tuple[Tensor, ...]:
        """
        Run on float32 tensors on the CPU, in the order of the inputs.

        :param frugal: afterwards, return memory that the next run allocates again.
        """

    @classmethod
    def file_of(cls, folder: Path) -> Path:
        """Return the file to load in a prepared folder."""
        return folder / GRAPH

    @classmethod
    def is_prepared(cls, folder: Path, digest: str) -> bool:
        """Return whether the file to load was written for this digest and is unchanged."""
        return is_intact(folder, digest, GRAPH)

    @classmethod
    def prepare(cls, folder: Path, digest: str) -> None:
        """Write the file to load from the ONNX graph of an intact folder."""
        return  # it is the ONNX graph itself


class OnnxRuntimeSession(Session):
    """
    ONNX Runtime: loads fast, and runs images of any size.

    The optimized graph is kept beside the ONNX graph, with weights in the layout of this
    processor. Its weights are memory-mapped from that file, not copied.
    """

    def __init__(
        self, file: Path, inputs: Sequence[str], outputs: Sequence[str], threads: int
    ) -> None:
        runtime = import_onnxruntime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        # Idle threads sleep instead of spinning: the ROS middleware needs the processor, too.
        options.add_session_config_entry('session.intra_op.allow_spinning', '0')
        # Parts run one after the other and can use the same memory.
        options.add_session_config_entry('session.use_env_allocators', '1')
        options.enable_mem_pattern = False  # a second block of memory, as large as the first
        if file.name == OPTIMIZED:
            options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        weights = file.parent / WEIGHTS
        is_large = weights.is_file() and weights.stat().st_size >= LARGE_BYTES
        if is_large:  # its matrix products are as fast with weights in the layout of the file
            options.add_session_config_entry('session.disable_prepacking', '1')
        self._weights = weights if is_large else None
        self._session = runtime.InferenceSession(
            str(file), options, providers=['CPUExecutionProvider']
        )
        self._inputs, self._outputs = inputs, list(outputs)
        self._needed = {each.name for each in self._session.get_inputs()}
        self._frugally = runtime.RunOptions()
        self._frugally.add_run_config_entry('memory.enable_memory_arena_shrinkage', 'cpu:0')

    def __call__(self, *tensors: Tensor, frugal: bool = False) -> tuple[Tensor, ...]:
        """Run on tensors of any size."""
        feed = {
            name: tensor.contiguous().numpy()
            for name, tensor in zip(self._inputs, tensors, strict=True)
            if name in self._needed
        }
        if not frugal or self._weights is None:
            outputs = self._session.run(self._outputs, feed)
        else:
            outputs = self._session.run(self._outputs, feed, self._frugally)
            give_back(self._weights)
        return tuple(torch.from_numpy(each) for each in outputs)

    @classmethod
    def file_of(cls, folder: Path) -> Path:
        """Return the file of the optimized graph."""
        return folder / 'onnxruntime' / OPTIMIZED

    @classmethod
    def is_prepared(cls, folder: Path, digest: str) -> bool:
        """Return whether the optimized graph is intact, of this version and for this processor."""
        return is_intact(folder / 'onnxruntime', cls._key(digest), OPTIMIZED)

    @classmethod
    def prepare(cls, folder: Path, digest: str) -> None:
        """Write the optimized graph."""
        runtime, options = import_onnxruntime(), import_onnxruntime().SessionOptions()
        # Without its warning about files for one processor only, which `_key` handles.
        options.log_severity_level = 3
        name = 'session.optimized_model_external_initializers_'
        options.add_session_config_entry(f'{name}file_name', WEIGHTS)
        options.add_session_config_entry(f'{name}min_size_in_bytes', '1024')
        record = {'warning': 'for this version of onnxruntime and this kind of processor'}
        with write_folder(folder / 'onnxruntime', cls._key(digest), record) as work:
            options.optimized_model_filepath = str(work / OPTIMIZED)
            plain = folder / GRAPH
            size = sum(each.stat().st_size for each in folder.iterdir())
            quick = with_winograd_convolutions if size >= LARGE_BYTES else contextlib.nullcontext
            with quick(plain) as file:
                runtime.InferenceSession(str(file), options, providers=['CPUExecutionProvider'])

    @staticmethod
    def _key(digest: str) -> str:
        processor = torch.backends.cpu.get_cpu_capability()
        return f'{digest} onnxruntime {version("onnxruntime")} {processor}'


@functools.cache
def import_onnxruntime() -> Any:
    """Import onnxruntime, and let all sessions of the process share one memory arena."""
    # Builds on PyPI collect telemetry from their import on, unless this is set.
    os.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')
    import onnxruntime

    arena = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    where = onnxruntime.OrtMemoryInfo('Cpu', arena, 0, onnxruntime.OrtMemType.DEFAULT)
    # 1: it grows by the requested size, so that `memory.enable_memory_arena_shrinkage` empties it.
    growth = onnxruntime.OrtArenaCfg({'arena_extend_strategy': 1})
    onnxruntime.create_and_register_allocator(where, growth)
    return onnxruntime


class OpenVinoSession(Session):
    """OpenVINO: compiles for each image size, which takes a second or more at the first time."""

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

    def __call__(self, *tensors: Tensor, frugal: bool = False) -> tuple[Tensor, ...]:
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
    """Return the missing packages of a runtime; writing ONNX graphs needs onnx."""
    return [name for name in (runtime, 'onnx') if importlib.util.find_spec(name) is None]
