"""
Change from torch to another runtime on a GPU while frames are processed.

torch runs the model from the first frame on. For each part of the model and each size of its
input, a thread writes the ONNX graph, builds the engine, and compares it with torch on that input.
If they agree, the engine is used from the next frame on. If a step fails, torch continues to run
the part, and the log has the reason.
"""

from __future__ import annotations

import atexit
from collections import deque
from collections.abc import Callable
import contextlib
import logging
import math
import queue
import threading
from typing import NamedTuple
import weakref

import torch
from torch import Tensor

from sd_perception_ros.model import Model
from sd_perception_ros.runtimes.exporting import gpu_graph
from sd_perception_ros.runtimes.gpu_sessions import GpuSession, PartSpec, Tensors
from sd_perception_ros.runtimes.onnxruntime_gpu import (
    gpu_provider,
    OnnxRuntimeGpuSession,
    TENSORRT,
)
from sd_perception_ros.runtimes.parts import digests_of, ModelPart
from sd_perception_ros.runtimes.tensorrt_session import BuildProcess, TensorRtSession

LOGGER = logging.getLogger(__name__)
# Maximum root mean square (RMS) of the difference from torch on the same GPU, relative to the RMS
# of torch's output.
TOLERANCES = {torch.float32: 1e-3, torch.float16: 2e-2}
MOST_SIZES = 4  # of a part's input: each has an engine, with its own copy of the weights
# Building can fail for lack of memory, files, an unsuitable library, or an unsupported operator.
ERRORS = (
    ArithmeticError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
Size = tuple[int, ...]


class BuiltEngine(NamedTuple):
    """
    A session for inputs of one size.

    :ivar session: session of the part.
    :ivar batch: largest batch that it takes.
    """

    session: Callable[..., Tensors]
    batch: int


class BuildRequest(NamedTuple):
    """
    An engine to build.

    :ivar session: session that uses the engine.
    :ivar size: height and width of the part's first input; () for any.
    :ivar batch: largest batch.
    :ivar example: inputs of this size, to compare the engine with torch.
    """

    session: BackgroundSession
    size: Size
    batch: int
    example: Tensors


class BackgroundSession:
    """
    A part of a model that torch runs until an engine for the size of its input is ready.

    :param part: part on its device, in its number format.
    :param builder: builds the engines.
    :ivar problems: {size: reason why there is no engine}.
    """

    def __init__(self, part: ModelPart, builder: EngineBuilder) -> None:
        self.part = part
        self.problems: dict[Size, str] = {}
        self._builder = builder
        self._requested: dict[Size, int] = {}
        self._engines: dict[Size, BuiltEngine] = {}
        self._finished: deque[tuple[Size, BuiltEngine]] = deque()

    @property
    def is_ready(self) -> bool:
        """Whether an engine is in use."""
        return bool(self._engines)

    def __call__(self, *tensors: Tensor, frugal: bool = False) -> Tensors:
        """Run on tensors of the device, in the order of the inputs."""
        batch, _, *size = tensors[0].shape
        key = tuple(size) if self._builder.fixes_size else ()
        engine = self._engines.get(key)
        if engine is None or batch > engine.batch:
            self._request(key, tensors)
        else:
            try:
                return engine.session(*tensors)
            except RuntimeError as error:
                del self._engines[key]
                self.fail(key, error)
        outputs: Tensors = self.part.module(*tensors)
        return outputs

    def use_finished(self) -> bool:
        """Use finished engines from now on; return whether there are any."""
        changed = bool(self._finished)
        while self._finished:
            size, engine = self._finished.popleft()
            self._engines[size] = engine
        return changed

    def finish(self, size: Size, engine: BuiltEngine) -> None:
        """Hand over an engine, from another thread."""
        self._finished.append((size, engine))

    def fail(self, size: Size, error: Exception) -> None:
        """Let torch run inputs of this size from now on, and log the reason."""
        reason = ' '.join(str(error).split()) or type(error).__name__
        self.problems[size] = reason
        where = f' at {"x".join(map(str, reversed(size)))}' if size else ''
        runtime, name = self._builder.runtime, self.part.name
        LOGGER.warning('%s does not run %s%s, torch does: %s', runtime, name, where, reason)

    def _request(self, size: Size, tensors: Tensors) -> None:
        """Request an engine for these shapes, unless it was requested before or has failed."""
        # The batch varies from frame to frame; engines for powers of two suffice.
        batch = 1 << (len(tensors[0]) - 1).bit_length()
        is_requested = self._requested.get(size, 0) >= batch
        if is_requested or size in self.problems or not self._builder.accepts_requests:
            return
        if size not in self._requested and len(self._requested) >= MOST_SIZES:
            if () not in self.problems:
                text = f'each of {MOST_SIZES} sizes has an engine, other sizes get none'
                self.fail((), ValueError(text))
            return
        self._requested[size] = batch
        example = tuple(tensor.clone() for tensor in tensors)
        if example[0].is_cuda:  # the thread reads them on another stream
            torch.cuda.current_stream(example[0].device).synchronize()
        self._builder.request(BuildRequest(self, size, batch, example))


class EngineBuilder:
    """
    Builds engines in a thread, one after the other.

    :param model: folded model, on its device, in its number format.
    :param runtime: 'tensorrt' or 'onnxruntime'.
    :param device: device of the model.
    :ivar fixes_size: whether an engine takes one size of inputs only.
    :ivar accepts_requests: False during a warm-up, whose size may differ from that of the camera.
    """

    def __init__(self, model: Model, runtime: str, device: torch.device) -> None:
        self.runtime = runtime
        self._model, self._device = model, device
        self._provider = gpu_provider() if runtime == 'onnxruntime' else ''
        self.fixes_size = runtime == 'tensorrt' or self._provider == TENSORRT
        self.accepts_requests = True
        self._digests: dict[str, str] = {}
        self._process = BuildProcess()
        self._requests: queue.SimpleQueue[BuildRequest | None] = queue.SimpleQueue()
        self._waiting = 0
        self._idle = threading.Condition()
        self._thread: threading.Thread | None = None
        _BUILDERS.add(self)

    def request(self, request: BuildRequest) -> None:
        """Build an engine after those that were requested before."""
        with self._idle:
            self._waiting += 1
        self._requests.put(request)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name='engines', daemon=True)
            self._thread.start()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until every requested engine is built or has failed; False after the timeout."""
        with self._idle:
            return self._idle.wait_for(lambda: not self._waiting, timeout_s)

    def stop(self) -> None:
        """End the current build, and build no more engines."""
        self._process.stop()
        self._requests.put(None)

    def join(self) -> None:
        """Wait for the end of the thread, after `stop`."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def build(self, request: BuildRequest) -> GpuSession:
        """
        Build the session of a request.

        :raises ValueError: it cannot be built; other errors are those in `ERRORS`.
        """
        part = request.session.part
        # A graph for TensorRT has standard operators only.
        fuses_attention = self.runtime == 'onnxruntime' and self._provider != TENSORRT
        if not self._digests:
            self._digests = digests_of(self._model, f'attention fused: {fuses_attention}')
        digest = self._digests[part.name]
        graph = gpu_graph(self._model, part, digest, fuses_attention)
        inputs = {
            name: [request.batch, *tensor.shape[1:]]
            for name, tensor in zip(part.inputs, request.example, strict=True)
        }
        spec = PartSpec(part.name, graph, digest, inputs, part.outputs, self._device)
        if self.runtime == 'tensorrt':
            return TensorRtSession(spec, self._process)
        return OnnxRuntimeGpuSession(spec, self._provider)

    def _work(self) -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if self._device.type == 'cuda':
                stack.enter_context(torch.cuda.device(self._device))
                side = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
                stack.enter_context(torch.cuda.stream(side))
            while (request := self._requests.get()) is not None:
                self._handle(request)
                del request
                with self._idle:
                    self._waiting -= 1
                    self._idle.notify_all()

    def _handle(self, request: BuildRequest) -> None:
        if self._process.is_stopped:
            return
        try:
            session = self.build(request)
            compare(session, request.session.part.module, request.example)
            if self._device.type == 'cuda':
                torch.cuda.current_stream(self._device).synchronize()
        except ERRORS as error:
            if not self._process.is_stopped:
                request.session.fail(request.size, error)
            return
        batch = request.batch if self.fixes_size else 2**31
        request.session.finish(request.size, BuiltEngine(session, batch))
        LOGGER.info('%s now runs %s', self.runtime, request.session.part.name)


_BUILDERS: weakref.WeakSet[EngineBuilder] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    """End all threads: Python aborts if it ends with a thread inside torch."""
    builders = list(_BUILDERS)
    for builder in builders:
        builder.stop()
    for builder in builders:
        builder.join()


def compare(
    session: Callable[..., Tensors], module: Callable[..., Tensors], example: Tensors
) -> None:
    """
    Compare a session with torch.

    :raises ValueError: a difference is larger than `TOLERANCES`, or a value is not finite.
    """
    limit = TOLERANCES[example[0].dtype]
    for ours, theirs in zip(session(*example), module(*example), strict=True):
        if ours.shape != theirs.shape:
            raise ValueError(f'output of {tuple(ours.shape)} instead of {tuple(theirs.shape)}')
        truth = theirs.double()
        size = float(truth.square().mean().sqrt())
        error = float((ours.double() - truth).square().mean().sqrt()) / max(size, 1e-6)
        if not error <= limit or not math.isfinite(error):
            raise ValueError(
                f'it differs from torch by {error:.1e} of the output (root mean square), '
                f'{limit:.0e} is allowed'
            )
