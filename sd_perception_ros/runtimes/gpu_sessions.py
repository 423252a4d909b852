"""Sessions on a GPU: a part of a model that reads and writes torch's CUDA tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

Tensors = tuple[Tensor, ...]
KEPT_SHAPES = 8  # whose buffers are kept


class PartSpec(NamedTuple):
    """
    A part of a model, for one size of its inputs.

    :ivar name: of the part.
    :ivar graph: folder of its ONNX graph, in the number format of the GPU.
    :ivar digest: of the graph.
    :ivar inputs: shapes (B, C, h, w) by name, with the largest batch; the graph may lack unused
        ones.
    :ivar outputs: names of its outputs.
    :ivar device: a CUDA device.
    """

    name: str
    graph: Path
    digest: str
    inputs: dict[str, list[int]]
    outputs: tuple[str, ...]
    device: torch.device


class Bound(NamedTuple):
    """
    A session for inputs of one shape, with the buffers that it reads and writes.

    :ivar run: puts the work on torch's current stream.
    """

    run: Callable[[], None]
    inputs: Tensors
    outputs: Tensors


class GpuSession(ABC):
    """
    A part of a model that is ready to run on a GPU.

    :param spec: of the part.
    :param needed: names of the inputs that the graph has.
    :cvar is_recordable: whether a run can be recorded in a CUDA graph.
    """

    is_recordable = False

    def __init__(self, spec: PartSpec, needed: Collection[str]) -> None:
        self.device = spec.device
        self.inputs = [name for name in spec.inputs if name in needed]
        self.outputs = list(spec.outputs)
        self._positions = [i for i, name in enumerate(spec.inputs) if name in needed]
        self._bound: OrderedDict[tuple[torch.Size, ...], Bound] = OrderedDict()

    @torch.inference_mode()
    def __call__(self, *tensors: Tensor) -> Tensors:
        """
        Run on tensors of the device, in the order of the part's inputs; nothing waits for it.

        :returns: buffers that the next run of this shape overwrites.
        :raises RuntimeError: the runtime failed.
        """
        read = tuple(tensors[i] for i in self._positions)
        shapes = tuple(tensor.shape for tensor in read)
        if shapes not in self._bound:
            self._bound[shapes] = self.bind(read)
            if len(self._bound) > KEPT_SHAPES:
                self._bound.popitem(last=False)
        self._bound.move_to_end(shapes)
        bound = self._bound[shapes]
        for buffer, tensor in zip(bound.inputs, read, strict=True):
            buffer.copy_(tensor)
        bound.run()
        return bound.outputs

    @abstractmethod
    def bind(self, tensors: Tensors) -> Bound:
        """Prepare runs for inputs of these shapes and this number format."""
