"""TensorRT in the node: engines from the cache, or built in another process."""

from __future__ import annotations

from collections.abc import Sequence
import hashlib
import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import threading
from typing import Any

import torch
from torch import Tensor

from sd_perception_ros.runtimes.build_engine import (
    build_environment,
    EngineSpec,
    make_logger,
    PLAN,
)
from sd_perception_ros.runtimes.gpu_sessions import Bound, GpuSession, PartSpec, Tensors
from sd_perception_ros.runtimes.onnx_files import cache_folder, delete_unused, is_intact

OLDEST = (10, 3)  # of JetPack 6.1; 8.6 of JetPack 6.0 has no strongly typed networks
_HINT = (
    'TensorRT for Python comes with JetPack 6.1 or newer, or by python -m pip install tensorrt; '
    'or set runtime: torch'
)
_DTYPES = {'FLOAT': torch.float32, 'HALF': torch.float16}


class BuildProcess:
    """
    Builds engines in other processes, one after the other.

    :ivar is_stopped: whether `stop` was called.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[str] | None = None
        self.is_stopped = False

    def build(self, spec: EngineSpec, device: torch.device) -> None:
        """
        Build an engine; returns when it is in the cache.

        :raises ValueError: it was not built, with the reason in one line.
        """
        module = 'sd_perception_ros.runtimes.build_engine'
        with self._lock:
            if self.is_stopped:
                raise ValueError('the model is no longer used')
            self._child = subprocess.Popen(
                [sys.executable, '-m', module, json.dumps(spec._asdict())],
                stdin=subprocess.PIPE,  # the build ends if this process does
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=build_environment(device.index or 0, os.environ),
                text=True,
                errors='replace',
            )
        with self._child as child:
            # Not `communicate`, which closes the pipe that keeps it alive.
            lines = child.stderr.read().strip().splitlines() if child.stderr else []
            code = child.wait()
        if code < 0:
            name = signal.Signals(-code).name
            why = ', perhaps for want of memory' if name == 'SIGKILL' else ''
            raise ValueError(f'the process that builds the engine ended by {name}{why}')
        if code:
            raise ValueError(lines[-1] if lines else f'the build ended with code {code}')

    def stop(self) -> None:
        """End the build that runs, and start no other."""
        with self._lock:
            self.is_stopped = True
            if self._child is not None:
                self._child.kill()


class TensorRtSession(GpuSession):
    """
    A TensorRT engine for one size, and for batches up to a largest one.

    :param spec: of the part.
    :param process: builds the engine if it is not in the cache.
    :raises ValueError: the engine cannot be built or loaded, with the reason.
    """

    is_recordable = True

    def __init__(self, spec: PartSpec, process: BuildProcess) -> None:
        import tensorrt

        self._trt, self._log = tensorrt, make_logger()
        self._runtime = tensorrt.Runtime(self._log)
        self._engine = self._load(engine_spec(spec, tensorrt.__version__), spec, process)
        count = self._engine.num_io_tensors
        super().__init__(spec, {self._engine.get_tensor_name(i) for i in range(count)})
        self._memory: Tensor | None = None

    def bind(self, tensors: Tensors) -> Bound:
        """
        Make an execution context of its own for these shapes.

        A CUDA graph holds the addresses and the state of the context that it has recorded, so
        neither changes afterwards.
        """
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(strategy)
        if context is None:
            raise RuntimeError(f'TensorRT makes no execution context: {self._log.last_error}')
        size = max(int(self._engine.device_memory_size_v2), 1)
        if self._memory is None:  # contexts run one after the other
            self._memory = torch.empty(size, dtype=torch.uint8, device=self.device)
        context.set_device_memory(self._memory.data_ptr(), size)
        # Only the first context of an engine has its profile from the start.
        stream = torch.cuda.current_stream(self.device)
        chosen = context.set_optimization_profile_async(0, stream.cuda_stream)
        self._expect(chosen, 'its only profile')
        stream.synchronize()
        inputs = []
        for name, tensor in zip(self.inputs, tensors, strict=True):
            self._expect(context.set_input_shape(name, tuple(tensor.shape)), name)
            inputs.append(self._buffer(context, name, tensor.shape))
        outputs = [
            self._buffer(context, name, tuple(context.get_tensor_shape(name)))
            for name in self.outputs
        ]

        def run() -> None:
            handle = torch.cuda.current_stream(self.device).cuda_stream
            self._expect(context.execute_async_v3(handle), 'to run')

        return Bound(run, tuple(inputs), tuple(outputs))

    def _buffer(self, context: Any, name: str, shape: Sequence[int]) -> Tensor:
        dtype = _DTYPES[self._engine.get_tensor_dtype(name).name]
        buffer = torch.empty(tuple(shape), dtype=dtype, device=self.device)
        self._expect(context.set_tensor_address(name, buffer.data_ptr()), name)
        return buffer

    def _expect(self, succeeded: bool, what: str) -> None:
        if not succeeded:
            raise RuntimeError(f'TensorRT refuses {what}: {self._log.last_error}')

    def _load(self, request: EngineSpec, spec: PartSpec, process: BuildProcess) -> Any:
        folder = Path(request.folder)
        delete_unused([spec.graph, folder])
        was_there = is_intact(folder, request.key)
        if not was_there:
            process.build(request, spec.device)
        engine = self._deserialize(folder)
        if engine is None and was_there:
            (folder / PLAN).unlink()  # so that it is built again
            process.build(request, spec.device)
            engine = self._deserialize(folder)
        if engine is None:
            raise ValueError(f'TensorRT cannot load its engine: {self._log.last_error}')
        return engine

    def _deserialize(self, folder: Path) -> Any:
        return self._runtime.deserialize_cuda_engine((folder / PLAN).read_bytes())


def engine_spec(spec: PartSpec, version: str) -> EngineSpec:
    """
    Return what to build for a part: the cache key is graph, GPU, version of TensorRT and shapes.

    :param version: of TensorRT.
    """
    gpu = torch.cuda.get_device_properties(spec.device)
    machine = (
        f'tensorrt {version}, {gpu.name}, {gpu.multi_processor_count} multiprocessors, '
        f'compute capability {gpu.major}.{gpu.minor}'
    )
    key = f'{spec.digest}, {machine}, {spec.inputs}'
    folder = cache_folder() / f'{spec.name}-tensorrt-{_short_hash(key)}'
    return EngineSpec(str(spec.graph), str(folder), key, _short_hash(machine), spec.inputs)


def check_tensorrt() -> None:
    """
    Check that TensorRT is installed, and new enough for strongly typed networks.

    :raises ValueError: it is not.
    """
    try:
        import tensorrt
    except (ImportError, OSError) as error:  # its libraries may be missing
        raise ValueError(f'runtime tensorrt is not installed ({error}): {_HINT}') from None
    if tuple(int(each) for each in tensorrt.__version__.split('.')[:2]) < OLDEST:
        oldest = '.'.join(map(str, OLDEST))
        raise ValueError(
            f'runtime tensorrt needs TensorRT {oldest} or newer, found '
            f'{tensorrt.__version__}: {_HINT}'
        )


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
