"""CUDA graphs: the GPU work of a frame, recorded once and replayed with one call."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
import contextlib
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

T = TypeVar('T')
Tasks = tuple[str, ...]


class _Recording(NamedTuple, Generic[T]):
    """A CUDA graph with the buffers that it reads and writes."""

    cuda_graph: torch.cuda.CUDAGraph
    image: Tensor
    output: T


class CudaGraphs(Generic[T]):
    """
    Runs a function of images and tasks; records it as a CUDA graph and replays it.

    The speed of a small batch is limited by how fast the CPU launches kernels; a replay launches
    all of them at once. The first call with a shape and tasks runs without recording, the second
    records. Outputs of a replay lie in buffers that the next replay may overwrite.

    :param function: (images on the device, tasks) -> tensors; it must not wait for the GPU.
    :param device: device of the images.
    :param limit: number of recordings kept; the least recently used one is dropped.
    :ivar problem: why recording failed; '' while it works.
    """

    def __init__(
        self, function: Callable[[Tensor, Tasks], T], device: torch.device, limit: int = 8
    ) -> None:
        self._function = function
        self._limit = limit
        self._seen_once: set[tuple[torch.Size, Tasks]] = set()
        self._recordings: OrderedDict[tuple[torch.Size, Tasks], _Recording[T]] = OrderedDict()
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.problem = ''

    def __call__(self, image: Tensor, tasks: Tasks) -> T:
        """Run the function on (B, H, W, 3) uint8 on the device."""
        key = (image.shape, tasks)
        if key not in self._recordings:
            if self.problem or key not in self._seen_once:
                self._seen_once.add(key)
                return self._function(image, tasks)
            try:
                self._recordings[key] = self._record(image, tasks)
            # An operation that cannot be recorded, or no memory.
            except RuntimeError as error:
                self._recordings.clear()
                self.problem = str(error).partition('\n')[0]
                return self._function(image, tasks)
            if len(self._recordings) > self._limit:
                self._recordings.popitem(last=False)
        self._recordings.move_to_end(key)
        recording = self._recordings[key]
        recording.image.copy_(image)
        recording.cuda_graph.replay()
        return recording.output

    def clear(self) -> None:
        """Drop all recordings, because the function computes in another way from now on."""
        self._seen_once.clear()
        self._recordings.clear()
        self._pool = torch.cuda.graph_pool_handle()
        self.problem = ''

    def _record(self, image: Tensor, tasks: Tasks) -> _Recording[T]:
        buffer = image.clone()
        cuda_graph = torch.cuda.CUDAGraph()
        current = torch.cuda.current_stream(image.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream), _fastest_convolutions():
            for _ in range(2):  # libraries choose algorithms and set up on their first calls
                self._function(buffer, tasks)
            # thread_local: another thread may serve a model while this one is warmed up.
            with torch.cuda.graph(
                cuda_graph, pool=self._pool, stream=self._stream, capture_error_mode='thread_local'
            ):
                output = self._function(buffer, tasks)
        current.wait_stream(self._stream)
        return _Recording(cuda_graph, buffer, output)


@contextlib.contextmanager
def _fastest_convolutions() -> Iterator[None]:
    """Let cuDNN measure its algorithms: worth it for shapes that are replayed often."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
