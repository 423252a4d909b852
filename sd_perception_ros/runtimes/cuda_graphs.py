"""CUDA graphs: what a frame does on the GPU, recorded once and replayed with one call."""

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
    """A graph with the buffers that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    image: Tensor
    answer: T


class CudaGraphs(Generic[T]):
    """
    Runs a function of pictures and tasks, and replays it when their kind comes again.

    A robot's small batch is bound by how fast the CPU launches kernels; a replay launches all of
    them at once. The first call of a shape and its tasks runs as it is, the second one records.
    What a replay returns lies in buffers that the next replay of any recording may overwrite.

    :param function: (pictures on the device, tasks) -> tensors; nothing in it waits for the GPU.
    :param device: where the pictures are.
    :param limit: recordings kept; the one unused for longest goes.
    :ivar problem: why nothing is recorded any more; empty while all is well.
    """

    def __init__(
        self, function: Callable[[Tensor, Tasks], T], device: torch.device, limit: int = 8
    ) -> None:
        self._function = function
        self._limit = limit
        self._met: set[tuple[torch.Size, Tasks]] = set()
        self._recordings: OrderedDict[tuple[torch.Size, Tasks], _Recording[T]] = OrderedDict()
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.problem = ''

    def __call__(self, image: Tensor, tasks: Tasks) -> T:
        """Run the function on (B, H, W, 3) uint8 on the device."""
        key = (image.shape, tasks)
        if key not in self._recordings:
            if self.problem or key not in self._met:
                self._met.add(key)
                return self._function(image, tasks)
            try:
                self._recordings[key] = self._record(image, tasks)
            # Everything that CUDA refuses: an operation that cannot be recorded, or no memory.
            except RuntimeError as error:
                self._recordings.clear()
                self.problem = str(error).partition('\n')[0]
                return self._function(image, tasks)
            if len(self._recordings) > self._limit:
                self._recordings.popitem(last=False)
        self._recordings.move_to_end(key)
        recording = self._recordings[key]
        recording.image.copy_(image)
        recording.graph.replay()
        return recording.answer

    def _record(self, image: Tensor, tasks: Tasks) -> _Recording[T]:
        kept = image.clone()
        graph = torch.cuda.CUDAGraph()
        here = torch.cuda.current_stream(image.device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream), _fastest_convolutions():
            for _ in range(2):  # libraries choose and set up on their first calls
                self._function(kept, tasks)
            # thread_local: another thread may serve a model while this one is warmed up.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode='thread_local'
            ):
                answer = self._function(kept, tasks)
        here.wait_stream(self._stream)
        return _Recording(graph, kept, answer)


@contextlib.contextmanager
def _fastest_convolutions() -> Iterator[None]:
    """Let cuDNN try its algorithms, which pays where a shape comes again and again."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
