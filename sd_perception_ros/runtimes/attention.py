"""How attention and normalization are written in an exported graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

_NORMALIZATIONS = (F.group_norm, F.layer_norm)


class _AttentionMode(TorchFunctionMode):
    """
    Within this context, attention without a mask, dropout or a scale of its own is replaced.

    It affects only this thread: another one may serve a model meanwhile.
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Replace attention; call the rest."""
        if _is_plain_attention(function, args, kwargs):
            return self._attend(*args)
        return function(*args, **(kwargs or {}))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Any:
        """(B, heads, tokens, c) each -> (B, heads, tokens, c)."""
        raise NotImplementedError


class FusedAttention(_AttentionMode):
    """
    Within this context, attention is exported as one operator instead of products and softmax.

    Otherwise the finest level of Stable Diffusion 2.1 at 768x576 holds 6912 x 6912 weights for
    each of 5 heads, 1.9 GB with their softmax; one operator holds few of them at a time.
    """

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Any:
        heads = int(query.shape[1])
        tokens = (each.transpose(1, 2).flatten(2) for each in (query, key, value))
        answer = _MultiHeadAttention.apply(*tokens, heads)  # type: ignore[no-untyped-call]
        return _split(answer, heads)


class WrittenOutAttention(_AttentionMode):
    """
    Within this context, attention is exported as products and a softmax that TensorRT can fuse.

    Query and key are multiplied by the square root of the scale before their product: TensorRT
    asks for it, and in half precision the product overflows otherwise. The scale is a constant;
    torch's own exporter computes it from the shape.
    """

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Any:
        scale = int(query.shape[-1]) ** -0.25
        product = (query * scale) @ (key * scale).transpose(-1, -2)
        return product.softmax(dim=-1) @ value


class FullPrecisionNorms(TorchFunctionMode):
    """
    Within this context, group and layer normalization are exported in fp32.

    Their sums of squares exceed the largest number of fp16. torch computes them in fp32 by
    itself; a graph has to say so.
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Convert the tensors of a normalization to fp32, and its result back."""
        kwargs = kwargs or {}
        if function in _NORMALIZATIONS and args[0].dtype != torch.float32:
            wide = [_wide(each) for each in args]
            answer = function(*wide, **{name: _wide(each) for name, each in kwargs.items()})
            return answer.to(args[0].dtype)
        return function(*args, **kwargs)


class _MultiHeadAttention(torch.autograd.Function):
    """ONNX Runtime's operator, which OpenVINO reads, too: (B, N, heads * width) in and out."""

    @staticmethod
    def forward(_context: Any, query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
        query, key, value = (_split(each, heads) for each in (query, key, value))
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)

    @staticmethod
    def symbolic(graph: Any, query: Any, key: Any, value: Any, heads: int) -> Any:
        name = 'com.microsoft::MultiHeadAttention'
        answer = graph.op(name, query, key, value, num_heads_i=heads)
        answer.setType(query.type())
        return answer


def _is_plain_attention(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any] | None
) -> bool:
    options = (kwargs or {}).values()
    return (
        function is F.scaled_dot_product_attention
        and len(args) == 3
        and not any(isinstance(o, Tensor) or o for o in options)
    )


def _wide(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) else value


def _split(tokens: Tensor, heads: int) -> Tensor:
    """(B, N, heads * width) -> (B, heads, N, width)."""
    batch, count, _ = tokens.shape
    return tokens.reshape(batch, count, heads, -1).transpose(1, 2)
