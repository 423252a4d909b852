"""The heads of one denoiser, called together: light ones run side by side."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TypeVar

import torch
from torch import nn, Tensor
import torch.nn.functional as F

from sd_perception_ros.heads.head import Head
from sd_perception_ros.heads.light import LightHead, summed

M = TypeVar('M', bound=nn.Module)


class JointHeads:
    """
    Read several tasks out of one step.

    :param heads: by task name, on their device, ready to serve: their weights no longer change.
    """

    def __init__(self, heads: Mapping[str, Head]) -> None:
        self._heads = heads
        self._joined: dict[tuple[str, ...], _SideBySide] = {}

    def __call__(
        self, tasks: Collection[str], latent: Tensor | None, features: tuple[Tensor, ...]
    ) -> dict[str, Tensor]:
        """Return {task: raw output}, up to rounding what each head gives by itself."""
        by_width: dict[int, list[str]] = {}
        outputs = {}
        for task in tasks:
            head = self._heads[task]
            if isinstance(head, LightHead):
                by_width.setdefault(head.width, []).append(task)
            else:
                outputs[task] = head(latent, features)
        for some in map(tuple, by_width.values()):
            if some not in self._joined:
                self._joined[some] = _SideBySide([self._heads[task] for task in some])
            outputs |= zip(some, self._joined[some](latent, features), strict=True)
        return {task: outputs[task] for task in tasks}


class _SideBySide:
    """
    Light heads of one width as one: the same sums in fewer calls.

    A light head is so small that calling its layers costs as much as their arithmetic. Here the
    layers that read the same level are one convolution, and those that read each its own map are
    the groups of another.
    """

    def __init__(self, heads: Sequence[Head]) -> None:
        self.heads: list[LightHead] = [head for head in heads if isinstance(head, LightHead)]
        self.project = [_joined(c) for c in zip(*(h.project for h in self.heads), strict=True)]
        blocks = [_joined_block(b) for b in zip(*(h.fuse for h in self.heads), strict=True)]
        self.fuse = nn.Sequential(*blocks)

    def __call__(self, latent: Tensor | None, features: tuple[Tensor, ...]) -> list[Tensor]:
        """(B, c, h, w) and levels -> what each head gives, in their order."""
        assert latent is not None  # the checkpoint's loader has seen to it
        fused = self.fuse(summed(self.project, (*features, latent)))
        own = fused.chunk(len(self.heads), 1)
        return [
            F.pixel_shuffle(head.out(one), head.rise)
            for head, one in zip(self.heads, own, strict=True)
        ]


def _joined_block(blocks: Sequence[nn.Sequential]) -> nn.Sequential:
    convs, norms, acts = zip(*blocks, strict=True)
    norm = nn.GroupNorm(
        sum(each.num_groups for each in norms),
        sum(each.num_channels for each in norms),
        norms[0].eps,
        device='meta',
    )
    return nn.Sequential(_joined(convs, len(convs)), _stacked(norm, norms), acts[0])


def _joined(convs: Sequence[nn.Conv2d], groups: int = 1) -> nn.Conv2d:
    """Return one convolution for several: of one input, or each a group with its own."""
    joined = nn.Conv2d(
        convs[0].in_channels * groups,
        sum(each.out_channels for each in convs),
        convs[0].kernel_size,  # type: ignore[arg-type]
        padding=convs[0].padding,  # type: ignore[arg-type]
        groups=groups,
        device='meta',
    )
    return _stacked(joined, convs)


def _stacked(joined: M, parts: Sequence[nn.Module]) -> M:
    """Give a module the weights of its parts, one after the other."""
    weights = {
        name: torch.cat([part.get_parameter(name) for part in parts])
        for name in joined.state_dict()
    }
    joined.load_state_dict(weights, assign=True)
    joined.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return joined.requires_grad_(False)
