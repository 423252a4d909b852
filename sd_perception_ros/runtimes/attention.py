"""Attention that a graph names as a whole, so that a runtime never holds all of its weights."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
from typing import Any

import torch
from torch import Tensor
import torch.nn.functional as F

_STOCK = F.scaled_dot_product_attention


class _Whole(torch.autograd.Function):
    """ONNX Runtime's operator, which OpenVINO reads, too: (B, N, heads * width) in and out."""

    @staticmethod
    def forward(_context: Any, query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
        answer = _STOCK(_split(query, heads), _split(key, heads), _split(value, heads))
        return answer.transpose(1, 2).flatten(2)

    @staticmethod
    def symbolic(graph: Any, query: Any, key: Any, value: Any, heads: int) -> Any:
        name = 'com.microsoft::MultiHeadAttention'
        made = graph.op(name, query, key, value, num_heads_i=heads)
        made.setType(query.type())
        return made


def _attention(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any) -> Tensor:
    plain = not rest and not any(options.values())  # no mask, no dropout, the usual scale
    if not plain or not torch.onnx.is_in_onnx_export():
        return _STOCK(query, key, value, *rest, **options)
    heads = int(query.shape[1])
    joined = (each.transpose(1, 2).flatten(2) for each in (query, key, value))
    answer: Tensor = _Whole.apply(*joined, heads)  # type: ignore[no-untyped-call]
    return _split(answer, heads)


def _split(tokens: Tensor, heads: int) -> Tensor:
    """(B, N, heads * width) -> (B, heads, N, width)."""
    batch, count, _ = tokens.shape
    return tokens.reshape(batch, count, heads, -1).transpose(1, 2)


@contextlib.contextmanager
def whole_attention() -> Iterator[None]:
    """
    Trace attention as one operator instead of the standard's products and softmax.

    Written out, the finest level of Stable Diffusion 2.1 at 768x576 holds 6912 x 6912 shares for
    each of 5 heads, 1.9 GB with their softmax; in one operator a few of them at a time.
    """
    F.scaled_dot_product_attention = _attention
    try:
        yield
    finally:
        F.scaled_dot_product_attention = _STOCK
