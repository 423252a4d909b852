"""
A model on a GPU that moves from torch to another runtime while it serves.

torch serves from the first frame on. For each part and size of its input, a thread writes the
ONNX graph, makes the engine, and compares it with torch on the input that asked for it. From the
next frame on the engine serves. What fails stays in torch, with the reason in the log.
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
# Largest root mean square of the difference from torch on the same GPU, relative to that of
# torch's own output.
TOLERANCES = {torch.float32: 1e-3, torch.float16: 2e-2}
MOST_SIZES = 4  # of a part's input: each has an engine, with its own copy of the weights
# An engine fails in many ways: no memory, files, a library that does not fit, an unknown operator.
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


class Ready(NamedTuple):
    """
    A session for inputs of one size.

    :ivar session: of the part.
    :ivar batch: the largest that it takes.
    """

    session: Callable[..., Tensors]
    batch: int


class Order(NamedTuple):
    """
    An engine to make.

    :ivar session: gets the engine.
    :ivar size: height and width of the part's first input; () for any.
    :ivar batch: largest one.
    :ivar example: inputs that asked for it.
    """

    session: BackgroundSession
    size: Size
    batch: int
    example: Tensors


class BackgroundSession:
    """
    A part of a model that torch runs until an engine for the size of its input is ready.

    :param part: on its device, in its number format.
    :param maker: makes the engines.
    :ivar problems: why there is no engine, by size.
    """

    def __init__(self, part: ModelPart, maker: EngineMaker) -> None:
        self.part = part
        self.problems: dict[Size, str] = {}
        self._maker = maker
        self._asked: dict[Size, int] = {}
        self._engines: dict[Size, Ready] = {}
        self._finished: deque[tuple[Size, Ready]] = deque()

    @property
    def is_ready(self) -> bool:
        """Whether an engine serves."""
        return bool(self._engines)

    def __call__(self, *tensors: Tensor, frugal: bool = False) -> Tensors:
        """Run on tensors of the device, in the order of the inputs."""
        batch, _, *size = tensors[0].shape
        key = tuple(size) if self._maker.fixes_size else ()
        engine = self._engines.get(key)
        if engine is None or batch > engine.batch:
            self._order(key, tensors)
        else:
            try:
                return engine.session(*tensors)
            except RuntimeError as error:
                del self._engines[key]
                self.fail(key, error)
        answer: Tensors = self.part.module(*tensors)
        return answer

    def adopt(self) -> bool:
        """Let finished engines serve from now on; return whether there are any."""
        changed = bool(self._finished)
        while self._finished:
            size, engine = self._finished.popleft()
            self._engines[size] = engine
        return changed

    def finish(self, size: Size, engine: Ready) -> None:
        """Take an engine, from another thread."""
        self._finished.append((size, engine))

    def fail(self, size: Size, error: Exception) -> None:
        """Stay in torch for a size, and log the reason."""
        reason = ' '.join(str(error).split()) or type(error).__name__
        self.problems[size] = reason
        where = f' at {"x".join(map(str, reversed(size)))}' if size else ''
        LOGGER.warning(
            '%s does not run %s%s, torch does: %s',
            self._maker.runtime, self.part.name, where, reason,
        )  # fmt: skip

    def _order(self, size: Size, tensors: Tensors) -> None:
        """Order an engine for inputs of these shapes, unless it has been ordered or has failed."""
        # Batches vary from frame to frame: few engines serve all of them.
        batch = 1 << (len(tensors[0]) - 1).bit_length()
        is_ordered = self._asked.get(size, 0) >= batch
        if is_ordered or size in self.problems or not self._maker.takes_orders:
            return
        if size not in self._asked and len(self._asked) >= MOST_SIZES:
            text = f'{MOST_SIZES} sizes have engines, which is the limit'
            self.fail(size, ValueError(text))
            return
        self._asked[size] = batch
        example = tuple(tensor.clone() for tensor in tensors)
        if example[0].is_cuda:  # another stream reads them
            torch.cuda.current_stream(example[0].device).synchronize()
        self._maker.order(Order(self, size, batch, example))


class EngineMaker:
    """
    Makes engines in a thread, one after the other.

    :param model: folded, on its device, in its number format.
    :param runtime: 'tensorrt' or 'onnxruntime'.
    :param device: of the model.
    :ivar fixes_size: whether an engine takes one size of inputs only.
    :ivar takes_orders: False while a model is warmed up, on noise of a size that may never come.
    """

    def __init__(self, model: Model, runtime: str, device: torch.device) -> None:
        self.runtime = runtime
        self._model, self._device = model, device
        self._provider = gpu_provider() if runtime == 'onnxruntime' else ''
        self.fixes_size = runtime == 'tensorrt' or self._provider == TENSORRT
        self.takes_orders = True
        self._digests: dict[str, str] = {}
        self._process = BuildProcess()
        self._orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        self._waiting = 0
        self._idle = threading.Condition()
        self._thread: threading.Thread | None = None
        _MAKERS.add(self)

    def order(self, order: Order) -> None:
        """Make an engine after those that were ordered before."""
        with self._idle:
            self._waiting += 1
        self._orders.put(order)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name='engines', daemon=True)
            self._thread.start()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until everything ordered so far is made or has failed; return whether it is."""
        with self._idle:
            return self._idle.wait_for(lambda: not self._waiting, timeout_s)

    def stop(self) -> None:
        """End the build that runs, and make no more engines."""
        self._process.stop()
        self._orders.put(None)

    def join(self) -> None:
        """Wait for the end of the thread, after `stop`."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def make(self, order: Order) -> GpuSession:
        """
        Make the session of an order.

        :raises ValueError: it cannot be built, or differs from torch.
        """
        part = order.session.part
        # A graph for TensorRT has standard operators only.
        fuses_attention = self.runtime == 'onnxruntime' and self._provider != TENSORRT
        if not self._digests:
            self._digests = digests_of(self._model, f'attention fused: {fuses_attention}')
        digest = self._digests[part.name]
        graph = gpu_graph(self._model, part, digest, fuses_attention)
        inputs = {
            name: [order.batch, *tensor.shape[1:]]
            for name, tensor in zip(part.inputs, order.example, strict=True)
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
            while (order := self._orders.get()) is not None:
                self._carry_out(order)
                del order
                with self._idle:
                    self._waiting -= 1
                    self._idle.notify_all()

    def _carry_out(self, order: Order) -> None:
        if self._process.is_stopped:
            return
        try:
            session = self.make(order)
            compare(session, order.session.part.module, order.example)
            if self._device.type == 'cuda':
                torch.cuda.current_stream(self._device).synchronize()
        except ERRORS as error:
            if not self._process.is_stopped:
                order.session.fail(order.size, error)
            return
        batch = order.batch if self.fixes_size else 2**31
        order.session.finish(order.size, Ready(session, batch))
        LOGGER.info('%s now runs %s', self.runtime, order.session.part.name)


_MAKERS: weakref.WeakSet[EngineMaker] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    """End all threads: Python aborts if it ends with a thread inside torch."""
    makers = list(_MAKERS)
    for maker in makers:
        maker.stop()
    for maker in makers:
        maker.join()


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
