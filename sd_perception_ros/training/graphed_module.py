"""A network in training whose kernels are launched all at once: CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
import warnings

import torch
from torch import nn, Tensor


class GraphedModule:
    """
    Runs a module forwards and backwards by replaying what was recorded, once a set of shapes.

    A small network is a thousand short kernels, and a processor needs longer to launch them than
    the GPU to run them. Where recording fails, the module runs as it is.

    Gradients lie in memory that the next replay writes to: descend after each backward pass.

    :param module: takes tensors without gradients; gives tensors, in any nest of containers.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.recorded: dict[tuple[torch.Size, ...], Callable[..., Any]] = {}

    def __call__(self, *inputs: Tensor) -> Any:
        """Run the module on inputs."""
        shapes = tuple(tensor.shape for tensor in inputs)
        if shapes not in self.recorded:
            self.recorded[shapes] = self._record(inputs)
        return self.recorded[shapes](*inputs)

    def _record(self, inputs: tuple[Tensor, ...]) -> Callable[..., Any]:
        samples = tuple(tensor.detach().clone() for tensor in inputs)
        try:
            graphed: Callable[..., Any] = torch.cuda.make_graphed_callables(
                _Holder(self.module).train(self.module.training), samples, allow_unused_input=True
            )
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            warnings.warn(f'no CUDA graph of the network, it runs slower: {reason}', stacklevel=2)
            return self.module
        return graphed


class _Holder(nn.Module):
    """A module behind one more: recording changes the one that it is given."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> Any:
        """Run the module."""
        return self.module(*inputs)
