"""A module in training that runs as CUDA graphs: all its kernels are launched at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
import warnings

import torch
from torch import nn, Tensor


class GraphedModule:
    """
    Runs a module forwards and backwards by CUDA graphs, captured once for each set of shapes.

    A small network consists of about a thousand short kernels, which take longer to launch on a
    CPU than to run on a GPU. Where capturing fails, the module runs without graphs.

    The next replay overwrites the gradients: step the optimizer after each backward pass.

    :param module: takes tensors that require no gradients; returns tensors, in any containers.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.graphed: dict[tuple[torch.Size, ...], Callable[..., Any]] = {}

    def __call__(self, *inputs: Tensor) -> Any:
        """Run the module on inputs."""
        shapes = tuple(tensor.shape for tensor in inputs)
        if shapes not in self.graphed:
            self.graphed[shapes] = self._capture(inputs)
        return self.graphed[shapes](*inputs)

    def _capture(self, inputs: tuple[Tensor, ...]) -> Callable[..., Any]:
        samples = tuple(tensor.detach().clone() for tensor in inputs)
        try:
            graphed: Callable[..., Any] = torch.cuda.make_graphed_callables(
                _Wrapper(self.module).train(self.module.training), samples, allow_unused_input=True
            )
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            warnings.warn(f'training runs slower, without CUDA graphs: {reason}', stacklevel=2)
            return self.module
        return graphed


class _Wrapper(nn.Module):
    """Protects the module: `make_graphed_callables` replaces the `forward` of its argument."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> Any:
        """Run the module."""
        return self.module(*inputs)
