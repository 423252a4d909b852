"""ONNX Runtime on a GPU: its TensorRT or CUDA provider on torch's tensors."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import ctypes.util
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sd_perception_ros.runtimes.build_engine import timings_folder
from sd_perception_ros.runtimes.gpu_sessions import Bound, GpuSession, PartSpec, Tensors
from sd_perception_ros.runtimes.onnx_files import cache_folder, delete_unused, GRAPH
from sd_perception_ros.runtimes.sessions import import_onnxruntime

CUDA, TENSORRT = 'CUDAExecutionProvider', 'TensorrtExecutionProvider'
_NUMPY = {torch.float32: np.float32, torch.float16: np.float16}


class OnnxRuntimeGpuSession(GpuSession):
    """
    ONNX Runtime on a GPU.

    :param spec: of the part.
    :param provider: `CUDA`, which takes any size, or `TENSORRT`, which builds engines for the
        size of `spec`, in minutes, and caches them.
    :raises ValueError: the provider cannot be loaded, with the reason.
    """

    def __init__(self, spec: PartSpec, provider: str) -> None:
        runtime = import_onnxruntime()
        options = runtime.SessionOptions()
        options.log_severity_level = 4  # errors are raised, too
        self._streams = torch.get_device_module(spec.device)  # torch.cuda
        self._stream = self._streams.Stream(spec.device)
        handle = getattr(self._stream, 'cuda_stream', 0)
        providers = provider_options(spec, provider, handle)
        if provider == TENSORRT:  # it does not make parent folders
            engine_folder(spec).mkdir(parents=True, exist_ok=True)
            timings_folder().mkdir(parents=True, exist_ok=True)
        delete_unused([spec.graph, engine_folder(spec)])
        with raises_runtime_error():
            self._session = runtime.InferenceSession(
                str(spec.graph / GRAPH), options, providers=providers, enable_fallback=0
            )
        used = self._session.get_providers()
        if provider not in used:
            raise ValueError(
                f'onnxruntime cannot load its {provider} and would use {used[0]}; its version has '
                'to fit the installed CUDA, cuDNN and TensorRT'
            )
        super().__init__(spec, {each.name for each in self._session.get_inputs()})
        self._options = runtime.RunOptions()
        self._options.add_run_config_entry('disable_synchronize_execution_providers', '1')

    def bind(self, tensors: Tensors) -> Bound:
        """Bind buffers of torch; a first run finds the shapes of the outputs."""
        inputs = tuple(torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in tensors)
        for buffer, tensor in zip(inputs, tensors, strict=True):
            buffer.copy_(tensor)
        self._streams.synchronize(self.device)
        first = self._binding(inputs)
        for name in self.outputs:
            first.bind_output(name, self.device.type, self.device.index or 0)
        with raises_runtime_error():
            self._session.run_with_iobinding(first)
        outputs = tuple(
            torch.empty(tuple(each.shape()), dtype=inputs[0].dtype, device=self.device)
            for each in first.get_outputs()
        )
        binding = self._binding(inputs)
        for name, buffer in zip(self.outputs, outputs, strict=True):
            binding.bind_output(name, *_place(buffer))

        def run() -> None:
            current = self._streams.current_stream(self.device)
            self._stream.wait_stream(current)
            with raises_runtime_error():
                self._session.run_with_iobinding(binding, self._options)
            current.wait_stream(self._stream)

        return Bound(run, inputs, outputs)

    def _binding(self, buffers: Tensors) -> Any:
        binding = self._session.io_binding()
        for name, buffer in zip(self.inputs, buffers, strict=True):
            binding.bind_input(name, *_place(buffer))
        return binding


def provider_options(spec: PartSpec, provider: str, stream: int) -> list[Any]:
    """
    Return the execution providers of a session, each with its options.

    :param provider: `CUDA` or `TENSORRT`; CUDA runs what TensorRT does not take.
    :param stream: handle of a CUDA stream, on which all work is done.
    """
    shared = {'device_id': str(spec.device.index or 0), 'user_compute_stream': str(stream)}
    cuda = shared | {
        'arena_extend_strategy': 'kSameAsRequested',
        'use_tf32': '0',  # fp32 has all of its bits, as in torch
    }
    if provider == CUDA:
        return [(CUDA, cuda)]
    shapes = {
        bound: ','.join(
            f'{name}:{"x".join(map(str, (1, *rest) if bound == "min" else (batch, *rest)))}'
            for name, (batch, *rest) in spec.inputs.items()
        )
        for bound in ('min', 'opt', 'max')
    }
    tensorrt = shared | {
        # Number formats are those of the graph: without trt_fp16_enable it is strongly typed.
        'trt_engine_cache_enable': '1',
        'trt_engine_cache_path': str(engine_folder(spec)),
        'trt_timing_cache_enable': '1',
        'trt_timing_cache_path': str(timings_folder()),
        **{f'trt_profile_{bound}_shapes': text for bound, text in shapes.items()},
    }
    return [(TENSORRT, tensorrt), (CUDA, cuda)]


def engine_folder(spec: PartSpec) -> Path:
    """Return the folder in which the TensorRT provider keeps the engines of a part and size."""
    size = 'x'.join(map(str, next(iter(spec.inputs.values()))))
    return cache_folder() / f'{spec.name}-onnxruntime-{spec.digest}-{size}'


def gpu_provider() -> str:
    """
    Return the execution provider to use: `TENSORRT` if TensorRT is installed, else `CUDA`.

    :raises ValueError: onnxruntime has neither.
    """
    available = []
    if importlib.util.find_spec('onnxruntime') is not None:
        available = import_onnxruntime().get_available_providers()
    if CUDA not in available:
        raise ValueError(
            f'runtime onnxruntime on a GPU needs its {CUDA}, found {available or "no package"}: '
            'python -m pip install onnxruntime-gpu in place of onnxruntime, or set device: cpu, '
            'or runtime: torch'
        )
    # onnxruntime-gpu lists the provider even where the libraries of TensorRT are missing.
    has_libraries = importlib.util.find_spec('tensorrt') or ctypes.util.find_library('nvinfer')
    return TENSORRT if TENSORRT in available and has_libraries else CUDA


@contextlib.contextmanager
def raises_runtime_error() -> Iterator[None]:
    """Turn each of ONNX Runtime's exceptions into a RuntimeError of one line."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    kinds = tuple(
        kind
        for kind in vars(state).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    )
    try:
        yield
    except kinds as error:
        raise RuntimeError(' '.join(str(error).split())) from None


def _place(buffer: Tensor) -> tuple[Any, ...]:
    """Return device, type, shape and address of a buffer, as an IO binding takes them."""
    device, kind = buffer.device, _NUMPY[buffer.dtype]
    return device.type, device.index or 0, kind, tuple(buffer.shape), buffer.data_ptr()
