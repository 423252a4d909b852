"""
Build the TensorRT engine of one ONNX graph, in a process of its own.

Builds take minutes and cannot be interrupted within a process. Here, one that fails, even by a
crash or for want of memory, leaves the node as it is. This module does not import torch: a second
copy of it would take memory of the GPU.

Folder of an engine in the cache:

    engine.plan  what TensorRT loads
    graph.json   the key, SHA-256, input shapes, version of TensorRT
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import contextlib
import fcntl
import json
import os
from pathlib import Path
import sys
import threading
from typing import Any, NamedTuple

from sd_perception_ros.runtimes.onnx_files import cache_folder, GRAPH, is_intact, write_folder
from sd_perception_ros.safe_save import atomic_write

PLAN = 'engine.plan'


class EngineSpec(NamedTuple):
    """
    An engine to build.

    :ivar graph: folder of the ONNX graph.
    :ivar folder: of the engine.
    :ivar key: all that the engine depends on: graph, GPU, TensorRT, shapes.
    :ivar machine: GPU and version of TensorRT, whose engines share measurements.
    :ivar shapes: shape of each input, with the largest batch; height and width are fixed.
    """

    graph: str
    folder: str
    key: str
    machine: str
    shapes: dict[str, list[int]]


def main(arguments: list[str]) -> int:
    """
    Build one engine, unless another process has built it meanwhile.

    :param arguments: an `EngineSpec` as JSON.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        spec = EngineSpec(**json.loads(arguments[0]))
        with _one_at_a_time():
            if not is_intact(Path(spec.folder), spec.key):
                build(spec)
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        sys.stderr.write(' '.join(str(error).split()) or type(error).__name__)
        return 1
    return 0


def build(spec: EngineSpec) -> None:
    """
    Build an engine and put it into the cache, atomically.

    Networks are strongly typed: the graph alone says what is computed in fp16 and what in fp32.

    :raises ValueError: TensorRT cannot read the graph or cannot build the engine.
    """
    import tensorrt as trt

    log = make_logger()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(Path(spec.graph) / GRAPH)):
        errors = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise ValueError(f'TensorRT cannot read the graph: {"; ".join(errors[:3])}')
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    config.clear_flag(trt.BuilderFlag.TF32)  # fp32 has all of its bits, as in torch
    is_dynamic = False
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        batch, *rest = spec.shapes[tensor.name]
        # Sizes that are known now make faster engines than sizes of a range.
        tensor.shape = (-1 if batch > 1 else 1, *rest)
        if batch > 1:
            profile.set_shape(tensor.name, (1, *rest), (batch, *rest), (batch, *rest))
            is_dynamic = True
    if is_dynamic:
        config.add_optimization_profile(profile)
    timings = _read_timings(config, spec.machine)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ValueError(f'TensorRT built no engine: {log.last_error or "it gives no reason"}')
    # Without them, another build measures again.
    with contextlib.suppress(OSError), atomic_write(timings) as file:
        file.write_bytes(memoryview(config.get_timing_cache().serialize()))
    record = {'inputs': spec.shapes, 'tensorrt': trt.__version__}
    with write_folder(Path(spec.folder), spec.key, record) as work:
        (work / PLAN).write_bytes(memoryview(plan))


def make_logger() -> Any:
    """Return a logger of TensorRT that keeps its last error and prints nothing."""
    import tensorrt as trt

    class Log(trt.ILogger):  # type: ignore[misc]
        """Messages of TensorRT."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last_error = ''

        def log(self, severity: Any, message: str) -> None:
            """Keep an error."""
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.last_error = ' '.join(message.split())

    return Log()


def _read_timings(config: Any, machine: str) -> Path:
    """Give a configuration the measurements of earlier builds; return their file."""
    file = timings_folder() / f'timings-{machine}.cache'
    try:
        earlier = file.read_bytes()
    except OSError:
        earlier = b''
    if not config.set_timing_cache(config.create_timing_cache(earlier), False):
        config.set_timing_cache(config.create_timing_cache(b''), False)
    return file


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Wait for builds of other processes: two at once would falsify each other's measurements."""
    timings_folder().mkdir(parents=True, exist_ok=True)
    with (timings_folder() / 'lock').open('w') as lock:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def timings_folder() -> Path:
    """Return the folder of TensorRT's measurements of kernels, and of the lock of builds."""
    return cache_folder().parent / 'tensorrt'


def _end_with_parent() -> None:
    """End when the process that started this one closes the pipe, or ends in any way."""
    # Not sys.stdin: at the end of the interpreter, Python aborts if a thread holds its lock.
    while os.read(0, 1):
        pass
    os._exit(1)


def build_environment(device: int, environ: Mapping[str, str]) -> dict[str, str]:
    """
    Return the environment of a build, in which the GPU with this index is the only one.

    :param device: index as in torch.
    :param environ: of this process.
    """
    visible = environ.get('CUDA_VISIBLE_DEVICES', '')
    listed = [each.strip() for each in visible.split(',') if each.strip()]
    root = str(Path(__file__).parents[2])
    paths = [root, *filter(None, [environ.get('PYTHONPATH', '')])]
    return {
        **environ,
        'CUDA_VISIBLE_DEVICES': listed[device] if listed else str(device),
        'PYTHONPATH': os.pathsep.join(paths),
    }


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
